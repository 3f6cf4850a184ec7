"""Toys by the fit kernel.

Each hypothesis of a task is compiled by itself, so that the value of a toy does not depend on
what else is in the task: hypotheses that share a program determine the size of its arrays, and
with it the rounding.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from cachetools import LRUCache

from fitserve_contract import (
    KERNEL_DOUBT,
    NOT_FOR_THE_KERNEL,
    AsymptoticCLs,
    Attempt,
    HypotestRequest,
    HypothesisResult,
    ToysRequest,
    ToyValues,
    hypothesis_key,
    request_digest,
)
from fitserve_worker.engines.base import (
    answer_by,
    failed,
    in_words,
    of_kind,
    packed,
    range_of,
    refused,
)
from fitserve_worker.engines.kernel_hypotest import Piece, Tested
from fitserve_worker.engines.opinions import weighed
from fitserve_worker.kernel.asymptotics import compared_floor
from fitserve_worker.kernel.batch import compile_hypotheses
from fitserve_worker.kernel.fits import load
from fitserve_worker.kernel.hypotest import hypotest
from fitserve_worker.kernel.patches import Background
from fitserve_worker.kernel.runtime import runtime
from fitserve_worker.kernel.spec import UnsupportedModelError
from fitserve_worker.kernel.toys import Centre, Statistics, ToyMaker, toy_statistics
from fitserve_worker.sampling import stream_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fitserve_contract import Hypothesis, ToyRange
    from fitserve_worker.engines.base import Engine, Work
    from fitserve_worker.kernel.fits import Fits

__all__ = ["KernelToys"]

# Second opinions on the observed data, which the parts of the toys of a hypothesis share.
_opinions: LRUCache[str, HypothesisResult] = LRUCache(maxsize=64)


class KernelToys(NamedTuple):
    """Makes toys with the kernel, and with a reference engine those that it does not support.

    ``reference`` makes the reference engine, when it is first needed. ``second`` makes the engine
    that tests the observed data where the kernel doubts its fits to them, and makes the toys where
    the kernel has no fit to draw them from.
    """

    reference: Callable[[], Engine]
    second: Callable[[], Engine]

    def answers(self, work: Work) -> Iterator[HypothesisResult]:
        """Yield the test statistic of toys of each hypothesis."""
        request = of_kind(work, ToysRequest)
        try:
            background: Background | dict[str, Any] = Background(work.workspace, request.model)
        except UnsupportedModelError:
            # Compiling each hypothesis gives the reason again.
            background = work.workspace
        for hypothesis in work.hypotheses:
            try:
                yield self._one(work, request, hypothesis, background)
            except Exception as error:  # noqa: BLE001 - one hypothesis never costs another
                yield failed(work, hypothesis, in_words(error))
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
            reason = compilation.unsupported[hypothesis.name]
            return answer_by(self.reference(), work, hypothesis, {NOT_FOR_THE_KERNEL: reason})
        batch = compilation.batches[0]
        if hypothesis.name in refused(request, batch):
            return answer_by(self.reference(), work, hypothesis)
        loaded = load(batch, [0], runtime())
        # Of toys only the test statistic counts.
        poi, columns = loaded.chunk.poi[0], loaded.chunk.columns
        lower, upper = columns["lower"], columns["upper"]
        lower[:, poi] = compared_floor(lower[:, poi], upper[:, poi], request.test_stat)
        ready = time.perf_counter()
        tests = hypotest(loaded, (request.mu,), request.test_stat)
        tested = Tested(Piece(work, batch, loaded, range(1), None), tests, 0, (request.mu,))
        doubts = "; ".join(tested.doubts())
        if not np.isfinite([tests.q[0, 0], *tests.fixed[0].yields[0], *tests.null.yields[0]]).all():
            reason = f"the observed data cannot be fitted: {doubts}"
            return answer_by(self.second(), work, hypothesis, {KERNEL_DOUBT: reason})
        result = _result(tested, request, hypothesis, doubts, ready - begin, ready)
        return self._weighed(tested, request, hypothesis, result) if doubts else result

    def _weighed(
        self,
        tested: Tested,
        request: ToysRequest,
        hypothesis: Hypothesis,
        result: HypothesisResult,
    ) -> HypothesisResult:
        """Return a doubted result, weighed against a second opinion.

        That is of the observed data only, from which the toys follow.
        """
        second = _opinion(self.second(), tested.piece.work, request, hypothesis)
        of_data = msgspec.structs.replace(
            result,
            **{name: tested.fields()[name] for name in ("CLs_obs", "CLs_exp", "points")},
            toy_values=None,
        )
        held = weighed(of_data, second)
        return msgspec.structs.replace(
            result,
            # There are toys, whatever the asymptotic CLs.
            status="ok" if held.status == "ok" else "suspect",
            reason=held.reason,
            attempts=held.attempts,
            fit_time=held.fit_time,
            setup_time=held.setup_time,
            diagnostics={**result.diagnostics, **held.diagnostics},
        )


def _opinion(
    engine: Engine, work: Work, request: ToysRequest, hypothesis: Hypothesis
) -> HypothesisResult:
    """Return an engine's test of the observed data, once for all parts of the toys."""
    test = HypotestRequest(
        mu=(request.mu,),
        test_stat=request.test_stat,
        model=request.model,
        engine=request.engine,
    )
    of_request = request_digest(test)
    key = hypothesis_key(work.workspace_digest, hypothesis, of_request)
    cached = _opinions.get(key)
    if cached is not None:
        return cached
    again = work._replace(request=test, request_digest=of_request, toys=None)
    _opinions[key] = answer_by(engine, again, hypothesis)
    return _opinions[key]


def _result(
    tested: Tested,
    request: ToysRequest,
    hypothesis: Hypothesis,
    doubts: str,
    setup: float,
    begin: float,
) -> HypothesisResult:
    work, loaded, tests = tested.piece.work, tested.piece.loaded, tested.tests
    toys = range_of(work, request)
    signal, background = _both(tested, request, hypothesis, toys)
    seconds = time.perf_counter() - begin
    problems = [doubts] if doubts else []
    return HypothesisResult(
        name=hypothesis.name,
        key=hypothesis_key(work.workspace_digest, hypothesis, work.request_digest),
        mass_hypotheses=hypothesis.values,
        status="suspect" if problems else "ok",
        reason=doubts or None,
        CLs_obs=None,
        CLs_exp=[None] * 5,
        fit_time=seconds,
        setup_time=setup,
        engine="kernel",
        points=[],
        muhat=float(tests.muhat[0]),
        twice_nll=2 * float(tests.free.value[0] + loaded.chunk.constant[0]),
        attempts=[Attempt(engine="kernel", start="chain", seconds=seconds, problems=problems)],
        diagnostics=tested.diagnostics(),
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
    tested: Tested, request: ToysRequest, hypothesis: Hypothesis, toys: ToyRange
) -> tuple[Statistics, Statistics]:
    """Return the test statistic of toys with signal and of toys without."""
    work, batch, loaded = tested.piece[:3]
    tests = tested.tests
    fixed, null, asimov = tests.fixed[0], tests.null, tests.asimov[0]

    def of(what: Any, fits: Fits, at_mu: Fits) -> Statistics:
        key = stream_key(request.seed, work.workspace_digest, hypothesis, request.model, what)
        maker = ToyMaker(batch, loaded, fits, key)
        centre = Centre(fits.yields[0], at_mu.x[0], fits.x[0])
        return toy_statistics(loaded, maker, toys, request.mu, centre)

    return of("signal", fixed, fixed), of("background", null, asimov)
