"""Other starts for fits, and whether they lead to the same minimum.

A likelihood may have several minima, and Newton's method ends in the one that its start leads
to. Fits are therefore tried from other starts: free ones, and all of a small model, from the
initial values and from stronger signals; every fit with parameters moved across zero where they
may do as well there; and those of a hypothesis with something unusual from many starts. Where
many systematics move a bin the same way up and down, each choice of their sides may be a minimum,
and a start only leads to one nearby. Fits with weak constraints have few minima: there they come
first, and lead to the low ones. All these fits end early, as soon as it is clear which minimum
they lead to; those that may be lower are fitted to the end.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fitserve_worker.kernel.arrays import Bounds, Data
from fitserve_worker.kernel.pool import ALIKE, more_events, pool_of, pooled
from fitserve_worker.kernel.retries import SLACK, better, persistent, sound

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fitserve_worker.kernel import BoolArray, FloatArray, IntArray
    from fitserve_worker.kernel.fits import Fits, Loaded
    from fitserve_worker.kernel.pool import Pool

__all__ = [
    "AMBIGUOUS",
    "Cases",
    "SecondMinima",
    "Tried",
    "deepened",
    "falling",
    "fitted",
    "joined_tried",
    "nearest",
    "pools_of",
]

AMBIGUOUS = 5e-3
"""With two minima as close as this, in -log L, the fitted parameters may belong to either, and so
may Asimov data."""

# A fit that ended early is in the basin of a minimum if its EDM, in -log L, is below this.
_IN_BASIN = 0.05
# Minima closer than this in -log L are the same. A fit that ended early is near a minimum if it
# is this close, and no parameter further away, in standard deviations of its constraint.
_SAME = 1e-3
_SLIGHT = 1e-2
_APART = 0.3
# Another minimum no further above the lowest than this, in -log L, is a reason for more starts.
_RIVAL = 12.5
# The lowest minimum may not be the lowest if no more than this many of enough starts led there.
_ENOUGH = 12
_RARE = 1
# Random starts where something is unusual, in large and in small models; how many of them small
# models always get; and how far they scatter, in standard deviations.
_STARTS = 24
_MANY = 96
_ALWAYS = 8
_SCATTER = (1.0, 2.0, 4.0)
_SEED = 20210317
# Parameters without a constraint scatter by this factor, signal strengths from this fraction of
# their range upwards.
_FACTOR = 1.0
_LEAST_POI = 1e-3
# Signal strengths to start from, as fractions of their range, in large and in small models; and
# the rise of -log L at a strength that is excluded.
_STRENGTHS = {False: (0.5,), True: (0.3, 1.0)}
_EXCLUDED = 1.0
# Parameters that may do as well on the other side of zero: by how much the slopes on the two sides
# must differ, in units of the constraint's; how strong the one beyond must be relative to the
# other, which decides where the minimum is lower; the least distance from zero to start at; how
# many parameters of a fit are tried, and how often.
_BOTH = 0.7
_STRONG = 0.5
_LEAST_FLIP = 0.5
_FLIPS = 8
_ROUNDS = 4
# Where fits with weaker constraints lead to minima: what constraints are multiplied by, one after
# the other; how far from their centres all parameters start, in standard deviations; how many free
# factors are held at their bounds; and how far below zero samples may be in the minimum, in
# standard deviations of a bin's events.
_WEAKER = (0.003, 0.1)
_SIDES = (-1.0, 0.0, 1.0)
_FACTORS = 4
_NEGATIVE = 0.1
# How many minima of the background fits are tried from.
_TRIED = 3
_CLOSE = 0.15
_FROM_HELD = 2
# Where factors start that ended at zero together.
_ABOVE_ZERO = 0.1
# A fit that misses the data by more than this many standard deviations of chi-squared is unusual.
_TENSION = 3.0


class Cases(NamedTuple):
    """Fits to make, with the fit as first axis.

    ``hypothesis`` is the index of the hypothesis of each, ``poi`` the signal strength that is held
    (NaN: free), ``data`` what is fitted.
    """

    hypothesis: IntArray
    poi: FloatArray
    data: Data

    def take(self, which: IntArray | BoolArray) -> Cases:
        """Return some of the fits."""
        return Cases(self.hypothesis[which], self.poi[which], self.data.take(which))


class Tried(NamedTuple):
    """Starts that fits were tried from, and where they led, with the start as first axis.

    ``rows`` are the indices of the fits. ``value`` and ``x`` are about the minima, ``depth`` is how
    far below zero samples are there, see `fitserve_worker.kernel.fits.Loaded.negative`, and
    ``settled`` tells which are in the basin of a minimum for sure.
    """

    rows: IntArray
    value: FloatArray
    x: FloatArray
    depth: FloatArray
    settled: BoolArray
    slopes: FloatArray

    def lowest(self, otherwise: FloatArray) -> FloatArray:
        """Return the lowest minima of each fit that count, of shape (fits, columns)."""
        lowest = otherwise.copy()
        order = np.argsort(self.value, kind="stable")
        order = order[self.depth[order] <= _NEGATIVE]
        which, first = np.unique(self.rows[order], return_index=True)
        lowest[which] = self.x[order[first]]
        return lowest

    def moved(self, by: int) -> Tried:
        """Return the same with indices of fits that come after ``by`` others."""
        return self._replace(rows=self.rows + by)


class SecondMinima(NamedTuple):
    """What other starts led to, with the fit as first axis.

    ``rival`` is how far the second minimum is above the lowest, in units of -log L, infinite
    where no start led to one. Of ``starts`` that led to any minimum ``same`` led to the lowest.
    ``negative`` is how far below the lowest there is a minimum in which a sample expects negative
    events, zero if there is none.
    """

    rival: FloatArray
    same: IntArray
    starts: IntArray
    negative: FloatArray

    def take(self, which: IntArray | BoolArray) -> SecondMinima:
        """Return those of some of the fits."""
        return SecondMinima._make(array[which] for array in self)

    def second(self, at: int) -> dict[str, float | int | bool | str | None]:
        """Return how far above the second minimum is, for a result's diagnostics, if there is one.

        In units of -2 log L; one too far above to matter does not count. So is how far below there
        is a minimum in which a sample expects negative events.
        """
        rival, negative = float(self.rival[at]), float(self.negative[at])
        diagnostics: dict[str, float | int | bool | str | None] = {}
        if rival < _RIVAL:
            diagnostics["second_minimum"] = 2 * rival
        if negative > 0:
            diagnostics["negative_minimum"] = 2 * negative
        return diagnostics

    def doubts(self, at: int, close: float = 0.0) -> list[str]:
        """Return the reasons to doubt a fit, each the end of a sentence that begins "the fit".

        Parameters
        ----------
        at
            Which fit.
        close
            In units of -log L; a second minimum no further above is a reason too.
        """
        rival, same, starts = float(self.rival[at]), int(self.same[at]), int(self.starts[at])
        rare = starts >= _ENOUGH and same <= _RARE
        if not rare and rival > close:
            return []
        led = f"{same} of {starts} starts led to the lowest"
        return [f"has a second minimum, where -2 log L is {2 * rival:.2g} higher ({led})"]


def joined_tried(several: Sequence[Tried]) -> Tried:
    """Return starts one after the other."""
    return Tried._make(map(np.concatenate, zip(*several, strict=True)))


def nearest(several: Iterable[SecondMinima]) -> SecondMinima:
    """Return for each hypothesis, of several fits to it, the minima with the nearest rival."""
    fields = [np.stack(arrays) for arrays in zip(*several, strict=True)]
    best = np.argmin(fields[0], axis=0)
    closest = SecondMinima._make(array[best, np.arange(len(best))] for array in fields)
    return closest._replace(negative=fields[-1].max(axis=0))


def falling(points: Iterable[tuple[float, float]], best: tuple[float, float]) -> list[str]:
    """Return the reasons to doubt a profile of -log L: where it falls away from its minimum.

    Parameters
    ----------
    points
        Signal strengths, and the minimum of -log L with each held.
    best
        The best-fit one, and the minimum there.
    """
    ordered = sorted([*points, best])
    reasons = []
    for (low, at_low), (high, at_high) in itertools.pairwise(ordered):
        fall = at_low - at_high if low >= best[0] else at_high - at_low
        if fall > _SAME:
            reasons.append(
                f"the profile of -2 log L falls by {2 * fall:.2g} from mu = "
                + (f"{low:.4g} to {high:.4g}" if low >= best[0] else f"{high:.4g} to {low:.4g}")
                + f", away from its minimum at {best[0]:.4g}"
            )
    return reasons


def deepened(
    loaded: Loaded,
    cases: Cases,
    fits: Fits,
    tried: Tried | None = None,
    *,
    lead: bool = True,
) -> tuple[Fits, SecondMinima]:
    """Fit from other starts too, and return the lowest fits.

    Parameters
    ----------
    loaded
        The hypotheses.
    cases, fits
        The fits, and where they ended.
    tried
        Starts that were tried before, see `fitted`.
    lead
        Whether to look for minima with weaker constraints where the background is rugged; not
        needed where the fits start from minima found that way.
    """
    search = _Search(loaded, cases, fits)
    if tried is not None and len(tried.rows):
        more = search.note(tried)
        search.look(more, flips=search.from_held())
    search.leave_zeros()
    initial = loaded.chunk.columns["init"][cases.hypothesis]
    first = np.flatnonzero(np.isnan(cases.poi) | loaded.small)
    usual = [(first, initial[first]), *map(search.stronger, _STRENGTHS[loaded.small])]
    if loaded.small:
        every = np.arange(len(initial))
        usual += [(every, starts) for starts in search.scattered(every, _ALWAYS)]
    search.look(usual, flips=search.flips())
    unusual = search.unusual()
    search.flip()
    if loaded.small:
        unusual |= search.minima().rival < _RIVAL
    unusual = np.unique(cases.hypothesis[unusual])
    if unusual.size:
        rows = np.flatnonzero(np.isin(cases.hypothesis, unusual))
        count = _MANY if loaded.small else _STARTS
        search.look((rows, starts) for starts in search.scattered(rows, count))
        search.look((rows, starts) for starts in search.others(rows))
        search.flip()
        # Where one fit ended may be a start for another one of the same hypothesis.
        search.look((rows, starts) for starts in search.others(rows))
    if loaded.rugged and lead:
        alone = np.array([pool is None for pool in pools_of(loaded)])[cases.hypothesis]
        search.lead(np.flatnonzero(alone))
    search.look(search.from_lowered())
    search.sharpen()
    return search.fits, search.minima()


def fitted(
    loaded: Loaded, cases: Cases, starts: Sequence[FloatArray], *, exact: bool = False
) -> tuple[Fits, Tried]:
    """Fit from low minima of the background where it has many, and then as `persistent`.

    Parameters
    ----------
    loaded, cases
        The hypotheses, and the fits, with the signal strength held.
    starts, exact
        As in `persistent`. The first ones are for backgrounds with few minima.
    """
    tried = _tried(loaded, cases, starts[0])
    bounds = loaded.bounds(cases.hypothesis, cases.poi)
    first = [tried.lowest(starts[0]), *starts] if len(tried.rows) else starts
    fits = persistent(loaded, cases.hypothesis, first, cases.data, bounds, exact=exact)
    return fits, tried


def pools_of(loaded: Loaded) -> list[Pool | None]:
    """Return the pool of each hypothesis' background; none where there are few minima."""
    if not loaded.rugged or loaded.small:
        return [None] * loaded.size
    return [pool_of(loaded, at, functools.partial(_made, loaded, at)) for at in range(loaded.size)]


