"""What the answers of the kernel engine have in common."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from msgspec import Struct

from fitserve_worker.engines.solution import listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve_worker.engines.base import Work
    from fitserve_worker.kernel import FloatArray
    from fitserve_worker.kernel.batch import Batch
    from fitserve_worker.kernel.fits import Fits, Loaded

__all__ = ["Piece", "at_bounds", "finite", "minima", "of_fits", "of_kind"]

_Request = TypeVar("_Request", bound=Struct)


class Piece(NamedTuple):
    """Hypotheses that are on the device together.

    ``members`` are their indices in the batch. ``start`` (columns,) is where fits without
    signal may start, from those to hypotheses before; None if there are none.
    """

    work: Work
    batch: Batch
    loaded: Loaded
    members: Sequence[int]
    start: FloatArray | None


def of_kind(work: Work, kind: type[_Request]) -> _Request:
    """Return the request of a task, which must be of a kind."""
    if not isinstance(work.request, kind):
        raise TypeError(f"the request is no {kind.__name__}")
    return work.request


def finite(value: Any) -> float | None:
    """Return a number of Python, or None for one that is not finite."""
    number = float(value)
    return number if math.isfinite(number) else None


def of_fits(fits: Sequence[Fits], index: int) -> dict[str, Any]:
    """Return for a result's diagnostics how the fits to a hypothesis went, all together.

    Parameters
    ----------
    fits
        Fits that were made for different ends, each of all hypotheses.
    index
        Which hypothesis.
    """
    return {
        "converged": all(bool(one.converged[index]) for one in fits),
        "iterations": int(sum(one.steps[index] for one in fits)),
        "edm": finite(max(abs(float(one.edm[index])) for one in fits)),
        "positive_definite": all(bool(one.positive[index]) for one in fits),
    }


def minima(piece: Piece, index: int, free: Fits, background: Fits) -> dict[str, Any]:
    """Return -2 log L of the observed data at the minima of a hypothesis, for a result.

    Parameters
    ----------
    piece
        The hypotheses.
    index
        Which of them.
    free, background
        Fits to the observed data, with the signal strength free and at zero.
    """
    constant = piece.loaded.chunk.constant[index]
    return {
        "twice_nll": finite(2 * (free.value[index] + constant)),
        "twice_nll_background": finite(2 * (background.value[index] + constant)),
    }


def at_bounds(piece: Piece, index: int, fits: Fits) -> dict[str, Any]:
    """Return for a result's diagnostics which free parameters ended at a bound.

    Parameters
    ----------
    piece
        The hypotheses.
    index
        Which of them.
    fits
        Fits, one for each of them.
    """
    chunk = piece.loaded.chunk
    columns, bins = (
        (of["lower"][index] < of["upper"][index])
        & ((value <= of["lower"][index]) | (value >= of["upper"][index]))
        for of, value in ((chunk.columns, fits.x[index]), (chunk.local, fits.local[index]))
    )
    count = int(columns.sum() + bins.sum())
    if not count:
        return {"at_bounds": 0}
    names = piece.batch.names_at(piece.members[index], columns, bins)
    return {"at_bounds": count, "parameters_at_bounds": listed(names)}
