"""The worker's entry point: every hypothesis gets an answer, whatever happens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import pyhf
import pytest

import fitserve_worker
from fitserve_contract import (
    STAGE_VARIABLE,
    ContractError,
    EngineOptions,
    HypotestRequest,
    Hypothesis,
    ModelOptions,
    Task,
    TaskResult,
    compress,
    decode_result,
    digest,
    encode_task,
    hypothesis_key,
    request_digest,
)
from fitserve_worker import entry as staging
from fitserve_worker.engines import pyhf_engine
from fitserve_worker.engines.pyhf_hypotest import Evaluation

if TYPE_CHECKING:
    from pathlib import Path

TOLERANCE = 1e-10
WEAK = "S_500"


def _run(task: Task) -> TaskResult:
    return decode_result(fitserve_worker.run(encode_task(task)))


@pytest.fixture
def by_pyhf(task: Task) -> Task:
    """Return the task with pyhf as its engine."""
    return _with(task, request=HypotestRequest(engine=EngineOptions(engine="pyhf")))


def _with(task: Task, **changes: object) -> Task:
    return msgspec.structs.replace(task, **changes)


def _pyhf(workspace: dict, hypothesis: Hypothesis, mu: float, **kwargs: object) -> list[float]:
    pyhf.set_backend("numpy", "scipy")
    whole = pyhf.Workspace(workspace)
    codes = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}
    model = whole.model(patches=[hypothesis.patch], modifier_settings=codes)
    bounds = model.config.suggested_bounds()
    if kwargs.get("test_stat") == "q":
        # With its bound at zero pyhf would compare with the best fit above that.
        bounds[model.config.poi_index] = (-10.0, 10.0)
    observed, expected = pyhf.infer.hypotest(
        mu, whole.data(model), model, return_expected_set=True, par_bounds=bounds, **kwargs
    )
    return [float(observed), *map(float, expected)]


@pytest.mark.parametrize("test_stat", ["qtilde", "q"])
def test_results_are_those_of_pyhf(task: Task, test_stat: str) -> None:
    request = HypotestRequest(
        mu=(1.0, 0.5), test_stat=test_stat, engine=EngineOptions(engine="pyhf")
    )
    done = _run(_with(task, request=request))
    assert [result.name for result in done.results] == [one.name for one in task.hypotheses]
    for result, hypothesis in zip(done.results, task.hypotheses, strict=True):
        assert result.status == "ok"
        assert result.key == hypothesis_key(
            task.workspace_digest, hypothesis, request_digest(request)
        )
        for point in result.points:
            if hypothesis.name == WEAK:
                continue
            expected = _pyhf(task.workspace, hypothesis, point.mu, test_stat=test_stat)
            assert [point.CLs_obs, *point.CLs_exp] == pytest.approx(expected, abs=TOLERANCE)
        assert result.CLs_obs == result.points[0].CLs_obs


def test_a_weak_signal_that_pyhf_gets_wrong_is_fitted_again_with_a_tighter_tolerance(
    task: Task,
) -> None:
    """pyhf's usual SLSQP gives 0.9974 where a converged fit gives 0.9845, and at mu = 0.5 NaN."""
    request = HypotestRequest(mu=(1.0, 0.5), engine=EngineOptions(engine="pyhf"))
    weak = _with(task, hypotheses=task.hypotheses[-1:], request=request)
    result = _run(weak).results[0]
    options = EngineOptions(engine="pyhf", optimizer="minuit")
    request = HypotestRequest(mu=(1.0, 0.5), engine=options)
    second = _run(_with(weak, request=request)).results[0]
    assert (result.status, second.status) == ("ok", "ok")
    assert "sqrt(q) is wrong" in result.attempts[0].problems[0]
    for one, other in zip(result.points, second.points, strict=True):
        assert one.CLs_obs == pytest.approx(other.CLs_obs, abs=1e-4)
        assert one.CLs_exp == pytest.approx(other.CLs_exp, abs=1e-4)
    assert result.CLs_obs == pytest.approx(0.98451, abs=1e-4)


