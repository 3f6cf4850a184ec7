"""The minima of -2 log L that CLs at one signal strength comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fitserve_worker.kernel.asymptotics import asymptotic_cls

if TYPE_CHECKING:
    from fitserve.contract import HypothesisResult, MuPoint

__all__ = ["SAME", "Minima", "minima_of"]

SAME = 1e-6
"""Two minima of -2 log L that are nearer than this are the same one."""

# Parameters at such minima are up to 1e-3 standard deviations apart, and the test statistics of
# Asimov data that are made of them as much as this: the lower one need not be the better one.
_SCATTER = 5e-3


class Minima(NamedTuple):
    """-2 log L of the observed data at its minima, and the test statistic of the Asimov data."""

    free: float
    held: float
    background: float
    q_asimov: float
    muhat: float

    def lower(self, other: Minima) -> Minima:
        """Return the lower minimum of each fit; the Asimov data are those of the background.

        Where both have the same, and nothing says which test statistic of them is better, this
        one's is kept.
        """
        if not self.alike(other):
            q_asimov = min(self, other, key=lambda one: one.background).q_asimov
        elif abs(self.q_asimov - other.q_asimov) > _SCATTER:
            q_asimov = min(self.q_asimov, other.q_asimov)
        else:
            q_asimov = self.q_asimov
        return Minima(
            free=min(self.free, other.free),
            held=min(self.held, other.held),
            background=min(self.background, other.background),
            q_asimov=q_asimov,
            muhat=min(self, other, key=lambda one: one.free).muhat,
        )

    def alike(self, other: Minima) -> bool:
        """Whether the Asimov data of both are the same, but for what `_SCATTER` allows."""
        return abs(self.background - other.background) <= SAME

    def cls(self, mu: float, test_stat: str) -> list[float]:
        """Return observed and expected CLs."""
        # Equation 16 of arXiv:1007.1727.
        below = self.muhat < 0 and test_stat == "qtilde"
        lowest = self.background if below else self.free
        q = 0.0 if self.muhat > mu else max(0.0, self.held - lowest)
        cls = asymptotic_cls(np.array([q]), np.array([self.q_asimov]), test_stat)
        return [float(cls.observed[0]), *cls.expected[0].tolist()]


def minima_of(result: HypothesisResult, point: MuPoint) -> Minima | None:
    """Return the minima of a result at one of its points, None where some are not known."""
    known = (
        result.twice_nll,
        point.twice_delta_nll,
        result.twice_nll_background,
        point.q_asimov,
        result.muhat,
    )
    if None in known:
        return None
    free, delta, background, q_asimov, muhat = (float(one or 0.0) for one in known)
    return Minima(free, free + delta, background, q_asimov, muhat)
