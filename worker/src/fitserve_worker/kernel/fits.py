"""Fits of a batch's hypotheses, with NumPy arrays in and out."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fitserve_worker.kernel.arrays import Bounds, Data, bytes_per_fit
from fitserve_worker.kernel.asymptotics import poi_floor
from fitserve_worker.kernel.runtime import USUAL, Goal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jax import Array

    from fitserve_worker.kernel import BoolArray, DeviceArray, FloatArray, IntArray
    from fitserve_worker.kernel.arrays import Shape
    from fitserve_worker.kernel.batch import Batch, Chunk
    from fitserve_worker.kernel.curvature import Curvature
    from fitserve_worker.kernel.likelihood import Evaluation
    from fitserve_worker.kernel.program import Models, SampleYields, Seconds
    from fitserve_worker.kernel.runtime import Runtime

__all__ = ["Fits", "Loaded", "joined", "load"]

# EDMs at which fits end, in units of -log L: one that is 1e-7 standard deviations of a
# parameter, and one from which no other minimum can be reached.
_EXACT = 1e-15
_ROUGH = 0.2
_ROUGH_STEPS = 25


class Fits(NamedTuple):
    """Results of fits, with the fit as first axis.

    ``x`` (fits, columns) and ``local`` (fits, bins) are the parameters, ``value`` the
    objective there (see `fitserve_worker.kernel.likelihood`), ``gradient`` its derivatives
    and ``yields`` (fits, bins) the expected events. ``edm`` is the estimated distance to the
    minimum in units of -log L, ``steps`` and ``hessians`` the numbers of gradients and of
    Hessians, ``positive`` whether the last of these was positive definite. ``slopes`` (fits, 2,
    columns) are those of `fitserve_worker.kernel.likelihood.far_slopes`.
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
    slopes: FloatArray

    def take(self, which: IntArray | BoolArray) -> Fits:
        """Return some of the fits."""
        return Fits._make(array[which] for array in self)

    def replaced(self, which: IntArray, by: Fits) -> Fits:
        """Return fits of which some are replaced."""
        made = Fits._make(array.copy() for array in self)
        for mine, theirs in zip(made, by, strict=True):
            mine[which] = theirs
        return made


def joined(several: Sequence[Fits]) -> Fits:
    """Return fits one after the other."""
    return Fits._make(np.concatenate(arrays) for arrays in zip(*several, strict=True))


