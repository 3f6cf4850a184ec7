"""Check what pyhf's schema cannot say: that a workspace makes a likelihood.

Each rule is of one of three weights (see `Findings`). An error is what pyhf
itself refuses when it builds the model, what makes the likelihood undefined, or what pyhf
would resolve by silently dropping data. Negative nominal yields of a single sample come with
negative event weights and are in published likelihoods: they are noted. A negative sum over
samples is an error, as the Poisson rate of that bin is negative.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fitserve.errors import InputError
from fitserve.pallet.parameters import Parameters, Use
from fitserve.pallet.schema import shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = [
    "Base",
    "Channel",
    "Findings",
    "check_parameters",
    "check_sample",
    "check_sums",
    "check_workspace",
]

_SHOWN = 3


class Findings:
    """Findings of three weights, each kind with the places where it was seen.

    *Errors* make the likelihood meaningless: nothing can go on. *Doubts* stop a pallet unless
    the user chooses to ignore them (``--force``); what was ignored is recorded with the
    results. *Notes* are seen in published data and are only reported.
    """

    def __init__(self) -> None:
        self.errors: dict[str, list[str]] = {}
        self.doubts: dict[str, list[str]] = {}
        self.notes: dict[str, list[str]] = {}
        self._hints: dict[str, str] = {}

    def error(self, kind: str, where: str, hint: str = "") -> None:
        """Add an error: what is wrong in general, where and how exactly, and what helps."""
        self.errors.setdefault(kind, []).append(where)
        self._hints.setdefault(kind, hint)

    def doubt(self, kind: str, where: str) -> None:
        """Add a doubt."""
        self.doubts.setdefault(kind, []).append(where)

    def note(self, kind: str, where: str) -> None:
        """Add a note."""
        self.notes.setdefault(kind, []).append(where)

    def take(self, other: Findings, where: str = "") -> None:
        """Add all findings of another, with ``where`` before their places."""
        for kind, places in other.errors.items():
            for place in places:
                self.error(kind, f"{where}{place}", other._hints[kind])
        for add, kinds in ((self.doubt, other.doubts), (self.note, other.notes)):
            for kind, places in kinds.items():
                for place in places:
                    add(kind, f"{where}{place}")

    def conclude(self, what: str, *, force: bool) -> list[str]:
        """Raise if the findings forbid going on, else return the doubts that were ignored.

        Parameters
        ----------
        what
            Name of the pallet, for the error.
        force
            Ignore doubts.

        Raises
        ------
        InputError
            There are errors, or doubts that are not to be ignored.
        """
        if self.errors:
            hint = self._hints[next(iter(self.errors))]
            raise _as_error(what, self.errors, hint=hint or "put the file right, or get it again")
        if self.doubts and not force:
            raise _as_error(
                what, self.doubts, hint="if you know why, go on with --force; it is recorded"
            )
        return sentences(self.doubts)


def sentences(findings: dict[str, list[str]]) -> list[str]:
    """Return one sentence for each kind of finding, with the first places.

    Examples
    --------
    >>> from fitserve.pallet.checks import sentences
    >>> sentences({"negative yields": ["patch 'a'", "patch 'b'"]})
    ["negative yields: patch 'a'; patch 'b'"]
    """
    return [f"{kind}: {_places(where)}" for kind, where in findings.items()]


def _as_error(what: str, findings: dict[str, list[str]], **details: Any) -> InputError:
    kind, *others = findings
    evidence = _places(findings[kind])
    if others:
        evidence += f"; also {'; '.join(sentences({other: findings[other] for other in others}))}"
    return InputError(f"{what}: {kind}", evidence=evidence, **details)


def _places(where: list[str]) -> str:
    shown = "; ".join(where[:_SHOWN])
    left = len(where) - _SHOWN
    return shown if left <= 0 else f"{shown}; and {left} more"


# Modifiers of one group may share a name: they then share the parameter.
_GROUPS = {"normsys": "normsys or histosys", "histosys": "normsys or histosys"}


@dataclass
class Channel:
    """A channel of the background-only workspace, as far as signal samples have to fit it.

    ``shifts`` is what each systematic of the samples adds to the bins, at -1 and at +1 standard
    deviation; ``before`` are the shifts of the samples that were there before a patch.
    """

    name: str
    samples: list[str]
    total: list[float]
    shifts: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    before: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)

    def copy(self) -> Channel:
        """Return a copy to which a patch can add samples."""
        return Channel(self.name, [*self.samples], [*self.total], before=self.shifts)


@dataclass
class Base:
    """What the checks of patches need to know of the background-only workspace.

    ``configured`` is what is wrong with its measurements, which a patch may replace.
    """

    channels: list[Channel]
    parameters: Parameters
    measurements: Sequence[dict[str, Any]]
    configured: Findings


def check_workspace(workspace: dict[str, Any], findings: Findings) -> Base:
    """Check a workspace that is valid by the schema.

    Parameters
    ----------
    workspace
        Background-only or with a signal.
    findings
        Takes what is found.

    Returns
    -------
    Base
        What the checks of patches need.
    """
    observations = _check_observations(workspace["observations"], findings)
    parameters = Parameters()
    channels: list[Channel] = []
    for content in workspace["channels"]:
        name = content["name"]
        if any(name == other.name for other in channels):
            findings.error("two channels have the same name", repr(name))
        observed = observations.pop(name, None)
        bins = len(content["samples"][0]["data"])
        if observed is None:
            findings.error("a channel has no observed data", f"channel {name!r}")
        elif len(observed) != bins:
            findings.error(
                "observed data and samples have different numbers of bins",
                f"channel {name!r} has {len(observed)} observations and {bins} bins",
            )
        channel = Channel(name, [], [0.0] * bins)
        channels.append(channel)
        for sample in content["samples"]:
            check_sample(sample, channel, parameters, findings)
        check_sums(channel, findings)
        if observed is not None and len(observed) == bins:
            _check_empty_bins(channel, observed, findings)
    for name in observations:
        findings.note("observed data of no channel are not used", repr(name))
    configured = Findings()
    _check_measurements(workspace["measurements"], configured)
    # What is wrong by itself fits no model.
    measurements = [] if configured.errors else workspace["measurements"]
    check_parameters(measurements, parameters, findings, configured)
    return Base(channels, parameters, workspace["measurements"], configured)


def check_sample(
    sample: dict[str, Any],
    channel: Channel,
    parameters: Parameters,
    findings: Findings,
    where: str = "",
) -> None:
    """Check one sample and add it to ``channel`` and ``parameters``.

    Parameters
    ----------
    sample
        Valid by the schema.
    channel
        The channel that it is in; its samples and sums are updated.
    parameters
        The parameters so far; updated.
    findings
        Takes what is found.
    where
        The patch that adds the sample, for the findings.
    """
    where = f"{where}channel {channel.name!r}, sample {shorten(sample['name'], 60)!r}"
    if sample["name"] in channel.samples:
        findings.error("two samples of a channel have the same name", where)
    channel.samples.append(sample["name"])
    data, bins = sample["data"], len(channel.total)
    if _too_large(data):
        findings.error("a yield is too large for a number", where)
        return
    if len(data) != bins:
        findings.error(
            "samples of a channel have different numbers of bins",
            f"{where} has {len(data)} bins, the first sample {bins}",
        )
        return
    if min(data) < 0:
        findings.note("negative nominal yields", f"{where} has {min(data):g}")
    _add(channel.total, data)
    seen: set[tuple[str, str]] = set()
    for modifier in sample["modifiers"]:
        key = (modifier["type"], modifier["name"])
        if key in seen:
            findings.doubt(
                "a sample has the same modifier twice, of which pyhf uses the last",
                _place(modifier, where),
            )
        seen.add(key)
        if _check_modifier(modifier, bins, findings, where):
            _check_name(modifier, parameters, findings, where)
            use = Use(modifier["type"], channel.name, sample["name"], data, modifier["data"])
            parameters.add(modifier["name"], use)
            _shift(channel, modifier["name"], use)


def check_sums(channel: Channel, findings: Findings, where: str = "") -> None:
    """Check the expected yields of a channel's bins, summed over its samples so far."""
    for index, value in enumerate(channel.total):
        if value < 0:
            findings.error(
                "negative expected yield of a bin, summed over samples",
                f"{where}channel {channel.name!r}, bin {index}: {value:g}",
            )
    for name, shifts in channel.shifts.items():
        for sign, shift in zip("-+", shifts, strict=True):
            for index, (value, by) in enumerate(zip(channel.total, shift, strict=True)):
                if value >= 0 > value + by:
                    findings.note(
                        "a systematic takes the expected yield of a bin below zero, where there "
                        "is no likelihood",
                        f"{where}channel {channel.name!r}, bin {index}: {value:g} becomes "
                        f"{value + by:g} with {name!r} at {sign}1 standard deviation",
                    )


