"""Second derivatives of the objective, and the Fisher information of the bins.

By the implicit function theorem the Hessian is the Schur complement of the local parameters.
Second derivatives of yields (see `fitserve_worker.kernel.rows`) enter with a weight per row
or bin, so that the Hessian is X^T Y + Y^T X over rows, a product over bins of the Jacobian with
itself, and a diagonal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp

from fitserve_worker.kernel.likelihood import in_columns, quotient

if TYPE_CHECKING:
    from jax import Array

    from fitserve_worker.kernel.arrays import Shape
    from fitserve_worker.kernel.likelihood import Bins, Parts, Target, Terms
    from fitserve_worker.kernel.rows import Rows

__all__ = ["Curvature", "bin_jacobian", "curvature", "diagonal_of"]


class Curvature(NamedTuple):
    """Second derivatives at a point.

    ``hessian`` is (columns, columns). ``jacobian`` (model bins, columns) and ``information``
    (model bins,) give the Fisher information of the bins, J^T diag(i) J, ``stiffness``
    (columns,) that of the constraints. ``magnitude`` (columns,) is the diagonal of the Hessian
    without cancellations.
    """

    hessian: Array
    jacobian: Array
    information: Array
    stiffness: Array
    magnitude: Array


class _Products(NamedTuple):
    """J, Z and w of the bins, with Z^T diag(w) Z their part of the Hessian, and the information.

    ``sizes`` is w if nothing in it cancelled.
    """

    jacobian: Array
    outer: Array
    weights: Array
    sizes: Array
    information: Array


def curvature(shape: Shape, terms: Terms, target: Target, slots: Array, parts: Parts) -> Curvature:
    """Return the second derivatives.

    Parameters
    ----------
    shape
        What the arrays are.
    terms, target
        Constraints, and data.
    slots
        Positions of the model's bins among all, of shape (model bins,).
    parts
        The evaluation at the point.
    """
    rows, basis = parts.rows, parts.rows.basis
    of_bins = _bin_products(shape, rows, parts.bins, terms, target, slots)
    by_bins = of_bins.outer.T @ (of_bins.weights[:, None] * of_bins.outer)
    by_rows = 0.5 * parts.row_weights[:, None] * _lead(shape, rows.log1) + jnp.pad(
        rows.steps_by_row(parts.step_weights), ((0, 0), (0, shape.columns - shape.histosys))
    )
    half = jnp.pad(rows.log1.T @ by_rows, ((shape.columns - rows.log1.shape[1], 0), (0, 0)))
    bends = in_columns(
        shape,
        parts.up * basis.up2 + parts.down * basis.down2,
        jnp.pad(parts.row_weights @ rows.log2, (0, shape.linear)),
    )
    full = half + half.T + by_bins
    # Parameters that only multiply have no second derivative of their own.
    diagonal = jnp.where(
        jnp.arange(shape.columns) < shape.alphas,
        diagonal_of(full) + bends,
        diagonal_of(by_bins),
    )
    stiff = diagonal + parts.stiffness
    return Curvature(
        hessian=jnp.where(jnp.eye(shape.columns, dtype=bool), stiff, full),
        jacobian=of_bins.jacobian,
        information=of_bins.information,
        stiffness=parts.stiffness,
        magnitude=jnp.abs(diagonal) + of_bins.sizes @ of_bins.outer**2 + parts.stiffness,
    )


def _bin_products(
    shape: Shape, rows: Rows, bins: Bins, terms: Terms, target: Target, slots: Array
) -> _Products:
    """Return the products of bins.

    With y' the derivatives of a yield at fixed local parameter and c those of d(-log L)/dg,
    the part is y' y'^T n / y^2 - c c^T / q, q the second derivative in g, where g is free.
    """
    q_constraint = terms.local_precision + quotient(
        quotient(target.local_counted, bins.local), bins.local
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
        return bin_jacobian(shape, rows, mask, slots)

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


def bin_jacobian(shape: Shape, rows: Rows, mask: Array, slots: Array) -> Array:
    """Return the derivatives of weighted sums of rows, of shape (model bins, columns).

    Parameters
    ----------
    shape, rows
        The rows, at a point.
    mask
        The weight of each row of a bin, to be broadcast to (slots, blocks, width).
    slots
        Positions of the model's bins among all, of shape (model bins,).
    """
    by_row = jnp.einsum("kiw,kip->iwp", mask * rows.rates, _by_slot(shape, rows.log1))
    by_bin = rows.steps_by_bin(jnp.broadcast_to(mask * rows.factor[..., None], rows.rates.shape))
    return in_columns(shape, by_bin, by_row.reshape(shape.bins, -1))[slots]


def diagonal_of(matrix: Array) -> Array:
    """Return the diagonal of a square matrix; a strided slice, unlike `jnp.diagonal`."""
    return matrix.reshape(-1)[:: len(matrix) + 1]


def _lead(shape: Shape, trailing: Array) -> Array:
    return jnp.pad(trailing, ((0, 0), (shape.columns - trailing.shape[1], 0)))


def _by_slot(shape: Shape, rows: Array) -> Array:
    return rows.reshape(-1, shape.blocks, *rows.shape[1:])
