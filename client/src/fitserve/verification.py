"""Which hypotheses pyhf fits too, and what came of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fitserve.contract import (
    HypotestRequest,
    LimitRequest,
    ScanRequest,
    hypothesis_key,
    kind_of,
)
from fitserve.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fitserve.contract import Hypothesis, HypothesisResult, Request
    from fitserve.store import SavedRun

__all__ = [
    "VERIFIABLE",
    "chosen_to_verify",
    "lacks_verification",
    "to_verify",
    "verification_summary",
]

VERIFIABLE = (HypotestRequest, LimitRequest, ScanRequest)
"""Requests whose answers pyhf can be asked for too."""


def chosen_to_verify(
    workspace_digest: str, hypotheses: Sequence[Hypothesis], fraction: float, request: Request
) -> list[str]:
    """Return the names of the hypotheses to verify, in their own order.

    They are those with the smallest digests of workspace and patch: no choice of anybody's, the
    same every time, and those of a smaller fraction are among those of a larger one.

    Parameters
    ----------
    workspace_digest
        `fitserve.contract.digest` of the background-only workspace.
    fraction
        Of the hypotheses, from 0 (none) to 1 (all), rounded up to a whole number of them.

    Raises
    ------
    RequestError
        The fraction is none, or the request has no asymptotic CLs to compare.

    Examples
    --------
    >>> from fitserve.contract import HypotestRequest, Hypothesis
    >>> grid = [Hypothesis(name=f"S_{i}", values=(i,), patch=[{"op": "test", "path": "",
    ...         "value": i}]) for i in range(125)]
    >>> few = chosen_to_verify("0" * 64, grid, 0.05, HypotestRequest())
    >>> len(few), set(few) <= set(chosen_to_verify("0" * 64, grid, 0.5, HypotestRequest()))
    (7, True)
    """
    if not 0 <= fraction <= 1:
        raise RequestError(
            "the fraction of hypotheses to verify is not between 0 and 1",
            evidence=f"it is {fraction:g}",
        )
    if not fraction:
        return []
    if not isinstance(request, VERIFIABLE):
        raise RequestError(
            "there are no asymptotic CLs to verify",
            evidence=f"a {kind_of(request)} request has none",
            hint="leave --verify out",
        )
    # Rounding must not make 8 of 0.07 of 100.
    count = math.ceil(round(fraction * len(hypotheses), 9))
    ordered = sorted(hypotheses, key=lambda one: hypothesis_key(workspace_digest, one, "verify"))
    chosen = {one.name for one in ordered[:count]}
    return [one.name for one in hypotheses if one.name in chosen]


def lacks_verification(result: HypothesisResult) -> bool:
    """Tell whether a result has CLs that pyhf was not asked about."""
    has_cls = any(point.CLs_obs is not None for point in result.points)
    return has_cls and result.verification is None


def to_verify(run: SavedRun) -> set[str]:
    """Return the hypotheses of a run that have a result, and still have to be verified."""
    wanted = set(run.manifest.verify)
    return {
        name for name, found in run.results.items() if name in wanted and lacks_verification(found)
    }


def verification_summary(results: Mapping[str, HypothesisResult]) -> dict[str, Any]:
    """Return what came of verifying, as JSON-like data; empty where nothing was verified.

    ``verified`` counts the hypotheses that pyhf has numbers for, ``largest`` is the greatest
    difference of a CLs, ``hypothesis`` where it is, ``beyond`` the names of those that differ
    by more than ``tolerance``, and ``unverified`` why pyhf has no number, by name.
    """
    found = {name: one.verification for name, one in results.items() if one.verification}
    if not found:
        return {}
    known = {name: one.largest for name, one in found.items() if one.largest is not None}
    worst = max(known, key=lambda name: known[name], default=None)
    return {
        "verified": len(known),
        "of": len(results),
        "tolerance": next(iter(found.values())).tolerance,
        "largest": known[worst] if worst is not None else None,
        "hypothesis": worst,
        "beyond": [name for name, value in known.items() if value > found[name].tolerance],
        "unverified": {
            name: one.reason or "pyhf has no number"
            for name, one in found.items()
            if name not in known
        },
    }
