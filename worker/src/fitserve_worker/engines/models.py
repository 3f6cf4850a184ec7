"""pyhf models of hypotheses, kept for a while in the worker's process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pyhf
from cachetools import LRUCache

from fitserve.contract import FitRequest, apply_patch, digest, widened
from fitserve_worker.engines.refusals import unbuilt

if TYPE_CHECKING:
    from fitserve.contract import ModelOptions
    from fitserve_worker.engines.base import Work

__all__ = ["BuiltModel", "build"]

# pyhf's arrays take about this many times the bytes of the workspace's compact JSON.
_GROWTH = 40
_CACHE_BYTES = 512 * 1024**2


class BuiltModel(NamedTuple):
    """A model and the data to fit it to: observed bins, then auxiliary data."""

    model: Any
    data: list[float]


_cache: LRUCache[str, tuple[BuiltModel, int]] = LRUCache(
    _CACHE_BYTES, getsizeof=lambda entry: entry[1]
)


def build(work: Work, patch: list[dict[str, Any]]) -> BuiltModel:
    """Return the model of a patched workspace, from the cache where it is there.

    Raises
    ------
    PatchError
        The patch does not apply, or makes too much of the workspace.
    pyhf.exceptions.InvalidModel, InvalidMeasurement, InvalidNameReuse ..., UnfitError
        The patched workspace is no model.
    """
    options = work.request.model
    without = isinstance(work.request, FitRequest) and work.request.background_only
    key = digest([work.workspace_digest, patch, options, pyhf.tensorlib.name, without])
    cached = _cache.get(key)
    if cached is not None:
        return cached[0]
    # The patch may touch any part of the workspace, so the whole of it is patched, not
    # only the channels that pyhf's `Workspace.model(patches=...)` would see.
    copy = msgspec.json.decode(msgspec.json.encode(work.workspace))
    patched = apply_patch(copy, patch)
    if options.mu_max is not msgspec.UNSET:
        patched["measurements"] = [widened(one, options) for one in patched["measurements"]]
    try:
        built = _build(patched, options, may_lack_poi=without)
    except (AssertionError, LookupError, TypeError, ValueError) as error:
        raise unbuilt(patched, error) from error
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


def _declares(spec: dict[str, Any], parameter: str) -> bool:
    return any(
        modifier["name"] == parameter
        for channel in spec["channels"]
        for sample in channel["samples"]
        for modifier in sample["modifiers"]
    )
