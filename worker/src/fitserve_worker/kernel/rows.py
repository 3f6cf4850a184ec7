"""Rows of samples at a point: yields, and what their derivatives are made of.

The yields of a row are F(x) H(x), F the product of its factors (normsys and all that
multiplies) and H the sum of its terms (nominal and histosys). With L the derivatives of
log F and D those of H, the derivatives of a yield r = F H are

    r' = r L + F D,
    r'' = r (L L^T + diag(L')) + F (L D^T + D L^T) + F diag(D').
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp

from fitserve_worker.kernel import interpolation

if TYPE_CHECKING:
    from jax import Array

    from fitserve_worker.kernel.arrays import SampleArrays, Shape
    from fitserve_worker.kernel.arraytypes import DeviceArray

__all__ = ["TINY", "Rows", "evaluate_rows"]

TINY = 1e-60
"""Stands for a parameter of zero in quotients r / x. The products it enters are as good as
with zero, and no power of it that occurs leaves the range of a double."""


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
    basis: interpolation.Basis

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
        # Written out, since XLA would transpose the array for a contraction of this axis.
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
    basis = interpolation.basis(
        shape.histosys_code, alpha[: shape.histosys], positive[: shape.histosys]
    )
    linear = jnp.where(jnp.abs(x[shape.alphas :]) < TINY, TINY, x[shape.alphas :])
    first = shape.alphas - shape.normsys
    norms = [
        interpolation.factors(part, shape.normsys_code, alpha[first:], positive[first:])
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
