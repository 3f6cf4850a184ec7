"""Low minima of a background, from which fits of all hypotheses on it start.

Where many systematics move a bin the same way up and down there are many minima, and to find the
low ones takes many fits. Yet most signals lead to the same few: those of the background alone, and
of the background with more events in some of its bins. These are looked for once
(`fitserve_worker.kernel.starts`), whatever the hypotheses are. The fits of each hypothesis start
from those where its own -log L is lowest.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from cachetools import LRUCache

from fitserve_worker.kernel.arrays import Data

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitserve_worker.kernel import BoolArray, FloatArray, IntArray
    from fitserve_worker.kernel.batch import Batch
    from fitserve_worker.kernel.fits import Fits, Loaded

__all__ = ["Pool", "more_events", "pool_of", "pooled"]

# More events for backgrounds: as many in all bins, by so many standard deviations in all; and in so
# many groups of bins.
_MORE = (2.0, 4.0, 8.0)
ALIKE = len(_MORE)
"""How many sets of events in all bins there are."""
_GROUPS = 8
_IN_GROUPS = 8.0
# Minima no further apart than this, in standard deviations of constraints or in units of free
# factors, are one start.
_DIFFERENT = 0.5
# One with negative samples is tried if it is no higher than this, in -log L.
_NEARBY = 3.0
# The least part of the observed events that is expected.
_LEAST = 0.2
# Pools in memory, each as large as a few hypotheses.
_pools: LRUCache[str, Pool | None] = LRUCache(maxsize=64)
_of_batches: WeakKeyDictionary[Batch, dict[tuple[int, bytes], Pool | None]] = WeakKeyDictionary()


class Pool(NamedTuple):
    """Low minima, with the minimum as first axis.

    ``x`` (minima, columns) and ``local`` (minima, bins) are the parameters, ``yields``
    (minima, bins) the events of the background alone. ``apart`` (minima, minima) tells which are
    different starts, ``bound`` (minima, columns) which free
    parameters are at a bound, ``negative`` (minima,) where samples expect negative events.
    """

    x: FloatArray
    local: FloatArray
    yields: FloatArray
    apart: BoolArray
    bound: BoolArray
    negative: BoolArray

    def different(self) -> FloatArray:
        """Return minima that are different starts, of shape (some, columns)."""
        return self.x[self.choose(np.arange(len(self.x), dtype=float), len(self.x))]

    def choose(self, values: FloatArray, most: int) -> list[int]:
        """Return which minima to start from: different ones where ``values`` are lowest.

        If one with negative samples may be lower it comes too.
        """
        chosen: list[int] = []
        for one in np.flatnonzero(~self.negative)[
            np.argsort(values[~self.negative], kind="stable")
        ].tolist():
            if len(chosen) == most:
                break
            if self.apart[one, chosen].all():
                chosen.append(one)
        if self.negative.any():
            lowest = int(np.argmin(np.where(self.negative, values, np.inf)))
            if values[lowest] < values[chosen[0]] + _NEARBY:
                chosen.append(lowest)
        return chosen

    def values(
        self, loaded: Loaded, hypothesis: IntArray, poi: FloatArray, data: Data
    ) -> FloatArray:
        """Return -log L of fits at each minimum, of shape (fits, minima).

        Systematics of the samples that hypotheses add are left out.

        Parameters
        ----------
        loaded
            The hypotheses.
        hypothesis, poi, data
            The hypothesis of each fit, its signal strength, and what is fitted.
        """
        columns, local = loaded.chunk.columns, loaded.chunk.local
        several = Data._make(array[:, None] for array in data)
        yields = self.yields + _added(loaded, hypothesis, poi)[:, None]
        # A fit soon leaves where fewer are expected.
        yields = np.maximum(yields, _LEAST * several.events)
        total: FloatArray = _poisson(yields, several.events).sum(axis=-1)
        for x, of, mean, counted in (
            (self.x, columns, several.mean, several.counted),
            (self.local, local, several.local_mean, several.local_counted),
        ):
            rate = of["rate"][hypothesis][:, None]
            normal = 0.5 * of["precision"][hypothesis][:, None] * (x - mean) ** 2
            total += (normal + np.where(rate > 0, _poisson(rate * x, counted), 0.0)).sum(axis=-1)
        return total


def more_events(events: FloatArray) -> FloatArray:
    """Return events to add to a background, of shape (several, bins).

    First `ALIKE` sets in all bins, as many in each; then in groups of bins, one after the other.

    Parameters
    ----------
    events
        Those of the background, of shape (bins,).
    """
    count, width = len(events), np.sqrt(np.maximum(events, 1.0))
    added = [np.full(count, many / np.sqrt(np.sum(width**-2))) for many in _MORE]
    for group in np.array_split(np.arange(count), min(_GROUPS, count)):
        added.append(np.zeros(count))
        added[-1][group] = _IN_GROUPS * width[group] / np.sqrt(len(group))
    return np.array(added)


def pooled(loaded: Loaded, fits: Fits, added: FloatArray, negative: BoolArray) -> Pool:
    """Return the pool of some fits to a background, each with ``added`` events (fits, bins)."""
    columns = {name: array[0] for name, array in loaded.chunk.columns.items()}
    rate, counted = columns["rate"], np.maximum(columns["counted"], 1.0)
    poisson = rate > 0
    scale = np.sqrt(np.where(columns["precision"] > 0, columns["precision"], 1.0))
    scale = np.where(poisson, rate / np.sqrt(counted), scale)
    low, high = columns["lower"], columns["upper"]
    bound = (low < high) & ((fits.x <= low) | (fits.x >= high))
    away = np.abs(fits.x[:, None] - fits.x) * scale
    return Pool(
        fits.x, fits.local, fits.yields - added, away.max(axis=-1) > _DIFFERENT, bound, negative
    )


def pool_of(loaded: Loaded, at: int, make: Callable[[], Pool | None]) -> Pool | None:
    """Return the pool of a hypothesis' background, which is made once in a process.

    It follows from the background, its data and options alone.

    Parameters
    ----------
    loaded, at
        The hypothesis.
    make
        Makes the pool; None where that is not possible.
    """
    batch = loaded.batch
    member = batch.members[loaded.members[at]]
    of_batch = _of_batches.setdefault(batch, {})
    key = id(member.common), member.observed.tobytes()
    if key not in of_batch:
        chunk = loaded.alone(at, np.zeros((1, len(loaded.slots)))).chunk
        content = hashlib.sha256(repr((batch.shape, chunk.poi[0])).encode())
        for arrays in (
            batch.background_arrays(),
            chunk.columns.values(),
            chunk.local.values(),
            [chunk.data],
        ):
            for array in arrays:
                content.update(np.ascontiguousarray(array).data)
        digest = content.hexdigest()
        if digest not in _pools:
            _pools[digest] = make()
        of_batch[key] = _pools[digest]
    return of_batch[key]


def _added(loaded: Loaded, hypothesis: IntArray, poi: FloatArray) -> FloatArray:
    """Return the nominal events of the samples that hypotheses add, of shape (fits, bins)."""
    samples, shape = loaded.chunk.samples, loaded.batch.shape
    column = loaded.chunk.poi[hypothesis] - shape.alphas
    scaled = samples.linear[hypothesis, :, column] & (column >= 0)[:, None]
    factor = np.where(scaled, poi[:, None], 1.0)
    events = factor[..., None] * samples.nominal[hypothesis]
    total: FloatArray = events.reshape(len(events), shape.added_slots, -1).sum(axis=1)
    return total


def _poisson(rate: FloatArray, count: FloatArray) -> FloatArray:
    """Return rate - count - count log(rate / count), infinite where there can be no events."""
    some = count > 0
    possible = (rate > 0) | ~some
    quotient = np.where(possible & some, rate, 1.0) / np.where(some, count, 1.0)
    value: FloatArray = np.where(possible, rate - count - count * np.log(quotient), np.inf)
    return value