@pytest.mark.parametrize(("backend", "optimizer"), [("jax", "scipy"), ("numpy", "minuit")])
def test_backends_and_optimizers_agree(task: Task, backend: str, optimizer: str) -> None:
    one = _with(task, hypotheses=task.hypotheses[2:3])
    usual = _run(one).results[0]
    options = EngineOptions(engine="pyhf", backend=backend, optimizer=optimizer)
    other = _run(_with(one, request=HypotestRequest(engine=options))).results[0]
    assert other.engine == f"pyhf/{backend}/{optimizer}"
    assert other.CLs_obs == pytest.approx(usual.CLs_obs, abs=1e-4)
    assert other.CLs_exp == pytest.approx(usual.CLs_exp, abs=1e-4)


def test_the_interpolation_codes_are_part_of_the_request(task: Task) -> None:
    values = {
        code: _run(_with(task, request=HypotestRequest(model=ModelOptions(normsys=code)))).results[
            0
        ]
        for code in ("code1", "code4")
    }
    assert values["code1"].key != values["code4"].key
    assert values["code1"].twice_nll != values["code4"].twice_nll


def test_a_patch_that_does_not_apply_costs_only_its_own_hypothesis(by_pyhf: Task) -> None:
    broken = Hypothesis(name="broken", values=(), patch=[{"op": "remove", "path": "/channels/7"}])
    done = _run(_with(by_pyhf, hypotheses=[by_pyhf.hypotheses[0], broken, by_pyhf.hypotheses[1]]))
    status = {one.name: one.status for one in done.results}
    assert status == {"S_100": "ok", "broken": "failed", "S_200": "ok"}
    reason = done.results[1].reason
    assert reason.startswith("the patch does not apply: operation 0 (remove /channels/7): ")
    assert done.results[1].CLs_exp == [None] * 5


def test_an_unknown_measurement_fails_with_its_name(task: Task) -> None:
    request = HypotestRequest(model=ModelOptions(measurement="nowhere"))
    done = _run(_with(task, request=request))
    assert {one.status for one in done.results} == {"failed"}
    assert "nowhere" in done.results[0].reason


def test_patches_may_change_observations(task: Task) -> None:
    moved = Hypothesis(
        name="moved",
        values=(),
        patch=[
            *task.hypotheses[2].patch,
            {"op": "replace", "path": "/observations/0/data", "value": [62.0, 63.0]},
        ],
    )
    usual, changed = _run(_with(task, hypotheses=[task.hypotheses[2], moved])).results
    assert changed.muhat > usual.muhat + 0.5


