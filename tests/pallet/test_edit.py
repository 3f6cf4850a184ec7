"""Select, drop and rename, held against pyhf's own `Workspace.prune` and `Workspace.rename`."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import jsonpatch
import numpy as np
import pyhf
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import fitserve
from fitserve.cli import cli
from fitserve.errors import InputError, RequestError, StoreError
from fitserve.pallet.edit import Change, Rewriter, difference, names_of
from fitserve.pallet.load import load_pallet
from fitserve_contract import Hypothesis

if TYPE_CHECKING:
    from pathlib import Path


def _modifier(name: str, type_: str, data: Any = None) -> dict[str, Any]:
    return {"name": name, "type": type_, "data": data}


def _sample(name: str, data: list[float], *modifiers: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "data": data, "modifiers": list(modifiers)}


def _jes(size: float) -> dict[str, Any]:
    return _modifier("alpha_JES", "normsys", {"hi": 1 + size, "lo": 1 - size})


def _shape(data: list[float]) -> dict[str, Any]:
    up, down = [1.1 * one for one in data], [0.9 * one for one in data]
    return _modifier("alpha_PDF", "histosys", {"hi_data": up, "lo_data": down})


LUMI = _modifier("lumi", "lumi")
MU = _modifier("mu", "normfactor")
LUMINOSITY = {
    "name": "lumi",
    "auxdata": [1.0],
    "sigmas": [0.02],
    "bounds": [[0.9, 1.1]],
    "inits": [1.0],
}

WORKSPACE: dict[str, Any] = {
    "channels": [
        {
            "name": "SR_low",
            "samples": [
                _sample("top", [50.0, 30.0], _jes(0.05), LUMI, _modifier("mu_top", "normfactor")),
                _sample("Z", [10.0, 8.0], _shape([10.0, 8.0]), LUMI),
                _sample("fakes", [4.0, 3.0], _modifier("stat", "staterror", [1.0, 0.5]), _jes(0.1)),
            ],
        },
        {
            "name": "CR",
            "samples": [
                _sample("top", [200.0], _jes(0.02), _modifier("mu_top", "normfactor")),
                _sample("Z", [20.0], _shape([20.0]), LUMI),
            ],
        },
        {"name": "SR_high", "samples": [_sample("Z", [3.0, 2.0], _shape([3.0, 2.0]))]},
    ],
    "observations": [
        {"name": "SR_high", "data": [4.0, 2.0]},
        {"name": "SR_low", "data": [66.0, 40.0]},
        {"name": "CR", "data": [218.0]},
    ],
    "measurements": [
        {
            "name": "main",
            "config": {
                "poi": "mu",
                "parameters": [
                    LUMINOSITY,
                    {"name": "mu_top", "bounds": [[0.0, 5.0]]},
                ],
            },
        },
        {"name": "other", "config": {"poi": "mu_top", "parameters": [LUMINOSITY]}},
    ],
    "version": "1.0.0",
}


def _signal(place: str, data: list[float], name: str = "signal") -> dict[str, Any]:
    value = _sample(name, data, MU, _jes(0.03), LUMI)
    return {"op": "add", "path": f"/channels/{place}", "value": value}


PATCHES: dict[str, list[dict[str, Any]]] = {
    "added": [_signal("0/samples/0", [5.0, 6.0]), _signal("2/samples/-", [2.0, 1.0])],
    "between": [
        _signal("0/samples/2", [5.0, 6.0]),
        _signal("0/samples/1", [1.0, 1.0], "more"),
        _signal("0/samples/5", [0.5, 0.5], "last"),
    ],
    "other": [
        _signal("0/samples/-", [9.0, 9.0]),
        {"op": "remove", "path": "/channels/0/samples/1"},
        {"op": "replace", "path": "/channels/1/samples/0/data/0", "value": 190.0},
        {"op": "replace", "path": "/measurements/0/config/poi", "value": "mu"},
        {"op": "replace", "path": "/measurements/0/config/parameters/1/bounds/0/1", "value": 8.0},
    ],
    "whole channel": [
        {"op": "copy", "from": "/channels/2", "path": "/channels/3"},
        {"op": "replace", "path": "/channels/3/name", "value": "SR_new"},
        {"op": "add", "path": "/observations/-", "value": {"name": "SR_new", "data": [1.0, 2.0]}},
        _signal("3/samples/0", [4.0, 4.0]),
        _signal("0/samples/0", [4.0, 4.0]),
    ],
}

# Edits, and what pyhf's prune and rename are told for the same.
EDITS: list[tuple[dict[str, Any], dict[str, list[str]], dict[str, dict[str, str]]]] = [
    ({"channels": ["SR*"]}, {"channels": ["CR"]}, {}),
    ({"drop_channels": ["*_high"]}, {"channels": ["SR_high"]}, {}),
    ({"drop_samples": ["top", "more"]}, {"samples": ["top", "more"]}, {}),
    ({"drop_modifiers": ["alpha_*"]}, {"modifiers": ["alpha_JES", "alpha_PDF"]}, {}),
    ({"drop_modifier_types": ["lumi"]}, {"modifier_types": ["lumi"]}, {}),
    ({"drop_measurements": ["main"]}, {"measurements": ["main"]}, {}),
    ({"drop_modifiers": ["lumi", "mu_top"]}, {"modifiers": ["lumi", "mu_top"]}, {}),
    (
        {
            "rename": {
                "channels": {"SR_low": "low", "CR": "control"},
                "samples": {"Z": "zjets", "signal": "susy"},
                "modifiers": {"alpha_JES": "JES", "mu": "mu_SIG"},
                "measurements": {"main": "NormalMeasurement"},
            }
        },
        {},
        {
            "channels": {"SR_low": "low", "CR": "control"},
            "samples": {"Z": "zjets", "signal": "susy"},
            "modifiers": {"alpha_JES": "JES", "mu": "mu_SIG"},
            "measurements": {"main": "NormalMeasurement"},
        },
    ),
    (
        {
            "channels": ["SR*"],
            "drop_samples": ["fakes"],
            "drop_modifiers": ["alpha_PDF"],
            "rename": {"samples": {"top": "ttbar"}, "channels": {"SR_high": "high"}},
        },
        {"channels": ["CR"], "samples": ["fakes"], "modifiers": ["alpha_PDF"]},
        {"samples": {"top": "ttbar"}, "channels": {"SR_high": "high"}},
    ),
]


def _by_pyhf(
    content: dict[str, Any], prune: dict[str, list[str]], rename: dict[str, dict[str, str]]
) -> pyhf.Workspace:
    """Return what pyhf makes of a workspace; it refuses names that are not there."""
    space = pyhf.Workspace(copy.deepcopy(content))
    known = {
        "channels": space.channels,
        "samples": space.samples,
        "modifiers": dict(space.modifiers),
        "modifier_types": dict(space.modifiers).values(),
        "measurements": space.measurement_names,
    }
    pruned = space.prune(
        **{kind: [one for one in names if one in known[kind]] for kind, names in prune.items()}
    )
    return pruned.rename(
        **{
            kind: {old: new for old, new in names.items() if old in known[kind]}
            for kind, names in rename.items()
        }
    )


@pytest.fixture
def pallet(tmp_path: Path) -> Path:
    """Return a directory with the workspace and all patches in a patchset."""
    return _write(tmp_path / "toy", WORKSPACE, PATCHES)


def _write(
    directory: Path, workspace: dict[str, Any], patches: dict[str, list[dict[str, Any]]]
) -> Path:
    directory.mkdir()
    patchset = {
        "metadata": {
            "references": {"hepdata": "ins1234567"},
            "description": "toy signals",
            "digests": {"sha256": pyhf.utils.digest(workspace)},
            "labels": ["m"],
        },
        "patches": [
            {"metadata": {"name": name.replace(" ", "_"), "values": [at]}, "patch": patch}
            for at, (name, patch) in enumerate(patches.items())
        ],
        "version": "1.0.0",
    }
    (directory / "BkgOnly.json").write_text(json.dumps(workspace))
    (directory / "patchset.json").write_text(json.dumps(patchset))
    return directory


@pytest.mark.parametrize(("edits", "prune", "rename"), EDITS)
def test_workspaces_and_patched_models_are_those_of_pyhf(
    pallet: Path,
    edits: dict[str, Any],
    prune: dict[str, list[str]],
    rename: dict[str, dict[str, str]],
) -> None:
    edited = load_pallet(pallet, **edits)
    published = load_pallet(pallet)
    assert edited.digest_verified
    expected = _by_pyhf(published.workspace, prune, rename)
    for measurement in expected["measurements"]:
        # The patches alone have it, so that pyhf would refuse to rename it.
        poi = measurement["config"]["poi"]
        measurement["config"]["poi"] = rename.get("modifiers", {}).get(poi, poi)
    assert pyhf.utils.digest(edited.workspace) == pyhf.utils.digest(expected)
    generator = np.random.default_rng(1)
    for one, other in zip(edited.hypotheses, published.hypotheses, strict=True):
        assert (one.name, one.values) == (other.name, other.values)
        ours = jsonpatch.apply_patch(edited.workspace, one.patch)
        theirs = _by_pyhf(jsonpatch.apply_patch(published.workspace, other.patch), prune, rename)
        assert pyhf.utils.digest(ours) == pyhf.utils.digest(theirs), one.name
        _same_models(pyhf.Workspace(ours), theirs, generator)


def _same_models(
    ours: pyhf.Workspace, theirs: pyhf.Workspace, generator: np.random.Generator
) -> None:
    """See that expected data and likelihoods are the same at random parameters."""
    models = [space.model() for space in (ours, theirs)]
    assert models[0].config.par_order == models[1].config.par_order
    low, high = np.array(models[0].config.suggested_bounds()).T
    for _ in range(3):
        at = low + generator.uniform(0.2, 0.6, len(low)) * (high - low)
        data = [space.data(model) for space, model in zip((ours, theirs), models, strict=True)]
        first, second = (np.asarray(model.expected_data(at)) for model in models)
        assert first == pytest.approx(second, rel=1e-12)
        logs = [model.logpdf(at, one)[0] for model, one in zip(models, data, strict=True)]
        assert logs[0] == pytest.approx(logs[1], rel=1e-12)


_PLACES = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 9), st.sampled_from(["a", "b", "c", "d"])),
    max_size=8,
    unique_by=lambda one: (one[0], one[2]),
)


@given(
    places=_PLACES,
    channels=st.sets(st.sampled_from(["SR_low", "CR", "SR_high"]), max_size=2),
    samples=st.sets(st.sampled_from(["top", "fakes", "a", "b"])),
    offset=st.integers(0, 2),
)
def test_patches_that_add_samples_anywhere_still_apply(
    places: list[tuple[int, int, str]], channels: set[str], samples: set[str], offset: int
) -> None:
    counts = [len(channel["samples"]) for channel in WORKSPACE["channels"]]
    patch = []
    for channel, at, name in places:
        position = "-" if at == 9 else min(at, counts[channel])
        counts[channel] += 1
        bins = len(WORKSPACE["channels"][channel]["samples"][0]["data"])
        patch.append(_signal(f"{channel}/samples/{position}", [1.0] * bins, name))
    change = Change(channels=frozenset(channels), samples=frozenset(samples))
    rewriter = Rewriter(WORKSPACE, change, offset)
    patched = jsonpatch.apply_patch(WORKSPACE, patch)
    before = {"name": "before", "samples": []}
    whole = rewriter.after | {"channels": [before] * offset + rewriter.after["channels"]}
    found = jsonpatch.apply_patch(whole, list(rewriter.additions(patch)))
    assert found["channels"][offset:] == change.workspace(patched)["channels"]
    # The slow way, which any other patch goes.
    slow = difference(rewriter.after, rewriter.patched(patch))
    assert jsonpatch.apply_patch(rewriter.after, slow) == change.workspace(patched)


def test_differences_of_any_kind_are_patches() -> None:
    other = copy.deepcopy(WORKSPACE)
    other["channels"] = [other["channels"][2], other["channels"][0]]
    other["channels"][1]["samples"].reverse()
    other["observations"][0]["data"] = [0.0, 0.0]
    for before, after in ((WORKSPACE, other), (other, WORKSPACE), (WORKSPACE, WORKSPACE)):
        assert jsonpatch.apply_patch(before, difference(before, after)) == after
    assert difference(WORKSPACE, copy.deepcopy(WORKSPACE)) == []


def test_the_workspace_that_was_loaded_is_not_changed(pallet: Path) -> None:
    published = load_pallet(pallet)
    before = copy.deepcopy((published.workspace, [one.patch for one in published.hypotheses]))
    load_pallet(published, channels=["SR*"], rename={"modifiers": {"alpha_JES": "JES"}})
    assert before == (published.workspace, [one.patch for one in published.hypotheses])


def test_what_was_done_is_in_the_notes_and_stale_ones_are_not(tmp_path: Path) -> None:
    workspace = copy.deepcopy(WORKSPACE)
    workspace["channels"][2]["samples"].append(_sample("dip", [-0.5, 1.0]))
    pallet = _write(tmp_path / "dip", workspace, {"added": PATCHES["added"]})
    assert "negative nominal yields" in " ".join(load_pallet(pallet).notes)
    edited = load_pallet(pallet, drop_samples=["dip"], rename={"samples": {"Z": "zjets"}})
    assert edited.notes == (
        "left out of the pallet: samples dip",
        "renamed in the pallet: samples Z to zjets",
    )
    assert edited.workspace_digest != load_pallet(pallet).workspace_digest


def test_the_digest_of_the_published_pallet_is_verified_first(pallet: Path) -> None:
    content = json.loads((pallet / "patchset.json").read_text())
    content["metadata"]["digests"]["sha256"] = "0" * 64
    (pallet / "patchset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="another background-only workspace"):
        load_pallet(pallet, channels=["SR*"])
    edited = load_pallet(pallet, channels=["SR*"], force=True)
    assert not edited.digest_verified
    assert any("another background-only workspace" in one for one in edited.forced)


@pytest.mark.parametrize(
    ("edits", "cause", "seen"),
    [
        ({"channels": ["SR_lo"]}, "no channel of the pallet matches 'SR_lo'", "SR_low"),
        (
            {"drop_channels": ["VR*"]},
            "no channel of the pallet matches 'VR*'",
            "SR_low, CR, SR_high, SR_new",
        ),
        ({"drop_samples": ["Top"]}, "no sample of the pallet matches 'Top'", "top"),
        ({"drop_modifiers": ["JES"]}, "no modifier of the pallet matches 'JES'", "alpha_JES"),
        ({"drop_modifier_types": ["shapesys"]}, "no modifier type", "normsys"),
        ({"drop_measurements": ["mian"]}, "no measurement", "main"),
        ({"drop_measurements": ["*"]}, "no measurement of the pallet is left", "main"),
        ({"drop_channels": ["*"]}, "no channel of the pallet is left", "CR"),
        ({"drop_samples": ["Z"]}, "channel 'SR_high' has no sample left", "without one"),
        ({"rename": {"samples": {"tpo": "t"}}}, "there is no sample 'tpo'", "top"),
        (
            {"rename": {"modifiers": {"alpha_JES": "alpha_PDF"}}},
            "a modifier 'alpha_PDF' is in the pallet already",
            "would become one with it",
        ),
        ({"rename": {"channels": {"CR": "X", "SR_low": "X"}}}, "two channels get the same", "X"),
        ({"rename": {"chanels": {}}}, "cannot be edited by 'chanels'", "channels"),
        ({"drop_sample": ["Z"]}, "cannot be edited by 'drop_sample'", "drop_samples"),
        ({"channels": "SR*"}, "edits of a pallet are not understood", "got `str`"),
    ],
)
def test_what_does_not_fit_is_an_error_with_the_nearest_names(
    pallet: Path, edits: dict[str, Any], cause: str, seen: str
) -> None:
    with pytest.raises(RequestError) as caught:
        load_pallet(pallet, **edits)
    assert cause in caught.value.cause
    assert seen in caught.value.evidence
    assert caught.value.hint


def test_modifiers_become_one_only_where_their_types_allow_it(pallet: Path) -> None:
    joint = {"alpha_JES": "alpha", "alpha_PDF": "alpha"}
    parameters = load_pallet(pallet, rename={"modifiers": joint}).background.parameters
    assert parameters["alpha"].type in {"normsys", "histosys"}
    with pytest.raises(InputError, match="types that cannot share a parameter"):
        load_pallet(pallet, rename={"modifiers": {"alpha_JES": "x", "mu_top": "x"}})


def test_a_name_with_wildcards_in_it_means_itself(tmp_path: Path) -> None:
    workspace = copy.deepcopy(WORKSPACE)
    for each in (*workspace["channels"], *workspace["observations"]):
        if each["name"] == "SR_low":
            each["name"] = "SR[low]*"
    pallet = _write(tmp_path / "wild", workspace, {"added": PATCHES["added"]})
    assert list(load_pallet(pallet, channels=["SR[low]*"]).bins) == ["SR[low]*"]


def test_many_names_are_compared_in_bounded_time() -> None:
    sample = _sample("top", [1.0], *(_modifier(f"p{at}", "normfactor") for at in range(100_000)))
    content = WORKSPACE | {"channels": [{"name": "SR_low", "samples": [sample]}]}
    names = names_of(content, [Hypothesis(name="none", values=(), patch=[])])
    with pytest.raises(RequestError, match="no modifier of the pallet matches"):
        Change.of({"drop_modifiers": ["alpha_JES"]}, names)


def test_copies_that_patches_make_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the patchset each is of a few bytes, and rewritten of a megabyte."""
    wide = copy.deepcopy(WORKSPACE)
    wide["channels"].append({"name": "VR", "samples": [_sample("Z", [1.5] * 20_000)]})
    wide["observations"].append({"name": "VR", "data": [1.0] * 20_000})
    copies = [
        {"op": "copy", "from": "/channels/3/samples/0", "path": "/channels/3/samples/1"},
        {"op": "replace", "path": "/channels/3/samples/1/name", "value": "more"},
        _signal("0/samples/0", [1.0, 1.0]),
    ]
    pallet = load_pallet(_write(tmp_path / "w", wide, {f"p{at}": copies for at in range(90)}))
    assert len(load_pallet(pallet, drop_samples=["fakes"]).hypotheses) == 90
    monkeypatch.setattr("fitserve_contract.memory.memory_there", lambda: 0)
    with pytest.raises(InputError, match="patches become too large"):
        load_pallet(pallet, drop_samples=["fakes"])


