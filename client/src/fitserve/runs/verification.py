"""Verification by pyhf: of which hypotheses, and with what outcome.

It begins when every hypothesis has its result on disk: it delays nothing, and changes no number.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from fitserve.errors import RequestError
from fitserve.kinds import KINDS
from fitserve.runs.estimate import first_fit, seconds_per_hypothesis, seconds_to_verify
from fitserve_contract import (
    hypothesis_key,
    kind_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve.endpoints.base import Limits
    from fitserve.runs.store import SavedRun
    from fitserve_contract import Hypothesis, HypothesisResult, Request

__all__ = [
    "VERIFIABLE",
    "affordable_sample",
    "chosen_to_verify",
    "lacks_verification",
    "to_verify",
    "verification_summary",
    "with_verdict",
]

VERIFIABLE = tuple(one.request for one in KINDS.values() if one.verifiable)
"""Requests whose answers pyhf can verify."""

_SAMPLE = 0.02


def chosen_to_verify(
    workspace_digest: str, hypotheses: Sequence[Hypothesis], fraction: float, request: Request
) -> list[str]:
    """Return the names of the hypotheses to verify, in their own order.

    They are those with the smallest digests of workspace and patch: the choice is deterministic,
    and a larger fraction includes a smaller one.

    Parameters
    ----------
    workspace_digest
        `fitserve_contract.digest` of the background-only workspace.
    fraction
        Of the hypotheses, from 0 (none) to 1 (all), rounded up to a whole number of them.

    Raises
    ------
    RequestError
        The fraction is not between 0 and 1, or the request has no asymptotic CLs to compare.

    Examples
    --------
    >>> from fitserve_contract import HypotestRequest, Hypothesis
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
    return _first(workspace_digest, hypotheses, count)


def affordable_sample(
    workspace: dict[str, Any],
    workspace_digest: str,
    hypotheses: Sequence[Hypothesis],
    request: Request,
    limits: Limits,
) -> list[str]:
    """Return the names of the hypotheses that are verified by default.

    They are 2 %, at least one, chosen as by `chosen_to_verify`; but no more than pyhf can fit in
    the time of the run itself, without its time in a queue. The times are those of
    `fitserve.runs.estimate`.
    """
    each = seconds_to_verify(workspace, request)
    if not hypotheses or not isinstance(request, VERIFIABLE) or not each:
        return []
    fits = len(hypotheses) * seconds_per_hypothesis(workspace, request) / limits.workers
    run = first_fit(limits.costs._replace(queue=0.0), limits.workers) + fits
    some = chosen_to_verify(workspace_digest, hypotheses, _SAMPLE, request)
    most = math.floor(run / each) * limits.workers
    return some if len(some) <= most else _first(workspace_digest, hypotheses, most)


def _first(workspace_digest: str, hypotheses: Sequence[Hypothesis], count: int) -> list[str]:
    ordered = sorted(hypotheses, key=lambda one: hypothesis_key(workspace_digest, one, "verify"))
    chosen = {one.name for one in ordered[:count]}
    return [one.name for one in hypotheses if one.name in chosen]


def lacks_verification(result: HypothesisResult) -> bool:
    """Return whether a result has CLs that pyhf has not verified."""
    has_cls = any(point.CLs_obs is not None for point in result.points)
    return has_cls and result.verification is None


def to_verify(run: SavedRun) -> list[str]:
    """Return the hypotheses of a run that have a result, and still have to be verified."""
    wanted = {*run.manifest.verify, *run.manifest.sample}
    return [
        name
        for name, result in run.results.items()
        if name in wanted and lacks_verification(result)
    ]


def with_verdict(claim: HypothesisResult, answer: HypothesisResult) -> HypothesisResult:
    """Return a result with the outcome of its comparison with pyhf.

    Whatever else a worker answers, every number and every earlier doubt stays.
    """
    doubted = {point.mu: point.reason for point in answer.points if point.status == "suspect"}
    points = [
        msgspec.structs.replace(point, status="suspect", reason=doubted[point.mu])
        if point.mu in doubted
        else point
        for point in claim.points
    ]
    changed = msgspec.structs.replace(claim, verification=answer.verification, points=points)
    if answer.status != "suspect":
        return changed
    return msgspec.structs.replace(changed, status="suspect", reason=answer.reason)


def verification_summary(run: SavedRun) -> dict[str, Any]:
    """Return the outcome of verification as JSON-like data; empty where nothing is verified.

    ``verified`` counts the hypotheses that pyhf has numbers for, ``largest`` is the greatest
    difference of a CLs from pyhf's, ``hypothesis`` where it is. ``beyond`` are the names of those
    that are wrong by more than ``tolerance``; ``above`` those of which pyhf finds another CLs
    because its minimum of -2 log L lies above the known one, with its words: that says nothing
    against them. ``unverified`` is why pyhf has no number, by name, and ``waiting`` are the names
    of those that are not verified yet.
    """
    results = run.results
    outcomes = {name: one.verification for name, one in results.items() if one.verification}
    waiting = to_verify(run)
    if not outcomes and not waiting:
        return {}
    differences = {name: one.largest for name, one in outcomes.items() if one.largest is not None}
    worst = max(differences, key=lambda name: differences[name], default=None)
    return {
        "verified": len(differences),
        "of": len(results),
        "tolerance": next((one.tolerance for one in outcomes.values()), None),
        "largest": differences[worst] if worst is not None else None,
        "hypothesis": worst,
        "beyond": [name for name, one in outcomes.items() if (one.wrong_by or 0.0) > one.tolerance],
        "above": {name: one.above for name, one in outcomes.items() if one.above},
        "unverified": {
            name: one.reason or "pyhf has no number"
            for name, one in outcomes.items()
            if name not in differences
        },
        "waiting": waiting,
    }
