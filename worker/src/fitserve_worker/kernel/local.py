"""Local parameters: one per bin, minimised over in closed form.

In a bin the expected yield is A + g B, with g the bin's local parameter (a staterror's, as a
rule), B the yield of the samples it acts on and A that of the others. Given A and B the
minimum over g of

    (A + g B) - n log(A + g B) + p (g - m)^2 / 2 + t g - c log(g)

is a root of a quadratic equation: p is the inverse variance of a normal constraint around m,
t and c are rate and count of a Poisson one, and only one of the two is there. The terms are
convex in g, so that the minimum between bounds is the root clipped to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp

if TYPE_CHECKING:
    from jax import Array

__all__ = ["LocalTerms", "minimum"]

# Divides where the true divisor vanishes; the quotient is then cut at a bound.
_SMALLEST = 1e-300


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
        _normal(rest, scaled, data, terms),
        jnp.where(poisson, _poisson(rest, scaled, data, terms), _without(rest, scaled, data)),
    )
    value = jnp.clip(free, terms.lower, terms.upper)
    inside = (value > terms.lower) & (value < terms.upper)
    return value, inside


def _normal(rest: Array, scaled: Array, data: Array, terms: LocalTerms) -> Array:
    # Stationary: p (g - m) = B (n / y - 1) with y = A + g B, so y^2 + beta y - n B^2/p = 0.
    p = jnp.where(terms.precision > 0, terms.precision, 1.0)
    s2 = scaled * scaled / p
    beta = s2 - rest - terms.mean * scaled
    root = jnp.sqrt(beta * beta + 4 * data * s2)
    # The root that is not negative, computed without cancellation.
    y = jnp.where(beta > 0, 2 * data * s2 / (beta + root), 0.5 * (root - beta))
    ratio = jnp.where(data > 0, data / jnp.where(y > 0, y, 1.0), 0.0)
    return jnp.where(scaled == 0, terms.mean, terms.mean + scaled / p * (ratio - 1.0))


def _poisson(rest: Array, scaled: Array, data: Array, terms: LocalTerms) -> Array:
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


def _without(rest: Array, scaled: Array, data: Array) -> Array:
    return jnp.where(scaled == 0, 1.0, (data - rest) / jnp.where(scaled == 0, 1.0, scaled))
