"""The negative log-likelihood of one hypothesis and its gradient.

Constants are left out: a Poisson term is y - n - n log(y / n) and a normal one
p (x - m)^2 / 2, so that both are zero at best and stay accurate for huge counts. Local
parameters, one for each bin, are minimised over in closed form, so that this is a function of the
columns only. Its second derivatives are in `fitserve_worker.kernel.curvature`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp

from fitserve_worker.kernel.rows import TINY, Rows, evaluate_rows

if TYPE_CHECKING:
    from jax import Array

    from fitserve_worker.kernel import DeviceArray
    from fitserve_worker.kernel.arrays import SampleArrays, Shape

__all__ = [
    "Bins",
    "Evaluation",
    "LocalTerms",
    "Parts",
    "Target",
    "Terms",
    "evaluate",
    "far_slopes",
    "in_columns",
    "minimum",
    "quotient",
]

# Replaces a divisor of zero; the quotient is then cut at a bound.
_SMALLEST = 1e-300
# Below this relative difference of rate and count log(1 + x) gives way to the logarithm.
_FAR = -0.5


class Terms(NamedTuple):
    """Constraints of a hypothesis' columns, each (columns,), and its local ones, (bins,).

    ``precision`` is the inverse variance of normal constraints, ``rate`` the rate per unit
    of the parameter of Poisson ones, zero where there is none.
    """

    precision: DeviceArray
    rate: DeviceArray
    local_precision: DeviceArray
    local_rate: DeviceArray


class Target(NamedTuple):
    """The data of a fit: events in bins, and auxiliary measurements.

    ``mean`` and ``counted`` (columns,) and their local namesakes (bins,) are the auxiliary data
    of normal and Poisson constraints.
    """

    data: DeviceArray
    mean: DeviceArray
    counted: DeviceArray
    local_mean: DeviceArray
    local_counted: DeviceArray


class Evaluation(NamedTuple):
    """The objective at a point, with its gradient.

    ``value`` and ``gradient`` (columns,) are of the objective. ``other`` is the gradient with
    all kinks at zero (of codes 0 and 1) taken on their other side; without kinks it is the
    gradient. ``yields`` (bins,) and ``local`` (bins,) are the expected events and the local
    parameters.
    """

    value: Array
    gradient: Array
    other: Array
    yields: Array
    local: Array


class Bins(NamedTuple):
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


class Parts(NamedTuple):
    """Parts of an evaluation, for the second derivatives at the same point.

    ``step_weights`` (slots, blocks, width) and ``row_weights`` (rows,) are the weights of F D and
    of r L that follow from d(-log L)/dr for the yields r. ``up`` and ``down`` (H,) are sums of the
    former with the histosys variations. ``stiffness`` (columns,) are the second derivatives of the
    constraints.
    """

    rows: Rows
    bins: Bins
    step_weights: Array
    row_weights: Array
    up: Array
    down: Array
    stiffness: Array


def evaluate(
    shape: Shape,
    samples: tuple[SampleArrays, SampleArrays],
    terms: Terms,
    target: Target,
    local: tuple[DeviceArray, DeviceArray],
    x: Array,
    side: Array,
) -> tuple[Evaluation, Parts]:
    """Evaluate the objective and its gradient.

    Parameters
    ----------
    shape
        What the arrays are.
    samples
        Samples of the background and of the hypothesis.
    terms, target
        Constraints, and data.
    local
        Bounds of the local parameters, each of shape (bins,).
    x
        The point, of shape (columns,).
    side
        For interpolation parameters at a kink, the side to take: positive or negative.
    """
    alpha = x[: shape.alphas]
    positive = (alpha > 0) | ((alpha == 0) & (side[: shape.alphas] > 0))
    rows = evaluate_rows(shape, samples, x, positive)
    bins = _bins(rows, terms, target, local)
    value = (
        jnp.sum(_poisson(bins.yields, target.data))
        + jnp.sum(0.5 * terms.precision * (x - target.mean) ** 2)
        + jnp.sum(0.5 * terms.local_precision * (bins.local - target.local_mean) ** 2)
        + jnp.sum(_poisson(terms.local_rate * bins.local, target.local_counted))
    )
    pull = terms.precision * (x - target.mean)
    stiffness = terms.precision
    if shape.poisson:
        counted = quotient(target.counted, x)
        value += jnp.sum(_poisson(terms.rate * x, target.counted))
        pull += terms.rate - counted
        stiffness += quotient(counted, x)

    grid = shape.blocks, shape.width
    slopes = bins.slope.reshape(grid) * (1 + rows.local * (bins.local.reshape(grid) - 1))
    step_weights = slopes * rows.factor[..., None]
    row_weights = jnp.sum(slopes * rows.rates, axis=-1).ravel()
    up, down = _sums(samples, step_weights.reshape(-1, shape.width))
    basis = rows.basis
    gradient = pull + in_columns(
        shape, up * basis.up1 + down * basis.down1, row_weights @ rows.log1
    )
    other = _other_side(shape, samples, positive, (up, down), row_weights, gradient, alpha)
    return (
        Evaluation(value, gradient, other, bins.yields, bins.local),
        Parts(rows, bins, step_weights, row_weights, up, down, stiffness),
    )


def far_slopes(shape: Shape, samples: tuple[SampleArrays, SampleArrays], parts: Parts) -> Array:
    """Return the slopes that interpolation has far from zero, of shape (2, columns).

    They are the slopes of the objective without its constraints, for values above 1 and below -1,
    where histosys modifiers are straight lines and normsys ones exponentials; all else is as at
    the evaluated point. Where the first is negative and the second positive either side of zero may
    describe the data equally well.
    """
    first = len(samples[0].log_hi)
    weights = parts.row_weights[:first], parts.row_weights[first:]

    def with_factors(steps: Array, logs: list[DeviceArray]) -> Array:
        total = weights[0] @ logs[0] + weights[1] @ logs[1]
        return in_columns(shape, steps, jnp.pad(total, (0, shape.linear)))

    return jnp.stack(
        [
            with_factors(parts.up, [part.log_hi for part in samples]),
            with_factors(parts.down, [-part.log_lo for part in samples]),
        ]
    )


def _bins(
    rows: Rows, terms: Terms, target: Target, bounds: tuple[DeviceArray, DeviceArray]
) -> Bins:
    scaled = jnp.sum(rows.local * rows.rates, axis=0).ravel()
    rest = jnp.sum((1 - rows.local) * rows.rates, axis=0).ravel()
    local, free = minimum(
        rest,
        scaled,
        target.data,
        LocalTerms(
            lower=bounds[0],
            upper=bounds[1],
            precision=terms.local_precision,
            mean=target.local_mean,
            rate=terms.local_rate,
            counted=target.local_counted,
        ),
    )
    yields = rest + local * scaled
    ratio = quotient(target.data, yields)
    return Bins(scaled, local, free, yields, ratio, 1 - ratio, quotient(ratio, yields))


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
        change += in_columns(
            shape, jnp.where(right, -difference, difference), zero[: shape.normsys + shape.linear]
        )
    if shape.normsys_code == "code1":
        right = positive[shape.alphas - shape.normsys :]
        kink = row_weights @ jnp.concatenate([part.log_hi + part.log_lo for part in samples])
        change += in_columns(
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


def in_columns(shape: Shape, leading: Array, trailing: Array) -> Array:
    """Add values of the leading H and of the trailing N + L columns, in the last axis."""
    pads = [(0, 0)] * (leading.ndim - 1)
    return jnp.pad(leading, [*pads, (0, shape.columns - leading.shape[-1])]) + jnp.pad(
        trailing, [*pads, (shape.columns - trailing.shape[-1], 0)]
    )


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


def quotient(count: Array, rate: Array) -> Array:
    """Return count / rate, and zero where nothing is counted."""
    return jnp.where(count > 0, count / jnp.where(rate == 0, TINY, rate), 0.0)


class LocalTerms(NamedTuple):
    """Constraints of the local parameters, each of shape (bins,).

    ``precision`` and ``mean`` of a normal one, ``rate`` and ``counted`` of a Poisson one, all
    zero where there is none. A parameter is fixed by equal bounds.
    """

    lower: Array
    upper: Array
    precision: Array
    mean: Array
    rate: Array
    counted: Array


def minimum(rest: Array, scaled: Array, data: Array, terms: LocalTerms) -> tuple[Array, Array]:
    """Return the best local parameters and which of them are off their bounds.

    In a bin the expected yield is A + g B, with g the bin's local parameter (a staterror's, as a
    rule), B the yield of the samples it acts on and A that of the others. Given A and B the
    minimum over g of

        (A + g B) - n log(A + g B) + p (g - m)^2 / 2 + t g - c log(g)

    is a root of a quadratic equation: p is the inverse variance of a normal constraint around m,
    t and c are rate and count of a Poisson one, and there is only one of the two. The terms are
    convex in g, so that the minimum between bounds is the root clipped to them.

    Parameters
    ----------
    rest, scaled
        Expected yields A without and B with the local parameter, of shape (bins,).
    data
        Observed events, of shape (bins,).
    terms
        Bounds and constraints.
    """
    normal = terms.precision > 0
    poisson = ~normal & ((terms.rate > 0) | (terms.counted > 0))
    free = jnp.where(
        normal,
        _local_normal(rest, scaled, data, terms),
        jnp.where(
            poisson, _local_poisson(rest, scaled, data, terms), _local_without(rest, scaled, data)
        ),
    )
    value = jnp.clip(free, terms.lower, terms.upper)
    inside = (value > terms.lower) & (value < terms.upper)
    return value, inside


def _local_normal(rest: Array, scaled: Array, data: Array, terms: LocalTerms) -> Array:
    # Stationary: p (g - m) = B (n / y - 1) with y = A + g B, so y^2 + beta y - n B^2/p = 0.
    p = jnp.where(terms.precision > 0, terms.precision, 1.0)
    s2 = scaled * scaled / p
    beta = s2 - rest - terms.mean * scaled
    root = jnp.sqrt(beta * beta + 4 * data * s2)
    # The root that is not negative, computed without cancellation.
    y = jnp.where(beta > 0, 2 * data * s2 / (beta + root), 0.5 * (root - beta))
    ratio = jnp.where(data > 0, data / jnp.where(y > 0, y, 1.0), 0.0)
    return jnp.where(scaled == 0, terms.mean, terms.mean + scaled / p * (ratio - 1.0))


def _local_poisson(rest: Array, scaled: Array, data: Array, terms: LocalTerms) -> Array:
    # Stationary: (B + t) - n B / (A + g B) - c / g = 0, times g (A + g B):
    # (B + t) B g^2 + ((B + t) A - n B - c B) g - c A = 0.
    total = scaled + terms.rate
    a = total * scaled
    b = total * rest - (data + terms.counted) * scaled
    c = -terms.counted * rest
    root = jnp.sqrt(jnp.maximum(b * b - 4 * a * c, 0.0))
    half = -0.5 * (b + jnp.where(b >= 0, root, -root))
    first = half / jnp.where(a == 0, 1.0, a)
    second = jnp.where(half == 0, 0.0, c / jnp.where(half == 0, 1.0, half))
    small, large = jnp.minimum(first, second), jnp.maximum(first, second)
    # Of the two roots exactly one has a positive g and a positive yield.
    good = (small > 0) & (rest + small * scaled > 0)
    both = jnp.where(good, small, large)
    alone = terms.counted / jnp.where(total > 0, total, _SMALLEST)
    return jnp.where((a == 0) | (data == 0), alone, both)


def _local_without(rest: Array, scaled: Array, data: Array) -> Array:
    return jnp.where(scaled == 0, 1.0, (data - rest) / jnp.where(scaled == 0, 1.0, scaled))
