"""Make pallets on disk, sound and broken."""

from __future__ import annotations

import copy
import io
import json
import tarfile
import zipfile
from typing import TYPE_CHECKING, Any

import pyhf
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fitserve_contract import Hypothesis

# It runs with ROOT, in an environment of its own.
collect_ignore = ["make_histfactory.py"]


@pytest.fixture
def pack() -> Callable[[str, dict[str, bytes]], bytes]:
    """Return a function that makes an archive of a kind from files."""

    def make(kind: str, files: dict[str, bytes]) -> bytes:
        stream = io.BytesIO()
        if kind == "zip":
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in files.items():
                    archive.writestr(name, content)
            return stream.getvalue()
        with tarfile.open(fileobj=stream, mode=f"w:{kind.removeprefix('tar')}") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return stream.getvalue()

    return make


@pytest.fixture
def patchset(workspace: dict, hypotheses: list[Hypothesis]) -> dict[str, Any]:
    """Return a patchset for the workspace of the top-level conftest."""
    return {
        "metadata": {
            "references": {"hepdata": "ins1234567"},
            "description": "toy signals",
            "digests": {"sha256": pyhf.utils.digest(workspace)},
            "labels": ["m1", "m2"],
        },
        "patches": [
            {"metadata": {"name": one.name, "values": list(one.values)}, "patch": one.patch}
            for one in copy.deepcopy(hypotheses)
        ],
        "version": "1.0.0",
    }


@pytest.fixture
def sound(workspace: dict, patchset: dict) -> dict[str, bytes]:
    """Return the two files of a sound pallet."""
    return {
        "BkgOnly.json": json.dumps(workspace).encode(),
        "patchset.json": json.dumps(patchset).encode(),
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes files into a new directory, and gives its path."""

    def write_files(files: dict[str, Any], name: str = "pallet") -> Path:
        directory = tmp_path / name
        for path, content in files.items():
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            target.write_bytes(raw)
        return directory

    return write_files


@pytest.fixture
def broken(
    write: Callable[..., Path], workspace: dict, patchset: dict
) -> Callable[[Callable[[dict, dict], None]], Path]:
    """Return a function that writes a pallet after a change to workspace and patchset.

    The digest is made anew, so that the change is all that is wrong.
    """

    def make(change: Callable[[dict, dict], None]) -> Path:
        change(workspace, patchset)
        patchset["metadata"]["digests"] = {"sha256": pyhf.utils.digest(workspace)}
        return write({"BkgOnly.json": workspace, "patchset.json": patchset})

    return make
