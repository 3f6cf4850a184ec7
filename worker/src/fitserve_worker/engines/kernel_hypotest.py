"""CLs of hypotheses by the fit kernel, reasons to doubt them, and fields that all answers share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fitserve_contract import HypotestRequest, MuPoint
from fitserve_worker.engines.base import cls_problems, of_kind
from fitserve_worker.engines.solution import listed
from fitserve_worker.kernel.hypotest import hypotest
from fitserve_worker.kernel.retries import doubts
from fitserve_worker.kernel.starts import AMBIGUOUS, falling, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve_worker.engines.base import Work
    from fitserve_worker.kernel import FloatArray
    from fitserve_worker.kernel.batch import Batch
    from fitserve_worker.kernel.fits import Fits, Loaded
    from fitserve_worker.kernel.hypotest import Tests

__all__ = [
    "Piece",
    "Tested",
    "answer_hypotest",
    "at_bounds",
    "finite",
    "minima",
    "next_start",
    "of_fits",
]


class Piece(NamedTuple):
    """Hypotheses that are on the device together.

    ``members`` are their indices in the batch. ``start`` (columns,) is where fits without
    signal may start, the end of an earlier one; None if there is none.
    """

    work: Work
    batch: Batch
    loaded: Loaded
    members: Sequence[int]
    start: FloatArray | None


def finite(value: Any) -> float | None:
    """Return a Python number, or None for one that is not finite."""
    number = float(value)
    return number if math.isfinite(number) else None


def next_start(null: Fits) -> FloatArray | None:
    """Return where fits without signal to the next hypotheses may start: the end of these."""
    return null.x[0] if bool(null.converged[0]) else None


def of_fits(fits: Sequence[Fits], index: int) -> dict[str, Any]:
    """Return how the fits to a hypothesis went, all together, for a result's diagnostics.

    Parameters
    ----------
    fits
        Fits of different kinds, each to all hypotheses.
    index
        Index of the hypothesis.
    """
    return {
        "converged": all(bool(one.converged[index]) for one in fits),
        "iterations": int(sum(one.steps[index] for one in fits)),
        "edm": finite(max(abs(float(one.edm[index])) for one in fits)),
        "positive_definite": all(bool(one.positive[index]) for one in fits),
    }


def minima(piece: Piece, index: int, free: Fits, background: Fits) -> dict[str, Any]:
    """Return -2 log L of the observed data at the minima of a hypothesis, for a result.

    Parameters
    ----------
    piece
        The hypotheses.
    index
        Index of one of them.
    free, background
        Fits to the observed data, with the signal strength free and at zero.
    """
    constant = piece.loaded.chunk.constant[index]
    return {
        "twice_nll": finite(2 * (free.value[index] + constant)),
        "twice_nll_background": finite(2 * (background.value[index] + constant)),
    }


def at_bounds(piece: Piece, index: int, fits: Fits) -> dict[str, Any]:
    """Return which free parameters ended at a bound, for a result's diagnostics.

    Parameters
    ----------
    piece
        The hypotheses.
    index
        Index of one of them.
    fits
        Fits, one for each of them.
    """
    chunk = piece.loaded.chunk
    columns, bins = (
        (of["lower"][index] < of["upper"][index])
        & ((value <= of["lower"][index]) | (value >= of["upper"][index]))
        for of, value in ((chunk.columns, fits.x[index]), (chunk.local, fits.local[index]))
    )
    count = int(columns.sum() + bins.sum())
    if not count:
        return {"at_bounds": 0}
    names = piece.batch.names_at(piece.members[index], columns, bins)
    return {"at_bounds": count, "parameters_at_bounds": listed(names)}


def answer_hypotest(piece: Piece) -> tuple[list[dict[str, Any]], FloatArray | None]:
    """Return fields of the results of hypotheses, and where the next ones may start."""
    request = of_kind(piece.work, HypotestRequest)
    tests = hypotest(piece.loaded, request.mu, request.test_stat, piece.start)
    answers = [
        Tested(piece, tests, index, request.mu).fields() for index in range(len(piece.members))
    ]
    return answers, next_start(tests.null)


class Tested(NamedTuple):
    """One hypothesis of some that were tested together, at signal strengths ``mu``."""

    piece: Piece
    tests: Tests
    at: int
    mu: tuple[float, ...]

    def fits(self) -> list[tuple[str, Fits]]:
        """Return all fits with their names."""
        tests = self.tests
        held = zip(self.mu, tests.fixed, strict=True)
        asimov = zip(self.mu, tests.asimov, strict=True)
        return [
            ("background", tests.null),
            *((f"mu = {mu:g}", fit) for mu, fit in held),
            ("free", tests.free),
            *((f"Asimov, mu = {mu:g}", fit) for mu, fit in asimov),
        ]

    def doubts(self) -> list[str]:
        """Return the reasons to doubt the fits."""
        tests, at = self.tests, self.at
        reasons = [
            f"the fit with {name} {what}"
            for (name, fit), seen in zip(self.fits(), tests.minima, strict=True)
            for what in [
                *doubts(self.piece.loaded, fit, at),
                *seen.doubts(at, AMBIGUOUS if name == "background" else 0.0),
            ]
        ]
        held = zip((0.0, *self.mu), (tests.null, *tests.fixed), strict=True)
        profile = [(mu, float(fit.value[at])) for mu, fit in held]
        best = float(tests.muhat[at]), float(tests.free.value[at])
        return reasons + falling(profile, best)

    def fields(self) -> dict[str, Any]:
        """Return fields of a result."""
        tests, index = self.tests, self.at
        problems = self._problems()
        reason = "; ".join(problems) or None
        free = float(tests.free.value[index])
        points = [
            MuPoint(
                mu=mu,
                CLs_obs=finite(tests.CLs_obs[index, at]),
                CLs_exp=[finite(value) for value in tests.CLs_exp[index, at]],
                status="suspect" if problems else "ok",
                reason=reason,
                twice_delta_nll=finite(2 * max(0.0, float(tests.fixed[at].value[index]) - free)),
                q_asimov=finite(tests.q_asimov[index, at]),
            )
            for at, mu in enumerate(self.mu)
        ]
        return {
            "status": "suspect" if problems else "ok",
            "reason": reason,
            "CLs_obs": points[0].CLs_obs,
            "CLs_exp": points[0].CLs_exp,
            "points": points,
            "muhat": finite(tests.muhat[index]),
            **minima(self.piece, index, tests.free, tests.null),
            "diagnostics": self.diagnostics(),
        }

    def diagnostics(self) -> dict[str, float | int | bool | str | None]:
        """Return a result's diagnostics."""
        return {
            **of_fits([fit for _, fit in self.fits()], self.at),
            **at_bounds(self.piece, self.at, self.tests.free),
            **nearest(self.tests.minima).second(self.at),
            "q": finite(self.tests.q[self.at, 0]),
            "q_asimov": finite(self.tests.q_asimov[self.at, 0]),
        }

    def _problems(self) -> list[str]:
        tests, index = self.tests, self.at
        rows = np.column_stack([tests.CLs_obs[index], tests.CLs_exp[index]])
        if not np.isfinite(rows).all():
            return ["a result is not a finite number"]
        return self.doubts() + cls_problems(rows)
