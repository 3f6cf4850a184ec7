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

# Fits that end above the true minimum shift sqrt(q), on which CLs depends with a slope
# below one. Good fits of the published pallets shift it by less than 1e-6, a weak signal
# fitted with an optimizer's usual tolerance by 1e-2.
_SHIFT = 1e-3
_ROUNDING = 1e-9


class Evaluation(NamedTuple):
    """CLs of one hypothesis at one signal strength, and what speaks against them.

    ``muhat`` and ``twice_nll`` are of the free fit to the observed data; ``shift`` is how
    much sqrt(q) is wrong because minima of -2 log L lie above ones that are known.
    ``twice_delta_nll`` is what -2 log L rises by when the signal strength is held, ``q_asimov``
    that of the Asimov data, whose minimum is known; ``twice_nll_background`` is of the fit
    without signal.
    """

    CLs_obs: float
    CLs_exp: list[float]
    muhat: float
    twice_nll: float
    shift: float
    problems: list[str]
    twice_delta_nll: float = math.nan
    q_asimov: float = math.nan
    twice_nll_background: float = math.nan

    @property
    def usable(self) -> bool:
        """Whether every CLs is a number."""
        return all(map(math.isfinite, (self.CLs_obs, *self.CLs_exp)))


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
        fits = _fits(built, calculator.fitted_pars)
    cls_obs = float(observed)
    cls_exp = [float(value) for value in expected]
    shift = _shift(fits, mu)
    return Evaluation(
        CLs_obs=cls_obs,
        CLs_exp=cls_exp,
        muhat=fits.muhat,
        twice_nll=fits.free,
        shift=shift,
        problems=_problems(cls_obs, cls_exp, shift),
        twice_delta_nll=fits.fixed - fits.free,
        q_asimov=max(0.0, fits.asimov_fixed - min(fits.asimov_free, fits.asimov_exact)),
        twice_nll_background=fits.background,
    )


class _Fits(NamedTuple):
    """-2 log L at the five minima of a hypothesis test, and at a sixth that is exact.

    ``free``, ``fixed`` and ``background`` are of the observed data with the signal
    strength free, at the tested value and at zero; ``asimov_*`` of the Asimov data set,
    whose own parameters are its exact minimum, ``asimov_exact``.
    """

    muhat: float
    free: float
    fixed: float
    background: float
    asimov_free: float
    asimov_fixed: float
    asimov_exact: float


def _fits(built: BuiltModel, pars: pyhf.infer.calculators.HypoTestFitResults) -> _Fits:
    model, data = built
    asimov = list(model.expected_data(pars.asimov_pars))

    def twice_nll(at: Sequence[float], to: Sequence[float]) -> float:
        return float(np.asarray(pyhf.infer.mle.twice_nll(at, to, model)).item())

    return _Fits(
        muhat=float(pars.free_fit_to_data[model.config.poi_index]),
        free=twice_nll(pars.free_fit_to_data, data),
        fixed=twice_nll(pars.fixed_poi_fit_to_data, data),
        background=twice_nll(pars.asimov_pars, data),
        asimov_free=twice_nll(pars.free_fit_to_asimov, asimov),
        asimov_fixed=twice_nll(pars.fixed_poi_fit_to_asimov, asimov),
        asimov_exact=twice_nll(pars.asimov_pars, asimov),
    )


def _shift(fits: _Fits, mu: float) -> float:
    """Return the error of sqrt(q) that the known minima show.

    A free fit is never above a constrained one to the same data. Where the best signal
    strength is above the tested one q is zero whatever the minimum (arXiv:1007.1727,
    equation 14), so that the minima of the observed data do not matter.
    """
    observed = 0.0
    if fits.muhat <= mu:
        lowest = min(fits.free, fits.fixed, fits.background)
        observed = _root(fits.fixed - lowest) - _root(fits.fixed - fits.free)
    lowest = min(fits.asimov_free, fits.asimov_exact)
    asimov = _root(fits.asimov_fixed - lowest) - _root(fits.asimov_fixed - fits.asimov_free)
    return max(observed, asimov)


def _root(q: float) -> float:
    return math.sqrt(max(q, 0.0)) if math.isfinite(q) else math.nan


def _problems(cls_obs: float, cls_exp: list[float], shift: float) -> list[str]:
    values = [cls_obs, *cls_exp]
    if not all(map(math.isfinite, (*values, shift))):
        return ["a result is not a finite number"]
    problems = []
    if not all(-_ROUNDING <= value <= 1 + _ROUNDING for value in values):
        problems.append("a CLs is outside 0 to 1")
    if any(low > high + _ROUNDING for low, high in itertools.pairwise(cls_exp)):
        problems.append("the expected CLs are not in order")
    if shift > _SHIFT:
        problems.append(f"a fit stopped above a known minimum: sqrt(q) is wrong by {shift:.2g}")
    return problems
