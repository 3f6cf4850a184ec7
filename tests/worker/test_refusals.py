"""What cannot be fitted is refused by every engine alike, in words and not in Python's types."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from fitserve_contract import (
    EngineOptions,
    FitRequest,
    HypotestRequest,
    Hypothesis,
    LimitRequest,
    ModelOptions,
    RankingRequest,
    ScanRequest,
    ToysRequest,
    digest,
    request_digest,
)
from fitserve_worker.engines.base import Work
from fitserve_worker.entry import perform

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitserve_contract import HypothesisResult, Request

ENGINES = ["kernel", "pyhf"]
PYTHON = re.compile(r"\b[A-Z]\w*(Error|Exception|Model|Modifier|NameReuse)\b|NoneType|object at")


def _answers(
    workspace: dict[str, Any],
    hypotheses: list[Hypothesis],
    request: Request,
    engine: str,
) -> dict[str, HypothesisResult]:
    request = msgspec.structs.replace(request, engine=EngineOptions(engine=engine))  # type: ignore[arg-type]
    work = Work(digest(workspace), workspace, hypotheses, request, request_digest(request))
    return {result.name: result for result in perform(work)}


def _configure(workspace: dict[str, Any], **content: Any) -> None:
    workspace["measurements"][0]["config"]["parameters"].append(content)


def _outside(kind: type, **more: Any) -> Callable[[float], Any]:
    return lambda mu: kind(mu=(mu,) if kind in (HypotestRequest, ScanRequest) else mu, **more)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "ask", [_outside(HypotestRequest), _outside(ScanRequest), _outside(ToysRequest, toys=5)]
)
def test_a_signal_strength_outside_the_bounds_is_refused_by_both_engines(
    workspace: dict, hypotheses: list[Hypothesis], ask: Callable[[float], Any], engine: str
) -> None:
    """The kernel would hold the parameter there, pyhf would not."""
    _configure(workspace, name="mu", bounds=[[0.0, 1.5]])
    wide = Hypothesis(
        name="wide",
        values=(),
        patch=[
            *hypotheses[2].patch,
            {
                "op": "replace",
                "path": "/measurements/0/config/parameters/0/bounds",
                "value": [[0.0, 5.0]],
            },
        ],
    )
    results = _answers(workspace, [hypotheses[2], wide], ask(2.0), engine)
    assert results["wide"].status == "ok"
    refused = results[hypotheses[2].name]
    assert (refused.status, refused.points, refused.CLs_obs) == ("failed", [], None)
    assert refused.reason == (
        "the signal strength 2 is outside the bounds of 'mu': the bounds are 0 to 1.5"
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("content", "request_", "reason"),
    [
        ({"bounds": [[0.5, 3.0]]}, HypotestRequest(), "'mu' cannot be 0"),
        ({"bounds": [[0.5, 3.0]]}, LimitRequest(), "'mu' cannot be 0"),
        ({"bounds": [[-2.0, 0.0]], "inits": [-1.0]}, LimitRequest(), "no room for an upper limit"),
        ({"fixed": True}, HypotestRequest(), "'mu' cannot vary"),
        ({"fixed": True}, RankingRequest(), "'mu' cannot vary"),
        ({"bounds": [[2.0, 3.0]]}, FitRequest(), "'mu' starts at 1, outside its bounds 2 to 3"),
        ({"inits": [20.0]}, HypotestRequest(), "'mu' starts at 20, outside its bounds 0 to 10"),
    ],
)
def test_what_the_parameter_of_interest_cannot_be_is_refused_by_both_engines(
    workspace: dict,
    hypotheses: list[Hypothesis],
    content: dict,
    request_: Any,
    reason: str,
    engine: str,
) -> None:
    _configure(workspace, name="mu", **content)
    result = _answers(workspace, hypotheses[:1], request_, engine)["S_100"]
    assert result.status == "failed"
    assert reason in str(result.reason)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_start_outside_the_bounds_is_not_moved_into_them(
    workspace: dict, hypotheses: list[Hypothesis], engine: str
) -> None:
    _configure(workspace, name="norm", inits=[7.0])
    result = _answers(workspace, hypotheses[:1], HypotestRequest(), engine)["S_100"]
    assert result.status == "failed"
    assert result.reason == "parameter 'norm' starts at 7, outside its bounds -5 to 5"


def _modifier(type_: str, name: str, data: Any = None) -> dict:
    return {"type": type_, "name": name, "data": data}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda w: w["channels"][0]["samples"][0]["modifiers"].append(_modifier("lumi", "lumi")),
            "the measurement does not say what lumi is",
        ),
        (
            lambda w: (
                w["channels"][0]["samples"][0]["modifiers"].append(
                    _modifier("staterror", "st", [1.0, 1.0])
                ),
                w["channels"].append(
                    {
                        "name": "CR",
                        "samples": [
                            {
                                "name": "other",
                                "data": [9.0],
                                "modifiers": [_modifier("staterror", "st", [1.0])],
                            }
                        ],
                    }
                ),
                w["observations"].append({"name": "CR", "data": [9.0]}),
            ),
            "staterror 'st' is shared unevenly",
        ),
        (
            lambda w: w["observations"].clear(),
            "pyhf cannot build a model of the patched workspace",
        ),
        (
            lambda w: w["channels"][0]["samples"][0]["modifiers"].append(
                _modifier("normfactor", "uncorr_bkg")
            ),
            "Use unique modifier names",
        ),
    ],
)
def test_what_makes_no_model_is_explained_in_words(
    workspace: dict,
    hypotheses: list[Hypothesis],
    change: Callable[[dict], None],
    reason: str,
    engine: str,
) -> None:
    change(workspace)
    result = _answers(workspace, hypotheses[:1], HypotestRequest(), engine)["S_100"]
    assert result.status == "failed"
    assert reason in str(result.reason)
    assert not PYTHON.search(str(result.reason)), result.reason


def test_a_name_that_pyhf_cannot_take_is_explained_in_words(
    workspace: dict, hypotheses: list[Hypothesis]
) -> None:
    modifier = _modifier("staterror", "stat/SR", [1.0, 1.0])
    workspace["channels"][0]["samples"][0]["modifiers"].append(modifier)
    result = _answers(workspace, hypotheses[:1], HypotestRequest(), "pyhf")["S_100"]
    assert result.reason == "pyhf does not take a staterror with a slash in its name: 'stat/SR'"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_patch_that_does_not_apply_is_explained_in_words(workspace: dict, engine: str) -> None:
    broken = Hypothesis(name="S", values=(), patch=[{"op": "remove", "path": "/channels/7"}])
    result = _answers(workspace, [broken], HypotestRequest(), engine)["S"]
    assert str(result.reason).startswith("the patch does not apply: ")
    assert not PYTHON.search(str(result.reason)), result.reason


def test_a_bin_that_a_systematic_takes_below_zero_is_named(workspace: dict) -> None:
    """Nothing is seen, so that the fit is drawn to where the expectation is negative."""
    sample = workspace["channels"][0]["samples"][0]
    sample["data"] = [4.0, 52.0]
    sample["modifiers"] = [
        _modifier("histosys", "shape", {"lo_data": [9.0, 52.0], "hi_data": [-1.5, 52.0]})
    ]
    workspace["observations"][0]["data"] = [0.0, 52.0]
    signal = {"name": "s", "data": [4.0, 0.0], "modifiers": [_modifier("normfactor", "mu")]}
    patch = [{"op": "add", "path": "/channels/0/samples/-", "value": signal}]
    hypothesis = Hypothesis(name="S", values=(), patch=patch)
    result = _answers(workspace, [hypothesis], HypotestRequest(), "pyhf")["S"]
    assert result.status == "failed"
    assert "bin 0 of channel 'SR' is -1.5 with 'shape' at +1" in str(result.reason)


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
def test_an_empty_patch_is_no_signal(
    workspace: dict, hypotheses: list[Hypothesis], engine: str
) -> None:
    empty = Hypothesis(name="empty", values=(600.0, 1.0), patch=[])
    request = HypotestRequest(mu=(1.0, 2.0))
    results = _answers(workspace, [hypotheses[0], empty], request, engine)
    assert (results["empty"].status, results["empty"].CLs_obs) == ("ok", 1.0)
    assert [point.CLs_exp for point in results["empty"].points] == [[1.0] * 5] * 2
    assert results["S_100"].CLs_obs < 0.5
    assert _answers(workspace, [empty], request, engine)["empty"].CLs_obs == 1.0
    # A workspace that has a signal is tested as it is.
    whole = {**workspace, "channels": _with_signal(workspace, hypotheses[0])}
    same = _answers(whole, [empty], request, engine)["empty"]
    assert same.CLs_obs == pytest.approx(results["S_100"].CLs_obs, abs=1e-6)


def _with_signal(workspace: dict, hypothesis: Hypothesis) -> list[dict]:
    channel = workspace["channels"][0]
    return [{**channel, "samples": [*channel["samples"], hypothesis.patch[0]["value"]]}]


def test_an_empty_patch_has_no_limit(workspace: dict) -> None:
    empty = Hypothesis(name="empty", values=(), patch=[])
    for request in (LimitRequest(), HypotestRequest(model=ModelOptions(measurement="other"))):
        result = _answers(workspace, [empty], request, "auto")["empty"]
        assert result.status == "failed"
        assert not PYTHON.search(str(result.reason)), result.reason
