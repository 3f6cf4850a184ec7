"""Tests of signal hypotheses: which fits, from where, and what follows from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fitserve_worker.kernel.asymptotics import asymptotic_cls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve_worker.kernel.arraytypes import BoolArray, FloatArray, IntArray
    from fitserve_worker.kernel.fits import Data, Fits, Loaded

__all__ = ["Tests", "hypotest"]

# Free and fixed fits may differ by this much in -log L in the wrong direction.
_SLACK = 1e-7
# Signal strengths that are the same.
_NEAR = 1e-3


class Tests(NamedTuple):
    """Tests of hypotheses at signal strengths.

    ``CLs_obs`` (hypotheses, mus), ``CLs_exp`` (hypotheses, mus, 5), ``q`` and ``q_asimov``
    (hypotheses, mus). ``null``, ``free`` are the fits to the observed data at mu = 0 and
    with mu free; ``fixed`` and ``asimov``, for each mu, those at mu to the observed data and
    to the Asimov data of ``null``.
    """

    CLs_obs: FloatArray
    CLs_exp: FloatArray
    q: FloatArray
    q_asimov: FloatArray
    muhat: FloatArray
    null: Fits
    free: Fits
    fixed: list[Fits]
    asimov: list[Fits]


def hypotest(
    loaded: Loaded, mus: Sequence[float], test_stat: str, start: FloatArray | None = None
) -> Tests:
    """Test hypotheses against their observed data.

    Parameters
    ----------
    loaded
        The hypotheses.
    mus
        Signal strengths.
    test_stat
        ``"qtilde"`` or ``"q"``.
    start
        Where the fits without signal start, of shape (columns,); by default where pyhf would.

    Notes
    -----
    The fit at mu = 0 comes first; each next mu starts from the one below, the free fit
    between the two fixed ones that have its minimum between them, and the fit to the Asimov
    data from that to the observed data at the same mu.
    """
    every = np.arange(loaded.size)
    initial = loaded.chunk.columns["init"][every]
    data = loaded.observed
    known = initial if start is None else np.broadcast_to(start, initial.shape)
    null = _fixed(loaded, every, [known, initial], data, 0.0)
    order = np.argsort(mus, kind="stable")
    fixed: dict[int, Fits] = {}
    last = null
    for index in order:
        last = _fixed(loaded, every, [last.x, null.x, initial], data, mus[index])
        fixed[index] = last
    by_mu = [fixed[index] for index in range(len(mus))]
    free = _free(loaded, every, data, null, [(mus[index], fixed[index]) for index in order])
    null = _consistent(loaded, every, data, null, 0.0, free)
    by_mu = [
        _consistent(loaded, every, data, fit, mu, free) for mu, fit in zip(mus, by_mu, strict=True)
    ]

    asimov_data = loaded.asimov(null, every)
    asimov = [
        _fixed(loaded, every, [fit.x, null.x, initial], asimov_data, mu)
        for mu, fit in zip(mus, by_mu, strict=True)
    ]
    muhat = free.x[every, loaded.chunk.poi[every]]
    at = np.array(mus)
    q = 2 * np.stack([fit.value - free.value for fit in by_mu], axis=1)
    # The Asimov data's own parameters are their best fit, with mu = 0 and objective zero.
    q_asimov = 2 * np.stack([fit.value for fit in asimov], axis=1)
    q = np.where(muhat[:, None] > at, 0.0, np.maximum(q, 0.0))
    q_asimov = np.where(at < 0, 0.0, np.maximum(q_asimov, 0.0))
    cls = asymptotic_cls(q.ravel(), q_asimov.ravel(), test_stat)
    return Tests(
        CLs_obs=cls.observed.reshape(q.shape),
        CLs_exp=cls.expected.reshape(*q.shape, 5),
        q=q,
        q_asimov=q_asimov,
        muhat=muhat,
        null=null,
        free=free,
        fixed=by_mu,
        asimov=asimov,
    )


def _fixed(
    loaded: Loaded, every: IntArray, starts: Sequence[FloatArray], data: Data, mu: float
) -> Fits:
    return _persistent(loaded, every, starts, data, np.full(len(every), float(mu)))


def _persistent(
    loaded: Loaded,
    every: IntArray,
    starts: Sequence[FloatArray],
    data: Data,
    poi: FloatArray | None,
) -> Fits:
    """Fit from the first start, and from the others where that does not converge.

    A kink at zero may have a minimum on either side of it: each is tried.
    """

    def refit(fits: Fits, which: IntArray, start: FloatArray) -> Fits:
        at = None if poi is None else poi[which]
        second = loaded.fit(every[which], start[which], data.take(which), at)
        return fits.replaced(which, _better(fits.take(which), second))

    fits = loaded.fit(every, starts[0], data, poi)
    for start in starts[1:]:
        again = np.flatnonzero(~_sound(fits))
        if not again.size:
            break
        fits = refit(fits, again, start)
    if loaded.kinked is not None:
        fits = refit(fits, np.arange(len(every)), np.where(loaded.kinked, -fits.x, fits.x))
    return fits


def _sound(fits: Fits) -> BoolArray:
    return fits.converged & fits.positive


def _better(first: Fits, second: Fits) -> Fits:
    """Return of each two fits the sound one, or the lower one if both are or neither is."""
    lower = (second.value < first.value - _SLACK) | ~np.isfinite(first.value)
    takes = np.where(_sound(first) == _sound(second), lower, _sound(second))
    return first.replaced(np.flatnonzero(takes), second.take(takes))


def _free(
    loaded: Loaded, every: IntArray, data: Data, null: Fits, tested: list[tuple[float, Fits]]
) -> Fits:
    """Fit with the parameter of interest free, starting between the fits with it fixed."""
    poi = loaded.chunk.poi[every]
    by_mu = {0.0: null, **dict(tested)}
    at = np.array(sorted(by_mu))
    fits = [by_mu[mu] for mu in at]
    values = np.stack([np.nan_to_num(fit.value, nan=np.inf) for fit in fits])
    slopes = np.stack([fit.gradient[every, poi] for fit in fits])
    points = np.stack([fit.x for fit in fits])
    best = np.argmin(values, axis=0)
    lowest = points[best, every]
    # The neighbour towards which the objective falls.
    neighbour = np.clip(best + np.where(slopes[best, every] < 0, 1, -1), 0, len(at) - 1)
    low, high = np.minimum(best, neighbour), np.maximum(best, neighbour)
    fraction = _cubic_minimum(
        at[high] - at[low],
        values[low, every],
        slopes[low, every],
        values[high, every],
        slopes[high, every],
    )[:, None]
    between = (1 - fraction) * points[low, every] + fraction * points[high, every]
    initial = loaded.chunk.columns["init"][every]
    free = _persistent(loaded, every, [between, lowest, initial], data, None)
    above = np.flatnonzero(free.value > values[best, every] + _SLACK)
    if above.size:
        # It fell into another minimum than the fixed fits did.
        second = loaded.fit(above, lowest[above], data.take(above))
        free = free.replaced(above, _better(free.take(above), second))
    return free


def _consistent(
    loaded: Loaded, every: IntArray, data: Data, fixed: Fits, mu: float, free: Fits
) -> Fits:
    """Refit at mu where the free fit ended at mu too, and lower."""
    here = np.abs(free.x[every, loaded.chunk.poi[every]] - mu) < _NEAR
    again = np.flatnonzero(here & (free.value < fixed.value - _SLACK))
    if not again.size:
        return fixed
    at = np.full(len(again), float(mu))
    second = loaded.fit(again, free.x[again], data.take(again), at)
    return fixed.replaced(again, _better(fixed.take(again), second))


def _cubic_minimum(
    width: FloatArray, v0: FloatArray, s0: FloatArray, v1: FloatArray, s1: FloatArray
) -> FloatArray:
    """Return where in [0, 1] the cubic with values v and slopes s at both ends is lowest."""
    s0, s1 = s0 * width, s1 * width
    with np.errstate(all="ignore"):
        d1 = s0 + s1 - 3 * (v1 - v0)
        d2 = np.sqrt(d1 * d1 - s0 * s1)
        inside = 1 - (s1 + d2 - d1) / (s1 - s0 + 2 * d2)
    ends = np.where(v0 <= v1, 0.0, 1.0)
    usable = np.isfinite(inside) & (s0 < 0) & (s1 > 0)
    return np.where(usable, np.clip(np.where(usable, inside, 0.0), 0.0, 1.0), ends)
