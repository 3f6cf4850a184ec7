"""Parameter sets as pyhf makes them: initial values, bounds, constraints, overrides.

The defaults are those of ``required_parset`` in pyhf's modifiers, the rules of overriding
them those of ``pyhf.parameters.reduce_paramsets_requirements`` (pyhf 0.7.6).

All samples of a channel share the widths of its staterror: the relative uncertainty of a bin is
the quadratic sum of the samples' uncertainties over the sum of the yields of all samples with the
modifier. Where it is zero the bin's parameter is fixed, and its constraint has unit width.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from fitserve_worker.kernel.spec import Kind, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fitserve_worker.kernel import BoolArray, FloatArray
    from fitserve_worker.kernel.spec import Sample

__all__ = ["Constraint", "ParameterSet", "StatErrors", "Widths", "overrides", "parameter_set"]

Constraint = Literal["none", "normal", "poisson"]

_OVERRIDABLE = ("inits", "bounds", "auxdata", "factors", "sigmas", "fixed")
_CONSTRAINT: dict[Kind, Constraint] = {
    Kind.ALPHA: "normal",
    Kind.LUMI: "normal",
    Kind.NORMFACTOR: "none",
    Kind.SHAPEFACTOR: "none",
    Kind.SHAPESYS: "poisson",
    Kind.STATERROR: "normal",
}
# What an override may set besides initial values, bounds, and whether a parameter is fixed.
_CONSTRAINT_KEYS: dict[Kind, tuple[str, ...]] = {
    Kind.ALPHA: ("auxdata",),
    Kind.LUMI: ("auxdata", "sigmas"),
    Kind.NORMFACTOR: (),
    Kind.SHAPEFACTOR: (),
    Kind.SHAPESYS: ("auxdata", "factors"),
    Kind.STATERROR: ("auxdata", "sigmas"),
}


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """The parameters of one name; every array has shape (n,).

    ``aux`` is the auxiliary measurement. ``scale`` is the standard deviation of a normal
    constraint, the rate per unit of the parameter of a Poisson one. Without a constraint both are
    zero.
    """

    name: str
    kind: Kind
    init: FloatArray
    lower: FloatArray
    upper: FloatArray
    fixed: BoolArray
    aux: FloatArray
    scale: FloatArray

    @property
    def constraint(self) -> Constraint:
        """The kind of the constraint term."""
        return _CONSTRAINT[self.kind]

    def __len__(self) -> int:
        """Return the number of parameters in the set."""
        return len(self.init)


def overrides(measurement: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parameter configurations of a measurement by parameter name."""
    configured: dict[str, dict[str, Any]] = {}
    try:
        for parameter in measurement["config"]["parameters"]:
            name = parameter["name"]
            if name in configured:
                raise UnsupportedModelError(f"parameter {name!r} is configured twice")
            unknown = set(parameter) - {"name", *_OVERRIDABLE}
            if unknown:
                raise UnsupportedModelError(f"parameter {name!r} is configured with {unknown}")
            configured[name] = parameter
    except (KeyError, TypeError) as error:
        raise UnsupportedModelError(f"the measurement cannot be read: {error}") from error
    return configured


def parameter_set(
    name: str,
    kind: Kind,
    size: int,
    override: dict[str, Any] | None,
    *,
    scale: FloatArray | None = None,
    fixed: BoolArray | None = None,
) -> ParameterSet:
    """Make the parameter set of a modifier.

    Parameters
    ----------
    name, kind, size
        Its name, its kind and the number of parameters in it.
    override
        The measurement's configuration of it, if there is one.
    scale
        For staterror the standard deviations, for shapesys the Poisson rates, of shape (size,).
    fixed
        For staterror and shapesys the parameters that pyhf fixes, of shape (size,).

    Raises
    ------
    UnsupportedModelError
        The configuration does not fit the kind of parameter, or a value is missing.
    """
    made = _default(name, kind, size, scale, fixed)
    if override is None:
        if made is None:
            raise UnsupportedModelError(f"parameter {name!r} is not configured")
        return made
    return _overridden(name, kind, size, made, override)


