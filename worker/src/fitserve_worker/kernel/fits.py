"""Fits of a batch's hypotheses, with NumPy arrays in and out."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fitserve_worker.kernel.arrays import bytes_per_fit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve_worker.kernel.arraytypes import BoolArray, DeviceArray, FloatArray, IntArray
    from fitserve_worker.kernel.batch import Batch, Chunk
    from fitserve_worker.kernel.curvature import Curvature
    from fitserve_worker.kernel.details import SampleYields, Seconds
    from fitserve_worker.kernel.likelihood import Evaluation
    from fitserve_worker.kernel.runtime import Runtime

__all__ = ["Bounds", "Data", "Fits", "Loaded", "load"]


class Data(NamedTuple):
    """What fits are made to, with the fit as first axis.

    ``events`` (fits, bins), and the auxiliary data of the constraints: ``mean`` and ``counted``
    of the columns (fits, columns) and of the local parameters (fits, bins).
    """

    events: FloatArray
    mean: FloatArray
    counted: FloatArray
    local_mean: FloatArray
    local_counted: FloatArray

    def take(self, which: IntArray | BoolArray) -> Data:
        """Return the data of some of the fits."""
        return Data._make(array[which] for array in self)


class Bounds(NamedTuple):
    """Between what fits look, with the fit as first axis; a parameter is held by equal bounds.

    ``lower`` and ``upper`` (fits, columns), and those of local parameters (fits, bins).
    """

    lower: DeviceArray
    upper: DeviceArray
    local_lower: DeviceArray
    local_upper: DeviceArray

    def take(self, which: IntArray | BoolArray) -> Bounds:
        """Return the bounds of some of the fits."""
        return Bounds._make(array[which] for array in self)


class Fits(NamedTuple):
    """Results of fits, with the fit as first axis.

    ``x`` (fits, columns) and ``local`` (fits, bins) are the parameters, ``value`` the
    objective there (see `fitserve_worker.kernel.likelihood`), ``gradient`` its derivatives
    and ``yields`` (fits, bins) the expected events. ``edm`` is the estimated distance to the
    minimum in units of -log L, ``steps`` and ``hessians`` the numbers of gradients and of
    Hessians, ``positive`` whether the last of these was positive definite.
    """

    x: FloatArray
    value: FloatArray
    gradient: FloatArray
    local: FloatArray
    yields: FloatArray
    edm: FloatArray
    steps: IntArray
    hessians: IntArray
    converged: BoolArray
    positive: BoolArray

    def take(self, which: IntArray | BoolArray) -> Fits:
        """Return some of the fits."""
        return Fits._make(array[which] for array in self)

    def replaced(self, which: IntArray, by: Fits) -> Fits:
        """Return fits of which some are replaced."""
        made = Fits._make(array.copy() for array in self)
        for mine, theirs in zip(made, by, strict=True):
            mine[which] = theirs
        return made


class Loaded:
    """Some hypotheses of a batch on the device.

    Attributes
    ----------
    chunk
        Their arrays.
    size
        How many they are; the arrays' first axis may be longer.
    at_once
        How many fits go into one call of the program at most.
    """

    def __init__(self, batch: Batch, chunk: Chunk, size: int, setting: Runtime) -> None:
        from fitserve_worker.kernel.likelihood import Terms
        from fitserve_worker.kernel.program import Models

        columns, local = chunk.columns, chunk.local
        self.chunk = chunk
        self.size = size
        self._sizes = setting.calls(bytes_per_fit(batch.shape))
        self.at_once = self._sizes[-1]
        self._shape = batch.shape
        self._runtime = setting
        self._models = Models(
            background=batch.on_device(),
            added=chunk.samples,
            terms=Terms(
                precision=columns["precision"],
                rate=columns["rate"],
                local_precision=local["precision"],
                local_rate=local["rate"],
            ),
            slots=batch.slots,
        )

    @property
    def kinked(self) -> BoolArray | None:
        """Columns in which the objective may have kinks at zero, if there are any."""
        return self._shape.kinked

    @property
    def discontinuous(self) -> slice | None:
        """Columns in which yields jump at +-1 (pyhf's code 2), if there are any."""
        if self._shape.histosys_code != "code2":
            return None
        return slice(0, self._shape.histosys)

    @property
    def slots(self) -> IntArray:
        """Positions of the model's bins in arrays of bins, of shape (model bins,)."""
        slots: IntArray = self._models.slots
        return slots

    @property
    def poi_bounds(self) -> FloatArray:
        """Bounds of the parameter of interest, of shape (hypotheses, 2)."""
        at = np.arange(self.size), self.chunk.poi[: self.size]
        columns = self.chunk.columns
        return np.stack([columns["lower"][at], columns["upper"][at]], axis=1)

    @functools.cached_property
    def observed(self) -> Data:
        """The observed data of each hypothesis; not to be changed."""
        chunk = self.chunk
        every = Data(
            chunk.data,
            chunk.columns["mean"],
            chunk.columns["counted"],
            chunk.local["mean"],
            chunk.local["counted"],
        )
        return every.take(np.arange(self.size))

    def asimov(self, fits: Fits, hypothesis: IntArray) -> Data:
        """Return the expected data of fits, main and auxiliary.

        They are those of the fitted parameters, whose own objective on them is zero.
        """
        columns, local = self.chunk.columns, self.chunk.local
        return Data(
            fits.yields,
            np.where(columns["precision"][hypothesis] > 0, fits.x, 0.0),
            columns["rate"][hypothesis] * fits.x,
            fits.local,
            local["rate"][hypothesis] * fits.local,
        )

    def bounds(self, hypothesis: IntArray, poi: FloatArray | None = None) -> Bounds:
        """Return the bounds of the models' parameters, for one fit for each index.

        Parameters
        ----------
        hypothesis
            Index of the hypothesis of each fit, of shape (fits,).
        poi
            Value that the parameter of interest is held at, of shape (fits,); it is free
            where this is NaN, and everywhere if it is None.
        """
        columns, local = self.chunk.columns, self.chunk.local
        found = Bounds(
            columns["lower"][hypothesis],
            columns["upper"][hypothesis],
            local["lower"][hypothesis],
            local["upper"][hypothesis],
        )
        if poi is not None:
            held = np.flatnonzero(np.isfinite(poi))
            at = held, self.chunk.poi[hypothesis[held]]
            found.lower[at] = found.upper[at] = poi[held]
        return found

    def fit(
        self,
        hypothesis: IntArray,
        start: FloatArray,
        data: Data,
        poi: FloatArray | None = None,
    ) -> Fits:
        """Fit with the parameter of interest held or free: as many fits as there are data sets.

        All of them are done by one compiled program, cut into calls of its fixed size. To
        fit many data sets to one model repeat its index: ``hypothesis`` of zeros, a row of
        ``data`` and of ``start`` for each data set.

        Parameters
        ----------
        hypothesis
            Index of the hypothesis of each fit, of shape (fits,).
        start
            Where it starts, of shape (fits, columns).
        data
            What it is made to.
        poi
            Value that the parameter of interest is held at, of shape (fits,); it is free
            where this is NaN, and everywhere if it is None.
        """
        return self.fit_between(hypothesis, start, data, self.bounds(hypothesis, poi))

    def fit_between(
        self, hypothesis: IntArray, start: FloatArray, data: Data, bounds: Bounds
    ) -> Fits:
        """Fit, as `fit`, between given bounds, whatever they hold.

        Fits that are done at once all take as long as the slowest of them. There each has few
        evaluations at first, and those that need more go on together.
        """
        first, *others = self._runtime.rounds
        fits = self._calls(hypothesis, start, data, bounds, first)
        late = _unfinished(fits, first)
        for most in others:
            if not late.size:
                break
            before = fits.take(late)
            more = self._calls(hypothesis[late], before.x, data.take(late), bounds.take(late), most)
            still = late[_unfinished(more, most)]
            more = more._replace(
                steps=before.steps + more.steps, hessians=before.hessians + more.hessians
            )
            fits, late = fits.replaced(late, more), still
        return fits

    def _calls(
        self, hypothesis: IntArray, start: FloatArray, data: Data, bounds: Bounds, most: int
    ) -> Fits:
        done = self._runtime.side_by_side(
            lambda piece: self._run(
                hypothesis[piece], start[piece], data.take(piece), bounds.take(piece), most
            ),
            self._pieces(len(hypothesis)),
        )
        return Fits._make(np.concatenate(arrays) for arrays in zip(*done, strict=True))

    def evaluate(
        self, hypothesis: IntArray, x: FloatArray, local: FloatArray, data: Data
    ) -> tuple[Evaluation, Curvature]:
        """Evaluate the objective and its derivatives at points, local parameters held.

        Parameters
        ----------
        hypothesis
            Index of the hypothesis of each point, of shape (points,).
        x, local
            The points: columns (points, columns) and local parameters (points, bins).
        data
            The data.
        """
        from fitserve_worker.kernel.likelihood import Target
        from fitserve_worker.kernel.program import Jobs, evaluate_at

        jobs = Jobs(hypothesis, x, Bounds(x, x, local, local), Target(*data))
        found, bend = evaluate_at(self._shape, self._models, jobs)
        return (
            found._make(np.asarray(array) for array in found),
            bend._make(np.asarray(array) for array in bend),
        )

    def seconds(self, hypothesis: int, fit: Fits) -> Seconds:
        """Return all second derivatives at a fit to the observed data.

        Parameters
        ----------
        hypothesis
            Index of the hypothesis.
        fit
            One fit.
        """
        from fitserve_worker.kernel.details import seconds_at
        from fitserve_worker.kernel.likelihood import Target
        from fitserve_worker.kernel.program import Jobs

        x, local = fit.x[0], fit.local[0]
        target = Target(*(array[hypothesis] for array in self.observed))
        job = Jobs(hypothesis, x, Bounds(x, x, local, local), target)
        found: Seconds = seconds_at(self._shape, self._models, job)
        return type(found)(*(np.asarray(array) for array in found))

    def sample_yields(
        self, hypothesis: int, x: FloatArray, local: FloatArray, ends: FloatArray
    ) -> SampleYields:
        """Return the yields of all samples of a hypothesis at a point, and their slopes.

        Parameters
        ----------
        hypothesis
            Index of the hypothesis.
        x, local
            The point: columns (columns,) and local parameters (bins,).
        ends
            Between which values of each column to take the slope, of shape (2, columns).
        """
        from fitserve_worker.kernel.details import sample_yields_at

        found: SampleYields = sample_yields_at(
            self._shape, self._models, hypothesis, (x, local), ends
        )
        return type(found)(*(np.asarray(array) for array in found))

    def _pieces(self, count: int) -> list[IntArray]:
        parts = max(-(-count // self.at_once), min(self._runtime.threads, count))
        return np.array_split(np.arange(count), parts)

    def _run(
        self, hypothesis: IntArray, start: FloatArray, data: Data, bounds: Bounds, most: int
    ) -> Fits:
        from fitserve_worker.kernel.likelihood import Target
        from fitserve_worker.kernel.program import Jobs, run

        count = len(hypothesis)
        capacity = next(size for size in self._sizes if size >= count)

        def padded(array: Any) -> Any:
            made = np.zeros((capacity, *array.shape[1:]), array.dtype)
            made[:count] = array
            return made

        jobs = Jobs(
            padded(hypothesis),
            padded(start),
            Bounds(*(padded(array) for array in bounds)),
            Target(*(padded(array) for array in data)),
        )
        with self._runtime.cache.first_use(f"{self._shape} {capacity}"):
            found = run(self._shape, self._models, jobs, count, most, in_turn=self._runtime.in_turn)
        return Fits._make(np.asarray(array)[:count] for array in found)


def _unfinished(fits: Fits, most: int) -> IntArray:
    """Return which fits ended because they had no more evaluations."""
    return np.flatnonzero(~fits.converged & (fits.steps >= most))


def load(batch: Batch, members: Sequence[int], setting: Runtime) -> Loaded:
    """Put hypotheses of a batch on the device."""
    chunk = batch.chunk(members, batch.capacity(setting.capacity))
    return Loaded(batch, chunk, len(members), setting)
