"""Write a pallet, as it was loaded, combined and edited, as a workspace and its patchset."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from fitserve.errors import InputError, StoreError
from fitserve.files import sync_directory, unwritable_output, write_output
from fitserve.pallet.edit import listed
from fitserve.pallet.schema import pyhf_digest, validate

if TYPE_CHECKING:
    from pathlib import Path

    from fitserve.pallet.load import Pallet

__all__ = ["write_pallet"]

_NO_NAME = re.compile(r"[^A-Za-z0-9_]")
_RECORD = re.compile(r"ins[0-9]{7}")
# The schema asks for a record of HEPData; a pallet without one, or with several, has this.
_NO_RECORD = "ins0000000"


def write_pallet(pallet: Pallet, directory: Path) -> list[Path]:
    """Write a pallet to a new directory, and return the paths of the files.

    The patchset has the digest of the workspace. A workspace that is a hypothesis as it is has no
    patchset.

    Raises
    ------
    StoreError
        The directory is there and not empty, or cannot be written.
    InputError
        Names that pyhf's schema does not allow in a patchset become equal without the characters
        that it does not allow.
    """
    files = {"BkgOnly.json": pallet.workspace}
    if any(one.patch for one in pallet.hypotheses):
        files["patchset.json"] = _patchset(pallet)
        validate(files["patchset.json"], "patchset", "the patchset")
    else:
        files = {"workspace.json": pallet.workspace}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        there = [one.name for one in directory.iterdir()]
    except OSError as error:
        raise unwritable_output(directory, str(error)) from error
    if there:
        raise StoreError(
            f"{directory} is not empty",
            evidence=f"it holds {listed(sorted(there), 3)}",
            hint="give another -o",
        )
    for name, content in files.items():
        text = msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"
        write_output(directory / name, text)
    sync_directory(directory)
    return [directory / name for name in files]


def _patchset(pallet: Pallet) -> dict[str, Any]:
    # Without mass values the names stand for them: the schema asks for one at least.
    labels = [*pallet.labels] or ["name"]
    records = {
        where
        for kind, where in pallet.references.items()
        if kind.partition(" (")[0].lower() == "hepdata" and _RECORD.fullmatch(where)
    }
    patches = [
        {
            "metadata": {
                "name": _NO_NAME.sub("_", one.name),
                "values": [*one.values] if pallet.labels else [one.name],
            },
            "patch": list(one.patch),
        }
        for one in pallet.hypotheses
    ]
    names = [_NO_NAME.sub("_", one.name) for one in pallet.hypotheses]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(
            "a patchset has names of letters, digits and _ only, and some become equal",
            evidence=listed(twice, 3),
            hint="give the hypotheses other names",
        )
    return {
        "metadata": {
            "digests": {"sha256": pyhf_digest(pallet.workspace)},
            "labels": [_NO_NAME.sub("_", label) for label in labels],
            "description": pallet.description,
            "references": {"hepdata": records.pop() if len(records) == 1 else _NO_RECORD},
        },
        "patches": patches,
        "version": "1.0.0",
    }
