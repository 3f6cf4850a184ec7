"""The parameters of one hypothesis: in the arrays of the fit, and by name in pyhf's order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fitserve_worker.kernel.spec import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fitserve_worker.kernel import BoolArray, FloatArray, IntArray
    from fitserve_worker.kernel.parameters import ParameterSet
    from fitserve_worker.kernel.spec import Sample

__all__ = ["Parameters", "Placement", "Vectors", "poisson_constant", "pyhf_order"]

# Where normsys parameters come if no histosys modifier shares them (see `Kind`).
_NORMSYS = 3


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
    """Some parameters as the fit has them, each field of shape (n,).

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
    ``constant`` is the part of the constraints' negative log-likelihood, idle parameters included,
    that the fit's objective leaves out.
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


def pyhf_order(samples: Iterable[Sample]) -> list[str]:
    """Return the names of a model's parameter sets in the order in which pyhf has them.

    It builds them by modifier type, and within a type as they turn up in channels and
    samples by name; staterrors come by name only.
    """
    keys: dict[str, tuple[int, str, str]] = {}

    def note(name: str, *key: int | str) -> None:
        rank, channel, sample = key
        new = int(rank), str(channel), str(sample)
        keys[name] = min(keys.get(name, new), new)

    for sample in samples:
        at = sample.channel, sample.name
        for name in sample.histosys[0]:
            note(name, Kind.ALPHA, *at)
        for name in sample.normsys[0]:
            note(name, _NORMSYS, *at)
        for name, kind, _ in sample.factors:
            note(name, kind, *(("", "") if kind is Kind.STATERROR else at))
    return sorted(keys, key=lambda name: (keys[name], name))


class Parameters:
    """The parameters of one hypothesis.

    Parameters
    ----------
    sets
        Parameter sets in order, with their places in the arrays of the fit.

    Attributes
    ----------
    names
        As ``model.config.par_names`` of pyhf.
    """

    def __init__(self, sets: Sequence[tuple[ParameterSet, Placement]]) -> None:
        self.sets = sets
        self.names = [
            f"{made.name}[{index}]" if made.kind.per_bin else made.name
            for made, _ in sets
            for index in range(len(made))
        ]

    def join(self, x: FloatArray, local: FloatArray) -> FloatArray:
        """Return a vector of all parameters of a fit with these columns and local ones."""
        parts = []
        for made, place in self.sets:
            if place.columns is not None:
                parts.append(x[place.columns])
            elif place.slots is not None:
                parts.append(local[place.slots])
            else:
                parts.append(resting(made))
        return np.concatenate(parts)

    def split(self, vector: FloatArray, columns: int, bins: int) -> tuple[FloatArray, FloatArray]:
        """Return columns and local parameters of a vector of all parameters.

        Idle parameters are dropped; places that no parameter has are zero, or one.
        """
        x, local = np.zeros(columns), np.ones(bins)
        first = 0
        for made, place in self.sets:
            values = vector[first : first + len(made)]
            first += len(made)
            if place.columns is not None:
                x[place.columns] = values
            elif place.slots is not None:
                local[place.slots] = values
        return x, local

    @property
    def idle(self) -> BoolArray:
        """Which parameters have no effect on any yield."""
        return np.concatenate([np.full(len(made), place.idle) for made, place in self.sets])
