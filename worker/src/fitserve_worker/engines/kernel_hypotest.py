"""CLs of a hypothesis by the fit kernel, watched."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fitserve.contract import HypotestRequest, MuPoint
from fitserve_worker.engines.kernel_pieces import at_bounds, finite, of_kind
from fitserve_worker.kernel.doubts import doubts
from fitserve_worker.kernel.hypotest import hypotest

if TYPE_CHECKING:
    from fitserve_worker.engines.kernel_pieces import Piece
    from fitserve_worker.kernel.arraytypes import FloatArray
    from fitserve_worker.kernel.fits import Fits
    from fitserve_worker.kernel.hypotest import Tests

__all__ = ["answer_hypotest", "cls_problems"]

_ROUNDING = 1e-9


def answer_hypotest(piece: Piece) -> tuple[list[dict[str, Any]], FloatArray | None]:
    """Return fields of the results of hypotheses, and where the next ones may start."""
    request = of_kind(piece.work, HypotestRequest)
    tests = hypotest(piece.loaded, request.mu, request.test_stat, piece.start)
    answers = [
        _fields(_One(piece, tests, index, request.mu)) for index in range(len(piece.members))
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


class _One(NamedTuple):
    """One hypothesis of some that were tested together."""

    piece: Piece
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


def _fields(one: _One) -> dict[str, Any]:
    tests, index = one.tests, one.at
    problems = _problems(one)
    reason = "; ".join(problems) or None
    free = float(tests.free.value[index])
    points = [
        MuPoint(
            mu=mu,
            CLs_obs=finite(tests.CLs_obs[index, at]),
            CLs_exp=[finite(value) for value in tests.CLs_exp[index, at]],
            status="suspect" if problems else "ok",
            reason=reason,
            twice_delta_nll=2 * max(0.0, float(tests.fixed[at].value[index]) - free),
        )
        for at, mu in enumerate(one.mu)
    ]
    return {
        "status": "suspect" if problems else "ok",
        "reason": reason,
        "CLs_obs": points[0].CLs_obs,
        "CLs_exp": points[0].CLs_exp,
        "points": points,
        "muhat": finite(tests.muhat[index]),
        "twice_nll": finite(2 * (free + one.piece.loaded.chunk.constant[index])),
        "diagnostics": _diagnostics(one),
    }


def _problems(one: _One) -> list[str]:
    tests, index = one.tests, one.at
    rows = np.column_stack([tests.CLs_obs[index], tests.CLs_exp[index]])
    if not np.isfinite(rows).all():
        return ["a result is not a finite number"]
    problems = [
        f"the fit with {name} {what}"
        for name, fit in one.fits().items()
        for what in doubts(one.piece.loaded, fit, index)
    ]
    return problems + cls_problems(rows)


def _diagnostics(one: _One) -> dict[str, float | int | bool | str | None]:
    fits = one.fits().values()
    return {
        "iterations": int(sum(fit.steps[one.at] for fit in fits)),
        "edm": finite(max(abs(float(fit.edm[one.at])) for fit in fits)),
        **at_bounds(one.piece, one.at, one.tests.free),
        "q": finite(one.tests.q[one.at, 0]),
        "q_asimov": finite(one.tests.q_asimov[one.at, 0]),
    }
