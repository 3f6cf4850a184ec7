"""Limits and scans by pyhf: results of evaluations at several signal strengths.

Below zero there is no CLs, only the profile likelihood ratio.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyhf

from fitserve_contract import MuPoint
from fitserve_worker.engines.base import ABOVE
from fitserve_worker.engines.ladder import SEVERITY
from fitserve_worker.engines.limits import FLUCTUATIONS, in_order, judged, upper_limits
from fitserve_worker.engines.models import without_warnings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fitserve_worker.engines.frames import Frame
    from fitserve_worker.engines.ladder import Climb
    from fitserve_worker.engines.limits import Crossing
    from fitserve_worker.engines.models import BuiltModel
    from fitserve_worker.engines.pyhf_hypotest import Evaluation

__all__ = ["Profile", "at_strengths", "find_limits", "of_lowest", "profile"]


def at_strengths(climbs: Mapping[float, Climb[Evaluation] | Climb[Profile]]) -> dict[str, Any]:
    """Return fields of a `fitserve_contract.HypothesisResult`.

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


def find_limits(
    climb: Callable[[float], Climb[Evaluation]],
    frame: Frame,
    level: float,
    at_one: Climb[Evaluation] | None = None,
) -> tuple[dict[float, Climb[Evaluation]], list[Crossing], dict[str, Any]]:
    """Find the observed and expected upper limits of a hypothesis.

    Parameters
    ----------
    climb
        Evaluates CLs at a signal strength, in the units of ``frame``.
    frame
        How the parameter of interest is measured.
    level
        Confidence level.
    at_one
        The evaluation at a signal strength of 1, where that is out of the frame's bounds.

    Returns
    -------
    climbs
        Everything that was evaluated, by signal strength in units of one: first at 1 (or the bound
        next to it), then in rising order.
    crossings
        Where the six curves cross, in units of one.
    fields
        ``status`` and ``reason`` of the result, and its CLs where 1 is out of bounds.
    """
    unit = frame.unit
    climbs: dict[float, Climb[Evaluation]] = {} if at_one is None else {1.0: at_one}

    def cls_at(mu: float) -> list[float]:
        made = climb(mu)
        if made.best is not None:
            made = made._replace(best=made.best._replace(muhat=unit * made.best.muhat))
        climbs[unit * mu] = made
        return values(made)

    def known(mu: float) -> list[float]:
        return values(climbs[unit * mu]) if unit * mu in climbs else cls_at(mu)

    def values(made: Climb[Evaluation]) -> list[float]:
        best = made.best
        return [best.CLs_obs, *best.CLs_exp] if best else [math.nan] * len(FLUCTUATIONS)

    if at_one is None and not frame.usual and frame.low <= 1 / unit <= frame.high:
        cls_at(1 / unit)
    crossings = upper_limits(known, frame[:2], level, unit)
    ordered = {mu: climbs[mu] for mu in in_order(climbs)}
    points = at_strengths(ordered)["points"]
    return ordered, crossings, judged(crossings, points)


def of_lowest(climbs: Mapping[float, Climb[Evaluation]]) -> dict[str, Any]:
    """Return the fields of a result that belong to the free fit, of the lowest of these."""
    fits = [climb.best for climb in climbs.values() if climb.best is not None]
    if not fits:
        return {}
    best = min(fits, key=lambda fit: fit.twice_nll)
    return {
        "muhat": best.muhat,
        "twice_nll": best.twice_nll,
        "twice_nll_background": _number(best.twice_nll_background),
    }


class Profile(NamedTuple):
    """-2 log L at its minimum, and how much it rises when the signal strength is held.

    There is no CLs; the other fields are as those of
    `fitserve_worker.engines.pyhf_hypotest.Evaluation`.
    """

    muhat: float
    twice_nll: float
    twice_delta_nll: float
    problems: list[str]
    CLs_obs: None = None
    CLs_exp: tuple[None, ...] = (None,) * 5
    shift: None = None
    q_asimov: None = None
    twice_nll_background: None = None

    @property
    def usable(self) -> bool:
        """Whether both minima are numbers."""
        return math.isfinite(self.twice_nll) and math.isfinite(self.twice_delta_nll)


def profile(
    built: BuiltModel,
    mu: float,
    start: Sequence[float],
    between: list[tuple[float, float]] | None = None,
    *,
    positive: bool = False,
) -> Profile:
    """Fit with the signal strength free and held.

    Parameters
    ----------
    built
        Model and data.
    mu
        The signal strength to hold.
    start
        Initial values of all parameters, in the model's order.
    between
        Bounds of all parameters, by default the model's.
    positive
        Whether to doubt fits that expect negative events in a bin: pyhf's likelihood of a bin
        without events is then no probability.

    Raises
    ------
    pyhf.exceptions.FailedMinimization
        The optimizer reports that it failed.
    """
    model, data = built
    pars: list[Any] = []
    nll: list[float] = []
    with without_warnings():
        for fit in (pyhf.infer.mle.fit, partial(pyhf.infer.mle.fixed_poi_fit, mu)):
            at, value = fit(
                data, model, init_pars=list(start), par_bounds=between, return_fitted_val=True
            )
            pars.append(at)
            nll.append(float(np.asarray(value).item()))
        events = [model.expected_actualdata(at) for at in pars] if positive else []
    delta = nll[1] - nll[0]
    problems = []
    if not np.isfinite(nll).all():
        problems.append("a result is not a finite number")
    elif delta < -ABOVE:
        problems.append(f"the free fit stopped {-delta:.2g} above a known minimum of -2 log L")
    if any((np.asarray(yields) < 0).any() for yields in events):
        problems.append("a fit expects negative events in a bin")
    return Profile(float(pars[0][model.config.poi_index]), nll[0], delta, problems)
