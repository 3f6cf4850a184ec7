"""The negative log-likelihood of one hypothesis, its gradient and its exact Hessian.

Constants are left out: a Poisson term is y - n - n log(y / n) and a normal one
p (x - m)^2 / 2, so that both are zero at best and stay accurate for huge counts. Local
parameters are minimised over, so that this is a function of the columns only; by the
implicit function theorem its Hessian is the Schur complement of theirs.

Second derivatives of yields (see `fitserve_worker.kernel.rows`) enter with a weight per row
or bin, so that the Hessian is X^T Y + Y^T X over rows, a product over bins of the Jacobian
with itself, and a diagonal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp

from fitserve_worker.kernel.local import LocalTerms, minimum
from fitserve_worker.kernel.rows import TINY, Rows, evaluate_rows

if TYPE_CHECKING:
    from jax import Array

    from fitserve_worker.kernel.arrays import SampleArrays, Shape
    from fitserve_worker.kernel.arraytypes import DeviceArray

__all__ = ["Evaluation", "Target", "Terms", "evaluate"]


# Below this relative difference of rate and count log(1 + x) gives way to the logarithm.
_FAR = -0.5


class Terms(NamedTuple):
    """Constraints of a hypothesis' columns, each (columns,), and its local ones, (bins,).

    ``precision`` is the inverse variance of normal constraints, ``rate`` the rate per unit
    of the parameter of Poisson ones, zero where there is none.
    """

    precision: DeviceArray
    rate: DeviceArray
    local_lower: DeviceArray
    local_upper: DeviceArray
    local_precision: DeviceArray
    local_rate: DeviceArray


class Target(NamedTuple):
    """What is fitted to: events in bins, and auxiliary measurements.

    ``mean`` and ``counted`` (columns,) and their local namesakes (bins,) are the auxiliary data
    of normal and Poisson constraints.
    """

    data: DeviceArray
    mean: DeviceArray
    counted: DeviceArray
    local_mean: DeviceArray
    local_counted: DeviceArray


class Evaluation(NamedTuple):
    """The objective at a point, with derivatives.

    ``value``, ``gradient`` (columns,) and ``hessian`` (columns, columns) are of the objective.
    ``other`` is the gradient with all kinks at zero (of codes 0 and 1) taken on their other
    side; without kinks it is the gradient. ``yields`` (bins,) and ``local`` (bins,) are the
    expected events and the local parameters. ``jacobian`` (model bins, columns) and
    ``information`` (model bins,) give the Fisher information of the bins, J^T diag(i) J.
    ``magnitude`` (columns,) is what the diagonal of the Hessian would be if nothing cancelled.
    """

    value: Array
    gradient: Array
    other: Array
    hessian: Array
    yields: Array
    local: Array
    jacobian: Array
    information: Array
    magnitude: Array


class _Products(NamedTuple):
    """Of bins: J; Z and w with Z^T diag(w) Z their part of the Hessian; the information.

    ``sizes`` are w if nothing in them cancelled.
    """

    jacobian: Array
    outer: Array
    weights: Array
    sizes: Array
    information: Array


class _Bins(NamedTuple):
    """Bins at a point, each of shape (bins,).

    ``scaled`` is B and ``yields`` A + g B with g the ``local`` parameter, which is ``free``
    where it is off its bounds. ``ratio`` is n / y, ``slope`` 1 - n / y, ``bend`` n / y^2.
    """

    scaled: Array
    local: Array
    free: Array
    yields: Array
    ratio: Array
    slope: Array
    bend: Array


def evaluate(
    shape: Shape,
    samples: tuple[SampleArrays, SampleArrays],
    terms: Terms,
    target: Target,
    slots: Array,
    x: Array,
    side: Array,
) -> Evaluation:
    """Evaluate the objective and its derivatives.

    Parameters
    ----------
    shape
        What the arrays are.
    samples
        Samples of the background and of the hypothesis.
    terms, target
        Constraints, and data.
    slots
        Positions of the model's bins among all, of shape (model bins,).
    x
        The point, of shape (columns,).
    side
        For interpolation parameters at a kink, the side to take: positive or negative.
    """
    alpha = x[: shape.alphas]
    positive = (alpha > 0) | ((alpha == 0) & (side[: shape.alphas] > 0))
    rows = evaluate_rows(shape, samples, x, positive)
    bins = _bins(rows, terms, target)
    value = (
        jnp.sum(_poisson(bins.yields, target.data))
        + jnp.sum(0.5 * terms.precision * (x - target.mean) ** 2)
        + jnp.sum(0.5 * terms.local_precision * (bins.local - target.local_mean) ** 2)
        + jnp.sum(_poisson(terms.local_rate * bins.local, target.local_counted))
    )
    pull = terms.precision * (x - target.mean)
    stiffness = terms.precision
    if shape.poisson:
        quotient = _quotient(target.counted, x)
        value += jnp.sum(_poisson(terms.rate * x, target.counted))
        pull += terms.rate - quotient
        stiffness += _quotient(quotient, x)

    # What d(-log L)/dr is for the yields r of rows, and what it makes of F D and r L.
    grid = shape.blocks, shape.width
    slopes = bins.slope.reshape(grid) * (1 + rows.local * (bins.local.reshape(grid) - 1))
    step_weights = slopes * rows.factor[..., None]
    row_weights = jnp.sum(slopes * rows.rates, axis=-1).ravel()
    up, down = _sums(samples, step_weights.reshape(-1, shape.width))
    basis = rows.basis
    gradient = pull + _columns(shape, up * basis.up1 + down * basis.down1, row_weights @ rows.log1)
    other = _other_side(shape, samples, positive, (up, down), row_weights, gradient, alpha)

    of_bins = _bin_products(shape, rows, bins, terms, target, slots)
    by_bins = of_bins.outer.T @ (of_bins.weights[:, None] * of_bins.outer)
    by_rows = 0.5 * row_weights[:, None] * _lead(shape, rows.log1) + jnp.pad(
        rows.steps_by_row(step_weights), ((0, 0), (0, shape.columns - shape.histosys))
    )
    half = jnp.pad(rows.log1.T @ by_rows, ((shape.columns - rows.log1.shape[1], 0), (0, 0)))
    curvature = _columns(
        shape,
        up * basis.up2 + down * basis.down2,
        jnp.pad(row_weights @ rows.log2, (0, shape.linear)),
    )
    full = half + half.T + by_bins
    # What only multiplies has no second derivative of its own.
    diagonal = jnp.where(
        jnp.arange(shape.columns) < shape.alphas,
        diagonal_of(full) + curvature,
        diagonal_of(by_bins),
    )
    hessian = jnp.where(jnp.eye(shape.columns, dtype=bool), diagonal + stiffness, full)
    return Evaluation(
        value=value,
        gradient=gradient,
        other=other,
        hessian=hessian,
        yields=bins.yields,
        local=bins.local,
        jacobian=of_bins.jacobian,
        information=of_bins.information,
        magnitude=jnp.abs(diagonal) + of_bins.sizes @ of_bins.outer**2 + stiffness,
    )


def _bins(rows: Rows, terms: Terms, target: Target) -> _Bins:
    scaled = jnp.sum(rows.local * rows.rates, axis=0).ravel()
    rest = jnp.sum((1 - rows.local) * rows.rates, axis=0).ravel()
    local, free = minimum(
        rest,
        scaled,
        target.data,
        LocalTerms(
            lower=terms.local_lower,
            upper=terms.local_upper,
            precision=terms.local_precision,
            mean=target.local_mean,
            rate=terms.local_rate,
            counted=target.local_counted,
        ),
    )
    yields = rest + local * scaled
    ratio = _quotient(target.data, yields)
    return _Bins(scaled, local, free, yields, ratio, 1 - ratio, _quotient(ratio, yields))


def _bin_products(
    shape: Shape, rows: Rows, bins: _Bins, terms: Terms, target: Target, slots: Array
) -> _Products:
    """Return the products of bins.

    With y' the derivatives of a yield at fixed local parameter and c those of d(-log L)/dg,
    the part is y' y'^T n / y^2 - c c^T / q, q the second derivative in g, where g is free.
    """
    q_constraint = terms.local_precision + _quotient(
        _quotient(target.local_counted, bins.local), bins.local
    )
    q = bins.bend * bins.scaled**2 + q_constraint
    relaxed = jnp.where(bins.free, 1 / jnp.where(bins.free, q, 1.0), 0.0)
    # Expected, not observed, curvature: n -> y.
    positive = bins.yields > 0
    y = jnp.where(positive, bins.yields, 1.0)
    spread = jnp.where(bins.free, bins.scaled**2, 0.0) + q_constraint * y
    shared = jnp.where(bins.free, q_constraint / jnp.where(spread > 0, spread, 1.0), 1 / y)
    information = jnp.where(positive, shared, 0.0)[slots]

    def jacobian(mask: Array) -> Array:
        by_row = jnp.einsum("kiw,kip->iwp", mask * rows.rates, _by_slot(shape, rows.log1)).reshape(
            shape.bins, -1
        )
        by_bin = rows.steps_by_bin(
            jnp.broadcast_to(mask * rows.factor[..., None], rows.rates.shape)
        )
        return _columns(shape, by_bin, by_row.reshape(shape.bins, -1))[slots]

    local, bend, relaxed = bins.local[slots], bins.bend[slots], relaxed[slots]
    if shape.local == "none":
        plain = jacobian(jnp.ones_like(rows.local))
        return _Products(plain, plain, bend, bend, information)
    if shape.local == "all":
        # Without A the mixed derivatives c are B' itself.
        scaled = jacobian(jnp.ones_like(rows.local))
        return _Products(
            local[:, None] * scaled,
            scaled,
            bend * local**2 - relaxed,
            bend * local**2 + relaxed,
            information,
        )
    scaled = jacobian(rows.local)
    full = jacobian(1 - rows.local) + local[:, None] * scaled
    mixed = bins.slope[slots][:, None] * scaled + (bend * bins.scaled[slots])[:, None] * full
    return _Products(
        full,
        jnp.concatenate([full, mixed]),
        jnp.concatenate([bend, -relaxed]),
        jnp.concatenate([bend, relaxed]),
        information,
    )


def _other_side(
    shape: Shape,
    samples: tuple[SampleArrays, SampleArrays],
    positive: Array,
    sums: tuple[Array, Array],
    row_weights: Array,
    gradient: Array,
    alpha: Array,
) -> Array:
    """Return the gradient with the other branch of codes 0 and 1 at zero."""
    zero = jnp.zeros(shape.columns)
    change = zero
    if shape.histosys_code == "code0":
        right = positive[: shape.histosys]
        difference = sums[0] - sums[1]
        change += _columns(
            shape, jnp.where(right, -difference, difference), zero[: shape.normsys + shape.linear]
        )
    if shape.normsys_code == "code1":
        right = positive[shape.alphas - shape.normsys :]
        kink = row_weights @ jnp.concatenate([part.log_hi + part.log_lo for part in samples])
        change += _columns(
            shape,
            zero[: shape.histosys],
            jnp.pad(jnp.where(right, -kink, kink), (0, shape.linear)),
        )
    at_kink = jnp.pad(alpha == 0, (0, shape.linear))
    return gradient + jnp.where(at_kink, change, 0.0)


def _sums(samples: tuple[SampleArrays, SampleArrays], weights: Array) -> tuple[Array, Array]:
    """Return the weighted sums over all bins of all rows of up and of down, each (H,)."""
    count = len(samples[0].nominal)
    parts = (weights[:count], weights[count:])

    def total(arrays: list[DeviceArray]) -> Array:
        first, second = (
            jnp.dot(part.ravel(), array.reshape(part.size, -1))
            for part, array in zip(parts, arrays, strict=True)
        )
        return first + second

    return total([part.up for part in samples]), total([part.down for part in samples])


def diagonal_of(matrix: Array) -> Array:
    """Return the diagonal of a square matrix; a strided slice, unlike `jnp.diagonal`."""
    return matrix.reshape(-1)[:: len(matrix) + 1]


def _columns(shape: Shape, leading: Array, trailing: Array) -> Array:
    """Add values of the leading H and of the trailing N + L columns, in the last axis."""
    pads = [(0, 0)] * (leading.ndim - 1)
    return jnp.pad(leading, [*pads, (0, shape.columns - leading.shape[-1])]) + jnp.pad(
        trailing, [*pads, (shape.columns - trailing.shape[-1], 0)]
    )


def _lead(shape: Shape, trailing: Array) -> Array:
    return jnp.pad(trailing, ((0, 0), (shape.columns - trailing.shape[1], 0)))


def _by_slot(shape: Shape, rows: Array) -> Array:
    return rows.reshape(-1, shape.blocks, *rows.shape[1:])


def _poisson(rate: Array, count: Array) -> Array:
    """Return rate - count - count log(rate / count), and the rate where nothing is counted.

    As in pyhf a rate below zero is allowed where nothing is counted, and nowhere else.
    """
    some = count > 0
    n = jnp.where(some, count, 1.0)
    x = (rate - n) / n
    near = x > _FAR
    log_near = jnp.log1p(jnp.where(near, x, 0.0))
    log_far = jnp.log(jnp.where(rate > 0, rate / n, 1.0))
    log = jnp.where(near, log_near, jnp.where(rate > 0, log_far, -jnp.inf))
    return jnp.where(some, n * (x - log), rate)


def _quotient(count: Array, rate: Array) -> Array:
    return jnp.where(count > 0, count / jnp.where(rate == 0, TINY, rate), 0.0)
