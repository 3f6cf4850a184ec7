"""The kernel engine: all hypotheses of a task by one compiled program, watched.

What the kernel does not support goes to the reference engine, with the reason in the
result's diagnostics. A hypothesis whose fits are doubted is fitted again by the reference
engine: where the two agree the result holds, where they do not it is ``suspect`` and its
reason has both values.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from cachetools import LRUCache

from fitserve.contract import (
    Attempt,
    HypotestRequest,
    HypothesisResult,
    MuPoint,
    digest,
    hypothesis_key,
)
from fitserve_worker.kernel.compilation import compile_hypotheses
from fitserve_worker.kernel.doubts import doubts
from fitserve_worker.kernel.fits import load
from fitserve_worker.kernel.hypotest import hypotest
from fitserve_worker.kernel.patches import Background
from fitserve_worker.kernel.runtime import runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fitserve.contract import Hypothesis
    from fitserve_worker.engines.base import Engine, Work
    from fitserve_worker.kernel.arraytypes import FloatArray
    from fitserve_worker.kernel.batch import Batch
    from fitserve_worker.kernel.compilation import Compilation
    from fitserve_worker.kernel.fits import Fits, Loaded
    from fitserve_worker.kernel.hypotest import Tests

__all__ = ["KernelEngine"]

# pyhf's fits and the kernel's agree to 4e-5 on the published pallets; what differs by more
# than this is a different minimum.
_AGREEMENT = 1e-3
_ROUNDING = 1e-9

# Workspaces looked up by name, with the samples and arrays that their hypotheses share.
_backgrounds: LRUCache[str, Background] = LRUCache(maxsize=4)


class KernelEngine:
    """The fit kernel, with a reference engine for what it does not do or is not sure of.

    Parameters
    ----------
    reference
        Makes the reference engine, when it is first needed.
    """

    def __init__(self, reference: Callable[[], Engine]) -> None:
        self._make_reference = reference
        self._reference: Engine | None = None

    def hypotest(self, work: Work) -> Iterator[HypothesisResult]:
        """Yield the CLs of each hypothesis at every signal strength of the request."""
        begin = time.perf_counter()
        compilation = _compile(work)
        setup = (time.perf_counter() - begin) / max(1, len(work.hypotheses))
        by_name = {hypothesis.name: hypothesis for hypothesis in work.hypotheses}
        for batch in compilation.batches:
            for found in _test_batch(work, batch, by_name, setup):
                if found.status == "ok":
                    yield found
                else:
                    yield self._second_opinion(work, by_name[found.name], found)
        for name, reason in compilation.unsupported.items():
            yield self._instead(work, by_name[name], reason)

    def _second_opinion(
        self, work: Work, hypothesis: Hypothesis, found: HypothesisResult
    ) -> HypothesisResult:
        """Return the reference's result, and what becomes of it beside the doubted one."""
        second = self._refer(work, hypothesis)
        difference = _difference(found, second)
        diagnostics = {
            "kernel doubt": found.reason,
            "kernel CLs_obs": found.CLs_obs,
            **second.diagnostics,
        }
        changed: dict[str, Any] = {"diagnostics": diagnostics}
        if second.status == "ok" and difference is not None and difference > _AGREEMENT:
            changed |= {
                "status": "suspect",
                "reason": f"the kernel finds CLs {found.CLs_obs:.6g} ({found.reason}), "
                f"pyhf {second.CLs_obs:.6g}",
            }
        return msgspec.structs.replace(
            second,
            attempts=[*found.attempts, *second.attempts],
            fit_time=found.fit_time + second.fit_time,
            setup_time=found.setup_time + second.setup_time,
            **changed,
        )

    def _instead(self, work: Work, hypothesis: Hypothesis, reason: str) -> HypothesisResult:
        second = self._refer(work, hypothesis)
        return msgspec.structs.replace(
            second, diagnostics={"not for the kernel": reason, **second.diagnostics}
        )

    def _refer(self, work: Work, hypothesis: Hypothesis) -> HypothesisResult:
        if self._reference is None:
            self._reference = self._make_reference()
        return next(iter(self._reference.hypotest(work._replace(hypotheses=[hypothesis]))))


def _compile(work: Work) -> Compilation:
    options = work.request.model
    key = digest([work.workspace_digest, options])
    background = _backgrounds.get(key)
    if background is None:
        compilation = compile_hypotheses(work.workspace, work.hypotheses, options)
        if compilation.batches:
            _backgrounds[key] = Background(work.workspace, options)
        return compilation
    return compile_hypotheses(background, work.hypotheses, options)