def _default(
    name: str, kind: Kind, size: int, scale: FloatArray | None, fixed: BoolArray | None
) -> ParameterSet | None:
    """Return pyhf's parameters without a configuration: none for lumi."""
    one, zero = np.ones(size), np.zeros(size)
    free = np.zeros(size, dtype=bool) if fixed is None else fixed
    if kind is Kind.LUMI:
        return None
    if kind is Kind.ALPHA:
        return ParameterSet(name, kind, zero, -5 * one, 5 * one, free, zero, one)
    if kind in (Kind.NORMFACTOR, Kind.SHAPEFACTOR):
        return ParameterSet(name, kind, one, zero, 10 * one, free, zero, zero)
    if scale is None:
        raise TypeError(f"a {kind.name} needs its scale")
    aux = scale if kind is Kind.SHAPESYS else one
    return ParameterSet(name, kind, one, 1e-10 * one, 10 * one, free, aux, scale)


def _overridden(
    name: str, kind: Kind, size: int, default: ParameterSet | None, override: dict[str, Any]
) -> ParameterSet:
    allowed = ("inits", "bounds", "fixed", *_CONSTRAINT_KEYS[kind])
    for key, value in override.items():
        if key not in ("name", *allowed) and value:
            raise UnsupportedModelError(f"parameter {name!r} has no attribute {key!r}")
    try:
        made = ParameterSet(
            name=name,
            kind=kind,
            init=_vector(override, "inits", default, "init", size),
            lower=_vector(override, "bounds", default, "lower", size, 0),
            upper=_vector(override, "bounds", default, "upper", size, 1),
            fixed=_flags(override, size, default),
            aux=_vector(override, "auxdata", default, "aux", size)
            if "auxdata" in allowed
            else np.zeros(size),
            scale=_scale(kind, override, size, default),
        )
    except (TypeError, ValueError, IndexError) as error:
        raise UnsupportedModelError(f"parameter {name!r} is not fully defined: {error}") from error
    _check(made)
    return made


def _vector(
    override: dict[str, Any],
    key: str,
    default: ParameterSet | None,
    attribute: str,
    size: int,
    component: int | None = None,
) -> FloatArray:
    if key not in override:
        if default is None:
            raise ValueError(f"{key!r} is missing")
        kept: FloatArray = getattr(default, attribute)
        return kept
    array = np.array(override[key], dtype=np.float64)
    if component is not None:
        array = array[:, component]
    if array.shape != (size,) or not np.isfinite(array).all():
        raise ValueError(f"{key!r} are not {size} finite numbers")
    return array


def _flags(override: dict[str, Any], size: int, default: ParameterSet | None) -> BoolArray:
    # One value for the whole set, even for parameters that pyhf fixes by itself.
    if "fixed" in override:
        if not isinstance(override["fixed"], bool):
            raise ValueError("'fixed' is neither true nor false")
        return np.full(size, override["fixed"])
    return np.zeros(size, dtype=bool) if default is None else default.fixed


def _scale(
    kind: Kind, override: dict[str, Any], size: int, default: ParameterSet | None
) -> FloatArray:
    if _CONSTRAINT[kind] == "none":
        return np.zeros(size)
    if kind is Kind.SHAPESYS:
        return _vector(override, "factors", default, "scale", size)
    # pyhf takes an empty or missing list of sigmas as unit widths.
    if kind is Kind.ALPHA or not override.get("sigmas", default):
        return np.ones(size)
    return _vector(override, "sigmas", default, "scale", size)


def _check(made: ParameterSet) -> None:
    name = made.name
    if (made.lower > made.upper).any():
        raise UnsupportedModelError(f"the bounds of parameter {name!r} are the wrong way round")
    if ((made.init < made.lower) | (made.init > made.upper)).any():
        raise UnsupportedModelError(f"parameter {name!r} starts outside its bounds")
    if made.constraint != "none" and (made.scale <= 0).any():
        raise UnsupportedModelError(f"the constraint of parameter {name!r} has no positive width")
    if made.constraint == "poisson" and ((made.aux < 0).any() or (made.lower < 0).any()):
        raise UnsupportedModelError(f"the Poisson constraint of {name!r} reaches below zero")


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
                    f"staterror {name!r} of sample {sample!r} is in other channels than those of "
                    "the samples that share it"
                )
        for name, by_channel in self.nominal.items():
            channels = sorted(by_channel)
            nominal = np.concatenate([by_channel[channel] for channel in channels])
            square = np.concatenate([self.square[name][channel] for channel in channels])
            positive = nominal > 0
            sigma = np.sqrt(square) / np.where(positive, nominal, np.inf)
            fixed = sigma == 0
            yield name, Widths(np.where(fixed, 1.0, sigma), fixed)
