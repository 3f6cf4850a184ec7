"""The parameters of a hypothesis under their names, in pyhf's order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fitserve_worker.kernel.constraints import resting
from fitserve_worker.kernel.spec import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fitserve_worker.kernel.arraytypes import BoolArray, FloatArray
    from fitserve_worker.kernel.constraints import Placement
    from fitserve_worker.kernel.parameters import ParameterSet
    from fitserve_worker.kernel.spec import Sample

__all__ = ["Parameters", "pyhf_order"]

# Where normsys parameters come if no histosys modifier shares them (see `Kind`).
_NORMSYS = 3


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
