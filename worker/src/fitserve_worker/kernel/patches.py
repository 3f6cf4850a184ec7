"""What each hypothesis makes of the background-only workspace.

A signal patch nearly always adds samples to channels and nothing else; that is recognised
without touching the workspace. Any other patch is applied in full and the result compared
with the workspace, so that it does not matter how a patch says what it says.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from fitserve.contract import PatchError, apply_patch, widened
from fitserve_worker.kernel.errors import UnsupportedModelError
from fitserve_worker.kernel.members import Reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fitserve.contract import ModelOptions

__all__ = ["Background", "Patched", "Structure", "resolve", "sample_names"]

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
    """A hypothesis: its structure and what is its own.

    ``added`` are (channel, sample JSON) of samples that the background-only workspace lacks
    or has otherwise.
    """

    structure: Structure
    added: list[tuple[str, dict[str, Any]]]
    observations: dict[str, Any]
    measurement: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Parts:
    """A workspace by name: channel -> sample -> JSON, as far as the kernel looks at it."""

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


def resolve(background: Background, patch: list[dict[str, Any]]) -> Patched:
    """Return what a patch makes of the workspace.

    Raises
    ------
    UnsupportedModelError
        The patch does not apply, or the result is no workspace that the kernel understands.
    """
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


def sample_names(workspace: dict[str, Any], patch: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the names of a patched workspace's samples by channel, in their order in the JSON.

    Examples
    --------
    >>> workspace = {"channels": [{"name": "SR", "samples": [{"name": "background"}]}]}
    >>> add = {"op": "add", "path": "/channels/0/samples/0", "value": {"name": "signal"}}
    >>> sample_names(workspace, [add])
    {'SR': ['signal', 'background']}
    """
    # Only names matter for what adds samples, and copying those is cheap.
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
    workspace: Mapping[str, Any], patch: list[dict[str, Any]]
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
    # Of samples with one name in a channel the last one in its list counts (as in pyhf),
    # and where a patch puts its own in the list is not followed here.
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
                raise UnsupportedModelError(f"channel {name!r} is there twice")
            for sample in channel["samples"]:
                if sample["name"] in channels[name]:
                    raise UnsupportedModelError(
                        f"sample {sample['name']!r} is twice in channel {name!r}"
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
