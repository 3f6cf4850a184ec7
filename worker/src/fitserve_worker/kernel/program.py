"""The compiled programs: many fits, each to its own hypothesis and data, or the details of one.

One program serves all fits of a shape, however many hypotheses there are: to observed and Asimov
data and to toys, with the parameter of interest fixed or free.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from fitserve_worker.kernel.curvature import Curvature, bin_jacobian, curvature
from fitserve_worker.kernel.likelihood import (
    Evaluation,
    Parts,
    Target,
    Terms,
    evaluate,
    far_slopes,
    quotient,
)
from fitserve_worker.kernel.newton import Minimum, Problem, minimise, no_minima
from fitserve_worker.kernel.rows import evaluate_rows

if TYPE_CHECKING:
    from jax import Array

    from fitserve_worker.kernel import DeviceArray
    from fitserve_worker.kernel.arrays import Bounds, SampleArrays, Shape
    from fitserve_worker.kernel.runtime import Goal

__all__ = [
    "Jobs",
    "Models",
    "SampleYields",
    "Seconds",
    "evaluate_at",
    "local_bounds",
    "negative_yields_at",
    "run",
    "sample_yields_at",
    "seconds_at",
]


class Models(NamedTuple):
    """Hypotheses on a background; ``added`` and ``terms`` have the hypothesis as first axis.

    ``slots`` are the positions of the model's bins, see `fitserve_worker.kernel.arrays.Layout`.
    """

    background: SampleArrays
    added: SampleArrays
    terms: Terms
    slots: DeviceArray


class Jobs(NamedTuple):
    """Fits to do, with the fit as first axis.

    ``hypothesis`` is an index into `Models`, ``minimum`` a known minimum (NaN: none).
    """

    hypothesis: DeviceArray
    start: DeviceArray
    minimum: DeviceArray
    bounds: Bounds
    target: Target


def local_bounds(job: Jobs) -> tuple[DeviceArray, DeviceArray]:
    """Return the bounds of a job's local parameters, each of shape (bins,)."""
    return job.bounds.local_lower, job.bounds.local_upper


def _fit(shape: Shape, models: Models, job: Jobs, goal: Goal) -> Minimum:
    added, terms = jax.tree.map(lambda leaf: leaf[job.hypothesis], (models.added, models.terms))

    def function(x: Array, side: Array) -> tuple[Evaluation, Parts]:
        samples = (models.background, added)
        return evaluate(shape, samples, terms, job.target, local_bounds(job), x, side)

    def bend(parts: Parts) -> Curvature:
        return curvature(shape, terms, job.target, models.slots, parts)

    def slopes(parts: Parts) -> Array:
        return far_slopes(shape, (models.background, added), parts)

    problem = Problem(function, bend, slopes, job.bounds.lower, job.bounds.upper, shape.kinked)
    return minimise(problem, job.start, shape.bins, len(models.slots), goal, job.minimum)


@functools.partial(jax.jit, static_argnames=("shape", "in_turn"))
def run(
    shape: Shape,
    models: Models,
    jobs: Jobs,
    count: DeviceArray,
    goal: Goal,
    *,
    in_turn: bool,
) -> Minimum:
    """Do the first ``count`` of the jobs.

    Parameters
    ----------
    shape
        What the arrays are.
    models, jobs
        The hypotheses, and the fits.
    count
        How many of the jobs are real. The others pad the arrays to their fixed size.
    goal
        When a fit ends.
    in_turn
        Do one fit after the other: a CPU's cache holds one, and none waits for another's
        last step. A GPU does all at once.
    """
    if not in_turn:
        # Padding gets equal bounds, and is done at once.
        idle = (jnp.arange(len(jobs.start)) >= count)[:, None]
        upper = jnp.where(idle, jobs.bounds.lower, jobs.bounds.upper)
        jobs = jobs._replace(bounds=jobs.bounds._replace(upper=upper))
        at_once: Minimum = jax.vmap(lambda job: _fit(shape, models, job, goal))(jobs)
        return at_once

    def job(index: Array | int) -> Jobs:
        one: Jobs = jax.tree.map(lambda leaf: leaf[index], jobs)
        return one

    blank = no_minima(len(jobs.start), shape.columns, shape.bins)

    def step(index: Array, done: Minimum) -> Minimum:
        minimum = _fit(shape, models, job(index), goal)
        more: Minimum = jax.tree.map(lambda every, own: every.at[index].set(own), done, minimum)
        return more

    one_by_one: Minimum = jax.lax.fori_loop(0, count, step, blank)
    return one_by_one


@functools.partial(jax.jit, static_argnames=("shape",))
def evaluate_at(shape: Shape, models: Models, jobs: Jobs) -> tuple[Evaluation, Curvature]:
    """Evaluate the objective and its derivatives at the start of each job."""

    def one(job: Jobs) -> tuple[Evaluation, Curvature]:
        added, terms = jax.tree.map(lambda leaf: leaf[job.hypothesis], (models.added, models.terms))
        samples = (models.background, added)
        side = jnp.ones(shape.columns)
        evaluation, parts = evaluate(
            shape, samples, terms, job.target, local_bounds(job), job.start, side
        )
        return evaluation, curvature(shape, terms, job.target, models.slots, parts)

    every: tuple[Evaluation, Curvature] = jax.lax.map(one, jobs)
    return every


