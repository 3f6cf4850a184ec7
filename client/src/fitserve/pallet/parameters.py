"""The parameters of a model and their settings, as pyhf makes them of a workspace.

The rules are those of ``required_parset`` in pyhf's modifiers and of
``pyhf.parameters.reduce_paramsets_requirements`` (pyhf 0.7.6). pyhf itself is not used: it takes
seconds to build a large model, and has no message for some mistakes.
"""

from __future__ import annotations

from collections import ChainMap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from fitserve_contract import NORMFACTOR_BOUNDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping, Sequence

__all__ = ["Outline", "Parameter", "Parameters", "Problem", "Settings", "Use"]


class Settings(NamedTuple):
    """Initial values and bounds of a parameter's components, and whether it is held fixed."""

    inits: Sequence[float]
    bounds: Sequence[Sequence[float]]
    fixed: bool = False


class _Type(NamedTuple):
    """What pyhf gives a parameter that the measurement does not configure.

    ``keys`` is what a measurement may configure besides initial values, bounds and whether it
    is fixed. Without bounds all of it has to be configured.
    """

    init: float
    bounds: tuple[float, float] | None
    keys: tuple[str, ...] = ()
    per_bin: bool = False


_TYPES = {
    "normfactor": _Type(1.0, NORMFACTOR_BOUNDS),
    "shapefactor": _Type(1.0, (0.0, 10.0), per_bin=True),
    "normsys": _Type(0.0, (-5.0, 5.0), ("auxdata",)),
    "histosys": _Type(0.0, (-5.0, 5.0), ("auxdata",)),
    "lumi": _Type(1.0, None, ("auxdata", "sigmas")),
    "shapesys": _Type(1.0, (1e-10, 10.0), ("auxdata", "factors"), per_bin=True),
    "staterror": _Type(1.0, (1e-10, 10.0), ("auxdata", "sigmas"), per_bin=True),
}
_ARRAYS = ("inits", "bounds", "auxdata", "factors", "sigmas")


class Problem(NamedTuple):
    """What is wrong in general, how exactly, and what can be done about it."""

    cause: str
    evidence: str
    hint: str = ""


class Parameter(NamedTuple):
    """A parameter of a model: the type of its modifiers and the number of its components."""

    type: str
    size: int

    def settings(self, configured: Mapping[str, Any]) -> Settings:
        """Return the settings, given what the measurement configures (nothing: ``{}``)."""
        init, bounds, _, _ = _TYPES[self.type]
        return Settings(
            configured.get("inits", [init] * self.size),
            configured.get("bounds", [bounds or (init, init)] * self.size),
            configured.get("fixed", False),
        )

    def problems(self, configured: Mapping[str, Any]) -> Iterator[Problem]:
        """Yield why pyhf makes no model with this configuration, or does not fit it."""
        _, bounds, keys, _ = _TYPES[self.type]
        needed = ("inits", "bounds", *keys)
        missing = [key for key in needed if key not in configured]
        if bounds is None and missing:
            yield Problem(
                f"the measurement does not say what {self.type} is",
                f"there are no {', '.join(missing)}",
                "add them to the measurement's parameters",
            )
            return
        for key in (key for key in _ARRAYS if key in configured):
            if key not in needed:
                yield Problem(
                    "the measurement configures what a parameter of that type does not have",
                    f"{key} of a {self.type}",
                    "take it out of the measurement's parameters",
                )
            elif len(configured[key]) != self.size:
                yield Problem(
                    "the measurement configures another number of values than a parameter has",
                    f"{len(configured[key])} {key} for {self.size} components of a {self.type}",
                    "give one value for each component",
                )
        counts, factors = configured.get("auxdata", [0.0]), configured.get("factors", [1.0])
        if self.type == "shapesys" and (min(counts) < 0 or min(factors) <= 0):
            yield Problem(
                "the Poisson constraint of a shapesys has negative counts or factors",
                f"auxdata from {min(counts):g}, factors from {min(factors):g}",
                "auxdata are counts, and factors what is expected of them",
            )
        inits, pairs, _ = self.settings(configured)
        for init, (low, high) in zip(inits, pairs, strict=False):
            if not low <= init <= high:
                own = [key for key in ("inits", "bounds") if key not in configured]
                stated = f" (pyhf's own {own[0]})" if own else ""
                yield Problem(
                    "a parameter starts outside its bounds",
                    f"{init:g} is not within {low:g} to {high:g}{stated}",
                    f"add {' and '.join(own) or 'other inits'} to the parameter in the measurement",
                )
                return


class Use(NamedTuple):
    """One modifier: ``yields`` are those of its sample, ``data`` are its own."""

    type: str
    channel: str
    sample: str
    yields: Sequence[float]
    data: Any


