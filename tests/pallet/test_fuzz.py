"""Whatever is read, only errors that a user can act upon come out."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fitserve.errors import FitserveError, InputError
from fitserve.pallet.archive import read_archive
from fitserve.pallet.load import load_pallet
from fitserve.pallet.schema import decode_json

if TYPE_CHECKING:
    from pathlib import Path

fuzzing = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

FOLDER = files("fitserve") / "data" / "example"
WORKSPACE = (FOLDER / "BkgOnly.json").read_bytes()
_patchset = json.loads((FOLDER / "patchset.json").read_bytes())
_patchset["patches"] = _patchset["patches"][:2]
PATCHSET = json.dumps(_patchset).encode()


def _archive(kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("BkgOnly.json", WORKSPACE)
            archive.writestr("patchset.json", PATCHSET)
        return stream.getvalue()
    with tarfile.open(fileobj=stream, mode=f"w:{kind}") as archive:
        for name, content in (("BkgOnly.json", WORKSPACE), ("patchset.json", PATCHSET)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


ARCHIVES = {kind: _archive(kind) for kind in ("zip", "", "gz", "bz2", "xz")}


@st.composite
def damaged(draw: st.DrawFn, raw: bytes) -> bytes:
    """Return bytes with some overwritten, cut out, repeated or put in, or the end missing."""
    content = bytearray(raw)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        length = draw(st.integers(1, 40))
        match draw(st.sampled_from(["overwrite", "cut", "repeat", "insert", "end"])):
            case "overwrite":
                content[at : at + length] = draw(st.binary(min_size=length, max_size=length))
            case "cut":
                del content[at : at + length]
            case "repeat":
                content[at:at] = content[at : at + length]
            case "insert":
                content[at:at] = draw(st.binary(min_size=1, max_size=40))
            case _:
                del content[at:]
    return bytes(content)


@given(raw=st.binary(max_size=300))
@fuzzing
def test_random_bytes_as_json(raw: bytes) -> None:
    try:
        decode_json(raw, "file")
    except InputError:
        return
    json.loads(raw)


@pytest.mark.parametrize("kind", ARCHIVES)
@given(data=st.data())
@fuzzing
def test_damaged_archives(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    path = tmp_path / "archive"
    path.write_bytes(data.draw(damaged(ARCHIVES[kind])))
    try:
        contents = read_archive(path, "archive")
    except InputError:
        return
    if kind in ("zip", "gz", "bz2", "xz"):
        # What carries a checksum is either told to be damaged or is what was packed.
        assert all(raw in (WORKSPACE, PATCHSET) for raw in contents.files.values())


@given(start=st.sampled_from([b"PK\x03\x04", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0"]), data=st.data())
@fuzzing
def test_random_bytes_as_archives(tmp_path: Path, start: bytes, data: st.DataObject) -> None:
    path = tmp_path / "archive"
    path.write_bytes(start + data.draw(st.binary(max_size=600)))
    with pytest.raises(InputError):
        load_pallet(path)


def _exit_code(path: Path, *, force: bool) -> int:
    try:
        load_pallet(path, force=force)
    except FitserveError as error:
        return error.exit_code
    return 0


@given(workspace=damaged(WORKSPACE), patchset=damaged(PATCHSET), data=st.data())
@fuzzing
def test_damaged_files(
    tmp_path: Path, workspace: bytes, patchset: bytes, data: st.DataObject
) -> None:
    which = data.draw(st.sampled_from(["workspace", "patchset", "both"]))
    (tmp_path / "BkgOnly.json").write_bytes(WORKSPACE if which == "patchset" else workspace)
    (tmp_path / "patchset.json").write_bytes(PATCHSET if which == "workspace" else patchset)
    for force in (False, True):
        assert _exit_code(tmp_path, force=force) in (0, 3, 4)


_texts = st.text(st.characters(codec="utf-8"), max_size=8)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e3, 1e3) | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=8,
)
_tokens = st.sampled_from(
    ["channels", "samples", "data", "observations", "0", "1", "7", "-", "~0", "~1", "~", "", "é"]
)
_pointers = st.lists(_tokens, max_size=6).map(lambda parts: "".join(f"/{part}" for part in parts))
_operations = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"])},
    optional={"path": _pointers | _texts, "from": _pointers | _texts, "value": _values},
)


@given(patch=st.lists(_operations, max_size=4))
@settings(fuzzing, max_examples=400)
def test_random_operations(tmp_path: Path, patch: list[dict[str, Any]]) -> None:
    _patchset["patches"][0]["patch"] = patch
    (tmp_path / "BkgOnly.json").write_bytes(WORKSPACE)
    (tmp_path / "patchset.json").write_text(json.dumps(_patchset))
    assert _exit_code(tmp_path, force=True) in (0, 3)


@given(source=st.text(max_size=40))
@fuzzing
def test_random_sources(tmp_path: Path, source: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        try:
            load_pallet(source, cache_dir=tmp_path)
        except FitserveError:
            return
        assert source.casefold() == "example"
