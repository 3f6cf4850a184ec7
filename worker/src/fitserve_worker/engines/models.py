"""pyhf models of hypotheses, kept for a while in the worker's process, and their faults."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import pyhf
from cachetools import LRUCache

from fitserve_contract import (
    FitRequest,
    apply_patch,
    digest,
    patch_content,
    refusal,
    widened,
)
from fitserve_worker.engines.base import UnfitError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from fitserve_contract import ModelOptions, Request
    from fitserve_worker.engines.base import Work
    from fitserve_worker.engines.frames import Frame

__all__ = [
    "BuiltModel",
    "below_zero",
    "build",
    "check_model",
    "is_factor",
    "signal_events",
    "without_warnings",
]

# pyhf's arrays take about this many times the bytes of the workspace's compact JSON.
_GROWTH = 40
_CACHE_BYTES = 512 * 1024**2
# The factor that measures the parameter of interest in other units.
_UNIT: dict[str, Any] = {"name": "unit of the signal strength", "type": "normfactor", "data": None}
# The most bins with negative events that are named.
_SHOWN = 3


class BuiltModel(NamedTuple):
    """A model and the data to fit it to: observed bins, then auxiliary data."""

    model: Any
    data: list[float]


_cache: LRUCache[str, tuple[BuiltModel, int]] = LRUCache(
    _CACHE_BYTES, getsizeof=lambda entry: entry[1]
)


def build(work: Work, patch: Sequence[dict[str, Any]]) -> BuiltModel:
    """Return the model of a patched workspace, from the cache if possible.

    Raises
    ------
    PatchError
        The patch does not apply, or makes too much of the workspace.
    pyhf.exceptions.InvalidModel, InvalidMeasurement, InvalidNameReuse ..., UnfitError
        The patched workspace is no model.
    """
    options = work.request.model
    without = isinstance(work.request, FitRequest) and work.request.background_only
    key = digest(
        [
            work.workspace_digest,
            patch_content(patch),
            options,
            pyhf.tensorlib.name,
            without,
            work.frame,
        ]
    )
    cached = _cache.get(key)
    if cached is not None:
        return cached[0]
    # The patch may touch any part of the workspace, so the whole of it is patched, not
    # only the channels that pyhf's `Workspace.model(patches=...)` would see.
    copy = msgspec.json.decode(msgspec.json.encode(work.workspace))
    patched = apply_patch(copy, patch)
    if options.mu_max is not msgspec.UNSET:
        patched["measurements"] = [widened(one, options) for one in patched["measurements"]]
    if work.frame is not None:
        patched = _measured(patched, options, work.frame)
    try:
        built = _build(patched, options, may_lack_poi=without)
    except (AssertionError, LookupError, TypeError, ValueError) as error:
        raise _unbuilt(patched, error) from error
    size = _GROWTH * len(msgspec.json.encode(patched))
    if size <= _CACHE_BYTES:
        _cache[key] = built, size
    return built


def _build(spec: dict[str, Any], options: ModelOptions, *, may_lack_poi: bool) -> BuiltModel:
    workspace = pyhf.Workspace(spec, validate=False)
    chosen: dict[str, str | None] = {}
    if options.poi is not None:
        chosen["poi_name"] = options.poi
    if may_lack_poi:
        measurement = workspace.get_measurement(measurement_name=options.measurement)
        poi = options.poi or measurement["config"]["poi"]
        chosen = {"poi_name": poi if _declares(spec, poi) else None}
    model = workspace.model(
        measurement_name=options.measurement,
        validate=False,
        modifier_settings={
            "normsys": {"interpcode": options.normsys},
            "histosys": {"interpcode": options.histosys},
        },
        **chosen,
    )
    return BuiltModel(model, workspace.data(model))


def _measured(spec: dict[str, Any], options: ModelOptions, frame: Frame) -> dict[str, Any]:
    """Return a workspace whose parameter of interest is measured in other units.

    Its samples get one more factor, which is held at the unit. To multiply their events would
    change the widths of a staterror that they share.
    """
    measurement = next(
        one for one in spec["measurements"] if options.measurement in (None, one["name"])
    )
    config = measurement["config"]
    poi = options.poi or config["poi"]
    channels = [
        {
            **channel,
            "samples": [
                {**sample, "modifiers": [*sample["modifiers"], _UNIT]}
                if any(modifier["name"] == poi for modifier in sample["modifiers"])
                else sample
                for sample in channel["samples"]
            ],
        }
        for channel in spec["channels"]
    ]
    own: dict[str, Any] = {"inits": [1.0]}
    own |= next((one for one in config["parameters"] if one["name"] == poi), {})
    init = min(max(own["inits"][0], frame.low), frame.high)
    own |= {"name": poi, "inits": [init], "bounds": [[frame.low, frame.high]]}
    held = {
        "name": _UNIT["name"],
        "inits": [frame.unit],
        "bounds": [[0.0, 2 * frame.unit]],
        "fixed": True,
    }
    others = [one for one in config["parameters"] if one["name"] != poi]
    changed = {**measurement, "config": {**config, "parameters": [*others, own, held]}}
    measurements = [changed if one is measurement else one for one in spec["measurements"]]
    return {**spec, "channels": channels, "measurements": measurements}


def _declares(spec: dict[str, Any], parameter: str) -> bool:
    return any(
        modifier["name"] == parameter
        for channel in spec["channels"]
        for sample in channel["samples"]
        for modifier in sample["modifiers"]
    )


def _unbuilt(spec: dict[str, Any], error: Exception) -> UnfitError:
    """Return the error for a patched workspace of which pyhf makes no model.

    pyhf does not explain a luminosity without settings, a staterror whose samples have it in
    different channels, or one with a slash in its name.
    """
    where: dict[str, dict[str, set[str]]] = {}
    lumi = False
    for channel in spec["channels"]:
        for sample in channel["samples"]:
            for modifier in sample["modifiers"]:
                lumi |= modifier["type"] == "lumi"
                if modifier["type"] == "staterror":
                    samples = where.setdefault(modifier["name"], {})
                    samples.setdefault(sample["name"], set()).add(channel["name"])
    uneven = [name for name, each in where.items() if len(set(map(frozenset, each.values()))) > 1]
    if isinstance(error, AssertionError) and uneven:
        return UnfitError(
            f"staterror {uneven[0]!r} is shared unevenly: its samples do not all have it in the "
            "same channels"
        )
    slash = [name for name in where if "/" in name]
    if isinstance(error, KeyError) and slash:
        return UnfitError(f"pyhf does not take a staterror with a slash in its name: {slash[0]!r}")
    if isinstance(error, TypeError) and lumi:
        return UnfitError(
            "the measurement does not say what lumi is: it needs inits, bounds, auxdata and sigmas"
        )
    return UnfitError(f"pyhf cannot build a model of the patched workspace: {error}")


def check_model(built: BuiltModel, request: Request) -> None:
    """Refuse a model that pyhf's optimizers cannot fit, or would fit with another meaning.

    Raises
    ------
    UnfitError
        A parameter starts outside its bounds, or the request is refused for the parameter of
        interest.
    """
    config = built.model.config
    bounds = config.suggested_bounds()
    for name, init, (low, high) in zip(
        config.par_names, config.suggested_init(), bounds, strict=True
    ):
        if not low <= init <= high:
            raise UnfitError(
                f"parameter {name!r} starts at {init:g}, outside its bounds {low:g} to {high:g}"
            )
    at = config.poi_index
    if at is not None:
        fixed = bool(config.suggested_fixed()[at])
        fault = refusal(request, config.poi_name, *bounds[at], fixed=fixed)
        if fault is not None:
            raise UnfitError(": ".join(fault))


def is_factor(built: BuiltModel) -> bool:
    """Tell whether the parameter of interest is a factor without a constraint."""
    config = built.model.config
    return {kind for name, kind in config.modifiers if name == config.poi_name} == {"normfactor"}


def signal_events(built: BuiltModel) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the events that the parameter of interest scales, and those observed, by bin.

    The events are zero where the signal has none, whatever the systematics.
    """
    config = built.model.config
    initial = np.asarray(config.suggested_init(), dtype=float)
    moved = initial.copy()
    for name in config.par_order:
        made = config.param_set(name)
        if made.constrained:
            moved[config.par_slice(name)] += made.width()
    total = np.zeros(config.nmaindata)
    for point in (initial, moved):
        with_signal, without = point.copy(), point.copy()
        with_signal[config.poi_index], without[config.poi_index] = 1.0, 0.0
        events = [built.model.expected_actualdata(list(one)) for one in (with_signal, without)]
        change = np.abs(np.asarray(events[0]) - np.asarray(events[1]))
        total = np.where(total > 0, total, change)
    return total, np.asarray(built.data[: config.nmaindata], dtype=float)


