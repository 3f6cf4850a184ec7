"""Fits to pseudo-data ("toys") of one hypothesis, and the test statistic of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fitserve_worker.kernel.retries import SLACK, better, sound
from fitserve_worker.sampling import Law, Sampler

if TYPE_CHECKING:
    from fitserve_contract import ToyRange
    from fitserve_worker.kernel import FloatArray, IntArray
    from fitserve_worker.kernel.arrays import Data
    from fitserve_worker.kernel.batch import Batch
    from fitserve_worker.kernel.fits import Fits, Loaded

__all__ = ["Centre", "Statistics", "ToyMaker", "toy_statistics"]

# The least number of toys that are in memory at a time, and the calls that fit them.
_BLOCK = 1024
_CALLS = 8
# Events put into empty bins to keep the expected ones positive, as fractions of these. Values of
# the test statistic come from the last two.
_BARRIER = (0.1, 0.01, 1e-3, 1e-4)
_LOW_ENOUGH = 1e-3
_LEAST_YIELD = 1e-3


class Centre(NamedTuple):
    """What toys scatter around, (bins,) expected events, and where fits to them start.

    The starts are fits to it with the signal strength at the tested value, and free, (columns,).
    """

    yields: FloatArray
    fixed: FloatArray
    free: FloatArray


class ToyMaker:
    """Makes toys of the first hypothesis of a batch.

    Parameters
    ----------
    batch, loaded
        The batch, and its first hypothesis on the device.
    fits
        The first of these is the fit at whose parameters the toys are made.
    key
        Key of the stream of random numbers, see `fitserve_worker.sampling.stream_key`.

    Attributes
    ----------
    law, sampler
        What the toys are drawn from, and the sampler that draws them.
    """

    def __init__(self, batch: Batch, loaded: Loaded, fits: Fits, key: int) -> None:
        first = np.zeros(1, dtype=int)
        self._around = loaded.asimov(fits.take(first), first)
        self._slots = loaded.slots
        self._places = _Places(batch, fits.x[0], fits.local[0])
        rates = np.maximum(fits.yields[0, self._slots], 0.0)
        self.law = Law(rates, self._places.centres, self._places.widths)
        self.sampler = Sampler(self.law, key)

    def make(self, toys: ToyRange) -> Data:
        """Return the data of toys, auxiliary measurements included."""
        events, auxiliary = self.sampler.draw(toys)
        every = np.zeros(toys.count, dtype=int)
        data = self._around.take(every)
        data.events[:, self._slots] = events
        for measured, counted, chosen, at in (
            (data.mean, data.counted, self._places.in_columns, self._places.columns),
            (data.local_mean, data.local_counted, self._places.in_slots, self._places.slots),
        ):
            normal = self._places.widths[chosen] > 0
            measured[:, at[normal]] = auxiliary[:, chosen[normal]]
            counted[:, at[~normal]] = auxiliary[:, chosen[~normal]]
        return data


class _Places:
    """The auxiliary measurements of a model in pyhf's order, and where the fit has them.

    Attributes
    ----------
    centres, widths
        See `fitserve_worker.sampling.Law`.
    in_columns, columns
        Indices of those whose parameter is a column, and the columns.
    in_slots, slots
        Indices of those whose parameter is a local one, and the bins.
    """

    def __init__(self, batch: Batch, x: FloatArray, local: FloatArray) -> None:
        parameters = batch.parameters(0)
        values = parameters.join(x, local)
        centres: list[FloatArray] = [np.zeros(0)]
        widths: list[FloatArray] = [np.zeros(0)]
        indices: dict[str, list[IntArray]] = {
            name: [np.zeros(0, dtype=int)]
            for name in ("in_columns", "columns", "in_slots", "slots")
        }
        measured = begin = 0
        for made, place in parameters.sets:
            value = values[begin : begin + len(made)]
            begin += len(made)
            if made.constraint == "none":
                continue
            poisson = made.constraint == "poisson"
            centres.append(made.scale * value if poisson else value)
            widths.append(np.zeros(len(made)) if poisson else made.scale)
            own = measured + np.arange(len(made))
            measured += len(made)
            if place.columns is not None:
                indices["in_columns"].append(own)
                indices["columns"].append(place.columns)
            elif place.slots is not None:
                indices["in_slots"].append(own)
                indices["slots"].append(place.slots)
        self.centres, self.widths = np.concatenate(centres), np.concatenate(widths)
        self.in_columns = np.concatenate(indices["in_columns"])
        self.columns = np.concatenate(indices["columns"])
        self.in_slots = np.concatenate(indices["in_slots"])
        self.slots = np.concatenate(indices["slots"])


class Statistics(NamedTuple):
    """The test statistic of toys, (toys,), NaN where a fit failed.

    ``positive`` is how many of them were fitted with expected events kept above zero, and
    ``fits`` the number of all fits.
    """

    values: FloatArray
    positive: int
    fits: int


def toy_statistics(
    loaded: Loaded, maker: ToyMaker, toys: ToyRange, mu: float, centre: Centre
) -> Statistics:
    """Return the test statistic of toys at a signal strength.

    It is twice the difference of -log L minimised with the signal strength at ``mu`` and
    free, and zero where the latter minimum is at a higher signal strength (arXiv:1007.1727,
    equations 14 and 16). The lower bound of the parameter makes it one or the other: zero for
    q-tilde, below for q.

    Notes
    -----
    Each toy is fitted by itself from the same starts, so that its value does not depend on the
    toys around it. The free fit starts where the fixed one ended, moved by the difference of the
    two at the centre of the toys.

    -log L of a bin without events falls without end where systematics drive its expected events
    below zero and nothing else stops them (also in pyhf). Toys whose fits end there are fitted
    again with the expected events kept above zero by a logarithmic barrier that is lowered step by
    step: instead of none there are 10 % to 0.01 % of the expected events. On the published 1Lbb
    analysis, where this is one toy in seven, the last step is good to 0.003 in the test statistic.
    """
    blocks = []
    size = max(_BLOCK, _CALLS * loaded.at_once)
    for first in range(toys.first, toys.stop, size):
        block = type(toys)(first=first, count=min(size, toys.stop - first))
        blocks.append(_of_block(loaded, maker.make(block), mu, centre))
    values, positive, fits = zip(*blocks, strict=True)
    return Statistics(np.concatenate(values), sum(positive), sum(fits))


def _of_block(loaded: Loaded, data: Data, mu: float, centre: Centre) -> Statistics:
    count = len(data.events)
    every = np.zeros(count, dtype=int)
    at_mu = np.full(count, mu)
    start = np.broadcast_to(centre.fixed, (count, len(centre.fixed)))
    fixed, first = _fit(loaded, data, start, at_mu)
    free, second = _fit(loaded, data, fixed.x + (centre.free - centre.fixed), None)
    made = first + second
    above = np.flatnonzero(free.value > fixed.value + SLACK)
    if above.size:
        # It fell into another minimum than the fixed fit did.
        again = loaded.fit(every[above], fixed.x[above], data.take(above))
        free = free.replaced(above, better(free.take(above), again))
        made += above.size
    values = _statistic(loaded, fixed, free, mu)
    lost = np.flatnonzero(np.isnan(values))
    if lost.size:
        values[lost], more = _kept_positive(loaded, data.take(lost), mu, centre)
        made += more
    return Statistics(values, int(np.isfinite(values[lost]).sum()), made)


def _statistic(loaded: Loaded, fixed: Fits, free: Fits, mu: float) -> FloatArray:
    """Return the test statistic of each two fits, NaN where one of them is not sound."""
    q = 2 * (fixed.value - free.value)
    muhat = free.x[:, loaded.chunk.poi[0]]
    good = sound(fixed) & sound(free) & (q > -2 * SLACK)
    for fits in (fixed, free):
        good &= (fits.yields[:, loaded.slots] >= 0).all(axis=1)
    return np.where(good, np.where(muhat > mu, 0.0, np.maximum(q, 0.0)), np.nan)


def _kept_positive(loaded: Loaded, data: Data, mu: float, centre: Centre) -> tuple[FloatArray, int]:
    """Return the test statistic with expected events kept above zero, and the number of fits."""
    count = len(data.events)
    every = np.zeros(count, dtype=int)
    scale = np.zeros(data.events.shape[1])
    scale[loaded.slots] = np.maximum(centre.yields[loaded.slots], _LEAST_YIELD)
    fixed_start, free_start = (np.tile(start, (count, 1)) for start in (centre.fixed, centre.free))
    values = np.full(count, np.nan)
    for height in _BARRIER:
        raised = data._replace(events=np.where(data.events > 0, data.events, height * scale))
        fixed = loaded.fit(every, fixed_start, raised, np.full(count, mu))
        free = loaded.fit(every, free_start, raised)
        statistic = _statistic(loaded, fixed, free, mu)
        good = np.isfinite(statistic)
        fixed_start[good], free_start[good] = fixed.x[good], free.x[good]
        if height <= _LOW_ENOUGH:
            values[good] = statistic[good]
    return values, 2 * count * len(_BARRIER)


def _fit(loaded: Loaded, data: Data, start: FloatArray, poi: FloatArray | None) -> tuple[Fits, int]:
    """Fit each toy, again from pyhf's initial values if it does not converge; count the fits.

    Those with empty bins are left to `_kept_positive`. A kink at zero may have a minimum on
    either side of it: each is tried.
    """
    every = np.zeros(len(data.events), dtype=int)
    fits = loaded.fit(every, start, data, poi)
    made = len(every)
    empty = (data.events[:, loaded.slots] == 0).any(axis=1)
    initial = np.broadcast_to(loaded.chunk.columns["init"][0], start.shape)
    starts = [(np.flatnonzero(~sound(fits) & ~empty), initial)]
    if loaded.kinked is not None:
        starts.append((np.arange(len(every)), np.where(loaded.kinked, -fits.x, fits.x)))
    for which, begin in starts:
        if which.size:
            at = None if poi is None else poi[which]
            second = loaded.fit(every[which], begin[which], data.take(which), at)
            fits = fits.replaced(which, better(fits.take(which), second))
            made += which.size
    return fits, made
