"""Toys fitted by pyhf: the same ones as the kernel's, for the same seed.

pyhf draws its toys one after the other from a generator; here they are drawn by their number
(`fitserve_worker.sampling`), from the same distributions. Fits and test statistic are pyhf's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fitserve_contract import AsymptoticCLs, ToyValues
from fitserve_worker.engines.base import packed, range_of
from fitserve_worker.engines.minuit import Objective
from fitserve_worker.engines.models import BuiltModel
from fitserve_worker.engines.pyhf_hypotest import statistic_bounds
from fitserve_worker.engines.pyhf_limit import Profile, profile
from fitserve_worker.sampling import Law, Sampler, stream_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from fitserve_contract import Hypothesis, ToyRange, ToysRequest
    from fitserve_worker.engines.base import Work
    from fitserve_worker.engines.ladder import Climb, Ladder
    from fitserve_worker.engines.pyhf_hypotest import Evaluation

    FloatArray = NDArray[np.float64]

__all__ = ["ToyFits", "law_of", "toys_answer"]

_FITS_OF_A_TOY = 2


class ToyFits(NamedTuple):
    """What is needed to make and fit toys of a hypothesis.

    ``observed`` is the test of the observed data, ``seed`` the seed of perturbed starts.
    """

    work: Work
    request: ToysRequest
    hypothesis: Hypothesis
    built: BuiltModel
    observed: Climb[Evaluation]
    ladder: Ladder
    seed: int


def toys_answer(toys: ToyFits) -> dict[str, Any]:
    """Return fields of a `fitserve_contract.HypothesisResult` for a request for toys."""
    best = toys.observed.best
    fields: dict[str, Any] = {
        "status": toys.observed.status,
        "reason": toys.observed.reason,
        "CLs_obs": None,
        "CLs_exp": [None] * 5,
        "points": [],
        "attempts": toys.observed.attempts,
        "diagnostics": {"converged": best is not None, "shift": best.shift if best else None},
    }
    if best is None:
        return fields
    mu, chosen = toys.request.mu, range_of(toys.work, toys.request)
    signal, more = _statistics(toys, "signal", mu, chosen)
    background, most = _statistics(toys, "background", 0.0, chosen)
    values = ToyValues(
        toys=chosen,
        observed=0.0 if best.muhat > mu else max(0.0, best.twice_delta_nll),
        asymptotic=AsymptoticCLs(CLs_obs=best.CLs_obs, CLs_exp=list(best.CLs_exp)),
        signal=packed(signal),
        background=packed(background),
        positive=0,
        fits=more + most,
    )
    return {**fields, "muhat": best.muhat, "twice_nll": best.twice_nll, "toy_values": values}


def law_of(built: BuiltModel, parameters: FloatArray) -> Law:
    """Return the law of the toys of a model at a point of its parameters.

    Parameters
    ----------
    built
        The model.
    parameters
        All of them, in the model's order.
    """
    config = built.model.config
    rates = np.asarray(built.model.expected_actualdata(parameters.tolist()), dtype=float)
    centres, widths = [np.zeros(0)], [np.zeros(0)]
    for name in config.auxdata_order:
        of_name = config.param_set(name)
        values = parameters[config.par_slice(name)]
        if of_name.pdf_type == "poisson":
            centres.append(values * np.asarray(of_name.factors, dtype=float))
            widths.append(np.zeros(len(values)))
        else:
            centres.append(values)
            sigmas = getattr(of_name, "sigmas", None) or [1.0] * len(values)
            widths.append(np.asarray(sigmas, dtype=float))
    return Law(np.maximum(rates, 0.0), np.concatenate(centres), np.concatenate(widths))


def _statistics(toys: ToyFits, what: Any, mu: float, chosen: ToyRange) -> tuple[list[float], int]:
    """Return the test statistic of each toy made at ``mu``, and the number of fits."""
    work, request = toys.work, toys.request
    key = stream_key(request.seed, work.workspace_digest, toys.hypothesis, request.model, what)
    law = law_of(toys.built, _best_at(toys, mu))
    events, auxiliary = Sampler(law, key).draw(chosen)
    values, fits = [], 0
    for data in np.concatenate([events, auxiliary], axis=1):
        built = BuiltModel(toys.built.model, data.tolist())
        climb = toys.ladder.climb(built, toys.seed, _attempt(built, request.mu, request.test_stat))
        fits += _FITS_OF_A_TOY * len(climb.attempts)
        values.append(_value(climb, request.mu))
    return values, fits


def _attempt(built: BuiltModel, mu: float, test_stat: str) -> Callable[[Any, list[float]], Profile]:
    between = statistic_bounds(built, test_stat)
    return lambda _, start: profile(built, mu, start, between, positive=True)


def _value(climb: Climb[Profile], mu: float) -> float:
    if climb.best is None or climb.best.problems:
        return math.nan
    return 0.0 if climb.best.muhat > mu else max(0.0, climb.best.twice_delta_nll)


def _best_at(toys: ToyFits, mu: float) -> FloatArray:
    """Return the parameters fitted to the observed data with the signal strength at ``mu``.

    Minuit goes on from where pyhf's fit ends: the toys are then, but for rounding, those made at
    another engine's best fit.
    """
    import pyhf

    model, data = toys.built
    start = pyhf.infer.mle.fixed_poi_fit(mu, data, model)
    minuit = Objective(toys.built, {model.config.poi_index: mu}).minuit(
        np.asarray(start, dtype=float), tight=True
    )
    minuit.migrad()
    return np.asarray(minuit.values, dtype=float)
