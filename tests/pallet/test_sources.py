"""Pallets come in all shapes; what is in them is found by content."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tarfile
from typing import TYPE_CHECKING, Any

import pyhf
import pytest

from fitserve.api import make_request
from fitserve.errors import InputError, RequestError
from fitserve.pallet.archive import Contents
from fitserve.pallet.load import load_pallet
from fitserve.pallet.regions import find_regions, select_region
from fitserve.runs.prepare import check_request, chosen_hypotheses, pallet_record
from fitserve_contract import digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Pack = Callable[[str, dict[str, bytes]], bytes]

WORKSPACE = b'{"channels": []}'
PATCHSET = b'{"patches": []}'
PATCH = b'[{"op": "add", "path": "/x", "value": 1}]'


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("folder", ["", "toy/", "./toy/likelihoods/"])
def test_archives_are_told_by_content(
    tmp_path: Path,
    pack: Pack,
    sound: dict[str, bytes],
    kind: str,
    folder: str,
    workspace: dict,
) -> None:
    files = {f"{folder}{name}": content for name, content in sound.items()}
    files |= {
        f"{folder}README.md": b"# Toy",
        f"{folder}._BkgOnly.json": b"\0\5\x16\7 what a Mac leaves behind",
        "__MACOSX/BkgOnly.json": b"\0\5\x16\7",
    }
    # The name says nothing: HEPData serves archives as ?view=true.
    path = tmp_path / "download"
    path.write_bytes(pack(kind.replace("tar.", "tar"), files))
    pallet = load_pallet(path)
    assert pallet.workspace == workspace
    assert pallet.workspace_digest == digest(workspace)
    assert pallet.digest_verified
    assert [one.name for one in pallet.hypotheses] == [f"S_{m}" for m in range(100, 501, 100)]
    assert pallet.hypotheses[0].values == (100.0, 1.0)
    assert (pallet.name, pallet.region, pallet.analysis) == ("download", None, None)


def test_a_directory_is_read_and_described(
    pallet_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pallet_directory.parent)
    pallet = load_pallet("toy")
    assert pallet.source == str(pallet_directory)
    assert pallet.labels == ("m1", "m2")
    assert pallet.description == "toy signals"
    assert pallet.references == {"hepdata": "ins1234567"}
    assert pallet.measurements == {"main": "mu"}
    assert pallet.bins == {"SR": 2}
    assert pallet.normfactors == {"mu"}
    assert not pallet.notes
    assert pallet_record(pallet).name == "toy"
    assert pallet_record(pallet).labels == ["m1", "m2"]


def test_a_path_goes_before_the_catalogue(
    sound: dict[str, bytes], write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write(sound, name="1Lbb")
    monkeypatch.chdir(directory.parent)
    assert load_pallet("1Lbb").analysis is None


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("1Lbb.tar.xz", "1Lbb"),
        ("HEPData-ins1-v2-likelihoods.tgz", "HEPData-ins1-v2-likelihoods"),
        ("my pallet (2).zip", "my-pallet-2"),
        ("...zip", "pallet"),
        ("x" * 200 + ".zip", "x" * 64),
    ],
)
def test_names_are_fit_for_directories(
    tmp_path: Path, pack: Pack, sound: dict[str, bytes], name: str, short: str
) -> None:
    path = tmp_path / name
    path.write_bytes(pack("zip", sound))
    assert load_pallet(path).name == short


def _regions(*paths: str) -> list[tuple[str, str, str | None, tuple[str, ...]]]:
    content = {"BkgOnly": WORKSPACE, "workspace": WORKSPACE, "patchset": PATCHSET, "patch.": PATCH}
    files = {
        path: next(raw for word, raw in content.items() if word in path) for path in sorted(paths)
    }
    return [
        (region.name, region.workspace, region.patchset, region.patches)
        for region in find_regions(Contents(files, [])).regions
    ]


def test_regions_in_folders() -> None:
    """As in the direct stau search."""
    assert _regions(
        *(
            f"SUSY-2018-04/Region-{name}/{file}"
            for name in ("combined", "lowMass")
            for file in ("BkgOnly.json", "patchset.json")
        )
    ) == [
        (
            f"Region-{name}",
            f"SUSY-2018-04/Region-{name}/BkgOnly.json",
            f"SUSY-2018-04/Region-{name}/patchset.json",
            (),
        )
        for name in ("combined", "lowMass")
    ]


def test_regions_by_prefix() -> None:
    """As in the search with two same-sign or three leptons."""
    assert _regions(
        *(
            f"{name}_{file}"
            for name in ("Rpc2L0b", "Rpc2L1b", "Rpv2L")
            for file in ("BkgOnly.json", "patchset.json")
        )
    ) == [
        (name, f"{name}_BkgOnly.json", f"{name}_patchset.json", ())
        for name in ("Rpc2L0b", "Rpc2L1b", "Rpv2L")
    ]


def test_workspace_and_patchset_apart() -> None:
    assert _regions("background/workspace.json", "signals/patchset.json") == [
        ("signals", "background/workspace.json", "signals/patchset.json", ())
    ]


def test_several_patchsets_for_one_workspace() -> None:
    assert [
        region[:2] for region in _regions("BkgOnly.json", "WZ/patchset.json", "Wh/patchset.json")
    ] == [("WZ", "BkgOnly.json"), ("Wh", "BkgOnly.json")]


def test_patches_in_files_below_their_workspaces() -> None:
    assert _regions(
        "A/BkgOnly.json", "A/signal/patch.b.json", "A/signal/patch.a.json", "B/BkgOnly.json"
    ) == [
        (
            "A/signal",
            "A/BkgOnly.json",
            None,
            ("A/signal/patch.a.json", "A/signal/patch.b.json"),
        )
    ]


def test_patches_beside_their_patchset_are_left() -> None:
    ((_, _, patchset, patches),) = _regions("BkgOnly.json", "patchset.json", "patch.a.json")
    assert (patchset, patches) == ("patchset.json", ())


def test_a_patchset_between_two_workspaces_is_not_guessed_at() -> None:
    with pytest.raises(InputError, match=r"not clear which workspace c/patchset\.json is for"):
        _regions("a/BkgOnly.json", "b/BkgOnly.json", "c/patchset.json")


REGIONS = (
    "Region-combined/BkgOnly.json",
    "Region-combined/patchset.json",
    "Region-lowMass/BkgOnly.json",
    "Region-lowMass/patchset.json",
    "deep/Region-low/BkgOnly.json",
    "deep/Region-low/patchset.json",
    "BkgOnly.json",
    "patchset.json",
)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("Region-combined", "Region-combined"),
        ("region-COMBINED/", "Region-combined"),
        ("Region-c", "Region-combined"),
        ("Region-low", "deep/Region-low"),
        ("Region-lowMass_", "Region-lowMass"),
        ("deep/Region-low", "deep/Region-low"),
        (".", ""),
    ],
)
def test_a_region_is_chosen_by_name_or_unique_start(wanted: str, found: str) -> None:
    content = {"BkgOnly": WORKSPACE, "patchset": PATCHSET}
    regions, _ = find_regions(
        Contents({path: content[path.rsplit("/", 1)[-1][:-5]] for path in REGIONS}, [])
    )
    assert select_region(regions, wanted).name == found


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (None, "the pallet has several regions"),
        ("Region", "several regions of the pallet fit 'Region'"),
        ("SRA", "the pallet has no region 'SRA'"),
    ],
)
def test_an_ambiguous_pallet_lists_its_regions(
    write: Callable[..., Path], sound: dict[str, bytes], wanted: str | None, told: str
) -> None:
    directory = write(
        {f"{name}/{file}": raw for name in ("Region-A", "Region-B") for file, raw in sound.items()}
    )
    with pytest.raises(RequestError, match=told) as caught:
        load_pallet(directory, region=wanted)
    assert "Region-A, Region-B" in caught.value.evidence
    assert load_pallet(directory, region="Region-B").region == "Region-B"


def test_single_patches_are_named_by_their_files(
    write: Callable[..., Path], workspace: dict, patchset: dict
) -> None:
    """As the first published likelihoods had it."""
    files: dict[str, Any] = {"BkgOnly.json": workspace}
    for patch, name in zip(
        patchset["patches"], ("600_280_60", "600_430p5_60", "700_280_60"), strict=False
    ):
        files[f"signals/patch.sbottom_C1N2_{name}.json"] = patch["patch"]
    pallet = load_pallet(write(files))
    assert {one.name: one.values for one in pallet.hypotheses} == {
        "patch.sbottom_C1N2_600_280_60": (600, 280),
        "patch.sbottom_C1N2_600_430p5_60": (600, 430.5),
        "patch.sbottom_C1N2_700_280_60": (700, 280),
    }
    assert pallet.labels == ("value_1", "value_2")
    assert not pallet.digest_verified
    assert "no digest to verify" in pallet.notes[0]


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (("patch_100.json", "patch_200.json"), [(100,), (200,)]),
        (("patch_100_1.json", "patch_200_1.json"), [(100, 1), (200, 1)]),
        (("patch_a.json", "patch_b.json"), [(), ()]),
        (("patch_100.json", "patch_100_1.json"), [(), ()]),
    ],
)
def test_values_of_single_patches(
    write: Callable[..., Path],
    workspace: dict,
    patchset: dict,
    names: tuple[str, ...],
    values: list[tuple[float, ...]],
) -> None:
    files = dict.fromkeys(names, patchset["patches"][0]["patch"]) | {"BkgOnly.json": workspace}
    pallet = load_pallet(write(files))
    assert [one.values for one in pallet.hypotheses] == values
    assert len(pallet.labels) == len(values[0])


def test_single_patches_of_the_same_name_are_refused(
    write: Callable[..., Path], workspace: dict, patchset: dict
) -> None:
    patch = patchset["patches"][0]["patch"]
    directory = write({"BkgOnly.json": workspace, "patch_1.json": patch, "patch_1.JSON": patch})
    with pytest.raises(InputError, match="patches have the same name"):
        load_pallet(directory)


def test_a_single_patch_that_is_none_is_told(write: Callable[..., Path], workspace: dict) -> None:
    directory = write({"BkgOnly.json": workspace, "patch_1.json": [{"op": "add"}]})
    with pytest.raises(InputError, match=r"patch_1\.json violates pyhf's schema of a jsonpatch"):
        load_pallet(directory)


def test_a_workspace_alone_is_told_what_is_missing(
    write: Callable[..., Path], sound: dict[str, bytes]
) -> None:
    pallet = load_pallet(write(sound) / "BkgOnly.json")
    with pytest.raises(RequestError, match="no patchset and no patch") as caught:
        chosen_hypotheses(pallet.hypotheses, [], make_request())
    assert "give their directory" in caught.value.hint


def test_a_directory_of_everything_is_no_pallet(
    write: Callable[..., Path], sound: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fitserve.pallet import source
    from fitserve.pallet.archive import Limits

    directory = write(sound)
    monkeypatch.setattr(source, "DEFAULT_LIMITS", Limits(members=1))
    with pytest.raises(InputError, match="far more in it than a pallet"):
        load_pallet(directory)
    monkeypatch.setattr(source, "DEFAULT_LIMITS", Limits(total=100))
    with pytest.raises(InputError, match="more than 100 bytes of JSON"):
        load_pallet(directory)


@pytest.mark.published
@pytest.mark.parametrize(
    ("name", "number", "labels", "bins"),
    [("1Lbb", 125, ("m1", "m2"), 14), ("staus", 57, ("mst", "mn2"), 5)],
)
def test_published_pallets_are_recognised(
    shared: Path,
    references: dict[str, dict],
    name: str,
    number: int,
    labels: tuple[str, str],
    bins: int,
) -> None:
    pallet = load_pallet(shared / "pallets" / f"{name}.tar.xz")
    assert (pallet.name, pallet.analysis, pallet.region) == (name, name, None)
    assert pallet.digest_verified
    assert (pallet.forced, pallet.notes) == ((), ())
    assert pallet.labels == labels
    assert len(pallet.axes) == 2
    assert sum(pallet.bins.values()) == bins
    assert set(pallet.measurements.values()) <= pallet.normfactors
    assert {one.name for one in pallet.hypotheses} == set(references[name])
    assert len(pallet.hypotheses) == number
    # The order is that of the patchset.
    with tarfile.open(shared / "pallets" / f"{name}.tar.xz") as archive:
        stream = archive.extractfile(f"{name}/patchset.json")
        assert stream is not None
        order = [patch["metadata"]["name"] for patch in json.load(stream)["patches"]]
    assert [one.name for one in pallet.hypotheses] == order


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("packed", [False, True])
def test_json_in_another_encoding_is_read(
    write: Callable[..., Path], sound: dict[str, bytes], pack: Pack, encoding: str, *, packed: bool
) -> None:
    files = {name: raw.decode().encode(encoding) for name, raw in sound.items()}
    directory = write({"pallet.zip": pack("zip", files)} if packed else files)
    pallet = load_pallet(directory / "pallet.zip" if packed else directory)
    assert (pallet.digest_verified, len(pallet.hypotheses)) == (True, 5)


@pytest.mark.parametrize("module", [gzip, bz2, lzma])
@pytest.mark.parametrize("kind", ["directory", "zip", "targz"])
def test_packed_json_files_are_read(
    write: Callable[..., Path], sound: dict[str, bytes], pack: Pack, module: Any, kind: str
) -> None:
    suffix = {gzip: "gz", bz2: "bz2", lzma: "xz"}[module]
    files = {f"a/{name}.{suffix}": module.compress(raw) for name, raw in sound.items()}
    directory = write(files if kind == "directory" else {"pallet": pack(kind, files)})
    pallet = load_pallet(directory if kind == "directory" else directory / "pallet")
    assert (pallet.digest_verified, len(pallet.hypotheses)) == (True, 5)


def test_a_packed_file_beside_itself_is_read_once(
    write: Callable[..., Path], sound: dict[str, bytes]
) -> None:
    packed = {f"{name}.gz": gzip.compress(raw) for name, raw in sound.items()}
    damaged = {"old.json.gz": b"\x1f\x8b damaged", "notes.json.gz": b"no archive"}
    assert len(load_pallet(write(sound | packed | damaged)).hypotheses) == 5


def test_a_single_packed_file_is_told_for_what_it_is(
    write: Callable[..., Path], sound: dict[str, bytes]
) -> None:
    directory = write({"patchset.json.gz": gzip.compress(sound["patchset.json"])})
    with pytest.raises(InputError, match="no background-only workspace") as caught:
        load_pallet(directory / "patchset.json.gz")
    assert "patchset.json (patchset)" in caught.value.evidence
    assert caught.value.hint.startswith("put the workspace beside the patchset")


@pytest.mark.parametrize("inner", ["zip", "tar", "targz", "tarxz"])
@pytest.mark.parametrize("outer", ["zip", "targz"])
def test_an_archive_in_an_archive_is_read(
    write: Callable[..., Path], sound: dict[str, bytes], pack: Pack, inner: str, outer: str
) -> None:
    """As HEPData's "download all" has it, beside tables and what belongs to them."""
    suffix = {"zip": "zip", "tar": "tar", "targz": "tar.gz", "tarxz": "txz"}[inner]
    files = {
        "HEPData/submission.yaml": b"---",
        f"HEPData/Likelihoods.{suffix}": pack(inner, sound),
        "HEPData/code.zip": pack("zip", {"main.cc": b"", "settings.json": b'{"a": NaN}'}),
        "HEPData/broken.tar.gz": b"\x1f\x8b\x08 not at all",
    }
    pallet = load_pallet(write({"all": pack(outer, files)}) / "all")
    assert (pallet.digest_verified, len(pallet.hypotheses)) == (True, 5)
    assert pallet.region is None