def _tried(loaded: Loaded, cases: Cases, start: FloatArray) -> Tried:
    """Fit roughly from those minima of the background where fits are lowest."""
    init = loaded.chunk.columns["init"]
    pools = pools_of(loaded)
    own = np.ones(init.shape[1], dtype=bool)
    own[list(loaded.batch.columns.of.values())] = False
    rows: list[int] = []
    starts, bound = [], []
    for pool in {id(pool): pool for pool in pools if pool is not None}.values():
        mine = np.flatnonzero([pools[at] is pool for at in cases.hypothesis.tolist()])
        some = cases.take(mine)
        values = pool.values(loaded, some.hypothesis, some.poi, some.data)
        for row, at, value in zip(mine.tolist(), some.hypothesis, values, strict=True):
            rows.append(row)
            starts.append(start[row])
            bound.append(np.zeros(len(own), dtype=bool))
            for one in pool.choose(value, _TRIED):
                rows.append(row)
                starts.append(np.where(own, init[at], pool.x[one]))
                bound.append(pool.bound[one])
    again = np.array(rows, dtype=int)
    if not rows:
        none = np.zeros((0, len(own)))
        return Tried(again, none[:, 0], none, none[:, 0], again > 0, np.zeros((0, 2, len(own))))
    cases, begin, at_bound = cases.take(again), np.stack(starts), np.stack(bound)
    free = loaded.bounds(cases.hypothesis, cases.poi)
    # Fits leave a bound where the pull is to it only beyond the first steps.
    lower, upper = (np.where(at_bound, begin, end) for end in (free.lower, free.upper))
    bounds = free._replace(lower=lower, upper=upper)
    nowhere = np.full(begin.shape, np.nan)
    rough = loaded.fit_roughly(cases.hypothesis, begin, cases.data, bounds, nowhere)
    pull = np.where(begin <= free.lower, -rough.gradient, rough.gradient)
    settled = _settled(loaded, rough) & ~(at_bound & (pull > 0)).any(axis=1)
    # One that is not there yet may be the lowest all the same.
    good = np.flatnonzero(
        np.isfinite(rough.value) & (rough.yields[:, loaded.slots] >= 0).all(axis=1)
    )
    end = rough.take(good)
    depth = loaded.negative(cases.hypothesis[good], end)
    return Tried(again[good], end.value, end.x, depth, settled[good], end.slopes)