class Seconds(NamedTuple):
    """Second derivatives of -log L in all parameters, local ones included.

    ``columns`` (columns, columns), ``mixed`` (model bins, columns) and ``local`` (model bins,),
    a diagonal, since local parameters of different bins have no mixed ones. ``gradient``
    (columns,) has the first derivatives.
    """

    columns: DeviceArray
    mixed: DeviceArray
    local: DeviceArray
    gradient: DeviceArray


class SampleYields(NamedTuple):
    """Yields of samples, (slots, model bins), with their derivatives.

    ``by_column`` (columns, slots, model bins) is taken between two ends of each column,
    ``by_local`` (slots, model bins) in the bin's local parameter.
    """

    yields: DeviceArray
    by_column: DeviceArray
    by_local: DeviceArray


@functools.partial(jax.jit, static_argnames=("shape",))
def seconds_at(shape: Shape, models: Models, job: Jobs) -> Seconds:
    """Return the second derivatives at the start of a job.

    The local parameters are held at their bounds, which must be equal. With y = A + g B those
    mixed with the local parameter g of a bin are (1 - n / y) B' + (n / y^2) B y', y' being
    derivatives at fixed g.
    """
    added, terms = jax.tree.map(lambda leaf: leaf[job.hypothesis], (models.added, models.terms))
    samples = (models.background, added)
    side = jnp.ones(shape.columns)
    evaluation, parts = evaluate(
        shape, samples, terms, job.target, local_bounds(job), job.start, side
    )
    bend = curvature(shape, terms, job.target, models.slots, parts)
    rows, bins, slots = parts.rows, parts.bins, models.slots
    local = bins.local.reshape(shape.blocks, shape.width)
    scaled = bin_jacobian(shape, rows, rows.local, slots)
    full = bin_jacobian(shape, rows, 1 + rows.local * (local - 1), slots)
    of_constraint = terms.local_precision + quotient(
        quotient(job.target.local_counted, bins.local), bins.local
    )
    return Seconds(
        columns=bend.hessian,
        mixed=bins.slope[slots, None] * scaled + (bins.bend * bins.scaled)[slots, None] * full,
        local=(bins.bend * bins.scaled**2 + of_constraint)[slots],
        gradient=evaluation.gradient,
    )


def _samples(models: Models, hypothesis: DeviceArray) -> tuple[SampleArrays, SampleArrays]:
    return models.background, jax.tree.map(lambda leaf: leaf[hypothesis], models.added)


def _rates(
    shape: Shape, samples: tuple[SampleArrays, SampleArrays], x: Array
) -> tuple[Array, Array]:
    """Return the rates of samples, and where local parameters act on them."""
    rows = evaluate_rows(shape, samples, x, x[: shape.alphas] >= 0)
    return rows.rates, jnp.broadcast_to(rows.local, rows.rates.shape)


@functools.partial(jax.jit, static_argnames=("shape",))
def negative_yields_at(
    shape: Shape,
    models: Models,
    hypothesis: DeviceArray,
    point: tuple[DeviceArray, DeviceArray],
) -> DeviceArray:
    """Return the events of samples that expect negative ones, of shape (model bins,).

    Parameters
    ----------
    shape, models, hypothesis, point
        As in `sample_yields_at`.
    """
    x, local = jnp.asarray(point[0]), point[1]
    rates, acts = _rates(shape, _samples(models, hypothesis), x)
    grid = local.reshape(shape.blocks, shape.width)
    yields = rates * jnp.where(acts > 0, grid, 1.0)
    return jnp.minimum(yields, 0.0).sum(axis=0).reshape(-1)[models.slots]


@functools.partial(jax.jit, static_argnames=("shape",))
def sample_yields_at(
    shape: Shape,
    models: Models,
    hypothesis: DeviceArray,
    point: tuple[DeviceArray, DeviceArray],
    ends: DeviceArray,
) -> SampleYields:
    """Return the yields of a hypothesis' samples at a point, and their slopes.

    Parameters
    ----------
    shape, models
        The hypotheses.
    hypothesis
        Which of them.
    point
        Columns (columns,) and local parameters (bins,).
    ends
        The two values of each column between which the slope is taken, of shape (2, columns).
    """
    samples = _samples(models, hypothesis)
    x, local = point
    grid = local.reshape(shape.blocks, shape.width)

    def in_bins(values: Array) -> Array:
        return values.reshape(len(values), -1)[:, models.slots]

    def slope(column: Array) -> Array:
        up, down = ends[0, column], ends[1, column]
        above, below = (_rates(shape, samples, x.at[column].set(end))[0] for end in (up, down))
        width = jnp.where(up == down, 1.0, up - down)
        return in_bins((above - below) * scale / width)

    x = jnp.asarray(x)
    here, acts = _rates(shape, samples, x)
    scale = jnp.where(acts > 0, grid, 1.0)
    return SampleYields(
        yields=in_bins(here * scale),
        by_column=jax.lax.map(slope, jnp.arange(shape.columns)),
        by_local=in_bins(here * acts),
    )
