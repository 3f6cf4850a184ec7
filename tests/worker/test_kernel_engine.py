"""The kernel engine: pyhf's numbers, a second opinion on doubtful fits, pyhf for the rest."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

import fitserve_worker
from fitserve_contract import (
    EngineOptions,
    HypotestRequest,
    Hypothesis,
    HypothesisResult,
    ModelOptions,
    Task,
    decode_result,
    encode_task,
)
from fitserve_worker.engines import kernel_hypotest as engine_module
from fitserve_worker.engines import select
from fitserve_worker.engines.base import Work
from fitserve_worker.engines.kernel_engine import KernelEngine
from fitserve_worker.engines.pyhf_engine import PyhfEngine
from fitserve_worker.kernel.batch import compile_hypotheses

if TYPE_CHECKING:
    from pathlib import Path

    from fitserve_worker.kernel.hypotest import Tests

# The minuit engine with its tight tolerance is within this of the exact minimum.
TOLERANCE = 2e-5
MUS = (1.0, 0.5)


def _run(task: Task, engine: str, **changes: object) -> dict[str, HypothesisResult]:
    options = EngineOptions(engine=engine)
    request = HypotestRequest(mu=MUS, engine=options)
    changed = msgspec.structs.replace(task, request=request, **changes)
    done = decode_result(fitserve_worker.run(encode_task(changed)))
    return {result.name: result for result in done.results}


def test_results_are_those_of_pyhf(task: Task) -> None:
    kernel, pyhf = _run(task, "kernel"), _run(task, "pyhf")
    assert list(kernel) == list(pyhf)
    for name, result in kernel.items():
        assert (result.status, result.engine) == ("ok", "kernel")
        assert result.twice_nll == pytest.approx(pyhf[name].twice_nll, abs=1e-4)
        assert result.twice_nll <= pyhf[name].twice_nll + 1e-9
        assert result.mass_hypotheses == pyhf[name].mass_hypotheses
        for one, other in zip(result.points, pyhf[name].points, strict=True):
            assert one.mu == other.mu
            assert one.CLs_obs == pytest.approx(other.CLs_obs, abs=TOLERANCE)
            assert one.CLs_exp == pytest.approx(other.CLs_exp, abs=TOLERANCE)
            assert one.twice_delta_nll == pytest.approx(other.twice_delta_nll, abs=1e-4)
        assert result.diagnostics["iterations"] > 0
        assert result.diagnostics["edm"] < 1e-6


def test_what_the_kernel_does_not_do_goes_to_pyhf_with_the_reason(task: Task) -> None:
    other_poi = Hypothesis(
        name="no signal",
        values=(1.0,),
        patch=[{"op": "replace", "path": "/observations/0/data", "value": [51.0]}],
    )
    results = _run(task, "kernel", hypotheses=[task.hypotheses[0], other_poi])
    assert results["S_100"].engine == "kernel"
    assert results["no signal"].engine != "kernel"
    assert results["no signal"].diagnostics["not for the kernel"]


def _work(task: Task) -> Work:
    request = HypotestRequest(mu=MUS)
    return Work(task.workspace_digest, task.workspace, task.hypotheses[:2], request, "0" * 64)


class _Reference:
    """Answers with one result, changed as the test wants it."""

    def __init__(self, **changes: object) -> None:
        self._changes = changes

    def answers(self, work: Work) -> object:
        for result in PyhfEngine(EngineOptions()).answers(work):
            yield msgspec.structs.replace(result, **self._changes)


def _doubtful(monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    real = engine_module.hypotest

    def hypotest(*arguments: object) -> Tests:
        tests = real(*arguments)
        converged = tests.free.converged.copy()
        converged[which] = False
        return tests._replace(free=tests.free._replace(converged=converged))

    monkeypatch.setattr(engine_module, "hypotest", hypotest)


def test_a_doubtful_fit_that_pyhf_confirms_holds(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    _doubtful(monkeypatch, 1)
    first, second = KernelEngine(_Reference).answers(_work(task))
    assert (first.engine, first.status) == ("kernel", "ok")
    assert (second.engine, second.status) == ("pyhf/numpy/scipy", "ok")
    assert [attempt.engine for attempt in second.attempts][:2] == ["kernel", "scipy"]
    assert "did not converge" in second.diagnostics["kernel doubt"]


def test_a_doubtful_fit_that_pyhf_contradicts_is_suspect_with_both_values(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    _doubtful(monkeypatch, 0)

    def reference() -> _Reference:
        point = next(iter(PyhfEngine(EngineOptions()).answers(_work(task)))).points
        moved = [msgspec.structs.replace(one, CLs_obs=0.75) for one in point]
        return _Reference(points=moved, CLs_obs=0.75)

    result = next(iter(KernelEngine(reference).answers(_work(task))))
    assert result.status == "suspect"
    assert "pyhf 0.75" in result.reason
    assert f"{result.diagnostics['kernel CLs_obs']:.6g}" in result.reason


def test_numbers_that_are_not_finite_are_never_plain_results(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = engine_module.hypotest

    def hypotest(*arguments: object) -> Tests:
        tests = real(*arguments)
        return tests._replace(CLs_obs=np.full_like(tests.CLs_obs, np.nan))

    monkeypatch.setattr(engine_module, "hypotest", hypotest)
    for result in KernelEngine(_Reference).answers(_work(task)):
        assert result.engine == "pyhf/numpy/scipy"
        assert result.diagnostics["kernel doubt"] == "a result is not a finite number"


def test_the_request_alone_decides_which_engine_answers(task: Task) -> None:
    small = _work(task)
    assert isinstance(select(small), KernelEngine)
    assert isinstance(select(small._replace(hypotheses=task.hypotheses * 30)), KernelEngine)
    request = HypotestRequest(engine=EngineOptions(engine="pyhf"))
    assert isinstance(select(small._replace(request=request)), PyhfEngine)


def test_small_models_share_a_program(task: Task) -> None:
    """What differs in bins, samples and parameters finds a program that is there."""
    shapes = set()
    for bins, samples in ((2, 1), (3, 2), (8, 4)):
        modifiers = [{"name": "norm", "type": "normsys", "data": {"lo": 0.9, "hi": 1.1}}]
        background = [
            {"name": f"b{index}", "data": [50.0] * bins, "modifiers": modifiers[: index + 1]}
            for index in range(samples)
        ]
        mu = [{"name": "mu", "type": "normfactor", "data": None}]
        signal = {"name": "s", "data": [5.0] * bins, "modifiers": mu}
        workspace = {
            **task.workspace,
            "channels": [{"name": "SR", "samples": background}],
            "observations": [{"name": "SR", "data": [52.0] * bins}],
        }
        patch = [{"op": "add", "path": "/channels/0/samples/-", "value": signal}]
        one = Hypothesis(name="S", values=(), patch=patch)
        (batch,) = compile_hypotheses(workspace, [one], ModelOptions()).batches
        shapes.add((batch.shape, len(batch.device_slots)))
    assert len(shapes) == 1


def test_programs_are_kept_for_other_processes(task: Task, tmp_path: Path) -> None:
    request = HypotestRequest(engine=EngineOptions(engine="kernel"))
    text = encode_task(msgspec.structs.replace(task, request=request))
    script = (
        "import sys, fitserve_worker; from fitserve_contract import decode_result; "
        "print({r.engine for r in decode_result(fitserve_worker.run(sys.stdin.read())).results})"
    )
    kept = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", script],
            input=text,
            env=os.environ | {"FITSERVE_JIT_CACHE": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "{'kernel'}"
        kept.append({path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*-cache")})
    assert kept[0]
    assert kept[1] == kept[0]
