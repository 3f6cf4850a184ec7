#!/bin/sh
# Install this tree's wheels into /opt/fitserve, and say what that now holds: a bill of materials.
set -eu
here=$(dirname "$0")
target=/opt/fitserve

sh "$here/pip.sh" "$target" --no-deps --no-index /build/wheels/*.whl
/opt/tools/bin/python -m pip --python "$target/bin/python" --disable-pip-version-check check
PYTHONHASHSEED=0 "$target/bin/python" -m compileall -q --invalidation-mode unchecked-hash \
  "$target"/lib/python3*/site-packages/fitserve "$target"/lib/python3*/site-packages/fitserve_worker

cp /build/LICENSE "$target/share/fitserve/LICENSE"
/opt/tools/bin/cyclonedx-py environment --output-reproducible --of JSON --gather-license-texts \
  -o "$target/share/fitserve/sbom.cdx.json" "$target/bin/python"
