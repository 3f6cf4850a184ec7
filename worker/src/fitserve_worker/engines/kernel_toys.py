"""Toys by the fit kernel.

Each hypothesis of a task is compiled by itself, so that the value of a toy does not depend on
what else is in the task: where hypotheses share a program, the size of its arrays is theirs,
and with it the rounding.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np

from fitserve.contract import (
    AsymptoticCLs,
    Attempt,
    HypothesisResult,
    ToysRequest,
    ToyValues,
    hypothesis_key,
)
from fitserve_worker.engines import failed
from fitserve_worker.engines.toy_values import packed, range_of
from fitserve_worker.kernel.compilation import compile_hypotheses
from fitserve_worker.kernel.doubts import doubts
from fitserve_worker.kernel.errors import UnsupportedModelError
from fitserve_worker.kernel.fits import load
from fitserve_worker.kernel.hypotest import hypotest
from fitserve_worker.kernel.patches import Background
from fitserve_worker.kernel.runtime import runtime
from fitserve_worker.kernel.toys import Centre, Statistics, ToyMaker, toy_statistics
from fitserve_worker.sampling import stream_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fitserve.contract import Hypothesis, ToyRange
    from fitserve_worker.engines.base import Work
    from fitserve_worker.kernel.batch import Batch
    from fitserve_worker.kernel.fits import Fits, Loaded
    from fitserve_worker.kernel.hypotest import Tests

__all__ = ["KernelToys", "Toymaker"]


class Toymaker(Protocol):
    """An engine that makes toys."""

    def toys(self, work: Work) -> Iterator[HypothesisResult]:
        """Yield the test statistic of toys of each hypothesis."""
        ...


class KernelToys:
    """Makes toys with the kernel, and has a reference engine make those that it does not fit.

    Parameters
    ----------
    reference
        Makes the reference engine, when it is first needed.
    """

    def __init__(self, reference: Callable[[], Toymaker]) -> None:
        self._reference = reference

    def toys(self, work: Work) -> Iterator[HypothesisResult]:
        """Yield the test statistic of toys of each hypothesis."""
        request = work.request
        if not isinstance(request, ToysRequest):
            raise TypeError("the request is no ToysRequest")
        try:
            background: Background | dict[str, Any] = Background(work.workspace, request.model)
        except UnsupportedModelError:
            # Asked again for each hypothesis, it gives the reason.
            background = work.workspace
        for hypothesis in work.hypotheses:
            try:
                yield self._one(work, request, hypothesis, background)
            except Exception as error:  # noqa: BLE001 - one hypothesis never costs another
                yield failed(work, hypothesis, f"{type(error).__name__}: {error}")
        runtime().cache.publish()

    def _one(
        self,
        work: Work,
        request: ToysRequest,
        hypothesis: Hypothesis,
        background: Background | dict[str, Any],
    ) -> HypothesisResult:
        begin = time.perf_counter()
        compilation = compile_hypotheses(background, [hypothesis], request.model)
        if compilation.unsupported:
            found = next(iter(self._reference().toys(work._replace(hypotheses=[hypothesis]))))
            reason = compilation.unsupported[hypothesis.name]
            diagnostics = {"not for the kernel": reason, **found.diagnostics}
            return msgspec.structs.replace(found, diagnostics=diagnostics)
        batch = compilation.batches[0]
        loaded = load(batch, [0], runtime())
        setup = time.perf_counter() - begin
        return _result(work, request, hypothesis, (batch, loaded), setup)


def _result(
    work: Work,
    request: ToysRequest,
    hypothesis: Hypothesis,
    model: tuple[Batch, Loaded],
    setup: float,
) -> HypothesisResult:
    loaded = model[1]
    begin = time.perf_counter()
    tests = hypotest(loaded, (request.mu,), request.test_stat)
    named = {
        "background": tests.null,
        "free": tests.free,
        f"mu = {request.mu:g}": tests.fixed[0],
        f"Asimov, mu = {request.mu:g}": tests.asimov[0],
    }
    problems = [
        f"the fit with {name} {what}"
        for name, fits in named.items()
        for what in doubts(loaded, fits, 0)
    ]
    if not np.isfinite([tests.q[0, 0], *tests.fixed[0].yields[0], *tests.null.yields[0]]).all():
        reason = "the observed data cannot be fitted: " + "; ".join(problems)
        return failed(work, hypothesis, reason)
    toys = range_of(work, request)
    signal, background = _both(work, request, hypothesis, model, tests, toys)
    seconds = time.perf_counter() - begin
    return HypothesisResult(
        name=hypothesis.name,
        key=hypothesis_key(work.workspace_digest, hypothesis, work.request_digest),
        mass_hypotheses=hypothesis.values,
        status="suspect" if problems else "ok",
        reason="; ".join(problems) or None,
        CLs_obs=None,
        CLs_exp=[None] * 5,
        fit_time=seconds,
        setup_time=setup,
        engine="kernel",
        points=[],
        muhat=float(tests.muhat[0]),
        twice_nll=2 * float(tests.free.value[0] + loaded.chunk.constant[0]),
        attempts=[Attempt(engine="kernel", start="chain", seconds=seconds, problems=problems)],
        toy_values=ToyValues(
            toys=toys,
            observed=float(tests.q[0, 0]),
            asymptotic=AsymptoticCLs(
                CLs_obs=float(tests.CLs_obs[0, 0]), CLs_exp=tests.CLs_exp[0, 0].tolist()
            ),
            signal=packed(signal.values),
            background=packed(background.values),
            positive=signal.positive + background.positive,
            fits=signal.fits + background.fits,
        ),
    )


def _both(
    work: Work,
    request: ToysRequest,
    hypothesis: Hypothesis,
    model: tuple[Batch, Loaded],
    tests: Tests,
    toys: ToyRange,
) -> tuple[Statistics, Statistics]:
    """Return the test statistic of toys with signal and of toys without."""
    batch, loaded = model
    fixed, null, asimov = tests.fixed[0], tests.null, tests.asimov[0]

    def of(what: Any, fits: Fits, at_mu: Fits) -> Statistics:
        key = stream_key(request.seed, work.workspace_digest, hypothesis, request.model, what)
        maker = ToyMaker(batch, loaded, fits, key)
        centre = Centre(fits.yields[0], at_mu.x[0], fits.x[0])
        return toy_statistics(loaded, maker, toys, request.mu, centre)

    return of("signal", fixed, fixed), of("background", null, asimov)
