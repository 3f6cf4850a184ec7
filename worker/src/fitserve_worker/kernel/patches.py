"""Hypotheses: their patches applied to the background-only workspace, and read for the kernel.

A signal patch nearly always adds samples to channels and nothing else; that is recognised
without touching the workspace. Any other patch is applied in full and the result compared
with the workspace, so that it does not matter how a patch is written.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from fitserve_contract import PatchError, SignalPatch, apply_patch, widened
from fitserve_worker.kernel.columns import Usage, usage_of
from fitserve_worker.kernel.parameters import ParameterSet, StatErrors, overrides, parameter_set
from fitserve_worker.kernel.spec import (
    Kind,
    Sample,
    SamplePlaces,
    UnsupportedModelError,
    numbers,
    read_sample,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fitserve_contract import ModelOptions
    from fitserve_worker.kernel import FloatArray

__all__ = [
    "Background",
    "Member",
    "Patched",
    "Reader",
    "SignalArray",
    "Structure",
    "resolve",
    "sample_names",
]

_ADD_SAMPLE = re.compile(r"/channels/(0|[1-9]\d*)/samples/(0|[1-9]\d*|-)")


@dataclass(frozen=True, slots=True)
class Structure:
    """What hypotheses must have in common to be fitted as one batch.

    ``channels`` are (name, number of bins) by name, ``kept`` the (channel, sample) pairs that
    are as in the background-only workspace.
    """

    channels: tuple[tuple[str, int], ...]
    kept: frozenset[tuple[str, str]]
    poi: str


@dataclass(frozen=True, slots=True)
class Patched:
    """A hypothesis: its structure, and what it does not share.

    ``added`` are (channel, sample JSON) of samples that the background-only workspace lacks
    or that differ there. ``signal`` is how they were read from an array, with ``samples``, where
    they were.
    """

    structure: Structure
    added: list[tuple[str, dict[str, Any]]]
    observations: dict[str, Any]
    measurement: dict[str, Any]
    signal: SignalArray | None = None
    samples: list[Sample] | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a workspace that the kernel reads, by name: channel -> sample -> JSON."""

    channels: dict[str, dict[str, dict[str, Any]]]
    bins: tuple[tuple[str, int], ...]
    observations: dict[str, Any]
    measurement: dict[str, Any]
    poi: str


class Background:
    """The background-only workspace, looked up by name.

    Parameters
    ----------
    workspace
        Its JSON.
    options
        They choose the measurement and the parameter of interest.

    Attributes
    ----------
    parts, kept
        The workspace by name, and all its (channel, sample) pairs.

    Raises
    ------
    UnsupportedModelError
        It is no workspace, or has no parameter of interest.
    """

    def __init__(self, workspace: dict[str, Any], options: ModelOptions) -> None:
        self.workspace = workspace
        self.options = options
        self.parts = _take_apart(workspace, options)
        self.kept = frozenset(_pairs(self.parts.channels))
        self._readers: dict[Structure, Reader] = {}
        self._arrays: dict[str, SignalArray | None] = {}

    def array(self, patch: SignalPatch) -> SignalArray | None:
        """Return how signals with the template of a patch are read from arrays.

        None if the template does more than add samples.

        Raises
        ------
        UnsupportedModelError
            The samples are not ones that the kernel fits.
        """
        key = patch.template.digest
        if key not in self._arrays:
            places = patch.template.filled(range(1, patch.template.count + 1))
            added = _only_adds_samples(self.workspace, places)
            self._arrays[key] = None if added is None else SignalArray(self, added)
        return self._arrays[key]

    def reader(self, structure: Structure) -> Reader:
        """Return the reader of hypotheses of a structure, with the samples they share.

        Raises
        ------
        UnsupportedModelError
            Those samples are not ones that the kernel fits.
        """
        if structure not in self._readers:
            self._readers[structure] = Reader(
                structure,
                [
                    (channel, self.parts.channels[channel][name])
                    for channel, name in sorted(structure.kept)
                ],
            )
        return self._readers[structure]


def resolve(background: Background, patch: Sequence[dict[str, Any]]) -> Patched:
    """Apply a patch to the workspace.

    Raises
    ------
    UnsupportedModelError
        The patch does not apply, or the result is no workspace that the kernel understands.
    """
    if isinstance(patch, SignalPatch) and (array := background.array(patch)) is not None:
        return array.patched(patch)
    added = _only_adds_samples(background.workspace, patch)
    if added is not None:
        return _with_samples(background, added)
    try:
        # A copy that shares nothing: values deep inside are changed.
        copy = msgspec.json.decode(msgspec.json.encode(background.workspace))
        patched = apply_patch(copy, patch)
    except PatchError as error:
        raise UnsupportedModelError(f"the patch does not apply: {error}") from error
    return _compare(background, _take_apart(patched, background.options))