def _run(*arguments: object) -> Any:
    return CliRunner().invoke(cli, [str(one) for one in arguments])


def test_the_command_line_edits_and_a_run_says_so(pallet: Path, tmp_path: Path) -> None:
    edits = ("--channels", "SR*", "--drop-modifier", "alpha_PDF", "--rename", "sample:Z=zjets")
    checked = _run("pallets", "check", pallet, *edits)
    assert checked.exit_code == 0, checked.output
    assert "channels:      2 with 4 bins" in checked.stdout
    assert "left out of the pallet: modifiers alpha_PDF" in checked.stderr
    output = tmp_path / "run"
    done = _run("run", pallet, *edits, "--patch", "added", "-e", "inline", "-o", output, "-q")
    assert done.exit_code == 0, done.output
    manifest = json.loads((output / "manifest.json").read_text())
    assert "renamed in the pallet: samples Z to zjets" in manifest["pallet"]["notes"]
    assert manifest["pallet"]["digest_verified"] is True
    again = fitserve.run(
        pallet,
        channels=["SR*"],
        drop_modifiers=["alpha_PDF"],
        rename={"samples": {"Z": "zjets"}},
        patches=["added"],
        endpoint="inline",
        output=tmp_path / "again",
        progress=False,
    )
    assert again.manifest.pallet.workspace_digest == manifest["pallet"]["workspace_digest"]
    ours = again.results["added"]
    space = _by_pyhf(
        jsonpatch.apply_patch(WORKSPACE, PATCHES["added"]),
        {"channels": ["CR"], "modifiers": ["alpha_PDF"]},
        {},
    )
    model = space.model(modifier_settings={"histosys": {"interpcode": "code4p"}})
    expected = pyhf.infer.hypotest(1.0, space.data(model), model, test_stat="qtilde")
    assert ours.CLs_obs == pytest.approx(float(expected), abs=1e-4)
    planned = _run("run", pallet, *edits, "--plan", "-e", "inline")
    assert planned.exit_code == 0, planned.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--rename", "Z=zjets"), "--rename takes KIND:OLD=NEW"),
        (("--rename", "sample:Z=a", "--rename", "sample:Z=b"), "two new names"),
        (("--channels", "nowhere"), "no channel of the pallet matches 'nowhere'"),
    ],
)
def test_bad_options_are_told(pallet: Path, words: tuple[str, ...], told: str) -> None:
    result = _run("pallets", "check", pallet, *words)
    assert result.exit_code in {2, 4}
    assert told in result.stderr


