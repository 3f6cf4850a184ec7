#!/usr/bin/env bash
# Unpack Apptainer of Debian's sid, which Debian 12 has no package of, and print its directory of
# commands. Nothing is installed: it is in $FITSERVE_APPTAINER (default /opt/fitserve-apptainer, which
# every user can read), with the libraries that it needs. Needs patchelf, and squashfuse to run.
#
# Sid moves: the version that was found is in the file VERSION.
set -euo pipefail
place="${FITSERVE_APPTAINER:-/opt/fitserve-apptainer}"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

mirror() {
  awk '$1 == "URIs:" {print $2; exit} $1 == "deb" {for (i = 2; i <= NF; i++) if ($i ~ /^http/) {print $i; exit}}' \
    /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2> /dev/null
}

download() {
  local apt="$1/apt" suite
  mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/parts" "$1/debs"
  for suite in sid trixie; do
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$(mirror)" "$suite"
  done > "$apt/sources.list"
  local options=(-qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o "Dir::Etc::sourceparts=$apt/parts"
    -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update
  (cd "$1/debs" && apt-get "${options[@]}" download apptainer/sid libc6/trixie \
    libseccomp2/trixie libsqlite3-0/trixie)
}

unpack() {
  local work="$1" package loader
  dpkg-deb -x "$work"/debs/apptainer_*.deb "$work/root"
  for package in libc6 libseccomp2 libsqlite3-0; do
    dpkg-deb -x "$work/debs/$package"_*.deb "$work/libraries"
  done
  mkdir -p "$work/root/compat"
  cp -a "$work"/libraries/usr/lib/*-linux-gnu/*.so* "$work/root/compat"
  loader=$(basename "$(find "$work/root/compat" -name 'ld-linux*' | head -1)")
  # The binaries are run where they are unpacked, so their loader's path is that place.
  find "$work/root/usr" -type f \( -name apptainer -o -name starter \) | while read -r binary; do
    if patchelf --print-interpreter "$binary" > /dev/null 2>&1; then
      patchelf --force-rpath --set-interpreter "$place/compat/$loader" --set-rpath "$place/compat" "$binary"
    fi
  done
  ln -s ../etc "$work/root/usr/etc"
  ln -s ../../etc "$work/root/usr/lib/etc"
  ln -s ../../var "$work/root/usr/lib/var"
  (cd "$work/debs" && ls apptainer_*.deb) > "$work/root/VERSION"
}

if [ ! -x "$place/usr/bin/apptainer" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  download "$work"
  unpack "$work"
  rm -rf "$place"
  mkdir -p "$(dirname "$place")"
  cp -a "$work/root" "$place"
  chmod 755 "$place"
fi
printf '%s\n' "$place/usr/bin"
