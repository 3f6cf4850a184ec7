"""One evaluation of pyhf's asymptotic CLs, and the reasons to doubt it."""

from __future__ import annotations

import itertools
import logging
import math
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyhf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve_worker.engines.models import BuiltModel

__all__ = ["Evaluation", "evaluate", "quiet_pyhf"]

# A minimum of -2 log L may be this much above one that is known to be possible. Good fits
# of the published pallets stay below 1e-6; an excess of 1e-4 moves sqrt(q) by up to 0.01.
_TOLERANCE = 1e-4
_ROUNDING = 1e-9


class Evaluation(NamedTuple):
    """CLs of one hypothesis at one signal strength, and what speaks against them.

    ``muhat`` and ``twice_nll`` are of the free fit to the observed data; ``excess`` is the
    largest amount by which a minimum of -2 log L lies above one that is known.
    """

    CLs_obs: float
    CLs_exp: list[float]
    muhat: float
    twice_nll: float
    excess: float
    problems: list[str]


def quiet_pyhf() -> None:
    """Keep pyhf from logging failed fits: here they are recorded with their result."""
    logging.getLogger("pyhf").setLevel(logging.CRITICAL)


def evaluate(built: BuiltModel, mu: float, test_stat: str, start: Sequence[float]) -> Evaluation:
    """Run pyhf's asymptotic calculator (arXiv:1007.1727) from a given start.

    Parameters
    ----------
    built
        Model and data.
    mu
        The signal strength to test.
    test_stat
        ``"qtilde"`` or ``"q"``.
    start
        Initial values of all parameters, in the model's order.

    Raises
    ------
    pyhf.exceptions.FailedMinimization
        The optimizer says that it failed.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # What the numbers are worth is judged by the numbers, not by these messages.
        warnings.simplefilter("ignore")
        observed, expected, calculator = pyhf.infer.hypotest(
            mu,
            built.data,
            built.model,
            init_pars=list(start),
            test_stat=test_stat,
            return_expected_set=True,
            return_calculator=True,
        )
        minima = _minima(built, calculator.fitted_pars)
    cls_obs = float(observed)
    cls_exp = [float(value) for value in expected]
    pars = calculator.fitted_pars.free_fit_to_data
    return Evaluation(
        CLs_obs=cls_obs,
        CLs_exp=cls_exp,
        muhat=float(pars[built.model.config.poi_index]),
        twice_nll=minima.free,
        excess=minima.excess,
        problems=_problems(cls_obs, cls_exp, minima),
    )


class _Minima(NamedTuple):
    free: float
    excess: float


def _minima(built: BuiltModel, fits: pyhf.infer.calculators.HypoTestFitResults) -> _Minima:
    """Compare minima that must be ordered: a free fit is never above a constrained one.

    The background-only fit to the data is a point of the free fit's space, and the Asimov
    data set's own parameters are its exact minimum.
    """
    model, data = built
    asimov = list(model.expected_data(fits.asimov_pars))

    def twice_nll(pars: Sequence[float], to: Sequence[float]) -> float:
        return float(np.asarray(pyhf.infer.mle.twice_nll(pars, to, model)).item())

    free = twice_nll(fits.free_fit_to_data, data)
    excesses = [
        free - twice_nll(fits.fixed_poi_fit_to_data, data),
        free - twice_nll(fits.asimov_pars, data),
        twice_nll(fits.free_fit_to_asimov, asimov) - twice_nll(fits.asimov_pars, asimov),
    ]
    return _Minima(free, max(excesses) if all(map(math.isfinite, excesses)) else math.nan)


def _problems(cls_obs: float, cls_exp: list[float], minima: _Minima) -> list[str]:
    values = [cls_obs, *cls_exp]
    if not all(math.isfinite(value) for value in (*values, minima.free, minima.excess)):
        return ["a result is not a finite number"]
    problems = []
    if not all(-_ROUNDING <= value <= 1 + _ROUNDING for value in values):
        problems.append("a CLs is outside 0 to 1")
    if any(low > high + _ROUNDING for low, high in itertools.pairwise(cls_exp)):
        problems.append("the expected CLs are not in order")
    if minima.excess > _TOLERANCE:
        problems.append(f"a fit stopped above a known minimum of -2 log L, by {minima.excess:.2g}")
    return problems
