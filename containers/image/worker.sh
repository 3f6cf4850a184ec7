#!/bin/sh
# Install this tree's wheels into /opt/fitserve, and say what that now holds: a bill of materials.
# worker.sh LOCK_NAME
set -eu
here=$(dirname "$0")
target=/opt/fitserve
tool="/opt/tools/bin/python -m pip --disable-pip-version-check --python $target/bin/python"

# Only an endpoint has the client.
if [ "$1" != worker-endpoint ]; then rm /build/wheels/fitserve-[0-9]*.whl; fi
sh "$here/pip.sh" "$target" --no-deps --no-index /build/wheels/*.whl
$tool check
PYTHONHASHSEED=0 "$target/bin/python" -m compileall -q --invalidation-mode unchecked-hash \
  "$target"/lib/python3*/site-packages/fitserve*/

# Workers import an endpoint's modules, and run no daemon.
if [ "$1" != worker-endpoint ]; then
  $tool uninstall --quiet --yes --root-user-action ignore docutils setuptools
fi

cp /build/LICENSE "$target/share/fitserve/LICENSE"
/opt/tools/bin/cyclonedx-py environment --output-reproducible --of JSON --gather-license-texts \
  -o "$target/share/fitserve/sbom.cdx.json" "$target/bin/python"
