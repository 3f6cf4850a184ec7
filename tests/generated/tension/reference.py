"""What is right for a model: the lowest of many minima of each fit, and CLs from them.

The formulae are those of arXiv:1007.1727 for q-tilde, with the signal strength's lower bound
at zero; -2 log L has its constants, as pyhf's has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from scipy.stats import norm

from tension.likelihood import Data, Likelihood
from tension.minimise import Minima, descend, distinct, polish

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tension.likelihood import Array

__all__ = ["Right", "right"]

_STARTS = 60
_AGAIN = 3
_ENOUGH = 4
_CROSSED = 4
_TESTED = 1.0
# Within this of each other in -2 log L, minima without signal are both called possible.
_CLOSE = 0.02
_AMBIGUOUS = 1e-3


class Right(msgspec.Struct, frozen=True, kw_only=True):
    """The right answer for a model at a signal strength of 1.

    ``null`` and ``fixed`` are -2 log L with mu = 0 and mu = 1, ``q`` and ``q_asimov`` q-tilde of
    the observed data and of the Asimov data, which are those of the lowest minimum at mu = 0.
    ``change`` is by how much a CLs differs if they are those of another minimum within 0.02 of
    it. ``negative``: a bin without events expects less than nothing at mu = 0, which pyhf allows;
    there are no Asimov data then. ``minima`` are the numbers of distinct minima found of the free
    fit, those at mu = 0 and mu = 1, and that to the Asimov data; ``hits`` is how many random
    starts of the hardest of these fits ended in its lowest minimum, ``polished`` how far L-BFGS-B
    came below it.
    """

    twice_nll: float
    muhat: float
    CLs_obs: float
    CLs_exp: list[float]
    q: float
    q_asimov: float
    null: float
    fixed: float
    change: float
    negative: bool
    minima: list[int]
    hits: int
    polished: float

    @property
    def ambiguous(self) -> bool:
        """Whether there are no Asimov data, or others that are as good and give another CLs."""
        return self.negative or self.change > _AMBIGUOUS


class _Fit(NamedTuple):
    """A fit: its data, and where its parameter of interest is held (None: free)."""

    data: Data
    mu: float | None


def right(
    spec: dict[str, Any],
    seed: int,
    good: Sequence[Mapping[str, float]] = (),
    *,
    positive: bool = False,
) -> Right:
    """Return the right answer for a workspace with its signal.

    Parameters
    ----------
    spec
        The workspace, whose parameter of interest is 0 to 10.
    seed
        Of the random starts.
    known
        More starts: parameters by their names.
    positive
        See `Likelihood`.
    """
    search = _Search(Likelihood(spec, positive=positive), np.random.default_rng(seed))
    data = search.likelihood.data
    names = search.likelihood.names
    more = np.array([[one[name] for name in names] for one in good]).reshape(-1, len(names))
    fits = {"free": _Fit(data, None), "null": _Fit(data, 0.0), "fixed": _Fit(data, _TESTED)}
    by_fit = {name: search.minima(fit) for name, fit in fits.items()}
    for _ in range(2):
        starts = np.concatenate([more, *(one.points[:_CROSSED] for one in by_fit.values())])
        by_fit = {name: search.more(fits[name], one, starts) for name, one in by_fit.items()}
    polished = {name: search.polished(fits[name], one) for name, one in by_fit.items()}
    below = max(float(by_fit[name].values[0] - one.values[0]) for name, one in polished.items())
    by_fit = polished
    crossed = (by_fit[name].points[:_CROSSED] for name in ("fixed", "null"))
    starts = np.concatenate([more, *crossed])
    null = by_fit["null"]
    close = [i for i, value in enumerate(null.values[:3]) if value - null.values[0] < _CLOSE]
    asimov, expected = [], []
    for i in close:
        fit = _Fit(search.asimov(null.points[i]), _TESTED)
        minima = search.polished(fit, search.more(fit, search.minima(fit), starts))
        asimov.append(minima)
        own = search.likelihood.value(null.points[[i]], fit.data)[0]
        expected.append(max(0.0, float(minima.values[0] - own)))
    muhat = float(by_fit["free"].points[0, search.likelihood.poi])
    values = {name: float(one.values[0]) for name, one in by_fit.items()}
    q = 0.0 if muhat > _TESTED else max(0.0, values["fixed"] - values["free"])
    cls = [_cls(q, one) for one in expected]
    by_fit["asimov"] = asimov[0]
    return Right(
        twice_nll=values["free"],
        muhat=muhat,
        CLs_obs=float(cls[0][0]),
        CLs_exp=cls[0][1:].tolist(),
        q=q,
        q_asimov=expected[0],
        null=values["null"],
        fixed=values["fixed"],
        negative=bool(search.likelihood.expected(null.points[[0]]).events.min() <= 0),
        change=max(float(np.abs(one - cls[0]).max()) for one in cls),
        minima=[len(one.values) for one in by_fit.values()],
        hits=min(int(one.hits[0]) for one in by_fit.values()),
        polished=below,
    )


def _cls(q: float, q_asimov: float) -> Array:
    """Return observed CLs, then the expected ones for -2, -1, 0, 1, 2 sigma."""
    root, root_a = np.sqrt(q), np.sqrt(q_asimov)
    if root_a == 0:
        return np.ones(6)
    moved = root - root_a if root <= root_a else (q - q_asimov) / (2 * root_a)
    at = np.array([moved, 2, 1, 0, -1, -2])
    return np.asarray(norm.sf(at + root_a) / norm.sf(at))


class _Search:
    """Searches for the minima of a likelihood."""

    def __init__(self, likelihood: Likelihood, random: np.random.Generator) -> None:
        self.likelihood = likelihood
        self.random = random

    def minima(self, fit: _Fit) -> Minima:
        """Return minima from random starts, more where few of them reach the lowest."""
        minima = self._from(fit, self._starts(_STARTS))
        for _ in range(_AGAIN):
            if minima.hits[0] >= _ENOUGH:
                break
            minima = self._merged(minima, self._from(fit, self._starts(_STARTS)))
        return minima

    def more(self, fit: _Fit, minima: Minima, starts: Array) -> Minima:
        """Return minima with those of starts that are known to be good, and count for none."""
        ends = self._from(fit, starts)
        return self._merged(minima, ends._replace(hits=np.zeros_like(ends.hits)))

    def _merged(self, *several: Minima) -> Minima:
        return distinct(self.likelihood, *map(np.concatenate, zip(*several, strict=True)))

    def polished(self, fit: _Fit, minima: Minima) -> Minima:
        """Return minima, the lowest three by a second minimiser."""
        low, high = self._bounds(fit, 1)
        points, values = minima.points.copy(), minima.values.copy()
        for i in range(min(3, len(values))):
            points[i], values[i] = polish(self.likelihood, fit.data, points[i], (low[0], high[0]))
        order = np.argsort(values, kind="stable")
        return Minima(points[order], values[order], minima.hits[order])

    def asimov(self, point: Array) -> Data:
        """Return the data expected at a point."""
        expected = self.likelihood.expected(point[None])
        return Data(np.maximum(expected.events[0], 0.0), expected.auxiliary[0])

    def _from(self, fit: _Fit, starts: Array) -> Minima:
        bounds = self._bounds(fit, len(starts))
        # A hair off: a start that is a minimum of another fit may be at rest on a saddle of this.
        moves = np.nan_to_num(self.likelihood.widths) * self.random.normal(size=starts.shape)
        starts = starts + 1e-3 * moves
        ends = descend(self.likelihood, fit.data, starts, bounds)
        return distinct(self.likelihood, *ends, np.ones(len(starts), dtype=int))

    def _bounds(self, fit: _Fit, count: int) -> tuple[Array, Array]:
        low = np.tile(self.likelihood.lower, (count, 1))
        high = np.tile(self.likelihood.upper, (count, 1))
        if fit.mu is not None:
            low[:, self.likelihood.poi] = high[:, self.likelihood.poi] = fit.mu
        return low, high

    def _starts(self, count: int) -> Array:
        """Return the initial values, those with other strengths, and random points.

        Constrained parameters are up to five widths off, free factors between 0.1 and 5; a
        point where a bin has no events is moved towards the initial values.
        """
        one, random = self.likelihood, self.random
        shape = (count, len(one.names))
        reach = random.choice([1.0, 2.5, 5.0], (count, 1))
        free = np.exp(random.uniform(np.log(0.1), np.log(5), shape))
        uniform = one.inits + one.widths * reach * random.uniform(-1, 1, shape)
        points = np.where(np.isnan(one.widths), free, uniform)
        points[:, one.poi] = random.choice([0, 1, 10], count) * random.uniform(0, 1, count)
        first = min(count // 6, 8)
        points[:first] = one.inits
        points[:first, one.poi] = [1.0, 0.0, 0.3, 2.0, 4.0, 6.0, 8.0, 10.0][:first]
        points = np.clip(points, one.lower, one.upper)
        for _ in range(12):
            bad = ~np.isfinite(one.value(points, one.data))
            points[bad] = one.inits + 0.7 * (points[bad] - one.inits)
        return points
