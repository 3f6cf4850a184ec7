#!/bin/sh
# Install into a virtual environment what a lock file pins: pip.sh ENVIRONMENT PIP_ARGUMENT...
# The pip of /opt/tools does it, with the build machine's configuration if that was given.
set -eu
environment=$1
shift
if [ -s /run/secrets/pip_conf ]; then PIP_CONFIG_FILE=/run/secrets/pip_conf; else PIP_CONFIG_FILE=/dev/null; fi
export PIP_CONFIG_FILE
if [ -s /run/secrets/ca_bundle ]; then
  PIP_CERT=/run/secrets/ca_bundle
  export PIP_CERT
fi
exec /opt/tools/bin/python -m pip --python "$environment/bin/python" install \
  --quiet --disable-pip-version-check --root-user-action ignore --no-compile \
  --no-cache-dir --only-binary :all: "$@"