def test_an_archive_in_a_directory_is_said_to_be_what_to_give(
    write: Callable[..., Path], sound: dict[str, bytes], pack: Pack
) -> None:
    directory = write({"Likelihoods.tar.gz": pack("targz", sound), "submission.yaml": b"---"})
    with pytest.raises(InputError, match="no background-only workspace") as caught:
        load_pallet(directory)
    assert caught.value.hint == "give the archive itself: Likelihoods.tar.gz"


@pytest.mark.parametrize(
    "raw", [b'[{"CLs": NaN, "limit": Infinity}]', b"", b'{"channels": [', b"\xff\xfe\xff"]
)
def test_what_is_no_json_beside_the_pallet_is_noted(
    write: Callable[..., Path], sound: dict[str, bytes], raw: bytes
) -> None:
    pallet = load_pallet(write(sound | {"harvest_old.json": raw}))
    assert len(pallet.hypotheses) == 5
    (note,) = pallet.notes
    assert note.startswith("files that are no part of the pallet cannot be read: harvest_old.json")


def test_what_is_no_json_is_an_error_where_something_is_missing(
    write: Callable[..., Path], sound: dict[str, bytes]
) -> None:
    """It may be the patchset under another name."""
    files = {"BkgOnly.json": sound["BkgOnly.json"], "signals.json": b'{"patches": [NaN]}'}
    with pytest.raises(InputError, match=r"signals\.json has the value NaN"):
        load_pallet(write(files))
    # Its name says that it is of the pallet, whatever else there is.
    with pytest.raises(InputError, match=r"SRB_patchset\.json has the value NaN"):
        load_pallet(write(sound | {"SRB_patchset.json": b'{"patches": [NaN]}'}, name="second"))


