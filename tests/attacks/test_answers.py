"""What an endpoint answers is not stored unless it can be an answer to what it was asked."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from click.testing import CliRunner

import fitserve_worker
from fitserve import api
from fitserve.api import make_request
from fitserve.cli import cli
from fitserve.endpoints.inline import InlineBackend
from fitserve.errors import StoreError
from fitserve.runs.drive import check_answer, pending_tasks
from fitserve.runs.store import read_run
from fitserve_contract import (
    ContractError,
    Hypothesis,
    HypothesisResult,
    Task,
    ToyRange,
    decode_result,
    digest,
    encode_result,
    encode_task,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fitserve.endpoints.base import Outcome
    from fitserve_contract import Request, TaskResult

TOYS = ToyRange(first=0, count=4)
KINDS: dict[str, dict[str, Any]] = {
    "hypotest": {"mu": [1.0, 0.5]},
    "scan": {"mu": [-0.5, 1.0]},
    "limit": {},
    "fit": {},
    "ranking": {},
    "toys": {"toys": 4},
}
MODIFIERS = [
    {"name": "uncorr_bkg", "type": "shapesys", "data": [3.0, 7.0]},
    {"name": "norm", "type": "normsys", "data": {"hi": 1.05, "lo": 0.95}},
]
WORKSPACE = {
    "channels": [
        {
            "name": "SR",
            "samples": [{"name": "background", "data": [50.0, 52.0], "modifiers": MODIFIERS}],
        }
    ],
    "observations": [{"name": "SR", "data": [51.0, 48.0]}],
    "measurements": [
        {
            "name": "main",
            "config": {"poi": "mu", "parameters": [{"name": "mu", "bounds": [[-2.0, 10.0]]}]},
        }
    ],
    "version": "1.0.0",
}
SIGNAL = {
    "name": "signal",
    "data": [12.0, 11.0],
    "modifiers": [{"name": "mu", "type": "normfactor", "data": None}],
}
HYPOTHESIS = Hypothesis(
    name="S_300",
    values=(300.0, 1.0),
    patch=[{"op": "add", "path": "/channels/0/samples/1", "value": SIGNAL}],
)


@functools.cache
def _answered(kind: str) -> tuple[Request, dict[str, Any]]:
    """Return a request of a kind and a worker's answer to it, as plain data."""
    request = make_request(kind=kind, **KINDS[kind])
    task = Task(
        workspace_digest=digest(WORKSPACE),
        workspace=WORKSPACE,
        hypotheses=[HYPOTHESIS],
        request=request,
        toys=TOYS if kind == "toys" else None,
    )
    done = decode_result(fitserve_worker.run(encode_task(task)))
    return request, msgspec.to_builtins(done.results[0])


def _check(kind: str, change: Callable[[dict[str, Any]], None]) -> None:
    request, answer = _answered(kind)
    changed = json.loads(json.dumps(answer))
    change(changed)
    result = msgspec.convert(changed, HypothesisResult)
    check_answer(result, HYPOTHESIS, request, TOYS if kind == "toys" else None)


