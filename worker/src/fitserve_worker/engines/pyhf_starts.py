"""pyhf's fits from other starts than its own: one may end in a minimum that is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyhf

from fitserve_worker.engines.asymptotic import evaluate
from fitserve_worker.engines.ladder import Rung
from fitserve_worker.engines.minima import Minima
from fitserve_worker.engines.models import build

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve.contract import HypotestRequest, Hypothesis
    from fitserve_worker.engines.base import Work
    from fitserve_worker.engines.models import BuiltModel

__all__ = ["from_elsewhere"]

_MOST = 2.0


def from_elsewhere(
    work: Work, hypothesis: Hypothesis, request: HypotestRequest, seed: int
) -> Iterator[Minima]:
    """Yield the minima that pyhf finds from each of three starts, where it finds any.

    They are the initial values with all constrained parameters moved by their widths, up, down,
    and at random, then with the signal strength at random too.

    Parameters
    ----------
    work
        The task.
    hypothesis
        One of its hypotheses.
    request
        Of one signal strength.
    seed
        Of what is random.
    """
    built = build(work, hypothesis.patch)
    rung = Rung(request.engine.optimizer, "elsewhere", tight=True)
    pyhf.set_backend(request.engine.backend, rung.make())
    (mu,) = request.mu
    for start in _starts(built, seed):
        try:
            found = evaluate(built, mu, request.test_stat, start)
        except (pyhf.exceptions.FailedMinimization, ValueError, ArithmeticError):
            continue
        if found.usable:
            yield Minima(
                found.twice_nll,
                found.twice_nll + found.twice_delta_nll,
                found.twice_nll_background,
                found.q_asimov,
                found.muhat,
            )


def _starts(built: BuiltModel, seed: int) -> Iterator[list[float]]:
    config = built.model.config
    initial = np.asarray(config.suggested_init(), dtype=float)
    low, high = np.asarray(config.suggested_bounds(), dtype=float).T
    width = np.zeros(len(initial))
    for name in config.par_order:
        parameter = config.param_set(name)
        if parameter.constrained:
            width[config.par_slice(name)] = parameter.width()
    width[np.asarray(config.suggested_fixed(), dtype=bool)] = 0.0
    random = np.random.default_rng(seed)
    poi = config.poi_index
    moved = initial + width * random.normal(size=len(initial))
    moved[poi] = random.uniform(low[poi], max(low[poi], min(_MOST, high[poi])))
    for start in (initial + width, initial - width, moved):
        yield [float(one) for one in np.clip(start, low, high)]
