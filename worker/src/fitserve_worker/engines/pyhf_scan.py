"""The profile likelihood ratio where there is no CLs: at negative signal strengths."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyhf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve_worker.engines.models import BuiltModel

__all__ = ["Profile", "profile"]

# A difference of minima that shifts a significance by 1e-3, as for CLs.
_ABOVE = 1e-6


class Profile(NamedTuple):
    """-2 log L at its minimum, and how much it rises when the signal strength is held.

    There is no CLs; the other fields are as those of
    `fitserve_worker.engines.asymptotic.Evaluation`.
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


def profile(built: BuiltModel, mu: float, start: Sequence[float]) -> Profile:
    """Fit with the signal strength free and held.

    Parameters
    ----------
    built
        Model and data.
    mu
        The signal strength to hold.
    start
        Initial values of all parameters, in the model's order.

    Raises
    ------
    pyhf.exceptions.FailedMinimization
        The optimizer says that it failed.
    """
    model, data = built
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # What the numbers are worth is judged by the numbers, not by these messages.
        warnings.simplefilter("ignore")
        pars, free = pyhf.infer.mle.fit(data, model, init_pars=list(start), return_fitted_val=True)
        _, held = pyhf.infer.mle.fixed_poi_fit(
            mu, data, model, init_pars=list(start), return_fitted_val=True
        )
    twice_nll = float(np.asarray(free).item())
    delta = float(np.asarray(held).item()) - twice_nll
    problems = []
    if not (math.isfinite(twice_nll) and math.isfinite(delta)):
        problems.append("a result is not a finite number")
    elif delta < -_ABOVE:
        problems.append(f"the free fit stopped {-delta:.2g} above a known minimum of -2 log L")
    return Profile(float(pars[model.config.poi_index]), twice_nll, delta, problems)
