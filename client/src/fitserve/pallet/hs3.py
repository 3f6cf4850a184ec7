"""Read HS3, the JSON in which RooFit writes its workspaces, into workspaces of pyhf.

HS3 is the "High energy physics statistics serialization standard". What is read is what ROOT's
``RooJSONFactoryWSTool`` writes of a HistFactory model, in the dialects of ROOT 6.30 to 6.40 and
of the standard's own pages. Everything of the likelihood becomes part of the workspace or is
refused by its name: other distributions, functions, constraints and interpolations than pyhf has.

A factor on each bin with one constraint for all samples (``staterror``, and a ``shapesys`` that
several samples share) is Gaussian in pyhf, in ROOT mostly Poisson. The Poisson constraint of one
sample is pyhf's ``shapesys``, exactly; that of several pyhf does not have: a doubt says so.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import msgspec

from fitserve.errors import InputError
from fitserve.pallet.schema import decode_json, shorten
from fitserve_contract import NORMFACTOR_BOUNDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fitserve.pallet.checks import Findings

__all__ = ["constrained_bins", "read_hs3", "replace_hs3"]

T = TypeVar("T")

# ROOT's own default where nothing says how a `staterror` is constrained.
_ROOTS_CONSTRAINT = "Poisson"
# The first ROOT whose `vals` of a Poisson `shapesys` are relative uncertainties, not counts.
_RELATIVE = (6, 30)
_FLOOR = 1e-10
# Five widths from 1 to 0: beyond it, ROOT's normalisation moves with the factor.
_WIDE = 0.2
_TYPES = ("Gauss", "Poisson", "Const", "Lognormal", "LogNormal")
# pyhf's names of the interpolations. Its code2 is not ROOT's beyond +-1.
_INTERPOLATIONS: dict[str, dict[str, tuple[Any, ...]]] = {
    "normsys": {
        "code4": (4, 5, {"type": "mult", "in": "poly6", "out": "exp"}),
        "code1": (1, "log", {"type": "mult", "in": "exp", "out": None}),
    },
    "histosys": {
        "code4p": (4, "poly6", {"type": "add", "in": "poly6", "out": "poly1"}),
        "code0": (0, "lin", {"type": "add", "in": "poly1", "out": None}),
    },
}
_USUAL = {
    "normfactor": (1.0, *NORMFACTOR_BOUNDS),
    "lumi": (1.0, 0.0, 10.0),
    "normsys": (0.0, -5.0, 5.0),
    "gammas": (1.0, 0.0, 10.0),
}
_GAMMAS = re.compile(r"gamma_(.+)_bin_\d+")


class _Part(msgspec.Struct, forbid_unknown_fields=True):
    """A part of the file of which every key has to be understood."""


class _Contents(_Part, kw_only=True):
    contents: list[float]
    errors: list[float] = []


class _Modifier(_Part, kw_only=True):
    type: str
    name: str | None = None
    parameter: str | None = None
    parameters: list[str] = []
    constraint: str | None = None
    constraint_name: str | None = None
    constraint_type: str | None = None
    constraints: list[str | None] = []
    interpolation: Any = None
    data: Any = None


class _Sample(_Part, kw_only=True):
    name: str | None = None
    data: _Contents
    modifiers: list[_Modifier] = []


class _StatError(_Part, kw_only=True):
    relThreshold: float = 0.0  # noqa: N815 - ROOT's name
    constraint_type: str | None = None
    constraint: str | None = None


class _Axis(msgspec.Struct):
    name: str
    min: float | None = None
    max: float | None = None
    nbins: int | None = None
    edges: list[float] | None = None
    bounds: list[float] | None = None

    @property
    def bins(self) -> int:
        """The number of bins."""
        edges = self.edges or self.bounds
        return len(edges) - 1 if edges else self.nbins or 0

    def find(self, value: float) -> int:
        """Return the bin that a value is in, counted from 0; -1 if it is in none."""
        if edges := self.edges or self.bounds:
            index = bisect_right(edges, value) - 1
        else:
            low, high = self.min or 0.0, self.max or 0.0
            index = math.floor((value - low) / (high - low) * self.bins) if high > low else -1
        return index if 0 <= index < self.bins else -1


class _Channel(_Part, kw_only=True):
    name: str
    type: str
    axes: list[_Axis] = []
    samples: list[_Sample]
    staterror: _StatError = msgspec.field(default_factory=_StatError)
    default_interpolation: Any = None


class _Gaussian(_Part, kw_only=True):
    name: str
    type: str
    x: str | float
    mean: str | float
    sigma: str | float


class _Shift(_Part, kw_only=True):
    lo: float
    hi: float


class _Shapes(_Part, kw_only=True):
    lo: _Contents
    hi: _Contents


class _Vals(_Part, kw_only=True):
    vals: list[float]


class _Data(msgspec.Struct, kw_only=True):
    name: str
    type: str
    axes: list[_Axis] = []
    contents: list[float] = []
    entries: list[list[float]] = []
    weights: list[float] | None = None


class _Likelihood(_Part, kw_only=True):
    name: str
    distributions: list[str]
    data: list[str | float]
    aux_distributions: list[str] = []


class _Analysis(msgspec.Struct, kw_only=True):
    name: str
    likelihood: str
    parameters_of_interest: list[str] = []
    domain: str | None = None
    domains: list[str] = []
    init: str | None = None
    aux_likelihood_terms: list[str] = []


class _Range(msgspec.Struct):
    name: str
    min: float | None = None
    max: float | None = None


class _Domain(msgspec.Struct):
    name: str
    type: str = "product_domain"
    axes: list[_Range] = []


class _Value(msgspec.Struct):
    name: str
    value: float
    const: bool = False
    min: float | None = None
    max: float | None = None


class _Point(msgspec.Struct):
    name: str
    parameters: list[_Value] = []


class _Setting(NamedTuple):
    """Where a parameter starts, between what, and whether it stays there."""

    value: float
    low: float
    high: float
    fixed: bool


def replace_hs3(files: Mapping[str, bytes], findings: Findings) -> dict[str, bytes]:
    """Return files with workspaces in the place of those that are HS3; they are read by `read_hs3`.

    Where a file has several likelihoods, each has a file of its own in a folder of that name.
    """
    replaced: dict[str, bytes] = {}
    for path, raw in files.items():
        if not _is_hs3(raw):
            replaced[path] = raw
            continue
        workspaces = read_hs3(raw, path, findings)
        for name, workspace in workspaces.items():
            inner = f"{path.removesuffix('.json')}/{name.replace('/', '_')}.json"
            place = path if len(workspaces) == 1 else inner
            replaced[place] = msgspec.json.encode(workspace)
    return replaced


def _is_hs3(raw: bytes) -> bool:
    """Return whether JSON text is HS3: it has distributions and likelihoods.

    >>> _is_hs3(b'{"distributions": [], "likelihoods": []}'), _is_hs3(b'{"channels": []}')
    (True, False)
    """
    if b'"distributions"' not in raw or b'"likelihoods"' not in raw:
        return False
    try:
        keys = _keys.decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    return msgspec.UNSET not in (keys.distributions, keys.likelihoods)


class _Keys(msgspec.Struct):
    distributions: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    likelihoods: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_keys = msgspec.json.Decoder(_Keys)


def read_hs3(raw: bytes, where: str, findings: Findings) -> dict[str, dict[str, Any]]:
    """Return the workspace of each likelihood in an HS3 file, by the likelihood's name.

    Likelihoods of Asimov data, which HistFactory writes beside that of the observed data, are left
    out.

    Parameters
    ----------
    raw
        JSON text.
    where
        Name of the file, for errors.
    findings
        Takes what is not the same model in pyhf, and what is left out.

    Raises
    ------
    InputError
        It is not a HistFactory model that pyhf has; the error names what is not.
    """
    return _File(decode_json(raw, where), where, findings).workspaces()


def constrained_bins(
    name: str,
    constraint: str,
    samples: Sequence[dict[str, Any]],
    errors: Sequence[Sequence[float]],
    findings: Findings,
    where: str,
) -> str | None:
    """Add one factor on each bin to samples of a channel, with one constraint for all of them.

    Parameters
    ----------
    name
        Of the modifier to be added.
    constraint
        ``Gauss`` or ``Poisson``.
    samples
        Samples as pyhf has them; the modifiers are added to them.
    errors
        Absolute uncertainties of each sample's bins; the factor of a bin where they are zero
        stays 1.
    findings
        Takes the doubt whether a Gaussian constraint is meant, where pyhf has no Poisson one.
    where
        The channel, for the finding.

    Returns
    -------
    str or None
        The type of the modifier, None if there is no uncertainty in any bin.

    Examples
    --------
    >>> from fitserve.pallet.checks import Findings
    >>> from fitserve.pallet.hs3 import constrained_bins
    >>> sample = {"name": "ttbar", "data": [10.0], "modifiers": []}
    >>> constrained_bins("mc", "Poisson", [sample], [[1.0]], Findings(), "channel 'SR'")
    'shapesys'
    >>> sample["modifiers"]
    [{'name': 'mc', 'type': 'shapesys', 'data': [1.0]}]
    """
    if not any(map(any, errors)):
        return None
    kind = "shapesys" if constraint == "Poisson" and len(samples) == 1 else "staterror"
    if constraint == "Poisson" and kind == "staterror":
        findings.doubt(
            "uncertainties of bins that several samples share have Poisson constraints, which pyhf "
            "does not have: Gaussian constraints of the same width are taken instead",
            f"{where}, {shorten(name, 60)!r} of {len(samples)} samples",
        )
    columns = zip(*(one["data"] for one in samples), strict=True)
    for place, (column, values) in enumerate(zip(zip(*errors, strict=True), columns, strict=True)):
        if constraint == "Gauss" and math.hypot(*column) > _WIDE * sum(values) > 0:
            findings.note(
                "wide Gaussian constraints of bins, which ROOT normalises over positive values",
                f"{where}, {shorten(name, 60)!r}, bin {place}",
            )
    for sample, data in zip(samples, errors, strict=True):
        sample["modifiers"].append({"name": name, "type": kind, "data": [*data]})
    return kind


class _File:
    """An HS3 file; its parts are looked up by name."""

    def __init__(self, content: Any, where: str, findings: Findings) -> None:
        self.where = where
        self.findings = findings
        self.content: dict[str, Any] = content
        self.distributions = self._named("distributions", dict[str, Any])
        self.functions = self._named("functions", dict[str, Any])
        self.data = self._named("data", dict[str, Any])
        self.likelihoods = self._named("likelihoods", _Likelihood)
        self.analyses = self._named("analyses", _Analysis)
        self.domains = self._named("domains", _Domain)
        self.points = self._named("parameter_points", _Point)
        self.root = self._root_version()

    def refuse(self, cause: str, evidence: str, hint: str = "") -> NoReturn:
        """Raise the error for what pyhf does not have."""
        raise InputError(
            f"{self.where}: {cause}",
            evidence=evidence,
            hint=hint or "pyhf's models are HistFactory's: write the likelihood without it",
        )

    def part(self, content: Any, type_: type[T], place: str) -> T:
        """Return a part of the file as its type; a key that is not known is refused."""
        try:
            return msgspec.convert(content, type_)
        except msgspec.ValidationError as error:
            raise InputError(
                f"{self.where} is not HS3 as far as it is known here",
                evidence=f"{place}: {shorten(str(error), 200)}",
                hint="compare it with https://hep-statistics-serialization-standard.github.io",
            ) from error

    def _named(self, key: str, type_: type[T]) -> dict[str, T]:
        parts = self.content.get(key) or []
        # Before the parts themselves are looked at, the names: they say where an error is.
        named: dict[str, T] = {}
        for index, one in enumerate(self.part(parts, list[dict[str, Any]], f"/{key}")):
            name = self.part(one.get("name"), str, f"/{key}/{index}/name")
            if name in named:
                self.refuse(f"two {key} have the same name", f"/{key}/{index}: {shorten(name)!r}")
            named[name] = self.part(one, type_, f"/{key}/{index} {shorten(name, 60)!r}")
        return named

    def _root_version(self) -> tuple[int, ...] | None:
        metadata = self.part(self.content.get("metadata") or {}, dict[str, Any], "/metadata")
        packages = self.part(metadata.get("packages") or [], list[dict[str, Any]], "/metadata")
        for package in packages:
            if package.get("name") == "ROOT":
                numbers = re.findall(r"\d{1,6}", str(package.get("version"))[:40])
                return tuple(map(int, numbers[:2])) or None
        return None

    def workspaces(self) -> dict[str, dict[str, Any]]:
        by_likelihood: dict[str, list[_Analysis]] = {}
        for analysis in self.analyses.values():
            self._there(analysis.likelihood, self.likelihoods, "likelihood", analysis)
            by_likelihood.setdefault(analysis.likelihood, []).append(analysis)
        chosen = {name: self.likelihoods[name] for name in by_likelihood} or self.likelihoods
        if not chosen:
            self.refuse("there is no likelihood", "its list of likelihoods is empty")
        observed = {name: one for name, one in chosen.items() if not _is_asimov(one)}
        if observed and len(observed) < len(chosen):
            left = ", ".join(name for name in chosen if name not in observed)
            self.findings.note("likelihoods of Asimov data are left out", f"{self.where}: {left}")
            chosen = observed
        return {
            name: _Model(self, one, by_likelihood.get(name, [])).workspace()
            for name, one in chosen.items()
        }

    def settings(self, analysis: _Analysis | None) -> _Settings:
        """Return what an analysis, or the file where there is none, says of parameters."""
        default = self.points.get("default_values") or next(iter(self.points.values()), None)
        chosen = [default] if default else []
        domains = [self.domains[one] for one in ("default_domain",) if one in self.domains]
        if analysis is not None:
            names = filter(None, [analysis.domain, *analysis.domains])
            domains += [self._there(name, self.domains, "domain", analysis) for name in names]
            if analysis.init is not None:
                chosen.append(self._there(analysis.init, self.points, "parameter point", analysis))
        for domain in domains:
            if domain.type != "product_domain":
                self.refuse(f"a domain is of type {domain.type}", repr(domain.name))
        return _Settings(
            {one.name: one for point in chosen for one in point.parameters},
            {axis.name: axis for domain in domains for axis in domain.axes},
        )

    def _there(self, name: str, parts: Mapping[str, T], what: str, analysis: _Analysis) -> T:
        if name not in parts:
            self.refuse(
                f"an analysis names a {what} that is not there",
                f"analysis {analysis.name!r}, {what} {name!r}",
            )
        return parts[name]


class _Settings(NamedTuple):
    """What is said of parameters, by ROOT's names."""

    values: Mapping[str, _Value]
    ranges: Mapping[str, _Range]

    def of(self, name: str, usual: tuple[float, float, float]) -> _Setting:
        """Return the setting of a parameter; where nothing is said, value and bounds are usual."""
        value, low, high = usual
        point = self.values.get(name)
        for one in (point, self.ranges.get(name)):
            low = low if one is None or one.min is None else one.min
            high = high if one is None or one.max is None else one.max
        if point is None:
            return _Setting(value, low, high, fixed=low == high)
        if point.const or low == high:
            # A constant may stand outside of the range that it does not move in.
            return _Setting(point.value, min(low, point.value), max(high, point.value), fixed=True)
        return _Setting(point.value, low, high, fixed=False)


