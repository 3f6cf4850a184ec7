"""Limits and scans by the fit kernel: many signal strengths of many hypotheses at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve_contract import LimitRequest, MuPoint, ScanRequest
from fitserve_worker.engines.base import ABOVE, cls_problems, of_kind
from fitserve_worker.engines.frames import (
    MOST_FRAMES,
    Frame,
    first_frame,
    likely_limit,
    next_frame,
    without_signal,
)
from fitserve_worker.engines.kernel_hypotest import at_bounds, finite, minima, next_start
from fitserve_worker.engines.limits import in_order, judged, limits_of, search
from fitserve_worker.kernel.asymptotics import poi_floor
from fitserve_worker.kernel.fits import load
from fitserve_worker.kernel.runtime import runtime
from fitserve_worker.kernel.spec import Kind
from fitserve_worker.kernel.strengths import Strengths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve_worker.engines.kernel_hypotest import Piece
    from fitserve_worker.engines.limits import Crossing, Searching
    from fitserve_worker.kernel import FloatArray
    from fitserve_worker.kernel.parameters import ParameterSet

__all__ = ["answer_limit", "answer_scan"]

# Tests that are in memory at a time.
_BLOCK = 1024


def answer_limit(piece: Piece) -> tuple[list[dict[str, Any]], FloatArray | None]:
    """Return fields of the results of hypotheses, and where the next ones may start.

    Notes
    -----
    The searches of all hypotheses advance together: each round fits, in one call, one signal
    strength of every hypothesis that still lacks a limit. Hypotheses whose limits are above the
    bound of the parameter of interest are then measured in other units (see
    `fitserve_worker.engines.frames`), and searched again.
    """
    request = of_kind(piece.work, LimitRequest)
    # With the test statistic q the range of fits reaches below zero too.
    published = [_published(piece, at) for at in range(piece.loaded.size)]
    signal, own = piece.loaded.signal_events()
    factor = np.array([_poi(piece, at).kind is Kind.NORMFACTOR for at in range(len(published))])
    own &= factor
    frames = [
        first_frame(likely_limit(events, data, request.level), bounds, request)
        if alone
        else Frame(*bounds)
        for events, data, alone, bounds in zip(
            signal, piece.loaded.observed.events, own, published, strict=True
        )
    ]
    answers: dict[int, dict[str, Any]] = {}
    start: FloatArray | None = None
    todo = list(range(len(frames)))
    for attempt in range(MOST_FRAMES):
        some = _measured(piece, todo, frames, request)
        strengths, searches = _searched(some, [frames[at] for at in todo], request)
        start = start if attempt else next_start(strengths.null)
        again = []
        for one, at in zip(searches, todo, strict=True):
            answers[at] = _limit_fields(some, strengths, one, request)
            if own[at] and not signal[at].any():
                answers[at]["limit"] = without_signal(answers[at]["limit"])
                continue
            points = answers[at]["points"]
            frame = next_frame(frames[at], one.crossings, points, published[at], request)
            if frame is not None and factor[at]:
                frames[at] = frame if own[at] else frame.without_unit()
                again.append(at)
        todo = again
        if not todo:
            break
    return [answers[at] for at in range(len(frames))], start


def _poi(piece: Piece, at: int) -> ParameterSet:
    member, poi = piece.batch.members[piece.members[at]], piece.batch.poi
    return member.sets.get(poi) or member.common[poi]


def _published(piece: Piece, at: int) -> tuple[float, float]:
    poi = _poi(piece, at)
    return float(poi.lower[0]), float(poi.upper[0])


def _measured(
    piece: Piece, which: Sequence[int], frames: Sequence[Frame], request: LimitRequest
) -> Piece:
    """Return some of the hypotheses, each with the parameter of interest in its own units."""
    chosen = [frames[at] for at in which]
    loaded = piece.loaded
    if len(which) < loaded.size:
        piece = piece._replace(members=[piece.members[at] for at in which])
        loaded = load(piece.batch, piece.members, runtime(), request.test_stat)
    if not all(frame.usual for frame in chosen):
        low, high, unit = np.array([frame[:3] for frame in chosen]).T
        loaded = loaded.measured(unit, poi_floor(low, high, request.test_stat), high)
    return piece._replace(loaded=loaded)


def _searched(
    piece: Piece, frames: Sequence[Frame], request: LimitRequest
) -> tuple[Strengths, list[_Search]]:
    """Search for the limits of hypotheses, in the units of their frames."""
    low = np.maximum([frame.low for frame in frames], 0.0)
    high = np.array([frame.high for frame in frames])
    unit = np.array([frame.unit for frame in frames])
    first = np.minimum(np.maximum(1.0, low), high)
    strengths = Strengths(piece.loaded, first, request.test_stat, piece.start, unit)
    searches = [_Search(strengths, at, frame, request.level) for at, frame in enumerate(frames)]
    # In other units the search need not come by a signal strength of 1.
    others = [at for at, frame in enumerate(frames) if not frame.usual]
    if others:
        strengths.evaluate(np.array(others), 1 / unit[others])
        for at in others:
            searches[at].evaluated[float(1 / unit[at])] = None
    running = [one for one in searches if not one.go_on()]
    while running:
        which, mu = zip(*((one.at, one.mu) for one in running), strict=True)
        strengths.evaluate(np.array(which), np.array(mu))
        running = [one for one in running if not one.go_on()]
    return strengths, searches


class _Search:
    """The search for the limits of one hypothesis."""

    def __init__(self, strengths: Strengths, at: int, frame: Frame, level: float) -> None:
        self.at = at
        self.frame = frame
        self.mu = 0.0
        self.crossings: list[Crossing] = []
        self.evaluated: dict[float, None] = {}
        self._strengths = strengths
        self._level = level
        self._searching: Searching[list[Crossing]]
        self._begin()

    def _begin(self) -> None:
        self._improved = self._strengths.improved[self.at]
        self._searching = search(self.frame[:2], self._level, self.frame.unit)
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
    unit = limits.frame.unit
    points = [_point(strengths, limits.at, mu, unit) for mu in in_order(limits.evaluated)]
    free = _of_free_fit(piece, strengths, limits.at)
    return {
        **free,
        "muhat": None if free["muhat"] is None else unit * free["muhat"],
        "CLs_obs": points[0].CLs_obs,
        "CLs_exp": points[0].CLs_exp,
        "points": points,
        "limit": limits_of(limits.crossings, request.level, limits.frame.scale),
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


def _point(strengths: Strengths, at: int, mu: float, unit: float = 1.0) -> MuPoint:
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
        mu=unit * mu,
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
