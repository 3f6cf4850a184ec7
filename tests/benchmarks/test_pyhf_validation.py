"""pyhf's validation suite in small: models of the same kinds, with CLs that pyhf computes here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pyhf
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from fitserve_contract import HypothesisResult

    Module = Callable[[str], ModuleType]

POI = {"name": "mu", "type": "normfactor", "data": None}


def _channel(
    name: str, signal: list[float] | None, background: list[float], *modifiers: Any
) -> Any:
    samples = [{"name": "background", "data": background, "modifiers": list(modifiers)}]
    if signal is not None:
        samples.insert(0, {"name": "signal", "data": signal, "modifiers": [POI]})
    return {"name": name, "samples": samples}


def _shapesys(name: str, data: list[float]) -> Any:
    return {"name": name, "type": "shapesys", "data": data}


def _normsys(low: float, high: float) -> Any:
    return {"name": "norm", "type": "normsys", "data": {"lo": low, "hi": high}}


def _histosys(low: list[float], high: list[float]) -> Any:
    return {"name": "shape", "type": "histosys", "data": {"lo_data": low, "hi_data": high}}


LUMI = {"name": "lumi", "type": "lumi", "data": None}
OF_LUMI = {
    "name": "lumi",
    "auxdata": [1.0],
    "sigmas": [0.08],
    "inits": [1.0],
    "bounds": [[0.0, 10.0]],
}
FREE = {"name": "free", "type": "shapefactor", "data": None}
# By kind: the specification of a model, and its data.
MODELS: dict[str, tuple[dict, list[float]]] = {
    "one bin, shapesys": (
        {"channels": [_channel("SR", [9.0], [60.0], _shapesys("stat", [6.0]))]},
        [63.0],
    ),
    "one bin, normsys": (
        {"channels": [_channel("SR", [11.0], [45.0], _normsys(0.9, 1.15))]},
        [48.0],
    ),
    "one bin, lumi": (
        {"channels": [_channel("SR", [8.0], [40.0], LUMI)], "parameters": [OF_LUMI]},
        [44.0],
    ),
    "two bins, histosys": (
        {
            "channels": [
                _channel("SR", [12.0, 20.0], [90.0, 140.0], _histosys([84.0, 125.0], [97.0, 152.0]))
            ]
        },
        [95.0, 149.0],
    ),
    "two channels, shapefactor": (
        {
            "channels": [
                _channel("SR", [6.0, 10.0], [20.0, 20.0], FREE),
                _channel("CR", None, [100.0, 100.0], FREE),
            ]
        },
        [23.0, 27.0, 105.0, 97.0],
    ),
}

# As tests/test_validation.py of pyhf: one test for each model, by what a fixture has.
SUITE = """
import json
from pathlib import Path

import pyhf
import pytest

CASES = json.loads(Path("validation/data/cases.json").read_text())


@pytest.fixture(params=list(CASES))
def setup(request):
    return CASES[request.param]


def test_validation(setup):
    model = pyhf.Model(
        setup["spec"], modifier_settings={"normsys": {"interpcode": "code1"}}, poi_name="mu"
    )
    data = setup["data"] + model.config.auxdata
    observed, expected = pyhf.infer.hypotest(
        setup["mu"], data, model, return_expected_set=True, test_stat=setup["test_stat"]
    )
    known = setup["expected"]["result"]
    assert observed == pytest.approx(known["obs"], rel=1e-4)
    assert list(expected) == pytest.approx(known["exp"], rel=1e-4)


def test_nothing_else():
    raise AssertionError("this is none of the suite")
"""


def _frozen(spec: dict, data: list[float], mu: float, test_stat: str) -> dict[str, Any]:
    pyhf.set_backend("numpy", pyhf.optimize.scipy_optimizer(tolerance=1e-12))
    model = pyhf.Model(spec, modifier_settings={"normsys": {"interpcode": "code1"}}, poi_name="mu")
    observed, expected = pyhf.infer.hypotest(
        mu, data + model.config.auxdata, model, return_expected_set=True, test_stat=test_stat
    )
    return {"obs": float(observed), "exp": [float(one) for one in expected]}


@pytest.fixture
def checkout(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes what stands for a checkout of pyhf."""

    def make(mu: float, test_stat: str, *names: str, error: float = 0.0) -> Path:
        cases = {}
        for name in names:
            spec, data = MODELS[name]
            result = _frozen(spec, data, mu, test_stat)
            result["obs"] += error
            cases[name] = {
                "spec": spec,
                "data": data,
                "mu": mu,
                "test_stat": test_stat,
                "expected": {"result": result},
            }
        place = tmp_path / "pyhf"
        (place / "tests").mkdir(parents=True)
        (place / "tests" / "test_validation.py").write_text(SUITE)
        (place / "validation" / "data").mkdir(parents=True)
        (place / "validation" / "data" / "cases.json").write_text(json.dumps(cases))
        return place

    return make


