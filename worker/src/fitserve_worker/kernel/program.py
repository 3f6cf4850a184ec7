"""The compiled program: many fits, each to its own hypothesis and data.

One program serves all fits of a shape, however many hypotheses there are: those on observed
and Asimov data, with the parameter of interest fixed or free, and toys.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from fitserve_worker.kernel.curvature import Curvature, curvature
from fitserve_worker.kernel.likelihood import Evaluation, Parts, Target, Terms, evaluate, far_slopes
from fitserve_worker.kernel.newton import Minimum, Problem, minimise, no_minima

if TYPE_CHECKING:
    from jax import Array

    from fitserve_worker.kernel.arrays import SampleArrays, Shape
    from fitserve_worker.kernel.arraytypes import DeviceArray
    from fitserve_worker.kernel.fits import Bounds
    from fitserve_worker.kernel.runtime import Goal

__all__ = ["Jobs", "Models", "evaluate_at", "local_bounds", "run"]


class Models(NamedTuple):
    """Hypotheses on a background; ``added`` and ``terms`` have the hypothesis as first axis.

    ``slots`` are the positions of the model's bins, see `fitserve_worker.kernel.layout`.
    """

    background: SampleArrays
    added: SampleArrays
    terms: Terms
    slots: DeviceArray


class Jobs(NamedTuple):
    """Fits to do, with the fit as first axis.

    ``hypothesis`` is an index into `Models`, ``known`` a minimum that is known (NaN: none).
    """

    hypothesis: DeviceArray
    start: DeviceArray
    known: DeviceArray
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
    return minimise(problem, job.start, shape.bins, len(models.slots), goal, job.known)


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
        # What only pads gets bounds without room, and is done at once.
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
        found = _fit(shape, models, job(index), goal)
        more: Minimum = jax.tree.map(lambda every, own: every.at[index].set(own), done, found)
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
        found, parts = evaluate(
            shape, samples, terms, job.target, local_bounds(job), job.start, side
        )
        return found, curvature(shape, terms, job.target, models.slots, parts)

    every: tuple[Evaluation, Curvature] = jax.lax.map(one, jobs)
    return every