def _shift(channel: Channel, name: str, use: Use) -> None:
    """Add what a systematic at one standard deviation does to the yields of a sample."""
    if use.type == "histosys":
        ends = [use.data["lo_data"], use.data["hi_data"]]
    elif use.type == "normsys" and min(use.yields) < 0:
        # Of positive yields it makes no negative ones.
        ends = [[use.data[end] * value for value in use.yields] for end in ("lo", "hi")]
    else:
        return
    if name not in channel.shifts:
        nothing = [0.0] * len(use.yields)
        down, up = channel.before.get(name, (nothing, nothing))
        channel.shifts[name] = [*down], [*up]
    for shift, end in zip(channel.shifts[name], ends, strict=True):
        _add(shift, [at - value for at, value in zip(end, use.yields, strict=True)])


def _add(total: list[float], values: Iterable[float]) -> None:
    for index, value in enumerate(values):
        total[index] += value


def _check_observations(content: list[dict[str, Any]], findings: Findings) -> dict[str, list[Any]]:
    observations: dict[str, list[Any]] = {}
    for observation in content:
        name, data = observation["name"], observation["data"]
        if name in observations:
            findings.error("a channel has observed data twice", f"channel {name!r}")
        if _too_large(data) or min(data) < 0:
            findings.error(
                "negative or unbounded observed data",
                f"channel {name!r}: {shorten(str(min(data)), 40)}",
            )
        observations[name] = data
    return observations