def test_every_kind_of_model_has_the_frozen_cls(
    benchmark_module: Module, checkout: Callable[..., Path]
) -> None:
    suite = benchmark_module("pyhf_validation")
    rows = suite.run(checkout(1.0, "q", *MODELS))
    assert [row.name for row in rows] == [f"test_validation[{name}]" for name in MODELS]
    for row in rows:
        assert len(row.ours) == len(row.frozen) == 6
        assert row.ours == pytest.approx(row.frozen, abs=2e-6), row.name
        assert row.asked == "q, mu = 1"
        assert (row.passed, row.explained) == (True, True)
    told = suite.markdown(rows)
    assert "5 models with CLs" in told
    assert "5 agree within 0.0001" in told
    assert "| one bin, normsys | " in told


def _above(result: HypothesisResult) -> HypothesisResult:
    """Return a result whose fit at mu stopped above its minimum."""
    point = msgspec.structs.replace(
        result.points[0],
        CLs_obs=result.CLs_obs + 0.1,
        twice_delta_nll=result.points[0].twice_delta_nll + 0.5,
    )
    return msgspec.structs.replace(result, CLs_obs=point.CLs_obs, points=[point])


def test_what_is_not_explained_is_told_and_is_the_exit_code(
    benchmark_module: Module,
    checkout: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    suite = benchmark_module("pyhf_validation")
    real = suite._fitted

    def wrong(*arguments: Any) -> Any:
        found, second = real(*arguments)
        return _above(found), second

    monkeypatch.setattr(suite, "_fitted", wrong)
    place = checkout(1.0, "q", "one bin, normsys")
    monkeypatch.setattr(suite.sys, "argv", ["pyhf_validation.py", "--pyhf", str(place)])
    with pytest.raises(SystemExit) as ended:
        suite.main()
    assert ended.value.code == 1
    told = capsys.readouterr().out
    assert "1 where one of fitserve's is, or for no known reason" in told
    assert "| fails | at mu = 1 CLs is" in told
    assert "which has the lower minimum: -2 log L with mu = 1" in told


def test_what_pyhf_stopped_above_is_explained(
    benchmark_module: Module, checkout: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = benchmark_module("pyhf_validation")
    real = suite._fitted

    def wrong(*arguments: Any) -> Any:
        found, second = real(*arguments)
        return found, _above(second)

    monkeypatch.setattr(suite, "_fitted", wrong)
    (row,) = suite.run(checkout(1.0, "q", "two bins, histosys", error=0.1))
    assert (row.passed, row.explained) == (False, True)
    assert row.difference == pytest.approx(0.1, abs=1e-4)
    assert "-2 log L of pyhf ends above our minimum: with mu = 1 " in row.why
    assert "1 differ where a minimum of pyhf's is the higher one" in suite.markdown([row])


def test_a_test_of_discovery_is_not_compared_but_its_fits_are_shown(
    benchmark_module: Module, checkout: Callable[..., Path]
) -> None:
    suite = benchmark_module("pyhf_validation")
    (row,) = suite.run(checkout(0.0, "q0", "one bin, shapesys"))
    assert row.passed is None
    assert row.ours == pytest.approx(row.frozen[:1], rel=1e-4)
    assert "is not offered" in row.why
    assert "0 models with CLs" in suite.markdown([row])


def test_without_a_suite_the_next_step_is_told(benchmark_module: Module, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is not there\n  next: git clone"):
        benchmark_module("pyhf_validation").run(tmp_path)


def test_the_table_has_its_place_in_the_documentation(
    benchmark_module: Module, tmp_path: Path
) -> None:
    suite, page = benchmark_module("pyhf_validation"), benchmark_module("page")
    text = suite.PAGE.read_text()
    copy = tmp_path / suite.PAGE.name
    copy.write_text(text)
    page.put_into(copy, "benchmarks/pyhf_validation.py", "| a table |")
    assert "| a table |" in copy.read_text()
    assert "models with CLs" in text
