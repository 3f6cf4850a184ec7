"""Rows of samples at a point: yields, and the parts of their derivatives.

The yields of a row are F(x) H(x), F the product of its factors (normsys and all that
multiplies) and H the sum of its terms (nominal and histosys). With L the derivatives of
log F and D those of H, the derivatives of a yield r = F H are

    r' = r L + F D,
    r'' = r (L L^T + diag(L')) + F (L D^T + D L^T) + F diag(D').

Systematic variations are interpolated as in pyhf (codes 0, 1, 2, 4, 4p). The additive codes are
linear in the variations: delta(a) = up u(a) + down d(a), with up the difference of the upward
variation from the nominal yield and down that of the nominal from the downward one. The basis
functions u and d belong to a parameter alone, so that a whole column of bins is interpolated by
two multiplications.

Formulae: CERN-OPEN-2012-016, section 4.1. pyhf's code 2 differs from it beyond +-1, where it is
not continuous, and from one version of pyhf to the next; here it is that of the installed pyhf.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jax import Array

    from fitserve_worker.kernel import DeviceArray
    from fitserve_worker.kernel.arrays import SampleArrays, Shape

__all__ = [
    "TINY",
    "Basis",
    "Factors",
    "Rows",
    "basis_functions",
    "evaluate_rows",
    "normsys_factors",
]

TINY = 1e-60
"""Replaces a parameter of zero in quotients r / x. The products it enters are as good as with
zero, and all powers of it that occur are within the range of a double."""


class Rows(NamedTuple):
    """All rows at a point; the samples of the background come before those added.

    ``factor`` (slots, blocks) and ``rates`` (slots, blocks, width) are F and r, ``local``
    (slots, blocks, 1) is one where the local parameters act, else zero. ``log1`` (rows, N + L)
    is L, without the leading columns, which have no factors; ``log2`` (rows, N) is L' of the
    normsys columns, that of the others being what makes L L^T + diag(L') zero. ``steps`` is D,
    (slots, blocks, width, H) for the two sets of samples apart.
    """

    factor: Array
    rates: Array
    local: Array
    log1: Array
    log2: Array
    steps: tuple[Array, ...]
    basis: Basis

    def spread(self, weights: Array) -> tuple[Array, ...]:
        """Split weights (slots, blocks, width) between the two sets of samples."""
        first = len(self.steps[0])
        return weights[:first], weights[first:]

    def steps_by_row(self, weights: Array) -> Array:
        """Return the weighted sum of ``steps`` over each row's bins, of shape (rows, H)."""
        sums = [
            jnp.einsum("kiw,kiwh->kih", part, steps)
            for part, steps in zip(self.spread(weights), self.steps, strict=True)
        ]
        return jnp.concatenate(sums).reshape(-1, sums[0].shape[-1])

    def steps_by_bin(self, weights: Array) -> Array:
        """Return the weighted sum of ``steps`` over samples, of shape (bins, H)."""
        # Written out, since XLA would transpose the array to contract this axis.
        terms = [
            part[slot, ..., None] * steps[slot]
            for part, steps in zip(self.spread(weights), self.steps, strict=True)
            for slot in range(len(part))
        ]
        total = functools.reduce(jnp.add, terms)
        return total.reshape(-1, total.shape[-1])


def evaluate_rows(
    shape: Shape, samples: tuple[SampleArrays, SampleArrays], x: Array, positive: Array
) -> Rows:
    """Evaluate the samples of background and hypothesis.

    Parameters
    ----------
    shape
        What the arrays are.
    samples
        The two sets of samples.
    x
        The point, of shape (columns,).
    positive
        Which side of a kink at zero to take, of shape (alphas,).
    """
    alpha = x[: shape.alphas]
    basis = basis_functions(
        shape.histosys_code, alpha[: shape.histosys], positive[: shape.histosys]
    )
    linear = jnp.where(jnp.abs(x[shape.alphas :]) < TINY, TINY, x[shape.alphas :])
    first = shape.alphas - shape.normsys
    norms = [
        normsys_factors(part, shape.normsys_code, alpha[first:], positive[first:])
        for part in samples
    ]
    factors = [
        jnp.prod(norm.value, axis=1) * jnp.prod(jnp.where(part.linear, linear, 1.0), axis=1)
        for part, norm in zip(samples, norms, strict=True)
    ]
    terms = [part.nominal + part.up @ basis.up + part.down @ basis.down for part in samples]
    factor = _by_slot(shape, factors)
    return Rows(
        factor=factor,
        rates=factor[..., None] * _by_slot(shape, terms),
        local=_by_slot(shape, [part.local[:, None] for part in samples]),
        log1=jnp.concatenate(
            [
                jnp.concatenate([norm.log1 for norm in norms]),
                jnp.concatenate([part.linear for part in samples]) / linear,
            ],
            axis=1,
        ),
        log2=jnp.concatenate([norm.log2 for norm in norms]),
        steps=tuple(
            _by_slot(shape, [part.up * basis.up1 + part.down * basis.down1]) for part in samples
        ),
        basis=basis,
    )


def _by_slot(shape: Shape, rows: list[DeviceArray]) -> Array:
    joined = jnp.concatenate(rows)
    return joined.reshape(-1, shape.blocks, *joined.shape[1:])


class Basis(NamedTuple):
    """Basis functions u and d of each parameter, first and second derivatives, each (H,)."""

    up: Array
    down: Array
    up1: Array
    down1: Array
    up2: Array
    down2: Array


class Factors(NamedTuple):
    """Normsys factors, each (rows, N): value, and derivatives of its logarithm."""

    value: Array
    log1: Array
    log2: Array


class _Lines(NamedTuple):
    """A basis function of code 2 beyond +1 and below -1, where it is linear."""

    slope_high: float
    offset_high: float
    slope_low: float
    offset_low: float

    def high(self, alpha: Array) -> Array:
        return self.slope_high * alpha + self.offset_high

    def low(self, alpha: Array) -> Array:
        return self.slope_low * alpha + self.offset_low


@functools.cache
def code2_lines() -> tuple[_Lines, _Lines]:
    """Return the basis functions of code 2, up and down, beyond +-1.

    Their slopes are the same in all versions of pyhf so far, but their offsets are not: 0.7.6
    has (b - 2a) x below -1, its main branch later (b - 2a)(x + 1) (scikit-hep/pyhf#2668), and
    neither is continuous, as ROOT's is (scikit-hep/pyhf#2729). Version numbers do not tell them
    apart, since those of development versions count from an old release; so pyhf computes them.
    """
    import pyhf

    up_only, down_only = [[0.0], [0.0], [1.0]], [[-1.0], [0.0], [0.0]]
    # This may be called while a program is traced, and pyhf may compute with JAX.
    with jax.ensure_compile_time_eval():
        code2 = pyhf.interpolators.code2([[up_only, down_only]], subscribe=False)
        values = code2(pyhf.tensorlib.astensor([[2.0, 3.0, -2.0, -3.0]]))
        at = [[float(one) for one in values[0, side, :, 0]] for side in (0, 1)]

    def lines(two: float, three: float, minus_two: float, minus_three: float) -> _Lines:
        high, low = three - two, minus_two - minus_three
        return _Lines(high, two - 2 * high, low, minus_two + 2 * low)

    return lines(*at[0]), lines(*at[1])


def basis_functions(code: str, alpha: Array, positive: Array) -> Basis:
    """Return the basis functions of an additive code.

    Parameters
    ----------
    code
        ``code0`` (piecewise linear), ``code2`` (quadratic) or ``code4p`` (polynomial).
    alpha
        Parameters, of shape (H,).
    positive
        Which side of a kink at zero to take, of shape (H,).
    """
    zero = jnp.zeros_like(alpha)
    one = jnp.ones_like(alpha)
    if code == "code0":
        right = jnp.where(positive, one, zero)
        left = one - right
        return Basis(alpha * right, alpha * left, right, left, zero, zero)
    above, below = alpha > 1, alpha < -1

    def pieces(high: Array, middle: Array, low: Array) -> Array:
        return jnp.where(above, high, jnp.where(below, low, middle))

    if code == "code2":
        # With a = (up - down) / 2 and b = (up + down) / 2: a x^2 + b x, and lines beyond +-1.
        square = alpha * alpha
        up, down = code2_lines()
        return Basis(
            pieces(up.high(alpha), 0.5 * (alpha + square), up.low(alpha)),
            pieces(down.high(alpha), 0.5 * (alpha - square), down.low(alpha)),
            pieces(up.slope_high * one, 0.5 + alpha, up.slope_low * one),
            pieces(down.slope_high * one, 0.5 - alpha, down.slope_low * one),
            pieces(zero, one, zero),
            pieces(zero, -one, zero),
        )
    # code4p: x S + T A with S = (up + down) / 2, A = (up - down) / 16 and
    # T = x^2 (15 - 10 x^2 + 3 x^4).
    square = alpha * alpha
    t0 = square * (15 + square * (-10 + 3 * square)) / 16
    t1 = alpha * (30 + square * (-40 + 18 * square)) / 16
    t2 = (30 + square * (-120 + 90 * square)) / 16
    half = 0.5 * alpha
    return Basis(
        pieces(alpha, half + t0, zero),
        pieces(zero, half - t0, alpha),
        pieces(one, 0.5 + t1, zero),
        pieces(zero, 0.5 - t1, one),
        pieces(zero, t2, zero),
        pieces(zero, -t2, zero),
    )


def normsys_factors(samples: SampleArrays, code: str, alpha: Array, positive: Array) -> Factors:
    """Return normsys factors.

    Parameters
    ----------
    samples
        The samples; only their ``poly``, ``log_hi`` and ``log_lo`` are used.
    code
        ``code1`` (exponential) or ``code4`` (polynomial within +-1, exponential beyond).
    alpha
        Parameters, of shape (N,).
    positive
        Which side of a kink at zero to take, of shape (N,).
    """
    slope = jnp.where(positive, samples.log_hi, -samples.log_lo)
    exponential = jnp.exp(alpha * slope)
    if code == "code1":
        return Factors(exponential, slope, jnp.zeros_like(slope))
    inside = jnp.abs(alpha) < 1
    x = jnp.clip(alpha, -1.0, 1.0)
    c1, c2, c3, c4, c5, c6 = samples.poly
    value = 1 + x * (c1 + x * (c2 + x * (c3 + x * (c4 + x * (c5 + x * c6)))))
    first = c1 + x * (2 * c2 + x * (3 * c3 + x * (4 * c4 + x * (5 * c5 + x * 6 * c6))))
    second = 2 * c2 + x * (6 * c3 + x * (12 * c4 + x * (20 * c5 + x * 30 * c6)))
    # A polynomial through wild variations may touch zero.
    safe = jnp.where(value == 0, 1.0, value)
    log1 = first / safe
    return Factors(
        jnp.where(inside, value, exponential),
        jnp.where(inside, log1, slope),
        jnp.where(inside, second / safe - log1 * log1, 0.0),
    )