class Loaded:
    """Some hypotheses of a batch on the device.

    Attributes
    ----------
    chunk
        Their arrays.
    batch, members
        The batch, and which of its hypotheses they are.
    size
        How many they are; the arrays' first axis may be longer.
    at_once
        The most fits in one call of the program.
    slots
        Positions of the model's bins in arrays of bins, of shape (model bins,).
    small
        Whether a fit costs next to nothing.
    rugged
        Whether the background may have many minima, see `Batch`.
    """

    def __init__(
        self, batch: Batch, chunk: Chunk, members: Sequence[int], setting: Runtime
    ) -> None:
        import jax

        from fitserve_worker.kernel.likelihood import Terms
        from fitserve_worker.kernel.program import Models

        columns, local = chunk.columns, chunk.local
        self.chunk = chunk
        self.batch = batch
        self.members = members
        self.size = len(members)
        self.slots = batch.slots
        self.small = batch.small
        self.rugged = batch.rugged
        self._sizes = setting.calls(bytes_per_fit(batch.shape))
        self.at_once = self._sizes[-1]
        self._shape = batch.shape
        self._runtime = setting
        self._weaker: dict[float, Loaded] = {}
        self.device_slots = batch.device_slots
        terms = Terms(
            precision=columns["precision"],
            rate=columns["rate"],
            local_precision=local["precision"],
            local_rate=local["rate"],
        )
        # Once here, not with each call of a program.
        added, terms, slots = jax.device_put((chunk.samples, terms, self.device_slots))
        self._models = Models(batch.on_device(), added, terms, slots)

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

    def signal_events(self) -> tuple[FloatArray, BoolArray]:
        """Return the nominal events of what the parameter of interest scales, and if only that.

        They are of shape (hypotheses, bins). The second array, (hypotheses,), is true where it acts
        on samples of the hypothesis alone, by a factor.
        """
        every = np.arange(self.size)
        column = self.chunk.poi[: self.size] - self._shape.alphas
        own = np.asarray(self.chunk.samples.linear)[every, :, column]
        nominal = np.abs(np.asarray(self.chunk.samples.nominal)[: self.size])
        variations = (self.chunk.samples.up, self.chunk.samples.down)
        for one in variations:
            nominal = nominal + np.abs(np.asarray(one)[: self.size]).sum(axis=-1)
        # A signal may be nothing but variations.
        by_row = nominal * own[..., None]
        blocks = (self.size, -1, self._shape.blocks * self._shape.width)
        shared = np.asarray(self._models.background.linear)[:, column].any(axis=0)
        return by_row.reshape(blocks).sum(axis=1), (column >= 0) & ~shared & own.any(axis=1)

    def measured(self, unit: FloatArray, low: FloatArray, high: FloatArray) -> Loaded:
        """Return the same hypotheses with the parameter of interest measured in other units.

        The events of what it scales are multiplied instead; `signal_events` says where that is
        possible.

        Parameters
        ----------
        unit, low, high
            For each hypothesis the unit, and the bounds in it.
        """
        chunk, every = self.chunk, np.arange(self.size)
        at = every, chunk.poi[: self.size]
        columns = {name: array.copy() for name, array in chunk.columns.items()}
        columns["lower"][at], columns["upper"][at] = low, high
        columns["init"][at] = np.clip(columns["init"][at], low, high)
        samples = chunk.samples
        acts = np.asarray(samples.linear)[every, :, chunk.poi[: self.size] - self._shape.alphas]
        factor = np.ones(np.asarray(samples.linear).shape[:2])
        factor[: self.size] = np.where(acts, unit[:, None], 1.0)
        samples = samples._replace(
            nominal=samples.nominal * factor[..., None],
            up=samples.up * factor[..., None, None],
            down=samples.down * factor[..., None, None],
        )
        chunk = chunk._replace(columns=columns, samples=samples)
        return Loaded(self.batch, chunk, self.members, self._runtime)

    def weaker(self, part: float) -> Loaded:
        """Return the same hypotheses with weaker Gaussian constraints.

        Parameters
        ----------
        part
            The factor on the second derivatives of the constraints.
        """
        if part not in self._weaker:
            columns = self.chunk.columns
            columns = {**columns, "precision": part * columns["precision"]}
            chunk = self.chunk._replace(columns=columns)
            self._weaker[part] = Loaded(self.batch, chunk, self.members, self._runtime)
        return self._weaker[part]

    def alone(self, at: int, events: FloatArray) -> Loaded:
        """Return a hypothesis' background without its samples, several times.

        Parameters
        ----------
        at
            Index of the hypothesis.
        events
            Events to add to the bins, of shape (several, bins); no more than are on the device at
            a time.
        """
        member = self.members[at]
        capacity = self.batch.capacity(self._runtime.capacity)
        chunk = self.batch.alone(member, events[:capacity], capacity)
        return Loaded(self.batch, chunk, [member] * len(events[:capacity]), self._runtime)

    def asimov(self, fits: Fits, hypothesis: IntArray) -> Data:
        """Return the expected data of fits, main and auxiliary.

        The fitted parameters are their best fit, with an objective of zero.
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
        """Return the bounds of the models' parameters, one fit for each index.

        Parameters
        ----------
        hypothesis
            Index of the hypothesis of each fit, of shape (fits,).
        poi
            Value that the parameter of interest is held at, of shape (fits,); it is free
            where this is NaN, and everywhere if it is None.
        """
        columns, local = self.chunk.columns, self.chunk.local
        bounds = Bounds(
            columns["lower"][hypothesis],
            columns["upper"][hypothesis],
            local["lower"][hypothesis],
            local["upper"][hypothesis],
        )
        if poi is not None:
            held = np.flatnonzero(np.isfinite(poi))
            at = held, self.chunk.poi[hypothesis[held]]
            bounds.lower[at] = bounds.upper[at] = poi[held]
        return bounds

    def fit(
        self,
        hypothesis: IntArray,
        start: FloatArray,
        data: Data,
        poi: FloatArray | None = None,
    ) -> Fits:
        """Fit each data set with the parameter of interest held or free.

        One compiled program does all fits, in calls of its fixed size. To fit many data sets to
        one model repeat its index: ``hypothesis`` of zeros, a row of ``data`` and of ``start`` for
        each data set.

        Parameters
        ----------
        hypothesis
            Index of the hypothesis of each fit, of shape (fits,).
        start
            Where it starts, of shape (fits, columns).
        data
            The data of each fit.
        poi
            Value that the parameter of interest is held at, of shape (fits,); it is free
            where this is NaN, and everywhere if it is None.
        """
        return self.fit_between(hypothesis, start, data, self.bounds(hypothesis, poi))

    def fit_between(
        self,
        hypothesis: IntArray,
        start: FloatArray,
        data: Data,
        bounds: Bounds,
        *,
        exact: bool = False,
    ) -> Fits:
        """Fit, as `fit`, between given bounds, whatever they hold.

        Fits done at once all take as long as the slowest. They therefore get few evaluations at
        first, and those that need more go on together.

        Parameters
        ----------
        hypothesis, start, data
            As in `fit`.
        bounds
            The bounds of each fit.
        exact
            Whether the parameters, not only the minimum, enter results.
        """
        goal = Goal(left=_EXACT) if exact else USUAL
        first, *others = self._runtime.rounds
        fits = self._calls(hypothesis, start, data, bounds, goal._replace(most=first))
        late = _unfinished(fits, first)
        for most in others:
            if not late.size:
                break
            before = fits.take(late)
            more = self._calls(
                hypothesis[late],
                before.x,
                data.take(late),
                bounds.take(late),
                goal._replace(most=most),
            )
            still = late[_unfinished(more, most)]
            more = more._replace(
                steps=before.steps + more.steps, hessians=before.hessians + more.hessians
            )
            fits, late = fits.replaced(late, more), still
        return fits

    def fit_roughly(
        self,
        hypothesis: IntArray,
        start: FloatArray,
        data: Data,
        bounds: Bounds,
        minimum: FloatArray,
    ) -> Fits:
        """Fit, as `fit_between`, until it is clear which minimum a start leads to.

        Parameters
        ----------
        hypothesis, start, data, bounds
            As in `fit_between`.
        minimum
            A known minimum of each fit, of shape (fits, columns).
        """
        goal = Goal(most=min(_ROUGH_STEPS, self._runtime.rounds[0]), rough=_ROUGH)
        return self._calls(hypothesis, start, data, bounds, goal, minimum)

    def _calls(
        self,
        hypothesis: IntArray,
        start: FloatArray,
        data: Data,
        bounds: Bounds,
        goal: Goal,
        minimum: FloatArray | None = None,
    ) -> Fits:
        minimum = np.full(start.shape, np.nan) if minimum is None else minimum
        done = self._runtime.side_by_side(
            lambda piece: self._run(
                (hypothesis[piece], start[piece], minimum[piece]),
                data.take(piece),
                bounds.take(piece),
                goal,
            ),
            self._pieces(len(hypothesis)),
        )
        return joined(done)

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

        jobs = Jobs(hypothesis, x, x, Bounds(x, x, local, local), Target(*data))
        evaluation, bend = evaluate_at(self._shape, self._models, jobs)
        return (
            evaluation._make(np.asarray(array) for array in evaluation),
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
        from fitserve_worker.kernel.likelihood import Target
        from fitserve_worker.kernel.program import Jobs, seconds_at

        x, local = fit.x[0], fit.local[0]
        target = Target(*(array[hypothesis] for array in self.observed))
        job = Jobs(hypothesis, x, x, Bounds(x, x, local, local), target)
        seconds: Seconds = seconds_at(self._shape, self._models, job)
        at = np.searchsorted(self.device_slots, self.slots)
        return type(seconds)(
            columns=np.asarray(seconds.columns),
            mixed=np.asarray(seconds.mixed)[at],
            local=np.asarray(seconds.local)[at],
            gradient=np.asarray(seconds.gradient),
        )

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
            The two values of each column between which the slope is taken, of shape (2, columns).
        """
        from fitserve_worker.kernel.program import sample_yields_at

        yields: SampleYields = sample_yields_at(
            self._shape, self._models, hypothesis, (x, local), ends
        )
        at = np.searchsorted(self.device_slots, self.slots)
        return type(yields)(*(np.asarray(array)[..., at] for array in yields))

    def negative(self, hypothesis: IntArray, fits: Fits) -> FloatArray:
        """Return how far below zero the events of samples are, of shape (fits,).

        In standard deviations of the expected events of the bin where this is largest.

        Parameters
        ----------
        hypothesis
            Index of the hypothesis of each fit, of shape (fits,).
        fits
            Where they ended.
        """
        at = np.searchsorted(self.device_slots, self.slots)
        depths = np.zeros(len(hypothesis))
        for first in range(0, len(hypothesis), self.at_once):
            some = slice(first, first + self.at_once)
            points = hypothesis[some], fits.x[some], fits.local[some]
            padded = [_padded(array, self.at_once) for array in points]
            below = np.asarray(_negative(self._shape)(self._models, *padded))[: len(points[0]), at]
            width = np.sqrt(np.maximum(fits.yields[some][:, self.slots], 1.0))
            depths[some] = (-below / width).max(axis=1)
        return depths

    def _pieces(self, count: int) -> list[IntArray]:
        parts = max(-(-count // self.at_once), min(self._runtime.threads, count))
        return np.array_split(np.arange(count), parts)

    def _run(
        self,
        begin: tuple[IntArray, FloatArray, FloatArray],
        data: Data,
        bounds: Bounds,
        goal: Goal,
    ) -> Fits:
        from fitserve_worker.kernel.likelihood import Target
        from fitserve_worker.kernel.program import Jobs, run

        hypothesis, start, minimum = begin
        count = len(hypothesis)
        capacity = next(size for size in self._sizes if size >= count)

        padded = functools.partial(_padded, size=capacity)
        jobs = Jobs(
            padded(hypothesis),
            padded(start),
            padded(minimum),
            Bounds(*(padded(array) for array in bounds)),
            Target(*(padded(array) for array in data)),
        )
        with self._runtime.cache.first_use(f"{self._shape} {capacity}"):
            ends = run(self._shape, self._models, jobs, count, goal, in_turn=self._runtime.in_turn)
        return Fits._make(np.asarray(array)[:count] for array in ends)


def _padded(array: Any, size: int) -> Any:
    made = np.zeros((size, *array.shape[1:]), array.dtype)
    made[: len(array)] = array
    return made


@functools.cache
def _negative(shape: Shape) -> Callable[..., Array]:
    """Return the program for the negative events of samples at several points."""
    import jax

    from fitserve_worker.kernel.program import negative_yields_at

    def several(models: Models, hypothesis: Array, x: Array, local: Array) -> Array:
        def one(point: tuple[Array, Array, Array]) -> DeviceArray:
            return negative_yields_at(shape, models, point[0], point[1:])

        below: Array = jax.lax.map(one, (hypothesis, x, local))
        return below

    return jax.jit(several)


def _unfinished(fits: Fits, most: int) -> IntArray:
    """Return which fits ended because they ran out of evaluations."""
    return np.flatnonzero(~fits.converged & (fits.steps >= most))


def load(
    batch: Batch,
    members: Sequence[int],
    setting: Runtime,
    test_stat: str | None = None,
) -> Loaded:
    """Put hypotheses of a batch on the device.

    Parameters
    ----------
    batch, members
        The batch, and which of its hypotheses.
    setting
        How fits are run here.
    test_stat
        The test statistic that the fits are for, if any: with ``"q"`` the signal strength may
        be below zero, whatever the measurement says.
    """
    chunk = batch.chunk(members, batch.capacity(setting.capacity))
    if test_stat is not None:
        at = np.arange(len(chunk.poi)), chunk.poi
        lower, upper = chunk.columns["lower"], chunk.columns["upper"]
        lower[at] = poi_floor(lower[at], upper[at], test_stat)
    return Loaded(batch, chunk, members, setting)
