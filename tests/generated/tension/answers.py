"""What fitserve and pyhf answer about a model, and whether that is right."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from fitserve_contract import (
    EngineOptions,
    HypotestRequest,
    Hypothesis,
    ModelOptions,
    Status,
    digest,
    request_digest,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tension.models import Model
    from tension.reference import Right

__all__ = ["TOLERANCE", "Answer", "By", "Verdict", "answerer", "judged", "kernel_ends"]

TOLERANCE = 1e-3
"""A CLs that is further off is wrong, and a minimum of -2 log L that lies this far too high."""

By = Literal["kernel", "pyhf", "plain"]
"""fitserve's engines, and ``pyhf.infer.hypotest`` as it is."""

Verdict = Literal["right", "wrong", "ambiguous", "none"]
"""``ambiguous``: other numbers, where there is no one right CLs; ``none``: no number."""


class Answer(msgspec.Struct, frozen=True):
    """CLs at a signal strength of 1, observed and expected, and -2 log L of the free fit."""

    status: Status
    reason: str | None = None
    CLs: tuple[float | None, ...] = (None,) * 6
    twice_nll: float | None = None

    def off(self, right: Right) -> float:
        """Return the greatest difference of a CLs from what is right; infinite without one."""
        pairs = zip(self.CLs, [right.CLs_obs, *right.CLs_exp], strict=True)
        each = [np.inf if ours is None else abs(ours - value) for ours, value in pairs]
        return float(np.nan_to_num(max(each), nan=np.inf, posinf=np.inf))

    def above(self, right: Right) -> float:
        """Return how far the free fit's -2 log L lies above the lowest minimum."""
        return np.inf if self.twice_nll is None else self.twice_nll - right.twice_nll


def judged(answer: Answer, right: Right) -> Verdict:
    """Return whether an answer is right."""
    off, above = answer.off(right), answer.above(right)
    if not np.isfinite(off):
        return "none"
    if off <= TOLERANCE and above <= TOLERANCE:
        return "right"
    return "ambiguous" if right.ambiguous and above <= TOLERANCE else "wrong"


def _fitserve(engine: Any) -> Callable[[Model], Answer]:
    from fitserve_worker.engines.base import Work
    from fitserve_worker.entry import perform

    request = HypotestRequest(engine=EngineOptions(engine=engine))

    def answer(model: Model) -> Answer:
        hypothesis = Hypothesis(name="h", values=(1.0,), patch=model.patch)
        named = digest(model.workspace), model.workspace
        [result] = perform(Work(*named, [hypothesis], request, request_digest(request)))
        cls = (result.CLs_obs, *result.CLs_exp)
        return Answer(result.status, result.reason, cls, result.twice_nll)

    return answer


def kernel_ends(workspace: dict[str, Any], hypothesis: Hypothesis) -> list[dict[str, float]]:
    """Return the parameters, by name, where the kernel's fits for CLs at mu = 1 ended."""
    from fitserve_worker.kernel.batch import compile_hypotheses
    from fitserve_worker.kernel.fits import load
    from fitserve_worker.kernel.hypotest import hypotest
    from fitserve_worker.kernel.runtime import runtime

    (batch,) = compile_hypotheses(workspace, [hypothesis], ModelOptions()).batches
    tests = hypotest(load(batch, [0], runtime(), "qtilde"), (1.0,), "qtilde")
    parameters = batch.parameters(0)
    names = [
        f"{made.name}[{index}]" if made.kind.per_bin else made.name
        for made, _ in parameters.sets
        for index in range(len(made))
    ]
    return [
        dict(zip(names, parameters.join(fit.x[0], fit.local[0]).tolist(), strict=True))
        for fit in (tests.null, tests.free, tests.fixed[0], tests.asimov[0])
    ]


def _plain(model: Model) -> Answer:
    import pyhf

    workspace = pyhf.Workspace(model.patched)
    built = workspace.model()
    data = workspace.data(built)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            observed, expected = pyhf.infer.hypotest(1.0, data, built, return_expected_set=True)
            _, twice_nll = pyhf.infer.mle.fit(data, built, return_fitted_val=True)
    except pyhf.exceptions.FailedMinimization as error:
        return Answer("failed", str(error).splitlines()[0])
    return Answer("ok", None, tuple(map(float, (observed, *expected))), float(twice_nll))


def answerer(by: By) -> Callable[[Model], Answer]:
    """Return what answers."""
    return _plain if by == "plain" else _fitserve(by)