def _settled(loaded: Loaded, rough: Fits) -> BoolArray:
    """Tell which fits that ended early are in the basin of a minimum."""
    return (
        rough.positive
        & (rough.edm < _IN_BASIN)
        & np.isfinite(rough.value)
        & (rough.yields[:, loaded.slots] >= 0).all(axis=1)
    )


def _made(loaded: Loaded, at: int) -> Pool | None:
    """Look for the low minima of a hypothesis' background, with and without more events."""
    background = loaded.alone(at, np.zeros((1, len(loaded.slots))))
    one = np.zeros(1, dtype=int)
    held = np.where(background.chunk.poi[one] >= 0, 0.0, np.nan)
    initial, observed = background.chunk.columns["init"][one], background.observed
    bounds = background.bounds(one, held)
    first = persistent(background, one, [initial], observed, bounds, exact=True)
    search = _Search(background, Cases(one, held, observed), first)
    search.look([(one, initial[one])], flips=search.flips())
    search.flip()
    search.lead(one)
    search.sharpen()
    null = search.fits
    if not (sound(null).all() and np.isfinite(null.value).all()):
        return None
    searches = [search]
    events = null.yields[0, loaded.slots]
    more = np.concatenate([np.zeros((1, len(events))), more_events(events)])
    background = loaded.alone(at, more)
    more = more[: background.size]
    every = np.arange(background.size)
    expected = background.asimov(null.take(0 * every), every)
    for data, rows in ((background.observed, every[1:]), (expected, every[1 : 1 + ALIKE])):
        cases = Cases(rows, held[0 * rows], data.take(rows))
        bounds, starts = background.bounds(rows, cases.poi), [null.x[0 * rows], initial[0 * rows]]
        ended = persistent(background, rows, starts, cases.data, bounds)
        searches.append(_Search(background, cases, ended))
    some = np.arange(len(every) - 1)
    led = (searches[1].led(some, x) for x in searches[1].spread(some))
    searches[1].look(((some, x) for x in led), flips=searches[1].flips())
    low = _joined(background, searches, more).different()
    for search in searches[1:]:
        some = np.arange(len(search.fits.value))
        search.look((some, np.tile(x, (len(some), 1))) for x in low)
    return _joined(background, searches, more)