def _put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a function that puts a value at a path; ``/-`` appends it to a list."""
    *way, last = path.split("/")

    def put(content: Any) -> None:
        for step in way:
            content = content[int(step)] if isinstance(content, list) else content[step]
        if last == "-":
            content.append(value)
        elif isinstance(content, list):
            content[int(last)] = value
        else:
            content[last] = value

    return put


@pytest.mark.parametrize("kind", KINDS)
def test_a_workers_own_answers_are_taken(kind: str) -> None:
    _check(kind, lambda _: None)


@pytest.mark.parametrize("kind", KINDS)
def test_what_failed_is_taken(kind: str) -> None:
    request, _ = _answered(kind)
    broken = msgspec.structs.replace(HYPOTHESIS, patch=[{"op": "remove", "path": "/nowhere"}])
    task = Task(
        workspace_digest=digest(WORKSPACE),
        workspace=WORKSPACE,
        hypotheses=[broken],
        request=request,
    )
    found = decode_result(fitserve_worker.run(encode_task(task))).results[0]
    assert found.status == "failed"
    check_answer(found, broken, request, None)


WRONG: list[tuple[str, str, Any, str]] = [
    ("hypotest", "CLs_obs", 1e308, "outside 0 to 1"),
    ("hypotest", "CLs_obs", -5.0, "outside 0 to 1"),
    ("hypotest", "CLs_exp/2", 2.0, "outside 0 to 1"),
    ("hypotest", "points/1/CLs_obs", -0.1, "outside 0 to 1"),
    ("hypotest", "CLs_obs", None, "no CLs"),
    ("hypotest", "CLs_obs", 0.123, "first signal strength"),
    ("hypotest", "points/0/mu", 2.0, "signal strengths 2, 0.5 instead of 1, 0.5"),
    ("hypotest", "points", [], "signal strengths none"),
    ("hypotest", "mass_hypotheses", [301.0, 1.0], "mass values"),
    ("hypotest", "mass_hypotheses", [], "mass values"),
    ("hypotest", "fit_time", -1.0, "an impossible time"),
    ("hypotest", "setup_time", 1e300, "an impossible time"),
    ("hypotest", "status", "suspect", "without a reason"),
    ("hypotest", "neighbours", "odd", "neighbours was not asked for"),
    ("scan", "points/1/CLs_exp/0", 1.5, "outside 0 to 1"),
    ("limit", "limit/level", 0.9, "limits at level 0.9"),
    ("limit", "limit/observed", -1.0, "an upper limit of -1"),
    ("limit", "limit", None, "limit is missing"),
    ("fit", "points", [{"mu": 1.0, "CLs_obs": 0.1, "CLs_exp": [0.1] * 5}], "not asked for"),
    ("fit", "fit/correlations/lower/-", [0.0], "correlations than pairs"),
    ("fit", "fit/correlations/lower/1/0", 7.0, "outside -1 to 1"),
    ("fit", "fit/correlations/names/0", "other", "of other parameters"),
    ("fit", "fit/channels/0/total/prefit/-", 1.0, "for other bins"),
    ("fit", "fit/channels/0/samples/0/yields/postfit", [], "for other bins"),
    ("fit", "fit/parameters/0/uncertainty", -1.0, "below zero"),
    ("fit", "fit/parameters/1/prefit_uncertainty", -1.0, "below zero"),
    ("fit", "fit/parameters/1/constraint", -1.0, "below zero"),
    ("fit", "fit/channels/0/total/postfit_uncertainty/1", -1.0, "below zero"),
    ("fit", "fit/channels/0/samples/0/yields/prefit_uncertainty/0", -1.0, "below zero"),
    ("fit", "fit/parameters/0/name", "norm", "twice"),
    ("ranking", "ranking/poi/uncertainty", -1.0, "below zero"),
    ("ranking", "ranking/impacts/0/parameter/constraint", -1.0, "below zero"),
    ("ranking", "ranking", None, "ranking is missing"),
    ("toys", "toy_values/toys/count", 3, "toys 0 to 2 were not"),
    ("toys", "toy_values/signal", "AAAA", "more or fewer test statistics"),
    ("toys", "toy_values/observed", -1.0, "a test statistic of -1"),
    ("toys", "toy_values/positive", -1, "numbers of fits"),
    ("toys", "toy_values/asymptotic/CLs_obs", 3.0, "outside 0 to 1"),
    ("toys", "toy_values", None, "toy_values is missing"),
]


@pytest.mark.parametrize(("kind", "path", "value", "told"), WRONG)
def test_an_answer_that_cannot_be_one_is_refused(
    kind: str, path: str, value: Any, told: str
) -> None:
    with pytest.raises(ContractError, match="does not fit its task") as caught:
        _check(kind, _put(path, value))
    assert told in caught.value.evidence


@pytest.mark.parametrize("part", ["limit", "fit", "ranking", "toy_values"])
def test_parts_that_nobody_asked_for_are_refused(part: str) -> None:
    kind = "toys" if part == "toy_values" else part
    stray = _answered(kind)[1][part]
    with pytest.raises(ContractError, match="does not fit its task") as caught:
        _check("hypotest", _put(part, stray))
    assert f"{part} was not asked for" in caught.value.evidence


class _Lying(InlineBackend):
    """Changes what a worker answered."""

    def __init__(self, lie: Callable[[TaskResult], TaskResult]) -> None:
        super().__init__()
        self._lie = lie

    def outcomes(self, timeout: float) -> list[Outcome]:
        return [
            ended._replace(result=encode_result(self._lie(decode_result(ended.result))))
            for ended in super().outcomes(timeout)
        ]


def _with(**changes: Any) -> Callable[[TaskResult], TaskResult]:
    def lie(done: TaskResult) -> TaskResult:
        first, *others = done.results
        changed = msgspec.structs.replace(first, **changes)
        return msgspec.structs.replace(done, results=[changed, *others])

    return lie


def _twice(done: TaskResult) -> TaskResult:
    return msgspec.structs.replace(done, results=[*done.results, done.results[0]])


def _late(done: TaskResult) -> TaskResult:
    return msgspec.structs.replace(done, timing=msgspec.structs.replace(done.timing, total=1e300))


@pytest.mark.parametrize(
    "lie",
    [
        _with(CLs_exp=[0.1, 0.2, 0.3, 0.4]),
        _with(CLs_exp=[]),
        _with(CLs_obs=1e308),
        _with(mass_hypotheses=(1.0, 2.0)),
        _with(neighbours="jumps"),
        _twice,
        _late,
    ],
)
def test_a_lie_is_not_stored_and_the_run_goes_on_elsewhere(
    pallet_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lie: Callable[[TaskResult], TaskResult],
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(api, "open_backend", lambda *_: _Lying(lie))
        with pytest.raises(ContractError):
            api.run(pallet_directory, output=tmp_path / "run", progress=False)
    saved = read_run(tmp_path / "run")
    assert saved.results == {}
    assert pending_tasks(saved.events()) == []
    done = api.resume(tmp_path / "run", endpoint="inline", progress=False)
    assert {one.status for one in done.results.values()} == {"ok"}


def test_a_short_band_in_a_run_directory_is_damage_and_no_defect(
    pallet_directory: Path, tmp_path: Path
) -> None:
    run = api.run(pallet_directory, endpoint="inline", output=tmp_path / "run", progress=False)
    file = run.path / "results.jsonl"
    first, *others = file.read_text().splitlines()
    record = json.loads(first)
    record["result"]["CLs_exp"].pop()
    file.write_text("\n".join([json.dumps(record), *others]) + "\n")
    for command in ("show", "report", "contour"):
        output = [] if command == "show" else ["-o", str(tmp_path / "out.png")]
        told = CliRunner().invoke(cli, [command, str(run.path), *output])
        assert told.exit_code == StoreError.exit_code
        assert "line 1 of" in told.stderr
