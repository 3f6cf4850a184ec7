"""HS3 becomes the model that ROOT has: at random points, at the best fit, and in CLs."""

from __future__ import annotations

import contextlib
import copy
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyhf
import pytest
from click.testing import CliRunner

import fitserve
from fitserve.api import make_request
from fitserve.cli import cli
from fitserve.errors import FitserveError, InputError
from fitserve.pallet.checks import Findings
from fitserve.pallet.hs3 import read_hs3
from fitserve.pallet.hs3_write import write_hs3
from fitserve.pallet.load import complete_workspace, load_pallet
from fitserve.pallet.schema import validate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HERE = Path(__file__).parent / "histfactory"


@pytest.fixture(scope="session")
def root() -> dict[str, Any]:
    """Return the numbers that ROOT has for the model."""
    return json.loads((HERE / "root.json").read_text())


@pytest.fixture
def hs3() -> dict[str, Any]:
    """Return the file that ROOT wrote."""
    return json.loads((HERE / "hs3.json").read_text())


def _read(content: dict[str, Any], findings: Findings | None = None) -> dict[str, Any]:
    [workspace] = read_hs3(
        json.dumps(content).encode(), "model.json", findings or Findings()
    ).values()
    return workspace


def _component(name: str) -> tuple[str, int]:
    """Return pyhf's name of a parameter of ROOT, and the place among its components."""
    if gamma := re.fullmatch(r"gamma_(.+)_bin_(\d+)", name):
        label = re.sub("^stat_", "staterror_", gamma[1])
        return label, int(gamma[2])
    return {"Lumi": "lumi"}.get(name, name.removeprefix("alpha_")), 0


def nll(workspace: dict[str, Any], points: list[Mapping[str, float]]) -> np.ndarray:
    """Return pyhf's negative logarithms of the likelihood at points with ROOT's names."""
    whole = pyhf.Workspace(workspace)
    model = whole.model()
    values = []
    for point in points:
        parameters = np.array(model.config.suggested_init())
        for name, value in point.items():
            label, place = _component(name)
            parameters[model.config.par_slice(label).start + place] = value
        values.append(-model.logpdf(parameters, whole.data(model))[0])
    return np.array(values)


def test_differences_of_the_likelihood_are_those_of_root(hs3: dict, root: dict) -> None:
    ours, theirs = nll(_read(hs3), root["points"]), np.array(root["nll"])
    assert np.ptp(theirs) > 5
    assert np.diff(ours) == pytest.approx(np.diff(theirs), rel=1e-8)


def test_fit_and_cls_are_those_of_root(root: dict, tmp_path: Path) -> None:
    options = {"endpoint": "inline", "progress": False}
    source = HERE / "hs3.json"
    request = make_request(kind="fit")
    fit = fitserve.run(source, request=request, output=tmp_path / "fit", **options)
    [result] = fit.results.values()
    fitted = {one.name: one for one in result.fit.parameters}
    for name, value in root["fit"].items():
        label, place = _component(name)
        found = fitted.get(label, fitted.get(f"{label}[{place}]"))
        assert found is not None
        tolerance = 1e-4 * max(1, found.uncertainty or 0)
        assert found.bestfit == pytest.approx(value, abs=tolerance), name
    [result] = fitserve.run(source, output=tmp_path / "cls", **options).results.values()
    assert result.CLs_obs == pytest.approx(root["CLs_obs"], rel=1e-4)
    # ROOT fits its Asimov data no better: its calculator's tolerance is 1e-3 of -2 log L or more.
    assert list(result.CLs_exp) == pytest.approx(root["CLs_exp"], rel=3e-3)


def test_what_is_written_is_read_as_it_was(hs3: dict, root: dict) -> None:
    workspace = _read(hs3)
    again = _read(write_hs3(workspace, "model"))
    assert again["channels"] == workspace["channels"]
    assert again["observations"] == workspace["observations"]
    assert nll(again, root["points"]) == pytest.approx(nll(workspace, root["points"]), rel=1e-12)
    [before], [after] = workspace["measurements"], again["measurements"]
    held = {"staterror_SR"}
    assert after["config"]["poi"] == "mu"
    for one in (before, after):
        one["config"]["parameters"] = [
            each for each in one["config"]["parameters"] if each["name"] not in held
        ]
    assert after == before