class Parameters:
    """The modifiers that act on each parameter of a model.

    Parameters
    ----------
    base
        Those of the background-only workspace, where these are of a patch that adds to it.
    """

    def __init__(self, base: Parameters | None = None) -> None:
        self._base = base
        self._uses: dict[str, list[Use]] = {}
        self._by_name: MutableMapping[str, Parameter] | None = None

    def add(self, name: str, use: Use) -> None:
        """Add a modifier."""
        self._uses.setdefault(name, []).append(use)

    def first(self, name: str) -> Use | None:
        """Return the first modifier of that name."""
        if self._base and (first := self._base.first(name)):
            return first
        own = self._uses.get(name)
        return own[0] if own else None

    def uses(self, name: str) -> list[Use]:
        """Return the modifiers of that name, those of the base first."""
        before = self._base.uses(name) if self._base else []
        return before + self._uses.get(name, [])

    @property
    def added(self) -> Mapping[str, Sequence[Use]]:
        """The modifiers by name, without those of the base."""
        return self._uses

    def by_name(self) -> MutableMapping[str, Parameter]:
        """Return the parameters by name, those of the base too; nothing is added afterwards."""
        if self._by_name is None:
            own = {name: self._parameter(name) for name in self._uses}
            self._by_name = ChainMap(own, self._base.by_name()) if self._base else own
        return self._by_name

    def _parameter(self, name: str) -> Parameter:
        uses = self.uses(name)
        type_ = uses[0].type
        if not _TYPES[type_].per_bin:
            return Parameter(type_, 1)
        bins = {use.channel: len(use.yields) for use in uses}
        # pyhf takes the components of a shapefactor from the first channel that has it.
        size = bins[min(bins)] if type_ == "shapefactor" else sum(bins.values())
        return Parameter(type_, size)

    def problems(self, name: str) -> Iterator[Problem]:
        """Yield why pyhf makes no parameter of the modifiers of that name."""
        uses = self.uses(name)
        if uses[0].type == "staterror":
            if "/" in name:
                yield Problem(
                    "pyhf does not take a staterror with a slash in its name",
                    f"staterror {name!r}",
                    "give it another name",
                )
            where: dict[str, set[str]] = {}
            for use in uses:
                where.setdefault(use.sample, set()).add(use.channel)
            every = set().union(*where.values())
            for sample, channels in where.items():
                if channels != every:
                    yield Problem(
                        "a staterror is shared unevenly: pyhf wants each sample that has it to "
                        "have it in the same channels",
                        f"staterror {name!r} is in channel {min(every - channels)!r}, but not "
                        f"for sample {sample!r}",
                        "use another name of the staterror in each channel",
                    )
                    return
        elif uses[0].type == "shapefactor":
            bins = {use.channel: len(use.yields) for use in uses}
            first = min(bins)
            for channel, count in bins.items():
                if count > bins[first]:
                    yield Problem(
                        "a shapefactor is shared with a channel of more bins than its first",
                        f"shapefactor {name!r}: {bins[first]} in channel {first!r}, {count} in "
                        f"channel {channel!r}",
                        "use another name of the shapefactor in each channel",
                    )
                    return

    def dropped(self, name: str) -> Iterator[str]:
        """Yield the bins whose uncertainty pyhf drops, since there is no positive yield."""
        own = self._uses[name]
        if own[0].type not in ("staterror", "shapesys"):
            return
        together: dict[str, list[Use]] = {}
        for use in self.uses(name):
            together.setdefault(use.channel, []).append(use)
        for channel in dict.fromkeys(use.channel for use in own):
            for index, yields in enumerate(
                zip(*(use.yields for use in together[channel]), strict=False)
            ):
                uncertain = any(use.data[index] > 0 for use in own if use.channel == channel)
                if sum(yields) <= 0 and uncertain:
                    samples = ", ".join(repr(use.sample) for use in together[channel])
                    yield (
                        f"channel {channel!r}, bin {index}, {own[0].type} {name!r} of "
                        f"{samples} with {sum(yields):g}"
                    )


@dataclass(frozen=True)
class Outline:
    """The outline of a model: its measurements, and its parameters by name."""

    measurements: Sequence[dict[str, Any]]
    parameters: Mapping[str, Parameter]

    def measurement(self, name: str | None) -> dict[str, Any] | None:
        """Return the measurement of that name, the first one without a name, or None."""
        return next((each for each in self.measurements if name in (None, each["name"])), None)

    def settings(self, measurement: dict[str, Any], name: str) -> Settings:
        """Return the settings of a parameter that the model has."""
        return self.parameters[name].settings(_configured(measurement).get(name, {}))

    def broken(self, measurement: dict[str, Any]) -> Problem | None:
        """Return why there is no model with this measurement, or nothing in it to fit."""
        if not self.parameters:
            return Problem("the model has no parameters", "", "there is nothing to fit")
        configured = _configured(measurement)
        for name, parameter in self.parameters.items():
            for cause, evidence, hint in parameter.problems(configured.get(name, {})):
                return Problem(cause, f"parameter {name!r}: {evidence}", hint)
        return None

    def unused(self) -> set[tuple[str, str]]:
        """Return measurement and name of what is configured and is no parameter of the model."""
        return {
            (measurement["name"], parameter["name"])
            for measurement in self.measurements
            for parameter in measurement["config"]["parameters"]
            if parameter["name"] not in self.parameters
        }


def _configured(measurement: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in measurement["config"]["parameters"]}