def sample_names(
    workspace: dict[str, Any], patch: Sequence[dict[str, Any]]
) -> dict[str, list[str]]:
    """Return the names of a patched workspace's samples by channel, in their order in the JSON.

    Examples
    --------
    >>> workspace = {"channels": [{"name": "SR", "samples": [{"name": "background"}]}]}
    >>> add = {"op": "add", "path": "/channels/0/samples/0", "value": {"name": "signal"}}
    >>> sample_names(workspace, [add])
    {'SR': ['signal', 'background']}
    """
    # For patches that add samples only names matter, which are cheap to copy.
    adds = _only_adds_samples(workspace, patch) is not None
    channels = [
        {"name": channel["name"], "samples": [{"name": one["name"]} for one in channel["samples"]]}
        for channel in workspace["channels"]
    ]
    copy = {"channels": channels} if adds else msgspec.json.decode(msgspec.json.encode(workspace))
    patched = apply_patch(copy, patch)
    return {
        channel["name"]: [sample["name"] for sample in channel["samples"]]
        for channel in patched["channels"]
    }


def _only_adds_samples(
    workspace: Mapping[str, Any], patch: Sequence[dict[str, Any]]
) -> list[tuple[str, dict[str, Any]]] | None:
    """Return the samples added by a patch that does nothing else, otherwise None."""
    channels = workspace["channels"]
    counts: dict[int, int] = {}
    added = []
    for operation in patch:
        if operation.get("op") != "add":
            return None
        match = _ADD_SAMPLE.fullmatch(str(operation.get("path")))
        value = operation.get("value")
        if match is None or not isinstance(value, dict):
            return None
        channel = int(match[1])
        if channel >= len(channels):
            return None
        count = counts.get(channel, len(channels[channel]["samples"]))
        if match[2] != "-" and int(match[2]) > count:
            return None
        counts[channel] = count + 1
        added.append((channels[channel]["name"], value))
    return added


def _with_samples(background: Background, added: list[tuple[str, dict[str, Any]]]) -> Patched:
    # Of samples with one name in a channel the last in the list counts (as in pyhf), and this does
    # not follow where in the list a patch adds its own.
    names = [(channel, str(sample.get("name"))) for channel, sample in added]
    parts = background.parts
    if len(set(names)) < len(names) or not background.kept.isdisjoint(names):
        raise UnsupportedModelError("the patch adds a sample under a name that its channel has")
    return Patched(
        structure=Structure(parts.bins, background.kept, parts.poi),
        added=added,
        observations=parts.observations,
        measurement=parts.measurement,
    )


def _compare(background: Background, parts: Parts) -> Patched:
    ours = background.parts.channels
    same_bins = set(parts.bins) & set(background.parts.bins)
    binned_alike = {name for name, _ in same_bins}
    kept = frozenset(
        (channel, name)
        for channel, name in _pairs(parts.channels)
        if channel in binned_alike and ours[channel].get(name) == parts.channels[channel][name]
    )
    return Patched(
        structure=Structure(parts.bins, kept, parts.poi),
        added=[
            (channel, sample)
            for channel, samples in parts.channels.items()
            for name, sample in samples.items()
            if (channel, name) not in kept
        ],
        observations=parts.observations,
        measurement=parts.measurement,
    )


