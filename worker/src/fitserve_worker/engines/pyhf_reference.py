"""The reference engine: pyhf's own asymptotic calculator, watched.

Every hypothesis climbs a ladder of attempts until one shows no problem: as pyhf would do
it, with a tighter tolerance, from a perturbed start, and with the other optimizer. Every
attempt is recorded.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyhf

from fitserve.contract import Attempt, HypothesisResult, MuPoint, hypothesis_key
from fitserve_worker.engines import failed
from fitserve_worker.engines.asymptotic import Evaluation, evaluate, quiet_pyhf
from fitserve_worker.engines.models import BuiltModel, build

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fitserve.contract import EngineOptions, Hypothesis, Status
    from fitserve_worker.engines.base import Work

__all__ = ["PyhfEngine"]


# SLSQP's is a change of -2 log L (1e-6 by default); Minuit's scales its estimated distance
# to the minimum, 0.002 of it (0.1 by default).
_TIGHT = {"scipy": 1e-10, "minuit": 1e-3}


class _Rung(NamedTuple):
    """One way to try: an optimizer, where it starts, and how close it is to come."""

    optimizer: str
    start: str
    tight: bool

    def make(self) -> Any:
        """Return pyhf's optimizer, with its usual tolerance or a tighter one."""
        kind = getattr(pyhf.optimize, f"{self.optimizer}_optimizer")
        return kind(tolerance=_TIGHT[self.optimizer]) if self.tight else kind()


class _Climb(NamedTuple):
    """The attempts at one signal strength and the best of their evaluations."""

    attempts: list[Attempt]
    best: Evaluation | None

    @property
    def status(self) -> Status:
        if self.best is None:
            return "failed"
        return "suspect" if self.best.problems else "ok"

    @property
    def reason(self) -> str | None:
        if self.status == "ok":
            return None
        told = self.best.problems if self.best else self.attempts[-1].problems
        return "; ".join(told)


class PyhfEngine:
    """pyhf with the backend and optimizer of the request."""

    def __init__(self, options: EngineOptions) -> None:
        self._backend = options.backend
        other = "minuit" if options.optimizer == "scipy" else "scipy"
        self._ladder = (
            _Rung(options.optimizer, "initial", tight=False),
            _Rung(options.optimizer, "initial", tight=True),
            _Rung(options.optimizer, "perturbed", tight=True),
            _Rung(other, "initial", tight=True),
        )

    def hypotest(self, work: Work) -> Iterator[HypothesisResult]:
        """Yield the CLs of each hypothesis at every signal strength of the request."""
        quiet_pyhf()
        for hypothesis in work.hypotheses:
            try:
                yield self._one(work, hypothesis)
            except Exception as error:  # noqa: BLE001 - one hypothesis never costs another
                yield failed(work, hypothesis, f"{type(error).__name__}: {error}")

    def _one(self, work: Work, hypothesis: Hypothesis) -> HypothesisResult:
        pyhf.set_backend(self._backend, self._ladder[0].make())
        key = hypothesis_key(work.workspace_digest, hypothesis, work.request_digest)
        begin = time.perf_counter()
        built = build(work, hypothesis.patch)
        ready = time.perf_counter()
        climbs = [
            self._climb(built, mu, work.request.test_stat, seed=int(key[:16], 16))
            for mu in work.request.mu
        ]
        done = time.perf_counter()
        points = [_point(mu, climb) for mu, climb in zip(work.request.mu, climbs, strict=True)]
        worst = max(points, key=lambda point: _SEVERITY[point.status])
        free = climbs[0].best
        return HypothesisResult(
            name=hypothesis.name,
            key=key,
            mass_hypotheses=hypothesis.values,
            status=worst.status,
            reason=worst.reason,
            CLs_obs=points[0].CLs_obs,
            CLs_exp=points[0].CLs_exp,
            fit_time=done - ready,
            setup_time=ready - begin,
            engine=f"pyhf/{self._backend}/{self._ladder[0].optimizer}",
            points=points,
            muhat=free.muhat if free else None,
            twice_nll=free.twice_nll if free else None,
            attempts=[attempt for climb in climbs for attempt in climb.attempts],
            diagnostics={"shift": free.shift if free else None},
        )

    def _climb(self, built: BuiltModel, mu: float, test_stat: str, seed: int) -> _Climb:
        attempts: list[Attempt] = []
        best: Evaluation | None = None
        for rung in self._ladder:
            pyhf.set_backend(self._backend, rung.make())
            begin = time.perf_counter()
            evaluation, problems = _try(built, mu, test_stat, _start(built, rung, seed))
            attempts.append(
                Attempt(
                    engine=f"{rung.optimizer}, tight" if rung.tight else rung.optimizer,
                    start=rung.start,
                    seconds=time.perf_counter() - begin,
                    problems=problems,
                )
            )
            if evaluation is not None and _better(evaluation, best):
                best = evaluation
            if not problems:
                break
        return _Climb(attempts, best)


_SEVERITY: dict[Status, int] = {"ok": 0, "suspect": 1, "failed": 2}


def _try(
    built: BuiltModel, mu: float, test_stat: str, start: Sequence[float]
) -> tuple[Evaluation | None, list[str]]:
    """Evaluate; what gives no finite CLs is no evaluation but a problem."""
    try:
        evaluation = evaluate(built, mu, test_stat, start)
    except pyhf.exceptions.FailedMinimization:
        return None, ["the optimizer reports that it failed"]
    except (ValueError, ArithmeticError) as error:
        return None, [f"the fit broke: {type(error).__name__}: {error}"]
    if not all(map(math.isfinite, (evaluation.CLs_obs, *evaluation.CLs_exp))):
        return None, evaluation.problems
    return evaluation, evaluation.problems


def _better(new: Evaluation, old: Evaluation | None) -> bool:
    if old is None:
        return True
    return (len(new.problems), new.twice_nll) < (len(old.problems), old.twice_nll)


def _start(built: BuiltModel, rung: _Rung, seed: int) -> list[float]:
    """Return initial values; perturbed ones are the same every time for a hypothesis."""
    config = built.model.config
    initial = np.asarray(config.suggested_init(), dtype=float)
    if rung.start == "initial":
        return list(initial)
    low, high = np.asarray(config.suggested_bounds(), dtype=float).T
    width = np.minimum(high - low, 1.0)
    shift = np.random.default_rng(seed).uniform(-0.25, 0.25, len(initial)) * width
    shift[np.asarray(config.suggested_fixed(), dtype=bool)] = 0.0
    return list(np.clip(initial + shift, low, high))


def _point(mu: float, climb: _Climb) -> MuPoint:
    best = climb.best
    return MuPoint(
        mu=mu,
        CLs_obs=best.CLs_obs if best else None,
        CLs_exp=list(best.CLs_exp) if best else [None] * 5,
        status=climb.status,
        reason=climb.reason,
    )
