"""CLs of a hypothesis by the fit kernel, watched."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fitserve.contract import HypotestRequest, MuPoint
from fitserve_worker.engines.kernel_pieces import at_bounds, finite, minima, of_fits, of_kind
from fitserve_worker.kernel.hypotest import hypotest
from fitserve_worker.kernel.retries import doubts
from fitserve_worker.kernel.starts import AMBIGUOUS, falling, nearest

if TYPE_CHECKING:
    from fitserve_worker.engines.kernel_pieces import Piece
    from fitserve_worker.kernel import FloatArray
    from fitserve_worker.kernel.fits import Fits
    from fitserve_worker.kernel.hypotest import Tests

__all__ = ["Tested", "answer_hypotest", "cls_problems"]

_ROUNDING = 1e-9


def answer_hypotest(piece: Piece) -> tuple[list[dict[str, Any]], FloatArray | None]:
    """Return fields of the results of hypotheses, and where the next ones may start."""
    request = of_kind(piece.work, HypotestRequest)
    tests = hypotest(piece.loaded, request.mu, request.test_stat, piece.start)
    answers = [
        Tested(piece, tests, index, request.mu).fields() for index in range(len(piece.members))
    ]
    return answers, tests.null.x[0] if bool(tests.null.converged[0]) else None


def cls_problems(rows: FloatArray) -> list[str]:
    """Return what is wrong with CLs, of shape (signal strengths, 6): observed, then expected."""
    problems = []
    if (rows < -_ROUNDING).any() or (rows > 1 + _ROUNDING).any():
        problems.append("a CLs is outside 0 to 1")
    if any(low > high + _ROUNDING for row in rows[:, 1:] for low, high in itertools.pairwise(row)):
        problems.append("the expected CLs are not in order")
    return problems


class Tested(NamedTuple):
    """One hypothesis of some that were tested together, at signal strengths ``mu``."""

    piece: Piece
    tests: Tests
    at: int
    mu: tuple[float, ...]

    def fits(self) -> list[tuple[str, Fits]]:
        """Return all fits that were made, with what they were made for."""
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
        of_fits = [
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
        return of_fits + falling(profile, best)

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
