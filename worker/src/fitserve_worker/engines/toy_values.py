"""What the engines that make toys have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fitserve.contract import ToyRange

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from fitserve.contract import ToysRequest
    from fitserve_worker.engines.base import Work

__all__ = ["packed", "range_of"]


def range_of(work: Work, request: ToysRequest) -> ToyRange:
    """Return which toys a task is to make: all of the request's, if it does not say."""
    return work.toys or ToyRange(first=0, count=request.toys)


def packed(values: ArrayLike) -> bytes:
    """Return values of the test statistic as `fitserve.contract.ToyValues` has them.

    Examples
    --------
    >>> packed([0.0, 1.5]).hex()
    '000000000000c03f'
    """
    return np.asarray(values, dtype="<f4").tobytes()
