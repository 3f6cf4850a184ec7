#!/bin/sh
# Make /opt/fitserve from a lock file and the wheels: nothing in it that a fit does not need,
# byte-compiled, with a list of what it holds. install.sh LOCK
set -eu
here=$(dirname "$0")
lock=$1
target=/opt/fitserve

python3 -m venv --without-pip "$target"
sh "$here/pip.sh" "$target" --require-hashes -r "$lock"
sh "$here/pip.sh" "$target" --no-deps --no-index /build/wheels/*.whl
/opt/tools/bin/python -m pip --python "$target/bin/python" --disable-pip-version-check check

share=$target/share/fitserve
mkdir -p "$share"
cp /build/LICENSE "$share/LICENSE"
cp "$lock" "$share/requirements.lock"
/opt/tools/bin/cyclonedx-py environment --output-reproducible --of JSON --gather-license-texts \
  -o "$share/sbom.cdx.json" "$target/bin/python"

/opt/tools/bin/python "$here/slim.py" "$target"

# Hashes that are not looked at: the same bytes each time, whatever the time of a file is. What is
# left out is needed to be installed, and never imported by a worker.
PYTHONHASHSEED=0 "$target/bin/python" -m compileall -q --invalidation-mode unchecked-hash \
  -x '/site-packages/(docutils|pygments|setuptools)/' "$target/lib"
