#!/usr/bin/env bash
# Make base images of Debian from its packages, for machines that reach no registry:
# localhost/fitserve/base:SUITE, and base-build:SUITE with binutils. Needs root.
#
# SUITE is bookworm (Debian 12, Python 3.11), or trixie (Debian 13, Python 3.13). The file systems are
# kept in $FITSERVE_CACHE/base (default ~/.cache/fitserve-rigs) for a week. FITSERVE_BASE_MIRROR names
# another mirror than the machine's own.
set -euo pipefail
cache="${FITSERVE_CACHE:-$HOME/.cache/fitserve-rigs}/base"
engine="${ENGINE:-podman}"
suite="${SUITE:-bookworm}"
mirror="${FITSERVE_BASE_MIRROR:-}"

# The mirror and the certificates of this machine are not a part of any image.
machine_mirror() {
  awk '$1 == "URIs:" {print $2; exit} $1 == "deb" {for (i = 2; i <= NF; i++) if ($i ~ /^http/) {print $i; exit}}' \
    /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2> /dev/null
}

bootstrap() {
  local root="$cache/root-$suite" log="$cache/debootstrap-$suite.log" unwanted
  rm -rf "$root"
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,binutils \
    "$suite" "$root" "${mirror:-$(machine_mirror)}" > "$log" 2>&1 || { tail -5 "$log" >&2; exit 1; }
  rm -rf "$root/etc/apt/sources.list" "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* \
    "$root"/var/log/* "$root"/var/cache/debconf/* "$root"/var/cache/ldconfig/* "$root"/usr/share/man/* \
    "$root"/usr/share/info/* "$root"/usr/share/lintian "${root:?}"/dev/* "${root:?}"/tmp/*
  find "$root/usr/share/locale" -mindepth 1 -delete
  # Licences stay.
  find "$root/usr/share/doc" -type f ! -name copyright -delete
  find "$root/usr/share/doc" -type d -empty -delete
  find "$root" -name __pycache__ -type d -prune -exec rm -rf {} +
  rm -f "$root/etc/resolv.conf" "$root/etc/hostname" "$root/etc/machine-id"
  pack "$root" base-build
  # shellcheck disable=SC2016 # the field is dpkg's
  unwanted=$(chroot "$root" dpkg-query --show --showformat '${Package}\n' 'binutils*' 'libbinutils*' \
    'libctf*' 'libgprofng*' 'libsframe*' 'python3*-venv' 'python3-pip-whl' 'python3-setuptools-whl' \
    2> /dev/null || true)
  # shellcheck disable=SC2086 # one word a package
  chroot "$root" dpkg --purge --force-remove-essential --force-depends $unwanted > /dev/null 2>&1 || true
  rm -rf "$root"/var/log/* "$root"/var/cache/debconf/* "$root"/var/lib/dpkg/*-old
  chroot "$root" python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3* > /dev/null || true
  pack "$root" base
  rm -rf "$root"
}

pack() {
  tar -C "$1" --sort=name --mtime=@0 --numeric-owner --exclude=./proc/* --exclude=./sys/* \
    -cf "$cache/$2-$suite.tar.partial" .
  mv "$cache/$2-$suite.tar.partial" "$cache/$2-$suite.tar"
}

mkdir -p "$cache"
exec 9> "$cache/lock"
flock 9
if [ -z "$(find "$cache" -name "base-$suite.tar" -mtime -7)" ]; then bootstrap; fi
for name in base-build base; do
  "$engine" import --quiet "$cache/$name-$suite.tar" "localhost/fitserve/$name:$suite"
done
