"""Tests of signal hypotheses: which fits they need, their starts, and the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fitserve_worker.kernel.asymptotics import asymptotic_cls
from fitserve_worker.kernel.fits import joined
from fitserve_worker.kernel.retries import SLACK, better, persistent
from fitserve_worker.kernel.starts import Cases, deepened, fitted, joined_tried, pools_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve_worker.kernel import FloatArray, IntArray
    from fitserve_worker.kernel.arrays import Data
    from fitserve_worker.kernel.fits import Fits, Loaded
    from fitserve_worker.kernel.starts import SecondMinima, Tried

__all__ = [
    "Tests",
    "deepened_together",
    "free_fit",
    "hypotest",
    "reference_value",
    "without_signal",
]

# Signal strengths that are closer than this are the same.
_NEAR = 1e-3


class Tests(NamedTuple):
    """Tests of hypotheses at signal strengths.

    ``CLs_obs`` (hypotheses, mus), ``CLs_exp`` (hypotheses, mus, 5), ``q`` and ``q_asimov``
    (hypotheses, mus). ``null``, ``free`` are the fits to the observed data at mu = 0 and
    with mu free; ``fixed`` and ``asimov``, for each mu, those at mu to the observed data and
    to the Asimov data of ``null``. ``minima`` are what other starts led to: for ``null``,
    ``fixed``, ``free`` and ``asimov``.
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
    minima: list[SecondMinima]


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
    The fit at mu = 0 comes first. Each next mu starts from the one below, the free fit between
    the two fixed ones around its minimum, and the fit to Asimov data from the fit to observed
    data at the same mu.
    """
    every = np.arange(loaded.size)
    initial = loaded.chunk.columns["init"][every]
    data = loaded.observed
    begin = initial if start is None else np.broadcast_to(start, initial.shape)
    null, of_null = without_signal(loaded, begin)
    order = np.argsort(mus, kind="stable")
    fixed: dict[int, Fits] = {}
    tried: dict[int, Tried] = {}
    last = null
    for index in order:
        starts = [last.x, null.x, initial]
        last, tried[index] = _fixed(loaded, every, starts, data, mus[index])
        fixed[index] = last
    by_mu = [fixed[index] for index in range(len(mus))]
    by_strength = {0.0: null, **{mus[index]: fixed[index] for index in order}}
    free = free_fit(
        loaded,
        every,
        data,
        [(np.full(loaded.size, mu), by_strength[mu]) for mu in sorted(by_strength)],
    )
    null = _consistent(loaded, every, data, null, 0.0, free)
    by_mu = [
        _consistent(loaded, every, data, fit, mu, free) for mu, fit in zip(mus, by_mu, strict=True)
    ]
    observed = [null, *by_mu, free]
    (null, *by_mu, free), seen = deepened_together(
        loaded,
        [0.0, *mus, np.nan],
        data,
        observed,
        [of_null, *(tried[index] for index in range(len(mus)))],
    )

    asimov_data = loaded.asimov(null, every)
    both = [
        _fixed(loaded, every, [fit.x, null.x, initial], asimov_data, mu)
        for mu, fit in zip(mus, by_mu, strict=True)
    ]
    asimov, expected = deepened_together(
        loaded, mus, asimov_data, [fit for fit, _ in both], [one for _, one in both]
    )
    muhat = free.x[every, loaded.chunk.poi[every]]
    at = np.array(mus)
    reference = reference_value(free.value, null.value, muhat, test_stat)
    q = 2 * np.stack([fit.value - reference for fit in by_mu], axis=1)
    # The best fit to Asimov data is known: mu = 0, and an objective of zero.
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
        minima=[*seen, *expected],
    )


def reference_value(
    free: FloatArray | float, null: FloatArray, muhat: FloatArray, test_stat: str
) -> FloatArray:
    """Return what -log L with the signal strength held is compared to.

    This is the best fit; for q-tilde, the fit without signal where the best fit is below zero
    (arXiv:1007.1727, eq. 16).

    Parameters
    ----------
    free, null
        -log L with the signal strength free and at zero.
    muhat
        The best-fit signal strength.
    test_stat
        ``"qtilde"`` or ``"q"``.
    """
    chosen: FloatArray = np.where((muhat < 0) & (test_stat == "qtilde"), null, free)
    return chosen


def without_signal(loaded: Loaded, start: FloatArray) -> tuple[Fits, Tried]:
    """Fit hypotheses to the observed data with the signal strength at zero.

    The first one starts at ``start`` (hypotheses, columns) and at the model's initial values, or
    from low minima of the background; the others start where it ended: without signal they hardly
    differ. The Asimov data follow from these parameters, which are therefore needed to more digits
    than the minima.
    """
    initial = loaded.chunk.columns["init"][: loaded.size]
    of_pools: dict[int, list[int]] = {}
    for at, pool in enumerate(pools_of(loaded)):
        of_pools.setdefault(id(pool), []).append(at)
    parts, several = [], []
    for group in of_pools.values():
        first, others = np.array(group[:1]), np.array(group[1:], dtype=int)

        def cases(which: IntArray) -> Cases:
            return Cases(which, np.zeros(len(which)), loaded.observed.take(which))

        leader, tried = fitted(loaded, cases(first), [start[first], initial[first]], exact=True)
        parts.append(leader)
        several.append(tried._replace(rows=tried.rows + group[0]))
        if others.size:
            near = np.broadcast_to(leader.x, (len(others), leader.x.shape[1]))
            bounds = loaded.bounds(others, np.zeros(len(others)))
            data = loaded.observed.take(others)
            starts = [near, start[others], initial[others]]
            rest = persistent(loaded, others, starts, data, bounds, exact=True)
            parts.append(rest)
            several += [
                tried._replace(rows=tried.rows + at, value=tried.value + value - leader.value[0])
                for at, value in zip(others.tolist(), rest.value, strict=True)
            ]
    order = np.argsort(np.concatenate([np.array(group) for group in of_pools.values()]))
    return joined(parts).take(order), joined_tried(several)


def deepened_together(
    loaded: Loaded,
    mus: Sequence[float | FloatArray],
    data: Data,
    fits: Sequence[Fits],
    tried: Sequence[Tried],
) -> tuple[list[Fits], list[SecondMinima]]:
    """Repeat several fits of all hypotheses from other starts.

    Parameters
    ----------
    loaded
        The hypotheses.
    mus
        The signal strength of each of the fits, one for all hypotheses or of shape
        (hypotheses,); NaN stands for a free one.
    data
        The data of each hypothesis.
    fits, tried
        Where the fits ended, and starts that the first of them were tried from.
    """
    every = np.arange(loaded.size)
    cases = Cases(
        np.tile(every, len(mus)),
        np.concatenate([np.broadcast_to(mu, every.shape) for mu in mus]),
        data.take(np.tile(every, len(mus))),
    )
    before = joined_tried([one.moved(at * loaded.size) for at, one in enumerate(tried)])
    lowest, minima = deepened(loaded, cases, joined(fits), before)
    places = [index * loaded.size + every for index in range(len(mus))]
    return [lowest.take(at) for at in places], [minima.take(at) for at in places]


def _fixed(
    loaded: Loaded, every: IntArray, starts: Sequence[FloatArray], data: Data, mu: float
) -> tuple[Fits, Tried]:
    return fitted(loaded, Cases(every, np.full(len(every), float(mu)), data), starts)


def free_fit(
    loaded: Loaded, every: IntArray, data: Data, tested: Sequence[tuple[FloatArray, Fits]]
) -> Fits:
    """Fit with the parameter of interest free, starting between fits with it held.

    Parameters
    ----------
    loaded
        The hypotheses.
    every
        Index of the hypothesis of each fit, of shape (fits,).
    data
        The data of each fit.
    tested
        Signal strengths, of shape (fits,), in rising order, and the fits there.
    """
    rows = np.arange(len(every))
    poi = loaded.chunk.poi[every]
    at = np.stack([mu for mu, _ in tested])
    fits = [fit for _, fit in tested]
    values = np.stack([np.nan_to_num(fit.value, nan=np.inf) for fit in fits])
    slopes = np.stack([fit.gradient[rows, poi] for fit in fits])
    points = np.stack([fit.x for fit in fits])
    best = np.argmin(values, axis=0)
    lowest = points[best, rows]
    # The neighbour towards which the objective falls.
    neighbour = np.clip(best + np.where(slopes[best, rows] < 0, 1, -1), 0, len(at) - 1)
    low, high = np.minimum(best, neighbour), np.maximum(best, neighbour)
    fraction = _cubic_minimum(
        at[high, rows] - at[low, rows],
        values[low, rows],
        slopes[low, rows],
        values[high, rows],
        slopes[high, rows],
    )[:, None]
    between = (1 - fraction) * points[low, rows] + fraction * points[high, rows]
    initial = loaded.chunk.columns["init"][every]
    free = persistent(loaded, every, [between, lowest, initial], data, loaded.bounds(every))
    above = np.flatnonzero(free.value > values[best, rows] + SLACK)
    if above.size:
        # It fell into another minimum than the fixed fits did.
        second = loaded.fit(every[above], lowest[above], data.take(above))
        free = free.replaced(above, better(free.take(above), second))
    return free


def _consistent(
    loaded: Loaded, every: IntArray, data: Data, fixed: Fits, mu: float, free: Fits
) -> Fits:
    """Refit at mu where the free fit ended at mu too, and lower."""
    here = np.abs(free.x[every, loaded.chunk.poi[every]] - mu) < _NEAR
    again = np.flatnonzero(here & (free.value < fixed.value - SLACK))
    if not again.size:
        return fixed
    at = np.full(len(again), float(mu))
    second = loaded.fit(again, free.x[again], data.take(again), at)
    return fixed.replaced(again, better(fixed.take(again), second))


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