def test_every_signal_of_a_pallet_survives_the_way_there_and_back() -> None:
    pallet = load_pallet("example")
    for hypothesis in pallet.hypotheses[:3]:
        workspace = complete_workspace(pallet, hypothesis.name)
        again = _read(write_hs3(workspace, "example"))
        there, back = (pyhf.Workspace(one) for one in (workspace, again))
        ours, theirs = (one.model() for one in (back, there))
        # A channel's statistical uncertainty has one name in ROOT.
        pairs = {
            name: name.replace("simulation_", "staterror_") for name in theirs.config.parameters
        }
        assert set(ours.config.parameters) == set(pairs.values())
        start = np.array(theirs.config.suggested_init())
        generator = np.random.default_rng(3)
        for _ in range(3):
            point = start + generator.uniform(-0.05, 0.05, start.size)
            moved = np.zeros(start.size)
            for name in theirs.config.parameters:
                moved[ours.config.par_slice(pairs[name])] = point[theirs.config.par_slice(name)]
            assert ours.logpdf(moved, back.data(ours)) == pytest.approx(
                theirs.logpdf(point, there.data(theirs)), rel=1e-10
            )


def test_the_asimov_likelihood_is_left_out_and_said(hs3: dict) -> None:
    findings = Findings()
    workspace = _read(hs3, findings)
    assert workspace["measurements"][0]["name"] == "simPdf_obsData"
    assert list(findings.notes) == ["likelihoods of Asimov data are left out"]
    assert not findings.doubts


def _samples(content: dict[str, Any], channel: str) -> dict[str, Any]:
    [found] = [one for one in content["distributions"] if one["name"] == f"model_{channel}"]
    return {one["name"]: one for one in found["samples"]}


def test_a_poisson_constraint_of_several_samples_is_a_doubt(
    hs3: dict, write: Callable[..., Path]
) -> None:
    for sample in _samples(hs3, "SR").values():
        for modifier in sample["modifiers"]:
            if modifier["type"] == "staterror":
                modifier["constraint_type"] = "Poisson"
    path = write({"model.json": json.dumps(hs3).encode()})
    with pytest.raises(InputError, match="Poisson constraints, which pyhf does not have"):
        load_pallet(path)
    [forced] = load_pallet(path, force=True).forced
    assert "Gaussian constraints of the same width" in forced


def test_other_dialects_mean_the_same(hs3: dict) -> None:
    expected = _read(copy.deepcopy(hs3))
    for distribution in hs3["distributions"]:
        if distribution["type"] != "histfactory_dist":
            continue
        distribution["default_interpolation"] = {"type": "mult", "in": "poly6", "out": "exp"}
        for sample in distribution["samples"]:
            for modifier in sample["modifiers"]:
                # As the development version of ROOT writes it.
                if "constraint_name" in modifier:
                    modifier["constraint"] = modifier.pop("constraint_name")
                if modifier["type"] == "histosys":
                    modifier["interpolation"] = {"type": "add", "in": "poly6", "out": "poly1"}
                if modifier["type"] == "normsys":
                    del modifier["interpolation"]
                if modifier["type"] == "shapesys":
                    modifier["constraint"] = modifier.pop("constraint_type")
    assert _read(hs3) == expected


def test_entries_of_events_are_counted(hs3: dict) -> None:
    expected = _read(copy.deepcopy(hs3))
    for data in hs3["data"]:
        contents = data.pop("contents")
        data |= {"type": "unbinned", "weights": contents}
        data["entries"] = [[index + 0.5] for index in range(len(contents))]
    assert _read(hs3) == expected


def _change(kind: str, **keys: Any) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        for distribution in content["distributions"]:
            for sample in distribution.get("samples", []):
                for modifier in sample["modifiers"]:
                    if modifier["type"] == kind:
                        modifier.update(keys)

    return change


def _lognormal(content: dict) -> None:
    for one in content["distributions"]:
        if one["name"] == "alpha_jesConstraint":
            one["type"] = "lognormal_dist"


def _wide(content: dict) -> None:
    for one in content["distributions"]:
        if one["name"] == "alpha_jesConstraint":
            one["sigma"] = 2.0


def _unknown_distribution(content: dict) -> None:
    content["distributions"].append({"name": "bump", "type": "crystalball_dist", "m": "x"})
    content["likelihoods"][1]["distributions"].append("bump")
    content["likelihoods"][1]["data"].append("obsData_SR")


