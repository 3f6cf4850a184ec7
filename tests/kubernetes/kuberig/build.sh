#!/bin/bash
# Build a Kubernetes (API server, scheduler, controller manager, kubelet) from Debian's source
# package, once, into a cache outside the checkout. Needs root for the packages it builds with.
#
#   build.sh [DIRECTORY]    default: ${FITSERVE_CACHE:-~/.cache/fitserve-rigs}/kubernetes
set -euo pipefail
umask 022

recipe=$(sha256sum "${BASH_SOURCE[0]}" | cut -d' ' -f1)
directory=${1:-${FITSERVE_CACHE:-$HOME/.cache/fitserve-rigs}/kubernetes}
programs="kube-apiserver kube-controller-manager kube-scheduler kubelet"
mkdir -p "$directory"
cd "$directory"
directory=$PWD
exec 9>lock
flock 9
complete() {
  [ "$(cat bin/recipe 2>/dev/null)" = "$recipe" ] || return 1
  for program in $programs; do
    [ -x "bin/$program" ] || return 1
  done
}
if complete; then
  exit 0
fi

export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -q -o DPkg::Lock::Timeout=600)
"${apt[@]}" install -y --no-install-recommends golang-1.19-go jq rsync dpkg-dev make git \
  golang-github-modern-go-reflect2-dev

# What another recipe left half built is no part of this one.
if [ "$(cat source/recipe 2>/dev/null)" != "$recipe" ]; then
  # Debian's images list binary packages only. The lists of source packages are kept here, so that
  # the machine's own are left as they are.
  rm -rf apt unpacked source
  mkdir -p apt/lists/partial apt/cache/archives/partial
  # They come from where this machine has its packages of the same release.
  release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
  apt-get indextargets --format 'deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)' \
    "Created-By: Packages" "Release: $release" "Component: main" | sort -u >apt/sources.list
  [ -s apt/sources.list ] || { echo "no apt source of $release has packages" >&2; exit 1; }
  own=(
    -o Dir::Etc::SourceList="$PWD/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::State::Lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt/cache" -o APT::Sandbox::User=root
  )
  apt-get -q "${own[@]}" update
  (mkdir -p apt/source && cd apt/source && apt-get -q "${own[@]}" source --download-only kubernetes)
  dpkg-source --no-check -x apt/source/kubernetes_*.dsc unpacked
  # The copy in these sources reads maps as Go did before 1.18, and lets the API server crash now
  # and then (modern-go/reflect2, fixed in 1.0.2).
  reflect2=github.com/modern-go/reflect2
  rm -rf "unpacked/vendor/$reflect2" bin
  cp -r "/usr/share/gocode/src/$reflect2" "unpacked/vendor/$reflect2"
  echo "$recipe" >unpacked/recipe
  mv unpacked source
fi

export PATH=/usr/lib/go-1.19/bin:$PATH
export GOMAXPROCS=${FITSERVE_BUILD_JOBS:-1} GOFLAGS=-p=${FITSERVE_BUILD_JOBS:-1}
export GOCACHE=$directory/go-cache GO111MODULE=off CGO_ENABLED=0
# What `git describe` would have said: the sources come without their history.
version=v$(dpkg-parsechangelog -l source/debian/changelog -S Version | sed 's/.*really//; s/[+-].*//')
cd source
KUBE_GIT_TREE_STATE=archive KUBE_GIT_COMMIT=debian KUBE_GIT_VERSION=$version make generated_files
gopath=$directory/gopath
mkdir -p "$gopath/src/k8s.io" "$directory/bin"
ln -sfn "$directory/source" "$gopath/src/k8s.io/kubernetes"
flags="-s -w"
for package in component-base/version client-go/pkg/version; do
  name=k8s.io/kubernetes/vendor/k8s.io/$package
  flags+=" -X $name.gitVersion=$version -X $name.gitMajor=1 -X $name.gitMinor=20"
done
cd "$gopath/src/k8s.io/kubernetes"
for program in $programs; do
  [ -x "$directory/bin/$program" ] && continue
  GOPATH=$gopath go build -ldflags "$flags" -o "$directory/bin/$program.new" "./cmd/$program"
  mv "$directory/bin/$program.new" "$directory/bin/$program"
done
cd "$directory"
echo "$recipe" >bin/recipe
complete
# 2 GB that nothing needs any more.
rm -rf source gopath go-cache apt
