"""What a user asks of a pallet: which hypotheses, at which signal strength, which model."""

from __future__ import annotations

import difflib
import math
import shlex
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from fitserve.errors import RequestError
from fitserve.pallet.parameters import Problem
from fitserve_contract import (
    FitRequest,
    HypotestRequest,
    Hypothesis,
    ScanRequest,
    cls_strengths,
    poi_bounds,
    refusal,
    widened,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fitserve.pallet.model import Pallet
    from fitserve.pallet.parameters import Outline
    from fitserve_contract import Request

__all__ = ["BACKGROUND_ONLY", "check_request", "chosen_hypotheses", "select_hypotheses"]

BACKGROUND_ONLY = Hypothesis(name="background-only", values=(), patch=[])
"""What a fit of the workspace without a signal has in place of hypotheses."""

_LISTED = 5


def chosen_hypotheses(
    hypotheses: Sequence[Hypothesis], patterns: Iterable[str], request: Request
) -> list[Hypothesis]:
    """Return the hypotheses of a request.

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
            "a background-only fit has no signal hypotheses",
            evidence=f"--patch {wanted[0]}",
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


def check_request(pallet: Pallet, hypotheses: Sequence[Hypothesis], request: Request) -> None:
    """Check that a request can be answered for hypotheses, before anything is sent.

    Raises
    ------
    RequestError
        The measurement or the parameter of interest (POI) is not in a hypothesis, or the POI
        cannot be what is asked for.
    """
    if isinstance(request, HypotestRequest | ScanRequest) and not request.mu:
        option = "--scan" if isinstance(request, ScanRequest) else "--mu"
        raise RequestError("no signal strength is asked for", hint=f"{option} 1.0")
    alone = isinstance(request, FitRequest) and request.background_only
    found: dict[Problem, list[str]] = {}
    for one in hypotheses:
        problem = _problem(pallet, one, request, alone=alone)
        if problem is not None:
            found.setdefault(problem, []).append(one.name)
    for (cause, evidence, hint), names in found.items():
        seen = [evidence] if evidence else []
        if only_some := len(names) < len(hypotheses):
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            seen.insert(0, f"in {', '.join(names[:_LISTED])}{more}")
        others = ", or choose the other hypotheses with --patch" if only_some else ""
        raise RequestError(cause, evidence="; ".join(seen), hint=f"{hint}{others}")


def _problem(
    pallet: Pallet, hypothesis: Hypothesis, request: Request, *, alone: bool
) -> Problem | None:
    """Return why a request cannot be answered for a hypothesis."""
    outline = pallet.background if alone else pallet.outlines[hypothesis.name]
    wanted = request.model.measurement
    measurement = outline.measurement(wanted)
    if measurement is None:
        return Problem(
            f"the workspace has no measurement '{wanted}'",
            f"it has {', '.join(each['name'] for each in outline.measurements)}",
            "fitserve run PALLET --measurement NAME",
        )
    if alone and (broken := outline.broken(measurement)):
        return broken
    poi = request.model.poi or measurement["config"]["poi"]
    parameter = outline.parameters.get(poi)
    if parameter is None:
        return None if alone else _missing(pallet, hypothesis, request, poi)
    if parameter.size > 1:
        seen = f"it is a {parameter.type} with {parameter.size}, one for each bin"
        cause = f"the parameter of interest '{poi}' has several components"
        return Problem(cause, seen, _another(pallet, outline, poi)[1])
    settings = outline.settings(widened(measurement, request.model), poi)
    low, high = settings.bounds[0]
    refused = refusal(request, poi, low, high, fixed=settings.fixed)
    if refused is None:
        return _not_raised(measurement, request, poi)
    hint = f"change them in the measurement's parameter '{poi}'"
    if settings.fixed:
        hint = f"let '{poi}' vary in the measurement '{measurement['name']}'"
    elif low <= 0 < high:
        above = [mu for mu in cls_strengths(request) if high < mu < math.inf]
        raised = f"raise the upper one with --mu-max {max(above):g}" if above else hint
        hint = f"choose one within them, or {raised}"
    elif parameter.type != "normfactor":
        hint = _another(pallet, outline, poi)[1]
    return Problem(*refused, hint)


def _not_raised(measurement: dict[str, Any], request: Request, poi: str) -> Problem | None:
    """Return the problem of an upper bound that ``--mu-max`` does not raise."""
    model = request.model
    _, own = poi_bounds(measurement, msgspec.structs.replace(model, mu_max=msgspec.UNSET))
    if model.mu_max is msgspec.UNSET or model.mu_max >= own:
        return None
    cause = f"{poi} may go beyond --mu-max {model.mu_max:g} already"
    seen = f"its upper bound is {own:g}, and --mu-max only raises it"
    return Problem(cause, seen, "leave --mu-max out")


def _missing(pallet: Pallet, hypothesis: Hypothesis, request: Request, poi: str) -> Problem | None:
    """Return the problem of a hypothesis without the parameter of interest."""
    cause = f"the model has no parameter of interest '{poi}'"
    outline = pallet.outlines[hypothesis.name]
    if poi not in pallet.known_parameters:
        return Problem(cause, *_another(pallet, outline, poi))
    if hypothesis.patch:
        return Problem(cause, "", f"give the signal samples a normfactor '{poi}'")
    if isinstance(request, HypotestRequest):
        # The background alone: its CLs is one, without a fit.
        return None
    return Problem(cause, "the patch is empty, so there is no signal", "add a signal sample to it")


def _another(pallet: Pallet, outline: Outline, poi: str) -> tuple[str, str]:
    """Return, as evidence and hint, the possible parameters of interest, closest first."""
    factors = (name for name, one in outline.parameters.items() if one.type == "normfactor")
    names = frozenset(name for name in factors if name != poi)
    near = _nearest(poi, names, names.difference(pallet.background.parameters))
    if not near:
        return "it has no normalisation factor", f"give the signal samples a normfactor '{poi}'"
    more = ", ..." if len(near) > _LISTED else ""
    seen = f"its normalisation factors are {', '.join(near[:_LISTED])}{more}"
    return seen, f"fitserve run PALLET --poi {shlex.quote(near[0])}"


@cache
def _nearest(poi: str, names: frozenset[str], signal: frozenset[str]) -> list[str]:
    """Return names by their nearness; what only a ``signal`` has is more likely to be meant."""

    def nearness(name: str) -> tuple[float, str]:
        alike = difflib.SequenceMatcher(None, poi.lower(), name.lower()).ratio()
        return alike + 0.2 * (name in signal), name

    return sorted(names, key=nearness, reverse=True)