def _joined(background: Loaded, searches: list[_Search], more: FloatArray) -> Pool:
    """Return the minima that searches led to."""
    found: list[Any] = [search.ends() for search in searches]
    at, x = (np.concatenate([one[part] for one in found]) for part in (0, 1))
    data = Data._make(map(np.concatenate, zip(*(one[2] for one in found), strict=True)))
    bounds = Bounds._make(map(np.concatenate, zip(*(one[3] for one in found), strict=True)))
    fits = background.fit_between(at, x, data, bounds)
    good = sound(fits) & np.isfinite(fits.value)
    negative = background.negative(at, fits)[good] > _NEGATIVE
    added = background.batch.layout.spread(more)[at[good]]
    return pooled(background, fits.take(good), added, negative)


class _Search:
    def __init__(self, loaded: Loaded, cases: Cases, fits: Fits) -> None:
        self.fits = fits
        self._loaded = loaded
        self._cases = cases
        self._bounds: Bounds = loaded.bounds(cases.hypothesis, cases.poi)
        columns = {name: array[cases.hypothesis] for name, array in loaded.chunk.columns.items()}
        normal, poisson = columns["precision"] > 0, columns["rate"] > 0
        rate = np.where(poisson, columns["rate"], 1.0)
        measured, counted = cases.data.mean, cases.data.counted
        self._centre = np.where(
            normal, measured, np.where(poisson, counted / rate, columns["init"])
        )
        width = np.sqrt(np.maximum(counted, 1.0)) / rate
        self._width = np.where(
            normal, 1 / np.sqrt(np.where(normal, columns["precision"], 1.0)), width
        )
        self._constrained = normal | poisson
        self._poi = loaded.chunk.poi[cases.hypothesis]
        count = len(cases.hypothesis)
        self._rivals: list[list[tuple[float, FloatArray]]] = [[] for _ in range(count)]
        self._same = np.ones(count, dtype=int)
        self._starts = np.ones(count, dtype=int)
        self._first = fits.value.copy()
        self._improved = np.zeros(count, dtype=bool)
        self._negative = np.zeros(count)
        self._many = np.zeros(count, dtype=bool)
        self._excluded: list[tuple[int, FloatArray]] = []
        self._flipped: set[tuple[int, int, bool]] = set()

    def leave_zeros(self) -> None:
        """Fit from above zero where factors that may multiply each other all ended there.

        With one of them at zero the others have no effect, so that a fit does not leave, and its
        Hessian is positive definite though it is no minimum. Where it is lower only their product
        matters, and no Hessian is: an end there is kept unless another one is lower still.
        """
        bounds, fits = self._bounds, self.fits
        zeros, local = (
            (low == 0) & (high > 0) & (x <= 0)
            for low, high, x in (
                (bounds.lower, bounds.upper, fits.x),
                (bounds.local_lower, bounds.local_upper, fits.local),
            )
        )
        zeros &= ~self._constrained
        several = zeros.sum(axis=1) + local.any(axis=1) > 1
        rows = np.flatnonzero(several & zeros.any(axis=1))
        if not rows.size:
            return
        cases = self._cases.take(rows)
        starts = np.where(zeros[rows], _ABOVE_ZERO, fits.x[rows])
        ended = self._loaded.fit_between(cases.hypothesis, starts, cases.data, bounds.take(rows))
        lower = np.flatnonzero(ended.converged & (ended.value < fits.value[rows] - SLACK))
        self.fits = fits.replaced(rows[lower], ended.take(lower))

    def stronger(self, part: float) -> tuple[IntArray, FloatArray]:
        """Return starts at a fraction of the range of signal strengths, where these are free.

        Where a weaker signal is excluded they are not worth their cost, except in small models.
        """
        cases, columns = self._cases, self._loaded.chunk.columns
        excluded = np.zeros(self._loaded.size)
        held = np.flatnonzero(cases.poi > 0)
        np.maximum.at(excluded, cases.hypothesis[held], self.fits.value[held])
        rise = excluded[cases.hypothesis] - self.fits.value
        worth = self._loaded.small | (rise < _EXCLUDED)
        rows = np.flatnonzero(np.isnan(cases.poi) & (self._poi >= 0) & worth)
        hypothesis, at = cases.hypothesis[rows], self._poi[rows]
        starts = columns["init"][hypothesis]
        low = np.maximum(columns["lower"][hypothesis, at], 0.0)
        starts[np.arange(len(rows)), at] = low + part * (columns["upper"][hypothesis, at] - low)
        return rows, starts

    def flip(self) -> None:
        """Look on the other side of zero as long as there are new starts there."""
        for _ in range(_ROUNDS):
            rows, starts = self.flips()
            if not rows.size:
                break
            self.look([], flips=(rows, starts))

    def flips(self) -> tuple[IntArray, FloatArray]:
        """Return starts with parameters on the other side of zero, where they may do as well.

        Many systematics move a yield the same way up and down, so that there is a minimum on
        either side if the data need it moved. No start is returned twice.
        """
        every = np.arange(len(self.fits.value))
        return self._flips(every, self.fits.x, self.fits.slopes)

    def _flips(
        self, every: IntArray, ends: FloatArray, slopes: FloatArray
    ) -> tuple[IntArray, FloatArray]:
        right, left = slopes[:, 0], slopes[:, 1]
        stiff = np.where(self._constrained, self._width, 1.0)[every] ** -2
        moving = (self._constrained & (self._bounds.lower < self._bounds.upper))[every]
        gain = np.where(moving & (right < 0) & (left > 0), (left - right) / stiff, 0.0)
        rows, starts = [], []
        for at in np.flatnonzero((gain > _BOTH).any(axis=1)).tolist():
            row, x = int(every[at]), ends[at]
            # Where the slopes would take it if all else stayed, but no further away than it was.
            other = np.where(x > 0, -left[at], -right[at]) / stiff[at]
            reach = np.maximum(np.abs(x), _LEAST_FLIP)
            pulls = np.stack([-right[at], left[at]])
            own, beyond = np.where(x > 0, pulls, pulls[::-1])
            worth = gain[at] > _BOTH
            if not self._loaded.small:
                worth &= beyond > _STRONG * own
            for column in np.argsort(-gain[at])[:_FLIPS].tolist():
                side = row, column, bool(x[column] > 0)
                if worth[column] and side not in self._flipped:
                    self._flipped.add(side)
                    rows.append(row)
                    starts.append(x.copy())
                    starts[-1][column] = np.clip(other, -reach, reach)[column]
        return np.array(rows, dtype=int), np.array(starts).reshape(-1, right.shape[1])

    def scattered(self, rows: IntArray, count: int) -> list[FloatArray]:
        """Return random starts, always the same."""
        generator = np.random.default_rng(_SEED)
        columns = self._loaded.chunk.columns
        hypothesis = self._cases.hypothesis[rows]
        # Without a parameter of interest (-1) there is nothing to scatter.
        at = tuple(np.array([np.arange(len(rows)), self._poi[rows]])[:, self._poi[rows] >= 0])
        low, high = (
            np.maximum(columns["lower"][hypothesis][at], 0.0),
            columns["upper"][hypothesis][at],
        )
        centre, width = self._centre[rows], self._width[rows]
        made = []
        for index in range(count):
            scatter = _SCATTER[index % len(_SCATTER)]
            normal = generator.standard_normal(centre.shape[1])
            x = np.where(
                self._constrained[rows],
                centre + scatter * normal * width,
                centre * np.exp(_FACTOR * normal),
            )
            reach = np.exp(generator.uniform(np.log(_LEAST_POI), 0.0))
            x[at] = low + reach * (high - low)
            made.append(x)
        return made

    def note(self, tried: Tried) -> list[tuple[IntArray, FloatArray]]:
        """Count starts that were tried before the fits, and note the minima they led to.

        Returns more starts: minima that may be lower, and the other sides of zero of those with
        negative samples.
        """
        # Where there are many minima, one that is lower is nothing unusual.
        self._many |= np.isin(self._cases.hypothesis, self._cases.hypothesis[tried.rows])
        below = self.fits.value[tried.rows] - tried.value
        negative = (tried.depth > _NEGATIVE) & (below > _SAME)
        np.maximum.at(self._negative, tried.rows[negative], below[negative])
        other = (below <= -_SLIGHT) | self._apart(tried.rows, tried.x)
        # Without signal the search for the background's minima has done that.
        close = other & (below > -_CLOSE) & ~negative & (self._cases.poi[tried.rows] != 0)
        for at in np.flatnonzero(tried.settled & ~negative & ~close).tolist():
            row = int(tried.rows[at])
            self._starts[row] += 1
            if other[at]:
                self._rivals[row].append((float(tried.value[at]), tried.x[at]))
            else:
                self._same[row] += 1
        flips = self._flips(tried.rows[negative], tried.x[negative], tried.slopes[negative])
        return [(tried.rows[close], tried.x[close]), flips]

    def from_held(self) -> tuple[IntArray, FloatArray]:
        """Return starts for free fits: low minima of those with the signal strength held."""
        cases, rows, starts = self._cases, [], []
        for row in np.flatnonzero(np.isnan(cases.poi) & (self._poi >= 0)).tolist():
            others = np.flatnonzero(
                (cases.hypothesis == cases.hypothesis[row]) & ~np.isnan(cases.poi)
            )
            ends = [(float(self.fits.value[other]), self.fits.x[other]) for other in others]
            ends += [one for other in others.tolist() for one in self._rivals[other]]
            x = np.stack([x for _, x in sorted(ends, key=lambda end: end[0])])
            away = np.abs(x[:, None] - np.stack([self.fits.x[row], *x])) / self._width[row]
            apart = np.where(self._constrained[row], away, 0.0).max(axis=-1) > _APART
            chosen: list[int] = []
            for at in np.flatnonzero(apart[:, 0]).tolist():
                if len(chosen) < _FROM_HELD and apart[at, [1 + one for one in chosen]].all():
                    chosen.append(at)
            rows += [row] * len(chosen)
            starts += [x[at] for at in chosen]
        return np.array(rows, dtype=int), np.array(starts).reshape(-1, self.fits.x.shape[1])

    def lead(self, rows: IntArray) -> None:
        """Look for minima with weaker constraints."""
        if not rows.size:
            return
        poi = self._cases.poi[rows]
        null = rows[poi == 0]
        # Those without signal are all like the first; free ones are like it or like a held one.
        free = np.isnan(poi) & (self._poi[rows] >= 0)
        some = np.concatenate([null[:1], rows[(poi != 0) & ~free]])
        led = (self.led(some, starts) for starts in self.spread(some))
        self.look((some, starts) for starts in (*led, *self.at_bounds(some)))
        self.look([self.from_first(null)])
        self.look((rows, starts) for starts in self.others(rows))

    def spread(self, rows: IntArray) -> list[FloatArray]:
        """Return starts with all constrained parameters below, at and above their centres."""
        return [
            np.where(self._constrained, self._centre + side * self._width, self.fits.x)[rows]
            for side in _SIDES
        ]

    def led(self, rows: IntArray, starts: FloatArray) -> FloatArray:
        """Return where fits with weaker constraints lead from starts."""
        bounds = self._bounds.take(rows)
        for part in _WEAKER:
            starts = self._weakly(part, rows, starts, bounds)
        return starts

    def at_bounds(self, rows: IntArray) -> list[FloatArray]:
        """Return where such fits lead with a free factor held at its lower bound.

        There may be a minimum without one of the backgrounds, seldom near the others.
        """
        bounds = self._bounds.take(rows)
        free = ~self._constrained[rows] & (bounds.lower < bounds.upper)
        free[np.arange(len(rows)), self._poi[rows]] &= self._poi[rows] < 0
        ends, spread = [], self.spread(rows)
        for column in np.flatnonzero(free.any(axis=0))[:_FACTORS].tolist():
            upper = bounds.upper.copy()
            upper[:, column] = np.where(free[:, column], bounds.lower[:, column], upper[:, column])
            between = bounds._replace(upper=upper)
            ends += [self._weakly(_WEAKER[-1], rows, starts, between) for starts in spread]
        return ends

    def _weakly(
        self, part: float, rows: IntArray, starts: FloatArray, bounds: Bounds
    ) -> FloatArray:
        cases, nowhere = self._cases.take(rows), np.full(starts.shape, np.nan)
        weaker = self._loaded.weaker(part)
        return weaker.fit_roughly(cases.hypothesis, starts, cases.data, bounds, nowhere).x

    def from_first(self, rows: IntArray) -> tuple[IntArray, FloatArray]:
        """Return the end of the first of some fits as the start of the others."""
        return rows[1:], np.repeat(self.fits.x[rows[:1]], len(rows[1:]), axis=0)

    def others(self, rows: IntArray) -> list[FloatArray]:
        """Return the ends of the other fits of the same hypothesis, and rivals, as starts."""
        hypothesis = self._cases.hypothesis
        ends = {
            at: [self.fits.x[row] for row in np.flatnonzero(hypothesis == at)]
            + [
                x
                for row in np.flatnonzero(hypothesis == at)
                for _, x in sorted(self._rivals[row], key=lambda one: one[0])[:1]
            ]
            for at in np.unique(hypothesis[rows]).tolist()
        }
        most = max(map(len, ends.values()))
        return [
            np.stack([ends[at][index % len(ends[at])] for at in hypothesis[rows].tolist()])
            for index in range(most)
        ]

    def look(
        self,
        several: Iterable[tuple[IntArray, FloatArray]],
        flips: tuple[IntArray, FloatArray] | None = None,
    ) -> None:
        """Fit from other starts, and keep the lower fits.

        Where the background is rugged, lower minima in which samples expect negative events do not
        count: they are only noted.

        Parameters
        ----------
        several
            Rows and their starts.
        flips
            The same, from `flips`. A lower minimum there is nothing unusual.
        """
        others = list(several)
        both = [*others, *([] if flips is None else [flips])]
        if not sum(len(rows) for rows, _ in both):
            return
        again = np.concatenate([rows for rows, _ in both])
        starts = np.concatenate([starts for _, starts in both])
        flipped = np.arange(len(again)) >= sum(len(rows) for rows, _ in others)
        flipped |= self._many[again]
        cases, bounds = self._cases.take(again), self._bounds.take(again)
        lowest = self.fits.x[again]
        rough = self._loaded.fit_roughly(cases.hypothesis, starts, cases.data, bounds, lowest)
        settled = _settled(self._loaded, rough)
        at = self.fits.take(again)
        apart = self._apart(again, rough.x)
        gap = rough.value - at.value
        here = settled & (np.abs(gap) < _SLIGHT + 2 * rough.edm) & ~apart
        # Everything that may be lower.
        todo = np.flatnonzero(settled & ((~here & (gap < _SLIGHT + 2 * rough.edm)) | ~sound(at)))
        value, x = np.where(here, at.value, rough.value), rough.x.copy()
        if todo.size:
            ended = persistent(
                self._loaded,
                cases.hypothesis[todo],
                [rough.x[todo]],
                cases.data.take(todo),
                bounds.take(todo),
            )
            if self._loaded.rugged:
                kept = self._positive(again[todo], ended)
                # Many start from one pool: what does not end at a minimum is none.
                kept &= sound(ended) | ~self._many[again[todo]]
                settled[todo[~kept]] = False
                todo, ended = todo[kept], ended.take(kept)
            value[todo], x[todo] = ended.value, ended.x
            self._take_lowest(again[todo], ended, flipped[todo])
        other = (value >= self.fits.value[again] + _SAME) | self._apart(again, x)
        for place in np.flatnonzero(settled).tolist():
            row = int(again[place])
            self._starts[row] += 1
            if other[place]:
                self._rivals[row].append((float(value[place]), x[place]))
            else:
                self._same[row] += 1

    def _positive(self, rows: IntArray, ended: Fits) -> BoolArray:
        """Tell which minima count: not lower ones in which samples expect negative events."""
        below = self.fits.value[rows] - ended.value
        lower = np.flatnonzero(below > _SAME)
        depths = self._loaded.negative(self._cases.hypothesis[rows[lower]], ended.take(lower))
        negative = lower[depths > _NEGATIVE]
        np.maximum.at(self._negative, rows[negative], below[negative])
        self._excluded += [(int(rows[at]), ended.x[at]) for at in negative.tolist()]
        kept = np.ones(len(rows), dtype=bool)
        kept[negative] = False
        return kept

    def _apart(self, rows: IntArray, x: FloatArray) -> BoolArray:
        """Tell which points are not where the fits of these rows ended."""
        scale = np.where(self._constrained[rows], self._width[rows], np.inf)
        apart: BoolArray = (np.abs(x - self.fits.x[rows]) / scale).max(axis=1) > _APART
        return apart

    def _take_lowest(self, rows: IntArray, ended: Fits, flipped: BoolArray) -> None:
        before = self.fits
        # The best one of each row: sound, and then the lowest.
        order = np.lexsort((ended.value, ~sound(ended)))
        which, first = np.unique(rows[order], return_index=True)
        chosen = better(before.take(which), ended.take(order[first]))
        # In a valley no Hessian is positive definite, but at the saddle that it leads to one is.
        higher = before.converged[which] & (chosen.value > before.value[which] + SLACK)
        self.fits = before.replaced(which[~higher], chosen.take(np.flatnonzero(~higher)))
        for row in np.flatnonzero(self.fits.value < before.value - _SAME).tolist():
            lower = ended.value < before.value[row] - _SAME
            self._improved[row] |= bool((lower & (rows == row) & ~flipped).any())
            self._same[row] = 0
            self._rivals[row].append((float(before.value[row]), before.x[row]))

    def ends(self) -> tuple[IntArray, FloatArray, Data, Bounds]:
        """Return where fits ended, and other minima of theirs, with what was fitted there."""
        rows = np.arange(len(self.fits.value))
        others = []
        for row in rows.tolist():
            values = [float(self.fits.value[row])]
            for value, x in self._rivals[row]:
                if min(abs(value - other) for other in values) > _SLIGHT:
                    values.append(value)
                    others.append((row, x))
        others += self._excluded
        at = np.concatenate([rows, np.array([row for row, _ in others], dtype=int)])
        x = np.concatenate([self.fits.x, *(x[None] for _, x in others)])
        return self._cases.hypothesis[at], x, self._cases.data.take(at), self._bounds.take(at)

    def minima(self) -> SecondMinima:
        """Return the minima that the starts led to."""
        rival = np.array(
            [
                min((value for value, _ in rivals), default=np.inf) - best
                for rivals, best in zip(self._rivals, self.fits.value, strict=True)
            ]
        )
        return SecondMinima(rival, self._same, self._starts, self._negative)

    def from_lowered(self) -> list[tuple[IntArray, FloatArray]]:
        """Return the ends of fits that became lower as starts for the others of the hypothesis.

        What lowered one of them may lower the others too, above all the free one.
        """
        hypothesis = self._cases.hypothesis
        starts = []
        for row in np.flatnonzero(self.fits.value < self._first - _SAME).tolist():
            others = np.flatnonzero(hypothesis == hypothesis[row])
            others = others[others != row]
            starts.append((others, np.tile(self.fits.x[row], (len(others), 1))))
        return starts

    def sharpen(self) -> None:
        """Repeat fits without signal to all digits where they became lower.

        Asimov data follow from their parameters.
        """
        without = (self._cases.poi == 0) | (self._poi < 0)
        moved = np.flatnonzero(without & (self.fits.value < self._first - SLACK))
        if not moved.size:
            return
        cases, bounds = self._cases.take(moved), self._bounds.take(moved)
        again = self._loaded.fit_between(
            cases.hypothesis, self.fits.x[moved], cases.data, bounds, exact=True
        )
        good = np.flatnonzero(sound(again))
        self.fits = self.fits.replaced(moved[good], again.take(good))

    def unusual(self) -> BoolArray:
        """Tell which fits are worth more starts."""
        bins = len(self._loaded.slots)
        tension = 2 * self.fits.value > bins + _TENSION * np.sqrt(2 * bins)
        if not self._loaded.small:
            # A strength that is excluded is in tension with the data, as it should be.
            tension &= np.isnan(self._cases.poi)
        unusual: BoolArray = self._improved | ~sound(self.fits) | tension
        return unusual
