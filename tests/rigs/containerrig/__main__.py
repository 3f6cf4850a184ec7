"""Unpack Apptainer and make the worker's image file, before tests run in a network of their own."""

from __future__ import annotations

from containerrig.images import find_apptainer
from containerrig.sif import prepare_sif

find_apptainer()
print(prepare_sif())  # noqa: T201