def test_an_engine_that_breaks_costs_only_what_it_had_not_finished(
    by_pyhf: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pyhf_engine.PyhfEngine.answers

    def breaks(self: object, work: object) -> object:
        yield next(iter(real(self, work)))
        raise MemoryError("no room")

    monkeypatch.setattr(pyhf_engine.PyhfEngine, "answers", breaks)
    done = _run(by_pyhf)
    assert [one.status for one in done.results] == ["ok"] + ["failed"] * 4
    assert done.results[-1].reason == "the fit broke off: the worker has too little memory for it"


def _evaluation(*problems: str, cls: float = 0.5, twice_nll: float = 10.0) -> Evaluation:
    return Evaluation(cls, [0.1, 0.2, 0.3, 0.4, 0.5], 1.0, twice_nll, 0.0, list(problems))


def _answers(monkeypatch: pytest.MonkeyPatch, *answers: object) -> list[list[float]]:
    starts: list[list[float]] = []
    waiting = iter(answers)

    def evaluate(_built: object, _mu: float, _stat: str, start: list[float]) -> Evaluation:
        starts.append(start)
        answer = next(waiting)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(pyhf_engine, "evaluate", evaluate)
    return starts


def test_the_ladder_ends_at_the_first_attempt_without_a_problem(
    by_pyhf: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = pyhf.exceptions.FailedMinimization(type("R", (), {"message": "no"})())
    starts = _answers(
        monkeypatch, failed, failed, _evaluation("odd", cls=0.4), _evaluation(cls=0.3)
    )
    result = _run(_with(by_pyhf, hypotheses=by_pyhf.hypotheses[:1])).results[0]
    assert (result.status, result.CLs_obs) == ("ok", 0.3)
    assert [(a.engine, a.start, len(a.problems)) for a in result.attempts] == [
        ("scipy", "initial", 1),
        ("scipy, tight", "initial", 1),
        ("scipy, tight", "perturbed", 1),
        ("minuit, tight", "initial", 0),
    ]
    assert starts[0] == starts[1] == starts[3] != starts[2]


def test_where_minuit_finds_no_covariance_the_other_optimizer_answers() -> None:
    """pyhf asks it for correlations all the same, where everything but mu is held."""
    bin_without_background = {
        "channels": [{"name": "SR", "samples": [_sample("background", [0.0, 2.3])]}],
        "observations": [{"name": "SR", "data": [0.0, 1.0]}],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }
    signal = _sample("signal", [1.0, 0.0], {"name": "mu", "type": "normfactor", "data": None})
    patch = [{"op": "add", "path": "/channels/0/samples/1", "value": signal}]
    task = Task(
        workspace_digest=digest(bin_without_background),
        workspace=bin_without_background,
        hypotheses=[Hypothesis(name="S", values=(1.0,), patch=patch)],
        request=HypotestRequest(engine=EngineOptions(engine="pyhf", optimizer="minuit")),
    )
    result = _run(task).results[0]
    assert result.status == "ok", result.reason
    assert result.CLs_obs == pytest.approx(math.erfc(1.0), rel=1e-6)
    assert [attempt.engine for attempt in result.attempts][-1] == "scipy, tight"


def _sample(name: str, yields: list[float], *modifiers: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "data": yields, "modifiers": list(modifiers)}


def test_numbers_with_a_problem_are_suspect_never_ok(
    by_pyhf: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    _answers(
        monkeypatch,
        _evaluation("odd", "odder", twice_nll=8.0, cls=0.4),
        _evaluation("odd", twice_nll=11.0, cls=0.1),
        _evaluation("odd", twice_nll=10.0, cls=0.2),
        _evaluation("odd", "very odd", twice_nll=9.0, cls=0.3),
    )
    result = _run(_with(by_pyhf, hypotheses=by_pyhf.hypotheses[:1])).results[0]
    assert (result.status, result.reason, result.CLs_obs) == ("suspect", "odd", 0.2)


def test_a_result_that_is_not_finite_is_a_failure_with_a_reason(
    by_pyhf: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = float("nan")
    bad = Evaluation(nan, [nan] * 5, nan, nan, nan, ["a result is not a finite number"])
    _answers(monkeypatch, bad, bad, bad, bad)
    result = _run(_with(by_pyhf, hypotheses=by_pyhf.hypotheses[:1])).results[0]
    assert (result.status, result.CLs_obs) == ("failed", None)
    assert result.reason == "a result is not a finite number"


def test_a_staged_workspace_is_found_by_its_digest(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STAGE_VARIABLE, str(tmp_path))
    staged = tmp_path / f"{task.workspace_digest}.json.zst"
    staged.write_bytes(compress(msgspec.json.encode(task.workspace)))
    without = _with(task, workspace=None, hypotheses=task.hypotheses[:1])
    assert _run(without).results[0].status == "ok"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"workspace": {"channels": []}}, "not the one that the task names"),
        ({"workspace": None}, "no staging directory"),
        ({"workspace": None, "workspace_digest": "../../etc/passwd"}, "not a SHA-256"),
    ],
)
def test_a_workspace_that_is_not_what_the_task_says_is_refused(
    task: Task, change: dict, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(STAGE_VARIABLE, raising=False)
    staging._cache.clear()
    with pytest.raises(ContractError, match=match):
        _run(_with(task, **change))


def test_a_missing_and_a_damaged_staged_workspace_are_refused(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STAGE_VARIABLE, str(tmp_path))
    name = "f" * 64
    without = _with(task, workspace=None, workspace_digest=name)
    with pytest.raises(ContractError, match="missing"):
        _run(without)
    (tmp_path / f"{name}.json.zst").write_bytes(compress(b'{"channels": []}'))
    with pytest.raises(ContractError, match="not the one that the task names"):
        _run(without)


def test_text_that_is_no_task_is_answered_with_a_refusal() -> None:
    with pytest.raises(ContractError, match="refuses the task"):
        decode_result(fitserve_worker.run("rm -rf /"))
