#!/bin/sh
# Build the three distributions into /build/wheels.
set -eu
for name in contract client worker; do
  /opt/tools/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-index \
    --no-build-isolation --wheel-dir /build/wheels "/build/$name"
done
