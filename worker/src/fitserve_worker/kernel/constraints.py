"""Parameter sets of one hypothesis, placed in the arrays of the fit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fitserve_worker.kernel.arraytypes import FloatArray, IntArray
    from fitserve_worker.kernel.parameters import ParameterSet

__all__ = ["Placement", "Vectors", "poisson_constant"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a parameter set is: in columns, in bins as local parameters, or nowhere (idle)."""

    columns: IntArray | None = None
    slots: IntArray | None = None

    @property
    def idle(self) -> bool:
        """Whether it is nowhere."""
        return self.columns is None and self.slots is None


@dataclass(slots=True)
class _Entries:
    """What the fit knows of some parameters, each field of shape (n,).

    A parameter that is fixed has equal bounds. ``precision`` and ``mean`` are of a normal
    constraint, ``rate`` and ``counted`` of a Poisson one, zero where there is none.
    """

    init: FloatArray
    lower: FloatArray
    upper: FloatArray
    precision: FloatArray
    mean: FloatArray
    rate: FloatArray
    counted: FloatArray

    @classmethod
    def filled(cls, size: int, value: float, precision: float) -> _Entries:
        """Return entries fixed at a value."""
        one, zero = np.ones(size), np.zeros(size)
        return cls(
            value * one, value * one, value * one, precision * one, value * one, zero, zero.copy()
        )

    def copy(self) -> _Entries:
        return _Entries(*(getattr(self, name).copy() for name in self.__dataclass_fields__))

    def enter(self, at: IntArray, made: ParameterSet) -> None:
        self.init[at] = made.init
        self.lower[at] = np.where(made.fixed, made.init, made.lower)
        self.upper[at] = np.where(made.fixed, made.init, made.upper)
        normal = made.constraint == "normal"
        poisson = made.constraint == "poisson"
        self.precision[at] = 1 / made.scale**2 if normal else 0.0
        self.mean[at] = made.aux if normal else 0.0
        self.rate[at] = made.scale if poisson else 0.0
        self.counted[at] = made.aux if poisson else 0.0


class Vectors:
    """All parameters of one hypothesis as the fit sees them.

    Positions that no parameter uses are fixed: columns at zero, local parameters at one.
    ``constant`` is what the fit's objective lacks of the constraints' negative
    log-likelihood, idle parameters included.
    """

    def __init__(self, columns: int, bins: int) -> None:
        self.columns = _Entries.filled(columns, 0.0, 0.0)
        self.local = _Entries.filled(bins, 1.0, 1.0)
        self.constant = 0.0

    def copy(self) -> Vectors:
        """Return a copy that shares nothing."""
        made = Vectors(0, 0)
        made.columns, made.local = self.columns.copy(), self.local.copy()
        made.constant = self.constant
        return made

    def enter(self, made: ParameterSet, place: Placement) -> None:
        """Enter a parameter set; one entered before at the same place is replaced."""
        self.constant += _constant(made)
        if place.columns is not None:
            self.columns.enter(place.columns, made)
        elif place.slots is not None:
            self.local.enter(place.slots, made)
        else:
            pull = (resting(made) - made.aux) / made.scale
            self.constant += 0.5 * float(pull @ pull)


def resting(made: ParameterSet) -> FloatArray:
    """Return the values of a parameter set that only its normal constraint moves."""
    return np.where(made.fixed, made.init, np.clip(made.aux, made.lower, made.upper))


def _constant(made: ParameterSet) -> float:
    if made.constraint == "normal":
        return float(np.log(made.scale).sum()) + 0.5 * math.log(2 * math.pi) * len(made)
    if made.constraint == "poisson":
        return poisson_constant(made.aux)
    return 0.0


def poisson_constant(counts: FloatArray) -> float:
    """Return the sum over counts n of n - n log(n) + log(n!).

    It makes y - n - n log(y / n) the full Poisson term y - n log(y) + log(n!).

    Examples
    --------
    >>> import numpy as np
    >>> round(poisson_constant(np.array([0.0, 2.0])), 6)
    1.306853
    """
    terms = [n - n * math.log(n) + math.lgamma(n + 1) for n in counts.tolist() if n > 0]
    return math.fsum(terms)
