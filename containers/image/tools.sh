#!/bin/sh
# Make /opt/tools: what builds wheels and says what an image holds. tools.sh LOCK
set -eu
python3 -m venv /opt/tools
exec sh "$(dirname "$0")/pip.sh" /opt/tools --require-hashes -r "$1"