def test_a_pallet_is_written_as_workspace_and_patchset(pallet: Path, tmp_path: Path) -> None:
    output = tmp_path / "written"
    done = _run("pallets", "write", pallet, "--channels", "SR*", "-o", output)
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [
        str(output / "BkgOnly.json"),
        str(output / "patchset.json"),
    ]
    workspace = pyhf.Workspace(json.loads((output / "BkgOnly.json").read_text()))
    patchset = pyhf.PatchSet(json.loads((output / "patchset.json").read_text()))
    patchset.verify(workspace)
    first, second = load_pallet(output), load_pallet(pallet, channels=["SR*"])
    assert first.digest_verified
    assert first.workspace == second.workspace
    assert first.hypotheses == second.hypotheses
    assert (first.labels, first.references) == (second.labels, second.references)
    again = _run("pallets", "write", pallet, "-o", output)
    assert again.exit_code == StoreError.exit_code
    assert "is not empty" in again.stderr


def test_a_complete_workspace_is_written_alone(tmp_path: Path) -> None:
    complete = jsonpatch.apply_patch(WORKSPACE, PATCHES["added"])
    (tmp_path / "full.json").write_text(json.dumps(complete))
    output = tmp_path / "written"
    done = _run("pallets", "write", tmp_path / "full.json", "--drop-sample", "fakes", "-o", output)
    assert done.exit_code == 0, done.output
    assert [one.name for one in output.iterdir()] == ["workspace.json"]
    assert len(load_pallet(output).hypotheses) == 1


def test_hypotheses_without_mass_values_are_written_with_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "loose"
    folder.mkdir()
    (folder / "BkgOnly.json").write_text(json.dumps(WORKSPACE))
    for name in ("one", "other"):
        (folder / f"patch.{name}.json").write_text(json.dumps(PATCHES["added"]))
    done = _run("pallets", "write", folder, "-o", tmp_path / "written")
    assert done.exit_code == 0, done.output
    written = load_pallet(tmp_path / "written")
    assert [one.name for one in written.hypotheses] == ["patch_one", "patch_other"]
    assert written.labels == ("name",)
