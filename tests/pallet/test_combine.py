"""Combinations of pallets, held against `pyhf.Workspace.combine` by hand."""

from __future__ import annotations

import copy
import json
import textwrap
import time
from typing import TYPE_CHECKING, Any

import jsonpatch
import numpy as np
import pyhf
import pytest
from click.testing import CliRunner

import fitserve
from fitserve.cli import cli
from fitserve.errors import FitserveError, InputError, RequestError
from fitserve.pallet.combination import read_combination
from fitserve.pallet.load import load_pallet

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _modifier(name: str, type_: str, data: Any = None) -> dict[str, Any]:
    return {"name": name, "type": type_, "data": data}


def _sample(name: str, data: list[float], *modifiers: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "data": data, "modifiers": list(modifiers)}


def _lumi(sigma: float = 0.02, *, fixed: bool = False) -> dict[str, Any]:
    shape = {"auxdata": [1.0], "sigmas": [sigma], "bounds": [[0.9, 1.1]], "inits": [1.0]}
    return {"name": "lumi", **shape} | ({"fixed": True} if fixed else {})


def _workspace(
    channels: list[dict[str, Any]], poi: str, *parameters: dict[str, Any]
) -> dict[str, Any]:
    observed = [
        {"name": one["name"], "data": [round(sum(bins)) for bins in zip(*_data(one), strict=True)]}
        for one in channels
    ]
    return {
        "channels": channels,
        "observations": observed,
        "measurements": [
            {"name": "main", "config": {"poi": poi, "parameters": list(parameters)}},
            {"name": "extra", "config": {"poi": poi, "parameters": list(parameters)}},
        ],
        "version": "1.0.0",
    }


def _data(channel: dict[str, Any]) -> list[list[float]]:
    return [sample["data"] for sample in channel["samples"]]


JES = _modifier("JES", "normsys", {"hi": 1.06, "lo": 0.95})
STAT = _modifier("stat_SR", "staterror", [2.0, 1.5])
TOP = _modifier("mu_top", "normfactor")
LUMI = _modifier("lumi", "lumi")

FIRST = _workspace(
    [
        {"name": "SR", "samples": [_sample("top", [40.0, 20.0], JES, STAT, TOP, LUMI)]},
        {"name": "CR", "samples": [_sample("top", [180.0], JES, TOP)]},
    ],
    "mu",
    _lumi(),
    {"name": "mu_top", "bounds": [[0.0, 5.0]]},
)
SECOND = _workspace(
    [
        {
            "name": "SR",
            "samples": [
                _sample(
                    "ttbar",
                    [30.0, 12.0],
                    _modifier(
                        "JES", "histosys", {"hi_data": [33.0, 12.5], "lo_data": [28.0, 11.0]}
                    ),
                    _modifier("alpha_jer", "normsys", {"hi": 1.03, "lo": 0.98}),
                    STAT,
                    TOP,
                    LUMI,
                ),
                _sample("Z", [9.0, 5.0], LUMI),
            ],
        }
    ],
    "mu_SIG",
    _lumi(fixed=True),
)


def _signal(poi: str, data: list[float]) -> dict[str, Any]:
    size = _modifier("JES", "normsys", {"hi": 1.1, "lo": 0.92})
    return _sample("signal", data, _modifier(poi, "normfactor"), size, LUMI)


