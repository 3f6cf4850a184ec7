"""The compiled program for what is told of a fit: all second derivatives, yields of samples."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from fitserve_worker.kernel.curvature import bin_jacobian, curvature
from fitserve_worker.kernel.likelihood import evaluate, quotient
from fitserve_worker.kernel.program import local_bounds
from fitserve_worker.kernel.rows import evaluate_rows

if TYPE_CHECKING:
    from jax import Array

    from fitserve_worker.kernel.arrays import Shape
    from fitserve_worker.kernel.arraytypes import DeviceArray
    from fitserve_worker.kernel.program import Jobs, Models

__all__ = ["SampleYields", "Seconds", "sample_yields_at", "seconds_at"]


class Seconds(NamedTuple):
    """Second derivatives of -log L in all parameters, local ones included.

    ``columns`` (columns, columns), ``mixed`` (model bins, columns) and ``local`` (model bins,),
    which is the diagonal: local parameters of different bins have none in common. ``gradient``
    (columns,) are the first ones.
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
    found, parts = evaluate(shape, samples, terms, job.target, local_bounds(job), job.start, side)
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
        gradient=found.gradient,
    )


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
        Between which values of each column to take the slope, of shape (2, columns).
    """
    samples = (
        models.background,
        jax.tree.map(lambda leaf: leaf[hypothesis], models.added),
    )
    x, local = point
    grid = local.reshape(shape.blocks, shape.width)

    def rates(at: Array) -> tuple[Array, Array]:
        rows = evaluate_rows(shape, samples, at, at[: shape.alphas] >= 0)
        return rows.rates, jnp.broadcast_to(rows.local, rows.rates.shape)

    def in_bins(values: Array) -> Array:
        return values.reshape(len(values), -1)[:, models.slots]

    def slope(column: Array) -> Array:
        up, down = ends[0, column], ends[1, column]
        above, below = rates(x.at[column].set(up))[0], rates(x.at[column].set(down))[0]
        width = jnp.where(up == down, 1.0, up - down)
        return in_bins((above - below) * scale / width)

    x = jnp.asarray(x)
    here, acts = rates(x)
    scale = jnp.where(acts > 0, grid, 1.0)
    return SampleYields(
        yields=in_bins(here * scale),
        by_column=jax.lax.map(slope, jnp.arange(shape.columns)),
        by_local=in_bins(here * acts),
    )