def _test_batch(
    work: Work, batch: Batch, by_name: dict[str, Hypothesis], setup: float
) -> Iterator[HypothesisResult]:
    request = work.request
    if not isinstance(request, HypotestRequest):
        raise TypeError(f"the kernel engine has no answer to {type(request).__name__}")
    setting = runtime()
    start: FloatArray | None = None
    size = batch.capacity(setting.capacity)
    members = range(len(batch.members))
    for first in range(0, len(members), size):
        piece = members[first : first + size]
        begin = time.perf_counter()
        loaded = load(batch, piece, setting)
        tests = hypotest(loaded, request.mu, request.test_stat, start)
        seconds = (time.perf_counter() - begin) / len(piece)
        # The background does not change much from one signal to the next.
        start = tests.null.x[0] if bool(tests.null.converged[0]) else None
        for index, member in enumerate(piece):
            hypothesis = by_name[batch.members[member].name]
            yield _result(work, hypothesis, _One(loaded, tests, index, request.mu), setup, seconds)
    setting.cache.publish()


class _One(NamedTuple):
    """One hypothesis of some that were tested together."""

    loaded: Loaded
    tests: Tests
    at: int
    mu: tuple[float, ...]

    def fits(self) -> dict[str, Fits]:
        """Return all fits that were made, by what they were made for."""
        tests = self.tests
        named = {"background": tests.null, "free": tests.free}
        for mu, fixed, asimov in zip(self.mu, tests.fixed, tests.asimov, strict=True):
            named |= {f"mu = {mu:g}": fixed, f"Asimov, mu = {mu:g}": asimov}
        return named


def _result(
    work: Work, hypothesis: Hypothesis, one: _One, setup: float, seconds: float
) -> HypothesisResult:
    tests, index = one.tests, one.at
    problems = _problems(one)
    reason = "; ".join(problems) or None
    constant = one.loaded.chunk.constant[index]
    free = float(tests.free.value[index])
    points = [
        MuPoint(
            mu=mu,
            CLs_obs=_finite(tests.CLs_obs[index, at]),
            CLs_exp=[_finite(value) for value in tests.CLs_exp[index, at]],
            status="suspect" if problems else "ok",
            reason=reason,
            twice_delta_nll=2 * max(0.0, float(tests.fixed[at].value[index]) - free),
        )
        for at, mu in enumerate(one.mu)
    ]
    return HypothesisResult(
        name=hypothesis.name,
        key=hypothesis_key(work.workspace_digest, hypothesis, work.request_digest),
        mass_hypotheses=hypothesis.values,
        status="suspect" if problems else "ok",
        reason=reason,
        CLs_obs=points[0].CLs_obs,
        CLs_exp=points[0].CLs_exp,
        fit_time=seconds,
        setup_time=setup,
        engine="kernel",
        points=points,
        muhat=_finite(tests.muhat[index]),
        twice_nll=_finite(2 * (free + constant)),
        attempts=[Attempt(engine="kernel", start="chain", seconds=seconds, problems=problems)],
        diagnostics=_diagnostics(one),
    )


def _problems(one: _One) -> list[str]:
    tests, index = one.tests, one.at
    values = np.concatenate([tests.CLs_obs[index], tests.CLs_exp[index].ravel()])
    if not np.isfinite(values).all():
        return ["a result is not a finite number"]
    problems = [
        f"the fit with {name} {what}"
        for name, fit in one.fits().items()
        for what in doubts(one.loaded, fit, index)
    ]
    if (values < -_ROUNDING).any() or (values > 1 + _ROUNDING).any():
        problems.append("a CLs is outside 0 to 1")
    rows = tests.CLs_exp[index]
    if any(low > high + _ROUNDING for row in rows for low, high in itertools.pairwise(row)):
        problems.append("the expected CLs are not in order")
    return problems


def _diagnostics(one: _One) -> dict[str, float | int | bool | str | None]:
    fits = one.fits().values()
    columns, free = one.loaded.chunk.columns, one.tests.free.x[one.at]
    lower, upper = columns["lower"][one.at], columns["upper"][one.at]
    return {
        "iterations": int(sum(fit.steps[one.at] for fit in fits)),
        "edm": _finite(max(abs(float(fit.edm[one.at])) for fit in fits)),
        "at_bounds": int(np.sum((lower < upper) & ((free <= lower) | (free >= upper)))),
        "q": _finite(one.tests.q[one.at, 0]),
        "q_asimov": _finite(one.tests.q_asimov[one.at, 0]),
    }


def _difference(first: HypothesisResult, second: HypothesisResult) -> float | None:
    """Return the largest difference in CLs, None where one of them has no number."""
    pairs = [
        pair
        for one, other in zip(first.points, second.points, strict=False)
        for pair in zip((one.CLs_obs, *one.CLs_exp), (other.CLs_obs, *other.CLs_exp), strict=True)
    ]
    if not pairs or any(value is None for pair in pairs for value in pair):
        return None
    return max(abs(one - other) for one, other in pairs if one is not None and other is not None)


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None
