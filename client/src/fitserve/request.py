"""What a user asks of a pallet: which hypotheses, at which signal strength, which model."""

from __future__ import annotations

import difflib
import math
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import msgspec

from fitserve.contract import (
    FitRequest,
    HypotestRequest,
    Hypothesis,
    LimitRequest,
    ScanRequest,
    ToysRequest,
    cls_strengths,
    poi_bounds,
)
from fitserve.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fitserve.contract import Request

__all__ = ["BACKGROUND_ONLY", "check_request", "chosen_hypotheses", "select_hypotheses"]

BACKGROUND_ONLY = Hypothesis(name="background-only", values=(), patch=[])
"""What a fit of the workspace without a signal has in place of hypotheses."""


def chosen_hypotheses(
    hypotheses: Sequence[Hypothesis], patterns: Iterable[str], request: Request
) -> list[Hypothesis]:
    """Return what a request is to be answered for.

    Raises
    ------
    RequestError
        A pattern matches nothing, or there are patterns for a fit without a signal.
    """
    if not (isinstance(request, FitRequest) and request.background_only):
        return select_hypotheses(hypotheses, patterns)
    wanted = list(patterns)
    if wanted:
        raise RequestError(
            "a background-only fit is of no signal hypothesis",
            evidence=f"asked for with --patch {wanted[0]}",
            hint="leave --patch out, or --background-only",
        )
    return [BACKGROUND_ONLY]


def select_hypotheses(
    hypotheses: Sequence[Hypothesis], patterns: Iterable[str]
) -> list[Hypothesis]:
    """Return the hypotheses whose names match any of the patterns, in their own order.

    Patterns are shell-style (``*``, ``?``, ``[...]``) and tell upper from lower case;
    without patterns all hypotheses are returned.

    Raises
    ------
    RequestError
        A pattern matches nothing.
    """
    wanted = list(patterns)
    if not wanted:
        return list(hypotheses)
    names = [hypothesis.name for hypothesis in hypotheses]
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in names):
            close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise RequestError(
                f"no hypothesis of the pallet matches '{pattern}'",
                evidence=f"there are {len(names)}, among them {', '.join(close)}",
                hint="fitserve pallets check PALLET --hypotheses lists them",
            )
    return [
        hypothesis
        for hypothesis in hypotheses
        if any(fnmatchcase(hypothesis.name, pattern) for pattern in wanted)
    ]


def check_request(
    workspace: dict[str, Any], hypotheses: Sequence[Hypothesis], request: Request
) -> None:
    """Check that a request can be answered for a workspace, before anything is sent.

    Raises
    ------
    RequestError
        The measurement or POI is unknown, or a signal strength is outside the POI's bounds.
    """
    measurement = _measurement(workspace, request.model.measurement)
    if isinstance(request, FitRequest) and request.background_only:
        return
    poi = request.model.poi or measurement["config"]["poi"]
    known = set(_modifier_names(workspace.get("channels")))
    known.update(name for one in hypotheses for name in _modifier_names(one.patch))
    if poi not in known:
        scalar = sorted(name for name in known if "mu" in name.lower()) or sorted(known)
        raise RequestError(
            f"the model has no parameter of interest '{poi}'",
            evidence=f"its parameters include {', '.join(scalar[:5])}",
            hint="fitserve run PALLET --poi NAME",
        )
    bounds = poi_bounds(measurement, request.model)
    _check_mu_max(measurement, request, poi)
    if isinstance(request, HypotestRequest | ScanRequest | ToysRequest):
        _check_mu(request, poi, bounds)
    if isinstance(request, LimitRequest) and bounds[1] <= max(0.0, bounds[0]):
        raise RequestError(
            f"there is no room for an upper limit on {poi}",
            evidence=f"the bounds are {bounds[0]:g} to {bounds[1]:g}",
            hint="choose another --measurement or --poi",
        )


def _measurement(workspace: dict[str, Any], name: str | None) -> dict[str, Any]:
    measurements: list[dict[str, Any]] = workspace["measurements"]
    if name is None:
        return measurements[0]
    for measurement in measurements:
        if measurement["name"] == name:
            return measurement
    raise RequestError(
        f"the workspace has no measurement '{name}'",
        evidence=f"it has {', '.join(found['name'] for found in measurements)}",
        hint="fitserve run PALLET --measurement NAME",
    )


def _check_mu_max(measurement: dict[str, Any], request: Request, poi: str) -> None:
    wanted = request.model.mu_max
    _, high = poi_bounds(measurement, msgspec.structs.replace(request.model, mu_max=msgspec.UNSET))
    if wanted is not msgspec.UNSET and wanted < high:
        raise RequestError(
            f"{poi} may go beyond --mu-max {wanted:g} already",
            evidence=f"its upper bound is {high:g}, and --mu-max only raises it",
            hint="leave --mu-max out",
        )


def _check_mu(
    request: HypotestRequest | ScanRequest | ToysRequest, poi: str, bounds: tuple[float, float]
) -> None:
    option = "--scan" if isinstance(request, ScanRequest) else "--mu"
    strengths = cls_strengths(request)
    if not strengths:
        raise RequestError("no signal strength is asked for", hint=f"{option} 1.0")
    for value in strengths:
        if not (math.isfinite(value) and bounds[0] <= value <= bounds[1]):
            raise RequestError(
                f"the signal strength {value:g} is outside the bounds of {poi}",
                evidence=f"the bounds are {bounds[0]:g} to {bounds[1]:g}",
                hint=_within(option, value, bounds),
            )


def _within(option: str, value: float, bounds: tuple[float, float]) -> str:
    choose = f"choose {option} within them"
    if not math.isfinite(value) or value < bounds[0]:
        return choose
    return f"{choose}, or raise the upper one: --mu-max {value:g}"


def _modifier_names(content: Any) -> Iterator[str]:
    """Yield the names of all modifiers anywhere in a piece of a workspace or patch."""
    if isinstance(content, list):
        for item in content:
            yield from _modifier_names(item)
    elif isinstance(content, dict):
        modifiers = content.get("modifiers")
        if isinstance(modifiers, list):
            yield from (found["name"] for found in modifiers if "name" in found)
        else:
            for item in content.values():
                yield from _modifier_names(item)