def _patches(poi: str, at: int, masses: list[tuple[int, int]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for heavy, light in masses:
        value = _signal(poi, [1000.0 / heavy, 2.0 * (1 + light) / 100])
        patch = [{"op": "add", "path": f"/channels/0/samples/{at}", "value": value}]
        if heavy == 200:
            # One that does more than to add a sample, so that it is rewritten in another way.
            patch.append({"op": "replace", "path": "/channels/0/samples/0/data/0", "value": 41.0})
        found[f"{poi}_{heavy}_{light}"] = ((heavy, light), patch)
    return found


PATCHES = {
    "first": _patches("mu", 0, [(100, 1), (200, 1), (300, 50), (400, 1)]),
    "second": _patches("mu_SIG", 2, [(300, 50), (200, 1), (100, 1), (500, 1)]),
}


def _write(directory: Path, workspace: dict[str, Any], patches: Any, labels: list[str]) -> Path:
    directory.mkdir()
    content = {
        "metadata": {
            "references": {"hepdata": "ins1234567" if directory.name == "first" else "ins7654321"},
            "description": f"search {directory.name}",
            "digests": {"sha256": pyhf.utils.digest(workspace)},
            "labels": labels,
        },
        "patches": [
            {"metadata": {"name": name, "values": list(values)}, "patch": patch}
            for name, (values, patch) in patches.items()
        ],
        "version": "1.0.0",
    }
    (directory / "BkgOnly.json").write_text(json.dumps(workspace))
    if patches:
        (directory / "patchset.json").write_text(json.dumps(content))
    return directory


SOUND = """
    parts:
      first: {pallet: first}
      second: {pallet: second}
    measurement:
      poi: mu_SIG
      parameters:
        lumi: {fixed: false}
        mu_top: {bounds: [[0.0, 5.0]]}
    parameters:
      shared: [lumi, JES, mu_top]
      apart: ["stat_*"]
    hypotheses:
      match: masses
      labels: {first: [mx, my], second: [m1, m2]}
    """


@pytest.fixture
def combination(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a combination of two searches, with replacements in it."""
    _write(tmp_path / "first", FIRST, PATCHES["first"], ["mx", "my"])
    _write(tmp_path / "second", SECOND, PATCHES["second"], ["m1", "m2"])

    def write(*replacements: tuple[str, str], text: str = SOUND) -> Path:
        content = textwrap.dedent(text)
        for old, new in replacements:
            assert old in content
            content = content.replace(old, new)
        path = tmp_path / "both.yaml"
        path.write_text(content)
        return path

    return write


def _by_hand(
    first: list[dict[str, Any]], second: list[dict[str, Any]], *, fixed: bool = False
) -> pyhf.Workspace:
    """Return what somebody makes with pyhf of the two searches, as `SOUND` says."""
    left = jsonpatch.apply_patch(copy.deepcopy(FIRST), first)
    right = jsonpatch.apply_patch(copy.deepcopy(SECOND), second)
    # pyhf refuses other settings of one parameter, and joins measurements of one name.
    left["measurements"][0]["config"]["parameters"][0]["fixed"] = fixed
    right["measurements"][0]["config"]["parameters"] = []
    spaces = []
    for name, content in (("first", left), ("second", right)):
        space = pyhf.Workspace(content)
        modifiers = {"stat_SR": f"{name}_stat_SR"}
        if "mu" in dict(space.modifiers):
            modifiers["mu"] = "mu_SIG"
        else:
            for measurement in space["measurements"]:
                measurement["config"]["poi"] = "mu_SIG"
        spaces.append(
            space.prune(measurements=["extra"]).rename(
                modifiers=modifiers,
                channels={"SR": f"{name}_SR"},
                measurements={"main": "combination"},
            )
        )
    return pyhf.Workspace.combine(*spaces, join="outer")


def test_workspace_and_patched_models_are_those_combined_by_hand(
    combination: Callable[..., Path],
) -> None:
    pallet = load_pallet(combination())
    assert pyhf.utils.digest(pallet.workspace) == pyhf.utils.digest(_by_hand([], []))
    assert [one.values for one in pallet.hypotheses] == [(100, 1), (200, 1), (300, 50)]
    assert pallet.labels == ("mx", "my")
    generator = np.random.default_rng(2)
    for one in pallet.hypotheses:
        heavy, light = one.values
        names = [f"mu_{heavy}_{light}", f"mu_SIG_{heavy}_{light}"]
        assert one.name == "__".join(names)
        ours = pyhf.Workspace(jsonpatch.apply_patch(pallet.workspace, one.patch))
        theirs = _by_hand(PATCHES["first"][names[0]][1], PATCHES["second"][names[1]][1])
        assert pyhf.utils.digest(ours) == pyhf.utils.digest(theirs)
        _same_models(ours, theirs, generator)


def _same_models(
    ours: pyhf.Workspace, theirs: pyhf.Workspace, generator: np.random.Generator
) -> None:
    models = [space.model() for space in (ours, theirs)]
    assert models[0].config.par_order == models[1].config.par_order
    assert models[0].config.poi_name == "mu_SIG"
    low, high = np.array(models[0].config.suggested_bounds()).T
    for _ in range(3):
        at = low + generator.uniform(0.2, 0.6, len(low)) * (high - low)
        first, second = (np.asarray(model.expected_data(at)) for model in models)
        assert first == pytest.approx(second, rel=1e-12)
        logs = [
            model.logpdf(at, space.data(model))[0]
            for space, model in zip((ours, theirs), models, strict=True)
        ]
        assert logs[0] == pytest.approx(logs[1], rel=1e-12)


def test_a_run_of_a_combination_has_pyhfs_cls_and_says_its_parts(
    combination: Callable[..., Path], tmp_path: Path
) -> None:
    run = fitserve.run(
        combination(), patches=["mu_300*"], endpoint="inline", output=tmp_path / "o", progress=False
    )
    (result,) = run.results.values()
    theirs = _by_hand(PATCHES["first"]["mu_300_50"][1], PATCHES["second"]["mu_SIG_300_50"][1])
    model = theirs.model(modifier_settings={"histosys": {"interpcode": "code4p"}})
    expected = pyhf.infer.hypotest(1.0, theirs.data(model), model, test_stat="qtilde")
    assert result.CLs_obs == pytest.approx(float(expected), abs=1e-4)
    pallet = run.manifest.pallet
    assert pallet.name == "both"
    assert {name: part.source for name, part in pallet.parts.items()} == {
        name: str(tmp_path / name) for name in ("first", "second")
    }
    assert pallet.parts["first"].workspace_digest == fitserve_digest(tmp_path / "first")
    assert pallet.references == {
        "hepdata (first)": "ins1234567",
        "hepdata (second)": "ins7654321",
    }
    assert pallet.description == "a combination of first: search first; second: search second"
    notes = " ".join(pallet.notes)
    assert "channels of part first are renamed" in notes
    assert "left out: 1 of first, among them mu_400_1" in notes
    assert "left out: 1 of second, among them mu_SIG_500_1" in notes


def fitserve_digest(path: Path) -> str:
    """Return the digest of a part by itself."""
    return load_pallet(path).workspace_digest


def test_parameters_are_as_the_file_says(combination: Callable[..., Path]) -> None:
    apart = (("shared: [lumi, JES, mu_top]", "default: apart\n  shared: [lumi]"),)
    unsettled = (("    mu_top: {bounds: [[0.0, 5.0]]}\n", ""),)
    names = set(load_pallet(combination(*apart, *unsettled)).background.parameters)
    assert {"first_JES", "second_JES", "first_mu_top", "second_mu_top", "lumi"} <= names
    assert not {"JES", "mu_top"} & names
    everything = (("shared: [lumi, JES, mu_top]", "default: shared"),)
    names = set(load_pallet(combination(*everything)).background.parameters)
    assert {"JES", "mu_top", "lumi", "first_stat_SR", "second_stat_SR"} <= names
    # Of other names in the parts; a name counts more than a pattern.
    mapped = (("JES, mu_top]", "'*', {jet: {first: JES, second: alpha_jer}}]"),)
    exact = (("apart: [", "apart: [JES, "),)
    pallet = load_pallet(combination(*mapped, *exact, ('"stat_*"', "stat_SR")))
    assert {"jet", "JES", "mu_top"} <= set(pallet.background.parameters)
    samples = {one["name"]: one["samples"][0] for one in pallet.workspace["channels"]}
    modifiers = {
        name: {one["name"]: one["type"] for one in sample["modifiers"]}
        for name, sample in samples.items()
    }
    assert modifiers["CR"] == {"jet": "normsys", "mu_top": "normfactor"}
    assert modifiers["second_SR"]["jet"] == "normsys"
    assert modifiers["second_SR"]["JES"] == "histosys"


def test_hypotheses_without_a_partner_are_kept_if_the_file_says_so(
    combination: Callable[..., Path],
) -> None:
    keep = ("match: masses", "match: masses\n  without_partner: keep")
    pallet = load_pallet(combination(keep))
    values = {one.name: one.values for one in pallet.hypotheses}
    assert len(values) == 5
    assert values["mu_400_1"] == (400, 1)
    assert values["mu_SIG_500_1"] == (500, 1)
    assert any("kept with the background there: 1 of second" in one for one in pallet.notes)
    alone = next(one for one in pallet.hypotheses if one.name == "mu_SIG_500_1")
    ours = pyhf.Workspace(jsonpatch.apply_patch(pallet.workspace, alone.patch))
    theirs = _by_hand([], PATCHES["second"]["mu_SIG_500_1"][1])
    assert pyhf.utils.digest(ours) == pyhf.utils.digest(theirs)


def test_hypotheses_are_matched_by_name(combination: Callable[..., Path], tmp_path: Path) -> None:
    for part in ("first", "second"):
        path = tmp_path / part / "patchset.json"
        path.write_text(path.read_text().replace('"mu_SIG_', '"S_').replace('"mu_', '"S_'))
        content = json.loads(path.read_text())
        for one in content["patches"]:
            one["patch"] = json.loads(json.dumps(one["patch"]).replace('"S_top"', '"mu_top"'))
        path.write_text(json.dumps(content))
    by_name = (("match: masses", "match: names"), ("labels: {first: [mx, my], ", "labels: {"))
    pallet = load_pallet(combination(*by_name))
    assert [one.name for one in pallet.hypotheses] == ["S_100_1", "S_200_1", "S_300_50"]
    assert pallet.labels == ()
    masses = load_pallet(combination(*by_name), masses="S_{x}_{y}")
    assert masses.labels == ("x", "y")
    assert masses.hypotheses[2].values == (300, 50)


def test_a_part_without_a_signal_and_one_that_is_complete(
    combination: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "second" / "patchset.json").unlink()
    pallet = load_pallet(combination())
    assert [one.name for one in pallet.hypotheses] == list(PATCHES["first"])
    assert "part second has no signal" in pallet.notes
    complete = jsonpatch.apply_patch(SECOND, PATCHES["second"]["mu_SIG_300_50"][1])
    (tmp_path / "second" / "BkgOnly.json").write_text(json.dumps(complete))
    pallet = load_pallet(combination())
    assert [one.name for one in pallet.hypotheses] == list(PATCHES["first"])
    assert "part second has its own signal, which is in every hypothesis" in pallet.notes
    (tmp_path / "first" / "patchset.json").unlink()
    pallet = load_pallet(combination())
    assert [(one.name, one.patch) for one in pallet.hypotheses] == [("combination", [])]
    theirs = _by_hand([], PATCHES["second"]["mu_SIG_300_50"][1])
    assert pyhf.utils.digest(pallet.workspace) == pyhf.utils.digest(theirs)


def test_parts_are_edited_and_their_measurements_chosen(combination: Callable[..., Path]) -> None:
    edited = (
        ("{pallet: first}", "{pallet: first, drop_modifiers: [JES], channels: [SR]}"),
        ("{pallet: second}", "{pallet: second, measurement: extra, rename: {channels: {SR: VR}}}"),
        ("lumi, JES, mu_top", "lumi, mu_top"),
    )
    pallet = load_pallet(combination(*edited))
    assert list(pallet.bins) == ["SR", "VR"]
    assert any(
        one.startswith("part first: left out of the pallet: channels CR") for one in pallet.notes
    )
    again = load_pallet(combination(*edited), channels=["VR"])
    assert list(again.bins) == ["VR"]
    assert set(again.parts) == {"first", "second"}


def test_three_parts(combination: Callable[..., Path], tmp_path: Path) -> None:
    third = copy.deepcopy(FIRST)
    _write(tmp_path / "third", third, PATCHES["first"], ["mx", "my"])
    path = combination(
        ("second: {pallet: second}", "second: {pallet: second}\n  third: {pallet: third}"),
        ("second: [m1, m2]", "second: [m1, m2], third: [mx, my]"),
    )
    pallet = load_pallet(path)
    assert list(pallet.bins) == ["first_SR", "first_CR", "second_SR", "third_SR", "third_CR"]
    # The first and the third have the same names, so that each name is there once.
    assert pallet.hypotheses[0].name == "mu_100_1__mu_SIG_100_1"
    paths = [one["path"] for one in pallet.hypotheses[0].patch]
    assert paths == ["/channels/0/samples/0", "/channels/2/samples/2", "/channels/3/samples/0"]


BAD: list[tuple[list[tuple[str, str]], type[FitserveError], str, str, str]] = [
    # The structure of the file.
    ([("parts:", "prats:")], InputError, "no field 'prats'", "line 2", "did you mean parts?"),
    ([("{pallet: first}", "{palet: first}")], InputError, "no field 'palet'", "line 3", "pallet?"),
    ([("fixed: false", "fixd: false")], InputError, "no field 'fixd'", "line 8", "fixed?"),
    ([("fixed: false", "fixed: 3")], InputError, "Expected `bool", "line 8", ""),
    ([("fixed: false", "inits: [.nan]")], InputError, "not finite", "line 8", ""),
    ([("match: masses", "match: mass")], InputError, "Invalid enum value", "line 14", ""),
    ([("  second: {pallet: second}\n", "")], InputError, "has 2 to 32 parts", "line 2", ""),
    ([("first: {pallet", "a/b: {pallet")], InputError, "no name of a part", "line 3", ""),
    ([("poi: mu_SIG", "name: x")], InputError, "required field `poi`", "line 5", ""),
    ([("second: {pallet", "first: {pallet")], InputError, "a key is there twice", "line 4", ""),
    ([("{pallet: first}", "&a {pallet: first}"), ("{pallet: second}", "*a")], InputError,
     "an alias (*name) is not allowed", "line 4", ""),
    ([("poi: mu_SIG", "poi: [" + "[" * 100)], InputError, "nested too deeply", "line 6", ""),
    ([("poi: mu_SIG", "poi: {mu")], InputError, "is no YAML", "line", ""),
    ([("{pallet: first}", "{pallet: first, channels: 3}")], InputError, "part first", "line 3", ""),
    ([("{pallet: first}", "{pallet: first, rename: {chanels: {}}}")], InputError, "'chanels'",
     "line 3", "channels?"),
    # Cycles.
    ([("{pallet: first}", "{pallet: both.yaml}")], InputError, "is a combination itself", "line 3",
     "fitserve pallets write both.yaml"),
    # The parts.
    ([("{pallet: first}", "{pallet: frist}")], InputError, "part first of both.yaml: there is no",
     "", "fitserve analyses list"),
    ([("{pallet: first}", "{pallet: first, region: X}")], RequestError, "part first", "", ""),
    ([("{pallet: first}", "{pallet: first, measurement: mian}")], RequestError,
     "has no measurement 'mian'", "main", "main?"),
    ([("{pallet: first}", "{pallet: first, channels: [VR]}")], RequestError,
     "part first of both.yaml: no channel of the pallet matches 'VR'", "SR", ""),
    # Parameters.
    ([("[lumi, JES, mu_top]", "[lumi]")], InputError, "does not say whether they are shared",
     "2: JES (first, second), mu_top", 'apart: ["JES", "mu_top"]'),
    ([("[lumi, JES", "[lumi, JSE")], RequestError, "several parts have matches 'JSE'", "JES", ""),
    ([("[lumi, JES", "[lumi, alpha_jer, JES")], RequestError, "matches 'alpha_jer'",
     "alpha_jer is in one part only", "{NEW: {PART: OLD"),
    ([("apart: [", "apart: [JES, ")], InputError, "shared and to be kept apart", "", ""),
    ([('apart: ["stat_*"]', "default: shared")], InputError, "uncertainties of bins are shared",
     "'stat_SR' of first is a staterror", "keep them apart"),
    ([("[lumi, JES, mu_top]", "[JES, mu_top]\n  default: apart")], InputError,
     "luminosities cannot be kept apart", "first_lumi", "drop_modifiers: [lumi]"),
    ([("mu_top]", "mu_top, {x: {first: CR_norm, second: alpha_jer}}]")], RequestError,
     "part first has no parameter 'CR_norm'", "it has", ""),
    ([("mu_top]", "mu_top, {x: {frist: JES, second: alpha_jer}}]")], RequestError,
     "there is no part 'frist'", "first, second", "first?"),
    ([("JES, mu_top]", "{x: {first: JES, second: mu_top}}]\n  default: apart")], InputError,
     "types that cannot be one are shared as 'x'", "'mu_top' of second is a normfactor", ""),
    ([("JES, mu_top]", "mu_top, {x: {first: JES, second: JES}}, {y: {first: JES}}]")], InputError,
     "is shared twice", "'x'", ""),
    ([("{pallet: first}", "{pallet: first, rename: {modifiers: {JES: alpha_jer}}}"),
      ("lumi, JES, mu_top", "lumi, mu_top")], InputError, "does not say whether they are shared",
     "alpha_jer (first, second)", ""),
    ([("{pallet: first}", "{pallet: first, rename: {modifiers: {JES: second_stat_SR}}}"),
      ("lumi, JES, mu_top", "lumi, mu_top")], InputError,
     "two parameters would become one", "both as 'second_stat_SR'", "rename"),
    # Settings.
    ([("    lumi: {fixed: false}\n", "")], InputError, "other settings in each part",
     "fixed of lumi: False in first, True in second", "lumi: {fixed: false}"),
    ([("lumi: {fixed: false}", "lumi: {fixed: false}\n    mu_tpo: {fixed: true}")], RequestError,
     "no parameter 'mu_tpo'", "mu_top", ""),
    ([("poi: mu_SIG", "poi: mu_Sig"), ("apart: [", "apart: [mu, mu_SIG, ")], RequestError,
     "'mu'", "in one part only", ""),
    # Hypotheses.
    ([("hypotheses:\n  match: masses\n  labels: {first: [mx, my], second: [m1, m2]}", "")],
     InputError, "which hypotheses of the parts belong together", "4 in first; 4 in second",
     'labels:\n    first: ["mx","my"]'),
    ([("  labels: {first: [mx, my], second: [m1, m2]}", "")], InputError,
     "mass values of the parts have different names", "mx, my in first; m1, m2 in second",
     'second: ["m1","m2"]'),
    ([("second: [m1, m2]", "second: [m2, m1]")], InputError, "no hypothesis has a partner",
     "[100,1] in first, [50,300] in second", "pallets check"),
    ([("first: [mx, my]", "first: [mx, mz]")], RequestError, "no mass value 'mz'", "mx, my", ""),
    ([("first: [mx, my]", "first: [mx]")], InputError, "different numbers of mass values", "", ""),
    ([("first: [mx, my], second: [m1, m2]", "first: [my], second: [m2]")], InputError,
     "cannot be told apart by their masses", "4 have 2 masses", ""),
    ([("first: [mx, my]", "frist: [mx, my]")], RequestError, "there is no part 'frist'", "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("replacements", "kind", "cause", "seen", "hint"), BAD)
def test_what_does_not_fit_is_an_error_that_says_where(
    combination: Callable[..., Path],
    replacements: list[tuple[str, str]],
    kind: type[FitserveError],
    cause: str,
    seen: str,
    hint: str,
) -> None:
    with pytest.raises(kind) as caught:
        load_pallet(combination(*replacements))
    assert cause in caught.value.cause
    assert seen in caught.value.evidence
    assert hint in caught.value.hint


def test_constraints_of_a_shared_parameter_are_equal(
    combination: Callable[..., Path], tmp_path: Path
) -> None:
    other = copy.deepcopy(SECOND)
    other["measurements"][0]["config"]["parameters"] = [_lumi(0.03)]
    other["measurements"][1]["config"]["parameters"] = [_lumi(0.03)]
    _rewrite(tmp_path / "second", other)
    with pytest.raises(InputError, match="'lumi' of first is shared, but not its sigmas") as caught:
        load_pallet(combination())
    assert caught.value.evidence == "[0.02] in first, [0.03] in second"
    measured = copy.deepcopy(SECOND)
    for each in measured["measurements"]:
        each["config"]["parameters"].append({"name": "JES", "auxdata": [0.4], "inits": [0.4]})
    _rewrite(tmp_path / "second", measured)
    with pytest.raises(InputError, match="'JES' of first is shared, but not its auxdata"):
        load_pallet(combination())


def _rewrite(directory: Path, workspace: dict[str, Any]) -> None:
    (directory / "BkgOnly.json").write_text(json.dumps(workspace))
    patchset = json.loads((directory / "patchset.json").read_text())
    patchset["metadata"]["digests"] = {"sha256": pyhf.utils.digest(workspace)}
    (directory / "patchset.json").write_text(json.dumps(patchset))


def test_the_parameter_of_interest_has_to_be_there(
    combination: Callable[..., Path], tmp_path: Path
) -> None:
    apart = (("mu_SIG\n", "mu\n"), ("apart: [", "default: apart\n  apart: ["))
    assert "mu" in load_pallet(combination(*apart)).parameter_names
    for part in ("first", "second"):
        content = json.loads((tmp_path / part / "BkgOnly.json").read_text())
        for each in content["measurements"]:
            each["config"]["poi"] = "mu_top"
        _rewrite(tmp_path / part, content)
    with pytest.raises(InputError, match="two parameters would become one"):
        load_pallet(combination())


def test_hypotheses_with_other_parameters_of_interest_are_refused(
    combination: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "first" / "patchset.json"
    content = json.loads(path.read_text())
    content["patches"][0]["patch"].append(
        {"op": "replace", "path": "/measurements/0/config/poi", "value": "mu_top"}
    )
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="part first have different parameters of interest"):
        load_pallet(combination())


def test_hostile_files_end_soon(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + at)}: &{chr(98 + at)} [*{chr(97 + at)}, *{chr(97 + at)}]\n" for at in range(20)
    )
    hostile = {
        "too large": b"parts: {}\n" * 200_000,
        "alias": bomb.encode(),
        "is no YAML": b"\xff\xfe\x00parts",
        "nested too deeply": b"[" * 500,
        "maximum nesting depth": b"[" * 100_000,
        "has 2 to 32 parts": "parts: {"
        + ", ".join(f"p{at}: {{pallet: x}}" for at in range(1000))
        + "}\nmeasurement: {poi: mu}",
        "more than 1000 patterns": "parts: {a: {pallet: x}, b: {pallet: y}}\nmeasurement: {poi: mu}"
        "\nparameters: {apart: [" + ", ".join(f"'{at}*'" for at in range(2000)) + "]}",
        "Expected `object`": b"- 1\n",
        "Object missing": b"",
    }
    for cause, content in hostile.items():
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        start = time.monotonic()
        with pytest.raises(InputError) as caught:
            read_combination(path)
        assert cause in str(caught.value), caught.value
        assert time.monotonic() - start < 20
    with pytest.raises(InputError, match="cannot be read"):
        read_combination(tmp_path / "absent.yaml")
    (tmp_path / "directory.yaml").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        load_pallet(tmp_path / "directory.yaml")
    for text in ("1" * 5000, "0x" + "f" * 5000, "1e999", "2020-01-01"):
        path.write_text(
            f"parts: {{a: {{pallet: x}}, b: {{pallet: y}}}}\nmeasurement: {{poi: {text}}}"
        )
        with pytest.raises(InputError):
            load_pallet(path)


def test_a_region_is_of_a_part_only(combination: Callable[..., Path]) -> None:
    with pytest.raises(RequestError, match="a combination has no regions"):
        load_pallet(combination(), region="SR")


def _run(*arguments: object) -> Any:
    result = CliRunner().invoke(cli, [str(one) for one in arguments])
    assert "Traceback" not in result.output
    return result


def test_a_written_combination_is_a_pallet_of_the_same_models(
    combination: Callable[..., Path], tmp_path: Path
) -> None:
    done = _run("pallets", "write", combination(), "-o", tmp_path / "written")
    assert done.exit_code == 0, done.output
    first, second = load_pallet(tmp_path / "written"), load_pallet(combination())
    assert first.workspace == second.workspace
    assert first.hypotheses == second.hypotheses
    pyhf.PatchSet(json.loads((tmp_path / "written" / "patchset.json").read_text())).verify(
        pyhf.Workspace(first.workspace)
    )


def test_correlate_lists_what_may_be_one_and_writes_a_file_to_start_from(
    combination: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    combination()
    monkeypatch.chdir(tmp_path)
    done = _run("pallets", "correlate", "first", "second", "-o", "start.yaml", "--json")
    assert done.exit_code == 0, done.output
    found = {tuple(each["names"].values()): each for each in json.loads(done.stdout)}
    assert found["JES", "JES"]["types"] == {"first": "normsys", "second": "histosys"}
    assert found["JES", "JES"]["by_pyhf"] == "one parameter"
    assert found["JES", "JES"]["fit"] == ""
    assert found["mu_top", "mu_top"]["fit"] == "other bounds: say which"
    assert found["stat_SR", "stat_SR"]["fit"] == "of the bins of each part"
    # As pyhf makes it of both parts at once.
    assert found["stat_SR", "stat_SR"]["by_pyhf"] == "one with 4 components"
    text = (tmp_path / "start.yaml").read_text()
    assert "    # - JES  # normsys, histosys" in text
    assert "fixed: false}  # as in first" in text
    labels = [line for line in text.splitlines() if "first: [mx, my]" in line]
    assert labels
    pallet = load_pallet(tmp_path / "start.yaml")
    assert {"lumi", "first_JES", "second_JES", "mu"} <= pallet.parameter_names
    assert [one.values for one in pallet.hypotheses] == [(100, 1), (200, 1), (300, 50)]
    again = _run("pallets", "correlate", "first", "second", "-o", "start.yaml")
    assert again.exit_code == 2
    assert "is there already" in again.stderr
    table = _run("pallets", "correlate", "start.yaml")
    assert table.exit_code == 0, table.output
    assert "one with 4 components" in table.stdout
    one = _run("pallets", "correlate", "first")
    assert one.exit_code == 4
    assert "nothing to be compared with" in one.stderr


def test_like_names_have_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "a": ["alpha_JES_Scale1", "gamma_stat_CR", "JES_Flavor_Response", "NP_1", "top"],
        "b": ["jes-scale1", "cr", "JET_Flavor_Response", "NP_2", "Zjets"],
    }
    monkeypatch.chdir(tmp_path)
    for part, each in names.items():
        modifiers = [_modifier(name, "normsys", {"hi": 1.1, "lo": 0.9}) for name in each]
        channel = {"name": f"SR_{part}", "samples": [_sample("bkg", [5.0], *modifiers)]}
        (tmp_path / part).mkdir()
        content = json.dumps(_workspace([channel], "mu"))
        (tmp_path / part / "BkgOnly.json").write_text(content)
    done = _run("pallets", "correlate", "a", "b", "--json")
    pairs = [tuple(each["names"].values()) for each in json.loads(done.stdout)]
    assert sorted(pairs) == [
        ("JES_Flavor_Response", "JET_Flavor_Response"),
        ("alpha_JES_Scale1", "jes-scale1"),
        ("gamma_stat_CR", "cr"),
    ]
    assert {each["by_pyhf"] for each in json.loads(done.stdout)} == {"2 parameters"}