def _pairs(channels: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    return ((channel, name) for channel, samples in channels.items() for name in samples)


def _take_apart(workspace: dict[str, Any], options: ModelOptions) -> Parts:
    try:
        channels: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        bins = {}
        for channel in workspace["channels"]:
            name = channel["name"]
            if name in channels:
                raise UnsupportedModelError(f"there are two channels {name!r}")
            for sample in channel["samples"]:
                if sample["name"] in channels[name]:
                    raise UnsupportedModelError(
                        f"channel {name!r} has two samples {sample['name']!r}"
                    )
                channels[name][sample["name"]] = sample
            bins[name] = len(channel["samples"][0]["data"])
        measurement = widened(_measurement(workspace, options), options)
        poi = measurement["config"]["poi"] if options.poi is None else options.poi
        observations = {entry["name"]: entry["data"] for entry in workspace["observations"]}
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UnsupportedModelError(f"the workspace cannot be read: {error}") from error
    if not poi:
        raise UnsupportedModelError("no parameter of interest is defined")
    return Parts(dict(channels), tuple(sorted(bins.items())), observations, measurement, poi)


def _measurement(workspace: dict[str, Any], options: ModelOptions) -> dict[str, Any]:
    measurements: list[dict[str, Any]] = workspace["measurements"]
    for measurement in measurements:
        if options.measurement in (None, measurement["name"]):
            return measurement
    raise UnsupportedModelError(f"there is no measurement {options.measurement!r}")


class SignalArray:
    """Reads signals of one template from rows of numbers.

    Parameters
    ----------
    background
        What they are added to.
    added
        (channel, sample JSON) of the template, with the index of each number, counted from one.

    Attributes
    ----------
    varied
        Whether they differ in more than their yields.

    Raises
    ------
    UnsupportedModelError
        These are not samples that the kernel fits.
    """

    def __init__(self, background: Background, added: list[tuple[str, dict[str, Any]]]) -> None:
        self._like = replace(_with_samples(background, added), signal=self)
        self._places = [SamplePlaces(channel, sample) for channel, sample in added]
        self.varied = any(one.varied for one in self._places)

    def patched(self, patch: SignalPatch) -> Patched:
        """Return a signal.

        Raises
        ------
        UnsupportedModelError
            Its samples are not ones that the kernel fits.
        """
        row = numbers(np.frombuffer(patch.numbers, dtype="<f8"))
        return replace(self._like, samples=[one.sample(row) for one in self._places])


class Member(NamedTuple):
    """A hypothesis.

    ``samples`` and ``usage`` are of the samples it adds. ``common`` are the parameter sets of
    the background, shared by all hypotheses with the same measurement; ``sets`` are its own, and
    the staterrors, whose widths depend on all samples. ``observed`` are the events in each bin, of
    shape (bins,).
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
        self.usage = usage_of(self.background)
        self._poi = structure.poi
        self._stat = StatErrors(self.background)
        self._common: list[tuple[dict[str, Any], dict[str, ParameterSet]]] = []
        self._alike: dict[tuple[SignalArray | None, bool], Member] = {}
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
        signal, samples = patched.signal, patched.samples
        if samples is None:
            samples = [read_sample(channel, sample) for channel, sample in patched.added]
        # Signals of an array without numbers in modifiers differ in nothing but yields.
        alike = self._alike.get((signal, may_lack_poi))
        if alike is not None:
            return alike._replace(name=name, samples=samples)
        self._check_bins(samples)
        usage = usage_of(samples, onto=self.usage)
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
        has_poi = self._poi in member.sets or self._poi in member.common
        if has_poi or not may_lack_poi:
            self._check_poi(member)
        if signal is not None and not signal.varied:
            self._alike[signal, may_lack_poi] = member
        return member

    def _common_sets(self, measurement: dict[str, Any]) -> dict[str, ParameterSet]:
        for earlier, sets in self._common:
            if earlier is measurement or earlier == measurement:
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
        events = []
        for channel, count in self.bins.items():
            if channel not in observations:
                raise UnsupportedModelError(f"channel {channel!r} has no observed data")
            data = numbers(observations[channel])
            if data.shape != (count,) or (data < 0).any():
                raise UnsupportedModelError(
                    f"the observed data of channel {channel!r} are not {count} counts"
                )
            events.append(data)
        return np.concatenate(events)

    def _check_bins(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            if len(sample.nominal) != self.bins[sample.channel]:
                raise UnsupportedModelError(
                    f"sample {sample.name!r} does not have the bins of channel {sample.channel!r}"
                )

    def _check_shapefactors(self, usage: Usage) -> None:
        """Check that a hypothesis does not change the sizes of the background's shapefactors."""
        for name in usage.channels.keys() & self.usage.channels.keys():
            if self.usage.kind(name) is Kind.SHAPEFACTOR:
                both = Usage(
                    factors=self.usage.factors,
                    channels={name: self.usage.channels[name] + usage.channels[name]},
                )
                if both.size(name, self.bins) != self.usage.size(name, self.bins):
                    raise UnsupportedModelError(
                        f"shapefactor {name!r} is shared with an earlier channel of another size"
                    )

    def _check_poi(self, member: Member) -> None:
        made = member.sets.get(self._poi) or member.common.get(self._poi)
        if made is None:
            raise UnsupportedModelError(f"parameter of interest {self._poi!r} is not in the model")
        if len(made) > 1:
            raise UnsupportedModelError(f"parameter of interest {self._poi!r} has many components")
        if made.fixed.any():
            raise UnsupportedModelError(f"parameter of interest {self._poi!r} is fixed")