def _check_empty_bins(channel: Channel, observed: list[Any], findings: Findings) -> None:
    for index, (expected, seen) in enumerate(zip(channel.total, observed, strict=True)):
        if expected == 0 and seen > 0:
            findings.doubt(
                "events are observed where no background is expected, which the "
                "background-only hypothesis says is impossible",
                f"channel {channel.name!r}, bin {index}: {seen:g} observed",
            )


def _check_name(
    modifier: dict[str, Any], parameters: Parameters, findings: Findings, where: str
) -> None:
    type_, name = modifier["type"], modifier["name"]
    first = parameters.first(name)
    if first is None:
        return
    before = _GROUPS.get(first.type, first.type)
    if before != _GROUPS.get(type_, type_):
        findings.error(
            "modifiers of types that cannot share a parameter have the same name",
            f"{where}: {name!r} is {before} and {type_}",
        )
    elif type_ == "shapesys":
        findings.error("a shapesys modifier cannot be shared", f"{where}: {name!r}")


def _check_modifier(modifier: dict[str, Any], bins: int, findings: Findings, where: str) -> bool:
    """Check a modifier's values, and return whether they can be used."""
    type_, data = modifier["type"], modifier["data"]
    if type_ == "normsys":
        arrays = [[data["lo"], data["hi"]]]
        # All interpolations take the logarithm of both factors.
        if min(arrays[0]) <= 0:
            place = f"{_place(modifier, where)}: {min(arrays[0]):g}"
            findings.error("a normsys factor is not positive", place)
    elif type_ == "histosys":
        arrays = [data["lo_data"], data["hi_data"]]
    elif type_ in ("staterror", "shapesys"):
        arrays = [data]
        # A relative uncertainty times a negative yield; pyhf squares it.
        if min(data) < 0:
            place = f"{_place(modifier, where)}: {min(data):g}"
            findings.note("negative statistical uncertainties", place)
    else:
        return True
    sound = True
    for array in arrays:
        if type_ != "normsys" and len(array) != bins:
            place = f"{_place(modifier, where)} has {len(array)} instead of {bins}"
            findings.error("a modifier has another number of bins than its sample", place)
            sound = False
        if _too_large(array):
            place = _place(modifier, where)
            findings.error("a modifier's value is too large for a number", place)
            sound = False
    return sound


