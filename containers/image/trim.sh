#!/bin/sh
# Take out of a Debian base what a worker never runs: package managers, Perl, file system tools, and
# parts of Python's own library. dpkg's list of what is left stays true, for scanners.
set -eu
unwanted='apt adduser binutils binutils-common debian-archive-keyring e2fsprogs gpgv libapt-pkg6.0
  libext2fs2 libss2 logsave libgnutls30 libp11-kit0 libidn2-0 libhogweed6 libnettle8 libunistring2
  libtasn1-6 libgcrypt20 libseccomp2 usr-is-merged mount passwd login sysvinit-utils python3-venv
  perl-base tzdata'
for name in $unwanted; do
  if [ -e "/var/lib/dpkg/info/$name.list" ] || ls "/var/lib/dpkg/info/$name":* > /dev/null 2>&1; then
    # What a removal runs may already be gone: only the files matter here.
    rm -f "/var/lib/dpkg/info/$name".p*rm "/var/lib/dpkg/info/$name":*.p*rm
    dpkg --purge --force-remove-essential --force-remove-protected --force-depends "$name" > /dev/null 2>&1
  fi
done
library=$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
rm -rf "$library/ensurepip" "$library/idlelib" "$library/lib2to3" "$library/pydoc_data" \
  "$library/test" "$library/tkinter" "$library/turtledemo" "$library"/site-packages/pip* \
  "$library"/config-*
rm -rf /usr/lib/*-linux-gnu/gconv /usr/share/bash-completion /usr/share/perl5 /usr/share/man /usr/share/info /usr/share/locale/* \
  /var/cache/apt /var/lib/apt /var/log/* /var/cache/debconf/* /var/cache/ldconfig/* \
  /var/lib/dpkg/*-old /tmp/* /root/.cache
find / -xdev -type f -perm /6000 -exec chmod a-s {} +
# Debian compiles its Python with times in the files, and images of Python not at all.
find "$library" -name __pycache__ -type d -prune -exec rm -rf {} +
PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 python3 -m compileall -q \
  --invalidation-mode unchecked-hash "$library" > /dev/null