def below_zero(built: BuiltModel) -> str:
    """Say which systematics take the expected yields of which bins below zero, if any do."""
    faults = []
    for channel, index, value, name, at in _negative(built):
        faults.append(f"bin {index} of channel {channel!r} is {value:g} with {name!r} at {at:+g}")
        if len(faults) == _SHOWN:
            break
    return f"the expected yields are below zero: {', '.join(faults)}" if faults else ""


def _negative(built: BuiltModel) -> Iterator[tuple[str, int, float, str, float]]:
    """Yield channel, bin, yield, parameter and its value, one standard deviation either way.

    The signal strength is at zero. Only a histosys adds to yields, and only a yield that is
    negative falls as a factor grows.
    """
    model = built.model
    config = model.config
    factors = bool((model.main_model.nominal_rates < 0).any())
    names = {name for name, type_ in config.modifiers if factors or type_ == "histosys"}
    bins = [(channel, index) for channel, n in config.channel_nbins.items() for index in range(n)]
    initial = config.suggested_init()
    if config.poi_index is not None:
        initial[config.poi_index] = 0.0
    for name in config.par_order:
        made = config.param_set(name)
        if name not in names or not made.is_scalar or not made.constrained:
            continue
        for sign in (-1.0, 1.0):
            values = list(initial)
            at = config.par_slice(name).start
            values[at] += sign * made.width()[0]
            expected = model.expected_actualdata(values)
            for (channel, index), value in zip(bins, expected, strict=True):
                if value < 0:
                    yield channel, index, float(value), name, values[at]


@contextmanager
def without_warnings() -> Iterator[None]:
    """Ignore the warnings of fits: their results are judged by the numbers."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