def _is_asimov(likelihood: _Likelihood) -> bool:
    names = [one for one in likelihood.data if isinstance(one, str)]
    return bool(names) and all(name.lower().startswith("asimov") for name in names)


class _Use(NamedTuple):
    """A parameter of pyhf: ROOT's names of its components, its kind, and what else is said."""

    components: tuple[str, ...]
    kind: str
    besides: dict[str, Any]


class _Model:
    """The model of one likelihood, as it becomes a workspace."""

    def __init__(self, file: _File, likelihood: _Likelihood, analyses: list[_Analysis]) -> None:
        self.file = file
        self.likelihood = likelihood
        self.analyses = analyses
        # What is constant in the first analysis is so in all: measurements are checked for it.
        self.settings = file.settings(analyses[0] if analyses else None)
        self.uses: dict[str, _Use] = {}
        self.constraints: dict[str, _Gaussian] = {}
        self.names: dict[str, str] = {}
        self.interpolations: dict[str, str] = {}

    def workspace(self) -> dict[str, Any]:
        """Return the workspace."""
        channels = self._channels()
        self._look_ahead(channels)
        made, observations = [], []
        decorated = all(channel.name.startswith("model_") for channel, _ in channels)
        for channel, data in channels:
            name = channel.name.removeprefix("model_") if decorated else channel.name
            observed = self._observed(channel, data)
            made.append({"name": name, "samples": self._samples(channel, name, len(observed))})
            observations.append({"name": name, "data": observed})
        used = {one for use in self.uses.values() for one in use.components}
        for parameter, gaussian in self.constraints.items():
            if parameter not in used:
                self.file.refuse(
                    "a constraint is of a parameter that no channel has",
                    f"distribution {gaussian.name!r} of {parameter!r}",
                )
        return {
            "channels": made,
            "observations": observations,
            "measurements": [self._measurement(one) for one in self.analyses or (None,)],
            "version": "1.0.0",
        }

    def _channels(self) -> list[tuple[_Channel, str]]:
        """Return the channels and the names of their data; keep the constraints."""
        names, data = self.likelihood.distributions, self.likelihood.data
        if len(names) != len(data):
            self.file.refuse(
                "a likelihood has not one data set for each distribution",
                f"{self.likelihood.name!r}: {len(names)} and {len(data)}",
            )
        channels = []
        besides = [*self.likelihood.aux_distributions]
        for analysis in self.analyses:
            besides += analysis.aux_likelihood_terms
        for name, observed in zip(names, data, strict=True):
            content = self._distribution(name)
            if content.get("type") != "histfactory_dist":
                besides.append(name)
                continue
            place = f"distribution {shorten(name, 60)!r}"
            if not isinstance(observed, str):
                self.file.refuse("the data of a channel are a number", place)
            channels.append((self.file.part(content, _Channel, place), observed))
        for name in besides:
            self._keep_constraint(name)
        if not channels:
            self.file.refuse("a likelihood has no channel", repr(self.likelihood.name))
        return channels

    def _distribution(self, name: str) -> dict[str, Any]:
        if name not in self.file.distributions:
            self.file.refuse("a distribution is not there", repr(shorten(name)))
        return self.file.distributions[name]

    def _keep_constraint(self, name: str, parameter: str | None = None) -> None:
        """Keep a Gaussian constraint by the parameter that it is of."""
        content = self._distribution(name)
        place = f"distribution {shorten(name, 60)!r}"
        if content.get("type") != "gaussian_dist":
            self.file.refuse(
                f"a distribution of type {shorten(str(content.get('type')), 60)} is neither a "
                "channel of HistFactory nor a Gaussian constraint",
                place,
            )
        gaussian = self.file.part(content, _Gaussian, place)
        # Either end may be the parameter; the other is a global observable or a number.
        ends = [end for end in (gaussian.x, gaussian.mean) if isinstance(end, str)]
        free = [end for end in ends if not end.startswith("nom")] if parameter is None else ends
        if len(free) != 1 if parameter is None else parameter not in free:
            self.file.refuse(
                "it is not clear what a Gaussian constraint is of",
                f"{place}: x is {gaussian.x!r}, mean {gaussian.mean!r}",
            )
        parameter = parameter or free[0]
        before = self.constraints.setdefault(parameter, gaussian)
        if before != gaussian:
            self.file.refuse(
                "a parameter has two constraints", f"{parameter!r}: {before.name!r} and {name!r}"
            )

    def _look_ahead(self, channels: Iterable[tuple[_Channel, str]]) -> None:
        """Keep constraints that modifiers name, and choose names: ROOT's, without ``alpha_``."""
        parameters = set()
        for channel, _ in channels:
            for modifier in (one for sample in channel.samples for one in sample.modifiers):
                if modifier.type not in ("normfactor", "normsys", "histosys"):
                    continue
                parameter = self._parameter(modifier)
                parameters.add(parameter)
                constraint = modifier.constraint_name or modifier.constraint
                if constraint is not None and constraint not in _TYPES:
                    self._keep_constraint(constraint, parameter)
        for parameter in sorted(parameters):
            short = parameter.removeprefix("alpha_")
            self.names[parameter] = parameter if short in parameters else short or parameter

    def _parameter(self, modifier: _Modifier) -> str:
        """Return ROOT's name of the parameter of a modifier that has one."""
        named = [modifier.parameter] if modifier.parameter else modifier.parameters
        if len(named) > 1 or not (named or modifier.name):
            self.file.refuse(f"a {modifier.type} has not one parameter", repr(modifier.name))
        prefix = "" if modifier.type == "normfactor" else "alpha_"
        parameter = named[0] if named else f"{prefix}{modifier.name}"
        if parameter in self.file.functions:
            type_ = shorten(str(self.file.functions[parameter].get("type")), 60)
            self.file.refuse(
                f"a {modifier.type} depends on a function of type {type_}",
                f"modifier {modifier.name!r}, function {shorten(parameter, 60)!r}",
            )
        return parameter

    def _observed(self, channel: _Channel, name: str) -> list[float]:
        place = f"data {shorten(name, 60)!r}"
        if name not in self.file.data:
            self.file.refuse("data are not there", place)
        data = self.file.part(self.file.data[name], _Data, place)
        bins = len(channel.samples[0].data.contents) if channel.samples else 0
        mine, theirs = ([(one.name, one.bins) for one in of.axes] for of in (channel, data))
        if not bins or math.prod(axis.bins for axis in channel.axes or data.axes) != bins:
            self.file.refuse(
                "a channel has another number of bins than its axes",
                f"distribution {channel.name!r}: {bins}, {mine or theirs}",
            )
        if mine and theirs and mine != theirs:
            self.file.refuse(
                "data and their channel have different axes", f"{place}: {theirs}, {mine}"
            )
        if data.type == "binned":
            if len(data.contents) != bins:
                self.file.refuse(
                    "data have another number of bins than their axes",
                    f"{place}: {len(data.contents)}, {bins}",
                )
            return data.contents
        if data.type != "unbinned" or len(data.axes) != 1:
            self.file.refuse(f"data of type {shorten(data.type, 60)} cannot be read", place)
        axis = (channel.axes or data.axes)[0]
        weights = data.weights if data.weights is not None else [1.0] * len(data.entries)
        if len(weights) != len(data.entries):
            self.file.refuse("data have not one weight for each entry", place)
        observed = [0.0] * bins
        for entry, weight in zip(data.entries, weights, strict=True):
            index = axis.find(entry[0]) if len(entry) == 1 else -1
            if index < 0:
                self.file.refuse("an entry of the data is in no bin", f"{place}: {entry[:3]}")
            observed[index] += weight
        return observed

    def _samples(self, channel: _Channel, name: str, bins: int) -> list[dict[str, Any]]:
        """Return the samples of a channel as pyhf has them."""
        samples: list[dict[str, Any]] = []
        # What acts on each bin, by ROOT's names of the components, with the samples it is of.
        groups: dict[tuple[str, ...], list[tuple[int, _Modifier]]] = {}
        statistical: list[tuple[int, _Modifier]] = []
        for index, sample in enumerate(channel.samples):
            label = sample.name or f"sample_{index}"
            place = f"distribution {channel.name!r}, sample {shorten(label, 60)!r}"
            self._same(bins, sample.data.contents, place)
            made: dict[str, Any] = {"name": label, "data": sample.data.contents, "modifiers": []}
            samples.append(made)
            for modifier in sample.modifiers:
                if modifier.type in ("normfactor", "normsys", "histosys"):
                    made["modifiers"].append(self._scalar(modifier, channel, bins, place))
                elif modifier.type == "staterror":
                    statistical.append((index, modifier))
                elif modifier.type in ("shapesys", "shapefactor"):
                    default = (f"gamma_{modifier.name}_bin_{one}" for one in range(bins))
                    components = tuple(modifier.parameters or default)
                    groups.setdefault(components, []).append((index, modifier))
                else:
                    self.file.refuse(
                        f"a modifier is of type {shorten(modifier.type, 60)}",
                        f"{place}, modifier {modifier.name!r}",
                    )
            kinds = [(one["type"], one["name"]) for one in made["modifiers"]]
            if len(set(kinds)) < len(kinds):
                self.file.refuse("a sample has the same modifier twice", place)
        if statistical:
            self._statistical(channel, name, statistical, samples)
        for components, members in groups.items():
            self._shape(components, members, samples, name)
        return samples

    def _same(self, bins: int, values: Sequence[Any], place: str) -> None:
        if len(values) != bins:
            self.file.refuse(
                "there is not one number for each bin", f"{place}: {len(values)}, {bins}"
            )

    def _scalar(
        self, modifier: _Modifier, channel: _Channel, bins: int, place: str
    ) -> dict[str, Any]:
        """Return a modifier that has one parameter."""
        parameter = self._parameter(modifier)
        gaussian = self.constraints.get(parameter)
        place = f"{place}, {modifier.type} {shorten(parameter, 60)!r}"
        if modifier.type == "normfactor":
            return self._factor(parameter, gaussian, modifier, place)
        name, data = self.names[parameter], dict[str, Any]()
        if modifier.type == "normsys":
            shift = self.file.part(modifier.data, _Shift, place)
            data = {"lo": shift.lo, "hi": shift.hi}
        else:
            shapes = self.file.part(modifier.data, _Shapes, place)
            for end, shape in (("lo_data", shapes.lo), ("hi_data", shapes.hi)):
                self._same(bins, shape.contents, place)
                data[end] = shape.contents
        self._interpolation(modifier, channel, place)
        besides = {}
        fixed = self.settings.of(parameter, _USUAL["normsys"]).fixed
        constraint = modifier.constraint_type or modifier.constraint or "Gauss"
        if gaussian is None and constraint != "Gauss" and not (constraint == "Const" and fixed):
            self.file.refuse(f"a {modifier.type} has a constraint of type {constraint}", place)
        if gaussian is not None:
            at, width = self._constraint(parameter, gaussian)
            if width != 1:
                self.file.refuse(f"a {modifier.type} has a constraint of width {width:g}", place)
            besides = {"auxdata": [at]} if at else {}
        self._use(name, (parameter,), "normsys", besides)
        return {"name": name, "type": modifier.type, "data": data}

    def _factor(
        self, parameter: str, gaussian: _Gaussian | None, modifier: _Modifier, place: str
    ) -> dict[str, Any]:
        """Return a normalisation factor; with a constraint it is what pyhf has as luminosity."""
        if gaussian is None:
            if modifier.constraint_type or modifier.constraint:
                self.file.refuse("a normfactor has a constraint whose width is not said", place)
            name = self.names[parameter]
            self._use(name, (parameter,), "normfactor", {})
            return {"name": name, "type": "normfactor", "data": None}
        if "lumi" not in parameter.lower():
            self.file.refuse("a normfactor that is no luminosity has a constraint", place)
        at, width = self._constraint(parameter, gaussian)
        self._use("lumi", (parameter,), "lumi", {"auxdata": [at], "sigmas": [width]})
        self.names[parameter] = "lumi"
        return {"name": "lumi", "type": "lumi", "data": None}

    def _constraint(self, parameter: str, gaussian: _Gaussian) -> tuple[float, float]:
        """Return where the constraint of a parameter is, and its width."""
        numbers = []
        other = gaussian.mean if gaussian.x == parameter else gaussian.x
        for value in (other, gaussian.sigma):
            number: str | float | None = value
            if isinstance(value, str):
                point = self.settings.values.get(value)
                # HistFactory's global observables are at 0, and need not be in the point.
                number = point.value if point else 0.0 if value == f"nom_{parameter}" else None
            if number is None or isinstance(number, str):
                self.file.refuse(
                    "a constraint's constant has no value", f"{gaussian.name!r}: {value!r}"
                )
            numbers.append(float(number))
        return numbers[0], numbers[1]

    def _interpolation(self, modifier: _Modifier, channel: _Channel, place: str) -> None:
        codes = _INTERPOLATIONS[modifier.type]
        usual = next(iter(codes))
        asked = modifier.interpolation
        asked = channel.default_interpolation if asked is None else asked
        fitting = (code for code, names in codes.items() if asked is None or asked in names)
        code = next(fitting, None)
        if code is None:
            said = shorten(str(asked), 80)
            self.file.refuse(
                f"a {modifier.type} has interpolation {said}, which pyhf does not have", place
            )
        if self.interpolations.setdefault(modifier.type, code) != code:
            self.file.refuse(f"a {modifier.type} is interpolated otherwise than another", place)
        if code != usual:
            self.file.findings.doubt(
                "an interpolation is not the usual one, so a run has to ask for it",
                f"{place}: --{modifier.type} {code}",
            )

    def _use(
        self,
        name: str,
        components: tuple[str, ...],
        kind: str,
        besides: dict[str, Any],
    ) -> None:
        """Keep what a parameter of pyhf is made of."""
        use = _Use(components, kind, besides)
        before = self.uses.setdefault(name, use)
        if before != use:
            self.file.refuse(
                "parameters of different kinds get the same name in pyhf",
                f"{name!r}: {before.components[0]!r} and {components[0]!r}",
            )

    def _moving(self, components: Sequence[str], place: str) -> list[bool]:
        """Return which components of a factor on each bin are free; the others have to be 1."""
        settings = [self.settings.of(one, _USUAL["gammas"]) for one in components]
        for name, setting in zip(components, settings, strict=True):
            if setting.fixed and setting.value != 1:
                self.file.refuse(
                    "a factor of a bin is held at another value than 1",
                    f"{place}, {name!r} at {setting.value:g}",
                )
        return [not setting.fixed for setting in settings]

    def _statistical(
        self,
        channel: _Channel,
        name: str,
        members: list[tuple[int, _Modifier]],
        samples: list[dict[str, Any]],
    ) -> None:
        """Add the statistical uncertainties of a channel."""
        place = f"distribution {channel.name!r}, staterror"
        bins = len(samples[0]["data"])
        errors = []
        for index, _ in members:
            error = channel.samples[index].data.errors
            self._same(bins, error, f"{place} of sample {samples[index]['name']!r}: errors")
            errors.append(error)
        modifiers = [modifier for _, modifier in members]
        default = tuple(f"gamma_stat_{name}_bin_{one}" for one in range(bins))
        components = tuple(next((one.parameters for one in modifiers if one.parameters), default))
        self._same(bins, components, f"{place}: parameters")
        moving = self._moving(components, place)
        for one in range(bins):
            total = sum(samples[index]["data"][one] for index, _ in members)
            width = math.hypot(*(error[one] for error in errors))
            moving[one] &= total > 0 and width >= channel.staterror.relThreshold * total
        kept = [
            [e if free else 0.0 for e, free in zip(error, moving, strict=True)] for error in errors
        ]
        whole = channel.staterror
        constraint = self._type(modifiers, place) or whole.constraint_type or whole.constraint
        self._constrain(
            f"staterror_{name}",
            components,
            constraint or _ROOTS_CONSTRAINT,
            [samples[index] for index, _ in members],
            kept,
            place,
        )

    def _type(self, modifiers: Sequence[_Modifier], place: str) -> str | None:
        """Return the type of constraint that modifiers of one factor have, if they say it."""
        types = {one.constraint_type or one.constraint for one in modifiers} - {None}
        for name in (name for one in modifiers for name in one.constraints if name is not None):
            type_ = self._distribution(name).get("type")
            known = {"gaussian_dist": "Gauss", "poisson_dist": "Poisson"}
            types.add(known.get(str(type_), shorten(str(type_), 60)))
        if len(types) > 1:
            self.file.refuse("a factor of each bin has constraints of several types", place)
        return next(iter(types), None)

    def _shape(
        self,
        components: tuple[str, ...],
        members: list[tuple[int, _Modifier]],
        samples: list[dict[str, Any]],
        channel: str,
    ) -> None:
        """Add a factor on each bin that is free, or has a constraint of its own."""
        modifiers = [modifier for _, modifier in members]
        label = next((_GAMMAS.fullmatch(one) for one in components), None)
        name = label.group(1) if label else modifiers[0].name or components[0]
        place = f"channel {channel!r}, {modifiers[0].type} {shorten(name, 60)!r}"
        bins = len(samples[0]["data"])
        self._same(bins, components, f"{place}: parameters")
        moving = self._moving(components, place)
        constraint = self._type(modifiers, place)
        widths = self._widths(modifiers, constraint, bins, place)
        mine = [samples[index] for index, _ in members]
        if not any(moving):
            return
        if not any(widths):
            # ROOT writes a shapefactor as a shapesys without uncertainties.
            if not all(moving):
                self.file.refuse("a shapefactor is held in some of its bins", place)
            self._use(name, components, "gammas", {})
            for sample in mine:
                sample["modifiers"].append({"name": name, "type": "shapefactor", "data": None})
            return
        kept = [width if free else 0.0 for width, free in zip(widths, moving, strict=True)]
        if any(free and not width for free, width in zip(moving, widths, strict=True)):
            self.file.refuse("a shapesys has a constraint in some of its bins only", place)
        for name_, use in self.uses.items():
            if set(use.components) & set(components):
                self.file.refuse("a shapesys is shared between channels", f"{place}, as {name_!r}")
        name = name if name not in self.uses else f"{name}_{channel}"
        self._constrain(name, components, constraint or "Gauss", mine, _spread(kept, mine), place)

    def _widths(
        self, modifiers: Sequence[_Modifier], constraint: str | None, bins: int, place: str
    ) -> list[float]:
        """Return the relative uncertainty of each bin."""
        all_vals = [self.file.part(one.data, _Vals, place).vals for one in modifiers if one.data]
        if not all_vals:
            if constraint not in (None, "Const"):
                self.file.refuse(
                    "a constraint of bins has no widths", f"{place}: there are no vals"
                )
            return [0.0] * bins
        vals = all_vals[0]
        self._same(bins, vals, f"{place}: vals")
        if any(one != vals for one in all_vals):
            self.file.refuse("samples have different uncertainties of the same factor", place)
        if constraint == "Poisson" and any(vals) and self.file.root and self.file.root < _RELATIVE:
            version = ".".join(map(str, self.file.root))
            self.file.refuse(
                "the uncertainties of a Poisson shapesys are not the relative ones of the standard",
                f"{place}: written by ROOT {version}",
                f"read and write it with ROOT {'.'.join(map(str, _RELATIVE))} or newer",
            )
        return vals

    def _constrain(
        self,
        name: str,
        components: tuple[str, ...],
        constraint: str,
        samples: list[dict[str, Any]],
        errors: list[list[float]],
        place: str,
    ) -> None:
        if constraint not in ("Gauss", "Poisson"):
            self.file.refuse(f"a factor of each bin has a constraint of type {constraint}", place)
        findings = self.file.findings
        if constrained_bins(name, constraint, samples, errors, findings, place):
            self._use(name, components, "gammas", {})

    def _measurement(self, analysis: _Analysis | None) -> dict[str, Any]:
        """Return what an analysis says: the parameter of interest, where parameters start."""
        settings = self.file.settings(analysis)
        parameters = []
        for name, (components, kind, besides) in self.uses.items():
            each = [settings.of(one, _USUAL[kind]) for one in components]
            if kind == "gammas":
                first = [self.settings.of(one, _USUAL[kind]).fixed for one in components]
                if [one.fixed for one in each] != first:
                    self.file.refuse("analyses differ in which bins are held", repr(name))
                each = [one._replace(low=max(one.low, _FLOOR)) for one in each]
            parameter = {
                "name": name,
                "inits": [one.value for one in each],
                "bounds": [[one.low, one.high] for one in each],
            }
            fixed = {"fixed": True} if len(each) == 1 and each[0].fixed else {}
            parameters.append(parameter | besides | fixed)
        pois = analysis.parameters_of_interest if analysis else []
        if len(pois) > 1:
            self.file.findings.note(
                "an analysis has several parameters of interest, of which the first is taken "
                "unless --poi says another",
                ", ".join(pois[:4]),
            )
        poi = self.names.get(pois[0], pois[0]) if pois else ""
        name = analysis.name if analysis else self.likelihood.name
        return {"name": name, "config": {"poi": poi, "parameters": parameters}}


def _spread(widths: Sequence[float], samples: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Return absolute uncertainties of samples that together have relative ones, as ROOT does."""
    squares = [
        math.hypot(*column) for column in zip(*(one["data"] for one in samples), strict=True)
    ]
    totals = [sum(column) for column in zip(*(one["data"] for one in samples), strict=True)]
    if len(samples) == 1:
        squares = totals
    return [
        [
            width * value * total / square if square else 0.0
            for width, value, total, square in zip(
                widths, one["data"], totals, squares, strict=True
            )
        ]
        for one in samples
    ]
