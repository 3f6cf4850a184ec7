"""Limits and scans by the fit kernel: many signal strengths of many hypotheses at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve_contract import LimitRequest, MuPoint, ScanRequest
from fitserve_worker.engines.base import ABOVE, cls_problems, of_kind
from fitserve_worker.engines.kernel_hypotest import at_bounds, finite, minima, next_start
from fitserve_worker.engines.limits import in_order, judged, limits_of, search
from fitserve_worker.kernel.strengths import Strengths

if TYPE_CHECKING:
    from fitserve_worker.engines.kernel_hypotest import Piece
    from fitserve_worker.engines.limits import Crossing, Searching
    from fitserve_worker.kernel import FloatArray

__all__ = ["answer_limit", "answer_scan"]

# Tests that are in memory at a time.
_BLOCK = 1024


def answer_limit(piece: Piece) -> tuple[list[dict[str, Any]], FloatArray | None]:
    """Return fields of the results of hypotheses, and where the next ones may start.

    Notes
    -----
    The searches of all hypotheses advance together: each round fits, in one call, one signal
    strength of every hypothesis that still lacks a limit.
    """
    request = of_kind(piece.work, LimitRequest)
    bounds = piece.loaded.poi_bounds
    low = np.maximum(bounds[:, 0], 0.0)
    first = np.minimum(np.maximum(1.0, low), bounds[:, 1])
    strengths = Strengths(piece.loaded, first, request.test_stat, piece.start)
    searches = [
        _Search(strengths, at, (float(low), float(high)), request.level)
        for at, (low, high) in enumerate(bounds)
    ]
    running = [one for one in searches if not one.go_on()]
    while running:
        which, mu = zip(*((one.at, one.mu) for one in running), strict=True)
        strengths.evaluate(np.array(which), np.array(mu))
        running = [one for one in running if not one.go_on()]
    answers = [_limit_fields(piece, strengths, one, request) for one in searches]
    return answers, next_start(strengths.null)


class _Search:
    """The search for the limits of one hypothesis."""

    def __init__(
        self, strengths: Strengths, at: int, bounds: tuple[float, float], level: float
    ) -> None:
        self.at = at
        self.mu = 0.0
        self.crossings: list[Crossing] = []
        self.evaluated: dict[float, None] = {}
        self._strengths = strengths
        self._bounds = bounds
        self._level = level
        self._searching: Searching[list[Crossing]]
        self._begin()

    def _begin(self) -> None:
        self._improved = self._strengths.improved[self.at]
        self._searching = search(self._bounds, self._level)
        self.mu = next(self._searching)

    def go_on(self) -> bool:
        """Search on as far as tests that are done allow; return whether the search is over."""
        if self._improved != self._strengths.improved[self.at]:
            # The curves have changed. What was fitted is not fitted again.
            self._begin()
        while self._strengths.tested(self.at, self.mu):
            self.evaluated[self.mu] = None
            outcome = self._strengths.outcome(self.at, self.mu)
            try:
                self.mu = self._searching.send([outcome.CLs_obs, *outcome.CLs_exp])
            except StopIteration as done:
                self.crossings = done.value
                return True
        return False


def _limit_fields(
    piece: Piece, strengths: Strengths, limits: _Search, request: LimitRequest
) -> dict[str, Any]:
    points = [_point(strengths, limits.at, mu) for mu in in_order(limits.evaluated)]
    return {
        **_of_free_fit(piece, strengths, limits.at),
        "CLs_obs": points[0].CLs_obs,
        "CLs_exp": points[0].CLs_exp,
        "points": points,
        "limit": limits_of(limits.crossings, request.level),
        **judged(limits.crossings, points, strengths.falling(limits.at)),
    }


def answer_scan(piece: Piece) -> tuple[list[dict[str, Any]], FloatArray | None]:
    """Return fields of the results of hypotheses, and where the next ones may start."""
    request = of_kind(piece.work, ScanRequest)
    loaded = piece.loaded
    # The others start on the line from zero through this one.
    first = min(request.mu, key=lambda mu: abs(mu - 1.0))
    strengths = Strengths(loaded, np.full(loaded.size, first), request.test_stat, piece.start)
    every = np.arange(loaded.size)
    at_once = max(1, _BLOCK // loaded.size)
    for begin in range(0, len(request.mu), at_once):
        some = np.array(request.mu[begin : begin + at_once], dtype=float)
        strengths.evaluate(np.tile(every, len(some)), np.repeat(some, len(every)))
    answers = []
    for at in every.tolist():
        points = [_point(strengths, at, mu) for mu in request.mu]
        doubts = strengths.falling(at) + [point.reason for point in points if point.status != "ok"]
        answers.append(
            {
                **_of_free_fit(piece, strengths, at),
                "status": "suspect" if doubts else "ok",
                "reason": doubts[0] if doubts else None,
                "CLs_obs": points[0].CLs_obs,
                "CLs_exp": points[0].CLs_exp,
                "points": points,
            }
        )
    return answers, next_start(strengths.null)


def _point(strengths: Strengths, at: int, mu: float) -> MuPoint:
    outcome = strengths.outcome(at, mu)
    cls = [outcome.CLs_obs, *outcome.CLs_exp]
    problems = [*outcome.problems]
    values = [*cls, outcome.twice_delta_nll] if mu >= 0 else [outcome.twice_delta_nll]
    if not np.isfinite(values).all():
        problems = ["a result is not a finite number", *problems]
    elif mu >= 0:
        problems += cls_problems(np.array([cls]))
    if outcome.twice_delta_nll < -ABOVE:
        problems.append(
            f"the free fit stopped {-outcome.twice_delta_nll:.2g} above a known minimum of -2 log L"
        )
    return MuPoint(
        mu=mu,
        CLs_obs=finite(outcome.CLs_obs),
        CLs_exp=[finite(value) for value in outcome.CLs_exp],
        status="suspect" if problems else "ok",
        reason="; ".join(problems) or None,
        twice_delta_nll=finite(max(outcome.twice_delta_nll, 0.0)),
        q_asimov=finite(outcome.q_asimov),
    )


def _of_free_fit(piece: Piece, strengths: Strengths, at: int) -> dict[str, Any]:
    chunk, free = piece.loaded.chunk, strengths.free
    return {
        "muhat": finite(free.x[at, chunk.poi[at]]),
        **minima(piece, at, free, strengths.null),
        "diagnostics": {
            "converged": strengths.converged(at),
            "iterations": int(strengths.iterations[at]),
            "edm": finite(strengths.edm[at]),
            "positive_definite": strengths.positive(at),
            **at_bounds(piece, at, free),
            **strengths.minima.second(at),
        },
    }
