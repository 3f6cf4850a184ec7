"""The widths of staterror parameters, which every sample of a channel shares in.

pyhf's convention: the relative uncertainty of a bin is the quadratic sum of its samples'
uncertainties over the sum of the yields of all samples with the modifier; a bin where it is
zero has its parameter fixed, and its constraint given unit width.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fitserve_worker.kernel.errors import UnsupportedModelError
from fitserve_worker.kernel.spec import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fitserve_worker.kernel.arraytypes import BoolArray, FloatArray
    from fitserve_worker.kernel.spec import Sample

__all__ = ["StatErrors", "Widths"]


class Widths(NamedTuple):
    """Standard deviations of a staterror's parameters and which are fixed, each (n,)."""

    sigma: FloatArray
    fixed: BoolArray


class StatErrors:
    """Sums over samples, by staterror and channel.

    Parameters
    ----------
    samples
        Samples of a model.
    onto
        Sums of other samples of the same model, which the new ones are added to.

    Attributes
    ----------
    nominal, square
        Summed yields and squared uncertainties of each channel of a staterror.
    where
        The channels that a sample has a staterror in.
    """

    def __init__(self, samples: Iterable[Sample], onto: StatErrors | None = None) -> None:
        self.nominal: dict[str, dict[str, FloatArray]] = defaultdict(dict)
        self.square: dict[str, dict[str, FloatArray]] = defaultdict(dict)
        self.where: dict[tuple[str, str], set[str]] = defaultdict(set)
        if onto is not None:
            self.nominal.update({name: {**of} for name, of in onto.nominal.items()})
            self.square.update({name: {**of} for name, of in onto.square.items()})
            self.where.update({key: {*where} for key, where in onto.where.items()})
        for sample in samples:
            for name, kind, uncertainty in sample.factors:
                if kind is Kind.STATERROR and uncertainty is not None:
                    self._add(name, sample, uncertainty)

    def _add(self, name: str, sample: Sample, uncertainty: FloatArray) -> None:
        channel = sample.channel
        nominal, square = self.nominal[name], self.square[name]
        nominal[channel] = nominal.get(channel, 0.0) + sample.nominal
        square[channel] = square.get(channel, 0.0) + uncertainty**2
        self.where[name, sample.name].add(channel)

    def widths(self) -> Iterator[tuple[str, Widths]]:
        """Yield every staterror with its widths.

        Raises
        ------
        UnsupportedModelError
            Samples that share a staterror have it in different channels.
        """
        for (name, sample), where in self.where.items():
            if where != self.nominal[name].keys():
                raise UnsupportedModelError(
                    f"staterror {name!r} is in other channels for sample {sample!r} than "
                    "for the samples that share it"
                )
        for name, by_channel in self.nominal.items():
            channels = sorted(by_channel)
            nominal = np.concatenate([by_channel[channel] for channel in channels])
            square = np.concatenate([self.square[name][channel] for channel in channels])
            known = nominal > 0
            sigma = np.sqrt(square) / np.where(known, nominal, np.inf)
            fixed = sigma == 0
            yield name, Widths(np.where(fixed, 1.0, sigma), fixed)