def _integers(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _integers(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_integers(value) for value in content]
    whole = isinstance(content, float) and content.is_integer()
    return int(content) if whole else content


@pytest.mark.parametrize("backwards", [False, True])
def test_a_workspace_that_was_written_anew_is_the_same(
    write: Callable[..., Path], workspace: dict, patchset: dict, *, backwards: bool
) -> None:
    written = _integers(workspace)
    assert json.dumps(written) != json.dumps(workspace)
    if backwards:
        written, workspace = workspace, written
    patchset["metadata"]["digests"] = {"sha256": pyhf.utils.digest(workspace)}
    pallet = load_pallet(write({"BkgOnly.json": written, "patchset.json": patchset}))
    assert pallet.digest_verified
    assert pallet.notes[0].startswith("the workspace was written anew after the patchset was made")
    # One number that differs is another workspace.
    written["observations"][0]["data"][0] += 1
    with pytest.raises(InputError, match="made for another background-only workspace"):
        load_pallet(write({"BkgOnly.json": written, "patchset.json": patchset}))


def test_a_workspace_alone_is_one_hypothesis(
    write: Callable[..., Path], workspace: dict, patchset: dict
) -> None:
    signal = patchset["patches"][2]["patch"][0]["value"]
    workspace["channels"][0]["samples"].append(signal)
    whole = write({"search.json": workspace}, name="whole")
    for source in (whole, whole / "search.json"):
        pallet = load_pallet(source)
        assert [(one.name, one.patch) for one in pallet.hypotheses] == [("main", [])]
        check_request(pallet, pallet.hypotheses, make_request(kind="limit"))
