"""The bounds of the parameter of interest (POI), as the measurement and the request set them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from fitserve.contract.requests import ModelOptions

__all__ = ["NORMFACTOR_BOUNDS", "poi_bounds", "widened"]

NORMFACTOR_BOUNDS = (0.0, 10.0)
"""pyhf's bounds of a normalisation factor that the measurement does not bound."""


def poi_bounds(measurement: dict[str, Any], options: ModelOptions) -> tuple[float, float]:
    """Return the bounds of the POI: those of the measurement or pyhf's, and ``mu_max``.

    Examples
    --------
    >>> from fitserve.contract import ModelOptions, poi_bounds
    >>> measurement = {"name": "main", "config": {"poi": "mu", "parameters": []}}
    >>> poi_bounds(measurement, ModelOptions())
    (0.0, 10.0)
    >>> poi_bounds(measurement, ModelOptions(mu_max=100))
    (0.0, 100)
    """
    poi = options.poi or measurement["config"]["poi"]
    low, high = NORMFACTOR_BOUNDS
    for parameter in measurement["config"]["parameters"]:
        if parameter["name"] == poi and "bounds" in parameter:
            low, high = map(float, parameter["bounds"][0])
            break
    return low, high if options.mu_max is msgspec.UNSET else max(high, options.mu_max)


def widened(measurement: dict[str, Any], options: ModelOptions) -> dict[str, Any]:
    """Return a measurement that bounds the POI by ``mu_max``, where the request has one.

    It is a copy where anything changes.
    """
    if options.mu_max is msgspec.UNSET:
        return measurement
    config = measurement["config"]
    poi = options.poi or config["poi"]
    own: dict[str, Any] = {"name": poi}
    others = []
    for parameter in config["parameters"]:
        if parameter["name"] == poi:
            own |= parameter
        else:
            others.append(parameter)
    own["bounds"] = [list(poi_bounds(measurement, options))]
    return {**measurement, "config": {**config, "parameters": [*others, own]}}