def _function(content: dict) -> None:
    content["functions"] = [{"name": "mu", "type": "generic_function", "expression": "a*b"}]


def _old_root(content: dict) -> None:
    content["metadata"]["packages"] = [{"name": "ROOT", "version": "6.28.04"}]


def _held_elsewhere(content: dict) -> None:
    for point in content["parameter_points"]:
        for one in point["parameters"]:
            if one["name"] == "gamma_stat_CR_bin_0":
                one |= {"const": True, "value": 1.1}


def _short(content: dict) -> None:
    content["data"][2]["contents"] = [1.0]


def _no_likelihood(content: dict) -> None:
    content["likelihoods"], content["analyses"] = [], []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_lognormal, "lognormal_dist is neither a channel of HistFactory nor a Gaussian"),
        (_wide, "a constraint of width 2"),
        (_unknown_distribution, "crystalball_dist is neither a channel"),
        (_function, "a normfactor depends on a function of type generic_function"),
        (_old_root, "not the relative ones of the standard"),
        (_held_elsewhere, "held at another value than 1"),
        (_short, "data have another number of bins"),
        (_no_likelihood, "there is no likelihood"),
        (_change("normsys", interpolation=2), "interpolation 2, which pyhf does not have"),
        (_change("normsys", type="custom"), "a modifier is of type custom"),
        (_change("histosys", extra=1), "not HS3 as far as it is known here"),
        (_change("histosys", data={"lo": {"contents": [1]}}), "not HS3 as far as it is known"),
        (_change("staterror", constraint_type="Lognormal"), "a constraint of type Lognormal"),
    ],
)
def test_what_pyhf_does_not_have_is_refused_by_name(
    hs3: dict, change: Callable[[dict], None], expected: str
) -> None:
    change(hs3)
    with pytest.raises(InputError, match=expected) as caught:
        _read(hs3)
    assert caught.value.evidence
    assert "model.json" in caught.value.cause


@pytest.mark.parametrize("key", ["distributions", "data", "likelihoods", "analyses", "domains"])
@pytest.mark.parametrize("value", [1, "x", {"a": 1}, [1], [[]], [{"name": 1}], [{"name": "a"}]])
def test_parts_of_other_types_are_errors_of_the_input(hs3: dict, key: str, value: Any) -> None:
    hs3[key] = value
    with pytest.raises(InputError):
        _read(hs3)


def test_an_interpolation_that_a_run_has_to_ask_for_is_a_doubt(hs3: dict) -> None:
    _change("normsys", interpolation=1)(hs3)
    findings = Findings()
    _read(hs3, findings)
    [places] = findings.doubts.values()
    assert "--normsys code1" in places[0]


def test_a_file_is_exported_and_read_again(tmp_path: Path) -> None:
    def invoke(*words: str) -> Any:
        return CliRunner().invoke(cli, ["pallets", "export", *words, "-o", str(output)])

    output = tmp_path / "again.json"
    result = invoke(str(HERE / "hs3.json"), "--format", "hs3")
    assert result.exit_code == 0, result.stderr
    assert load_pallet(output).bins == load_pallet(HERE / "hs3.json").bins
    result = invoke("example")
    assert result.exit_code == 4
    assert "--hypothesis" in result.stderr


_VALUES = [None, 0, -1, 1e308, "x", "", [], {}, [[]], True, "alpha_jes", "mu", [1.0, 2.0]]


def _places(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = content.items() if isinstance(content, dict) else ()
    inner = enumerate(content) if isinstance(content, list) else inner
    for key, value in inner:
        yield (*place, key)
        yield from _places(value, (*place, key))


def test_whatever_is_changed_is_an_error_of_the_input_or_a_workspace(hs3: dict) -> None:
    generator = np.random.default_rng(2)
    places = [one for one in _places(hs3) if one[0] != "misc"]
    read = 0
    for index in generator.permutation(len(places))[:1000]:
        changed = copy.deepcopy(hs3)
        *path, last = places[index]
        inner = changed
        for key in path:
            inner = inner[key]
        if generator.random() < 0.3:
            del inner[last]
        else:
            inner[last] = _VALUES[generator.integers(len(_VALUES))]
        with contextlib.suppress(FitserveError):
            workspace = _read(changed)
            validate(workspace, "workspace", "changed")
            write_hs3(workspace, "changed")
            read += 1
    assert 0 < read < 900
