#!/bin/sh
# Make /opt/fitserve from a lock file: nothing in it that a fit does not need, byte-compiled.
# libraries.sh LOCK
set -eu
here=$(dirname "$0")
target=/opt/fitserve

python3 -m venv --without-pip "$target"
sh "$here/pip.sh" "$target" --require-hashes -r "$1"
/opt/tools/bin/python "$here/slim.py" "$target"

# Hashes that are not looked at: the same bytes each time, whatever the time of a file is. What is
# left out is needed to be installed, and never imported by a worker.
PYTHONHASHSEED=0 "$target/bin/python" -m compileall -q --invalidation-mode unchecked-hash \
  -x '/site-packages/(docutils|pygments|setuptools)/' "$target/lib"

mkdir -p "$target/share/fitserve"
cp "$1" "$target/share/fitserve/"
