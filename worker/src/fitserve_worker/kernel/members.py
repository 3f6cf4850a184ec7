"""Hypotheses read into samples and parameter sets, before they are arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fitserve_worker.kernel.census import Usage, take_census
from fitserve_worker.kernel.errors import UnsupportedModelError
from fitserve_worker.kernel.parameters import ParameterSet, overrides, parameter_set
from fitserve_worker.kernel.spec import Kind, Sample, numbers, read_sample
from fitserve_worker.kernel.staterror import StatErrors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fitserve_worker.kernel.arraytypes import FloatArray
    from fitserve_worker.kernel.patches import Patched, Structure

__all__ = ["Member", "Reader"]


class Member(NamedTuple):
    """A hypothesis.

    ``samples`` and ``usage`` are of the samples it adds. ``common`` are the parameter sets of
    the background, shared by all hypotheses with the same measurement; ``sets`` are those of
    its own, and the staterrors, whose widths depend on all samples. ``observed`` are the
    events in each bin, of shape (bins,).
    """

    name: str
    samples: list[Sample]
    usage: Usage
    common: Mapping[str, ParameterSet]
    sets: Mapping[str, ParameterSet]
    observed: FloatArray


class Reader:
    """Reads the hypotheses of one structure.

    Attributes
    ----------
    background, usage
        The shared samples, and where their parameters act.
    bins
        Number of bins of each channel.

    Raises
    ------
    UnsupportedModelError
        The background is not one that the kernel fits.
    """

    def __init__(self, structure: Structure, background: Iterable[tuple[str, Any]]) -> None:
        self.bins = dict(structure.channels)
        self.background = [read_sample(channel, sample) for channel, sample in background]
        self.usage = take_census(self.background)
        self._poi = structure.poi
        self._stat = StatErrors(self.background)
        self._common: list[tuple[dict[str, Any], dict[str, ParameterSet]]] = []
        self._check_bins(self.background)

    def read(self, name: str, patched: Patched, *, may_lack_poi: bool = False) -> Member:
        """Read a hypothesis.

        Parameters
        ----------
        name, patched
            The hypothesis.
        may_lack_poi
            Whether it may be a model without the parameter of interest.

        Raises
        ------
        UnsupportedModelError
            It is not one that the kernel fits, or no valid model.
        """
        samples = [read_sample(channel, sample) for channel, sample in patched.added]
        self._check_bins(samples)
        usage = take_census(samples, onto=self.usage)
        self._check_shapefactors(usage)
        configured = overrides(patched.measurement)
        sets = {
            new: self._make(new, usage, samples, configured)
            for new in usage.names - self.usage.names
            if usage.kind(new) is not Kind.STATERROR
        }
        for stat, widths in StatErrors(samples, onto=self._stat).widths():
            sets[stat] = parameter_set(
                stat,
                Kind.STATERROR,
                len(widths.sigma),
                configured.get(stat),
                scale=widths.sigma,
                fixed=widths.fixed,
            )
        member = Member(
            name=name,
            samples=samples,
            usage=usage,
            common=self._common_sets(patched.measurement),
            sets=sets,
            observed=self._observed(patched.observations),
        )
        known = self._poi in member.sets or self._poi in member.common
        if known or not may_lack_poi:
            self._check_poi(member)
        return member

    def _common_sets(self, measurement: dict[str, Any]) -> dict[str, ParameterSet]:
        for known, sets in self._common:
            if known is measurement or known == measurement:
                return sets
        configured = overrides(measurement)
        sets = {
            name: self._make(name, self.usage, self.background, configured)
            for name in self.usage.names
            if self.usage.kind(name) is not Kind.STATERROR
        }
        self._common.append((measurement, sets))
        return sets

    def _make(
        self,
        name: str,
        usage: Usage,
        samples: Iterable[Sample],
        configured: Mapping[str, dict[str, Any]],
    ) -> ParameterSet:
        kind, size = usage.kind(name), usage.size(name, self.bins)
        if kind is not Kind.SHAPESYS:
            return parameter_set(name, kind, size, configured.get(name))
        nominal, uncertainty = next(
            (sample.nominal, data)
            for sample in samples
            for modifier, _, data in sample.factors
            if modifier == name and data is not None
        )
        # As pyhf: a bin without yield or uncertainty has its parameter fixed.
        valid = (nominal > 0) & (uncertainty > 0)
        rate = np.ones(size)
        rate[valid] = nominal[valid] ** 2 / uncertainty[valid] ** 2
        return parameter_set(name, kind, size, configured.get(name), scale=rate, fixed=~valid)

    def _observed(self, observations: Mapping[str, Any]) -> FloatArray:
        found = []
        for channel, count in self.bins.items():
            if channel not in observations:
                raise UnsupportedModelError(f"channel {channel!r} has no observed data")
            data = numbers(observations[channel])
            if data.shape != (count,) or (data < 0).any():
                raise UnsupportedModelError(
                    f"the observed data of channel {channel!r} are not {count} counts"
                )
            found.append(data)
        return np.concatenate(found)

    def _check_bins(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            if len(sample.nominal) != self.bins[sample.channel]:
                raise UnsupportedModelError(
                    f"sample {sample.name!r} has not the bins of channel {sample.channel!r}"
                )

    def _check_shapefactors(self, usage: Usage) -> None:
        """See that a hypothesis leaves the number of parameters of the background's alone."""
        for name in usage.channels.keys() & self.usage.channels.keys():
            if self.usage.kind(name) is Kind.SHAPEFACTOR:
                both = Usage(
                    factors=self.usage.factors,
                    channels={name: self.usage.channels[name] + usage.channels[name]},
                )
                if both.size(name, self.bins) != self.usage.size(name, self.bins):
                    raise UnsupportedModelError(
                        f"shapefactor {name!r} is shared with an earlier channel of other size"
                    )

    def _check_poi(self, member: Member) -> None:
        made = member.sets.get(self._poi) or member.common.get(self._poi)
        if made is None:
            raise UnsupportedModelError(f"parameter of interest {self._poi!r} is not in the model")
        if len(made) > 1:
            raise UnsupportedModelError(f"parameter of interest {self._poi!r} has many components")
        if made.fixed.any():
            raise UnsupportedModelError(f"parameter of interest {self._poi!r} is fixed")
