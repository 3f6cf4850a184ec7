"""From evaluations at several signal strengths to the fields of a result."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fitserve.contract import MuPoint
from fitserve_worker.engines.ladder import SEVERITY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitserve_worker.engines.asymptotic import Evaluation
    from fitserve_worker.engines.ladder import Climb
    from fitserve_worker.engines.pyhf_scan import Profile

__all__ = ["at_strengths"]


def at_strengths(climbs: Mapping[float, Climb[Evaluation] | Climb[Profile]]) -> dict[str, Any]:
    """Return fields of a `fitserve.contract.HypothesisResult`.

    Parameters
    ----------
    climbs
        By signal strength; the result's CLs and status begin with the first one.
    """
    lowest = min((one.best.twice_nll for one in climbs.values() if one.best), default=0.0)
    points = [_point(mu, climb, lowest) for mu, climb in climbs.items()]
    worst = max(points, key=lambda point: SEVERITY[point.status])
    first = next(iter(climbs.values())).best
    return {
        "status": worst.status,
        "reason": worst.reason,
        "CLs_obs": points[0].CLs_obs,
        "CLs_exp": points[0].CLs_exp,
        "points": points,
        "muhat": first.muhat if first else None,
        "twice_nll": first.twice_nll if first else None,
        "twice_nll_background": _number(first.twice_nll_background) if first else None,
        "attempts": [attempt for climb in climbs.values() for attempt in climb.attempts],
        "diagnostics": {
            "converged": all(climb.best is not None for climb in climbs.values()),
            "shift": first.shift if first else None,
        },
    }


def _point(mu: float, climb: Climb[Evaluation] | Climb[Profile], lowest: float) -> MuPoint:
    best = climb.best
    return MuPoint(
        mu=mu,
        CLs_obs=best.CLs_obs if best else None,
        CLs_exp=list(best.CLs_exp) if best else [None] * 5,
        status=climb.status,
        reason=climb.reason,
        twice_delta_nll=best.twice_nll + best.twice_delta_nll - lowest if best else None,
        q_asimov=_number(best.q_asimov) if best else None,
    )


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