def _place(modifier: dict[str, Any], where: str) -> str:
    return f"{where}, {modifier['type']} {shorten(modifier['name'], 60)!r}"


def _check_measurements(measurements: list[dict[str, Any]], findings: Findings) -> None:
    """Check measurements as far as possible without the model."""
    seen: set[str] = set()
    for measurement in measurements:
        name = shorten(measurement["name"], 60)
        if name in seen:
            findings.error("two measurements have the same name", repr(name))
        seen.add(name)
        parameters: set[str] = set()
        for parameter in measurement["config"]["parameters"]:
            where = _place_of(measurement, parameter["name"])
            if parameter["name"] in parameters:
                findings.error("a measurement configures a parameter twice", where)
            parameters.add(parameter["name"])
            for problem in _problems_of_parameter(parameter):
                findings.error(problem, where)


def check_parameters(
    measurements: Sequence[dict[str, Any]],
    parameters: Parameters,
    findings: Findings,
    configured: Findings,
    where: str = "",
) -> None:
    """Check the parameters of a workspace, or those that a patch adds or shares.

    Parameters
    ----------
    measurements
        The measurements that configure them.
    parameters
        All modifiers are in it.
    findings, configured
        Take the findings: of the modifiers, and of the measurements.
    where
        The patch, for the findings.
    """
    for name in parameters.added:
        for problem in parameters.problems(name):
            findings.error(problem.cause, f"{where}{problem.evidence}", problem.hint)
        for place in parameters.dropped(name):
            findings.note(
                "uncertainties of bins without a positive yield are dropped and their "
                "parameters held fixed, as in pyhf",
                f"{where}{place}",
            )
    by_name = parameters.by_name()
    for measurement in measurements:
        settings = {each["name"]: each for each in measurement["config"]["parameters"]}
        for name in parameters.added:
            for problem in by_name[name].problems(settings.get(name, {})):
                place = f"{where}{_place_of(measurement, name)}: {problem.evidence}"
                configured.error(problem.cause, place, problem.hint)


def _place_of(measurement: dict[str, Any], parameter: str) -> str:
    return f"measurement {shorten(measurement['name'], 60)!r}, parameter {shorten(parameter, 60)!r}"


def _problems_of_parameter(parameter: dict[str, Any]) -> Iterator[str]:
    inits, bounds = parameter.get("inits"), parameter.get("bounds")
    for key in ("inits", "auxdata", "factors", "sigmas"):
        if _too_large(parameter.get(key, [0.0])):
            yield f"{key} are too large for a number"
            return
    if min(parameter.get("sigmas", [1.0])) <= 0:
        yield "sigmas are not positive"
    if bounds is None:
        return
    if any(len(pair) != 2 or pair[0] > pair[1] or _too_large(pair) for pair in bounds):  # noqa: PLR2004
        yield "bounds are not pairs of a lower and an upper bound"
    elif inits is not None and len(inits) != len(bounds):
        yield "inits and bounds are of different lengths"
    elif inits is not None and any(
        not low <= init <= high for init, (low, high) in zip(inits, bounds, strict=True)
    ):
        yield "inits lie outside the bounds"


def _too_large(values: Sequence[float]) -> bool:
    """Return whether a number does not fit a double (JSON has integers of any size)."""
    return max(values) > sys.float_info.max or min(values) < -sys.float_info.max
