"""The kernel engine: fits all hypotheses of a task by one compiled program, and checks them.

What the kernel does not support goes to the reference engine, with the reason in the
result's diagnostics. A hypothesis whose fits are doubted is answered again by an engine for
second opinions: where the two agree the result holds, otherwise it is ``suspect`` and its reason
has both values (`fitserve_worker.engines.opinions`).
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache

from fitserve_contract import (
    NOT_FOR_THE_KERNEL,
    Attempt,
    FitRequest,
    HypotestRequest,
    HypothesisResult,
    LimitRequest,
    RankingRequest,
    ScanRequest,
    ToysRequest,
    digest,
    hypothesis_key,
    kind_of,
)
from fitserve_worker.engines.base import answer_by, refused, statistic_of
from fitserve_worker.engines.kernel_fit import answer_fit, answer_ranking
from fitserve_worker.engines.kernel_hypotest import Piece, answer_hypotest
from fitserve_worker.engines.kernel_limit import answer_limit, answer_scan
from fitserve_worker.engines.kernel_toys import KernelToys
from fitserve_worker.engines.opinions import weighed
from fitserve_worker.kernel.batch import Compilation, compile_hypotheses
from fitserve_worker.kernel.fits import load
from fitserve_worker.kernel.patches import Background
from fitserve_worker.kernel.runtime import runtime
from fitserve_worker.kernel.spec import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    from fitserve_contract import Hypothesis, Request
    from fitserve_worker.engines.base import Engine, Work
    from fitserve_worker.kernel import FloatArray
    from fitserve_worker.kernel.batch import Batch

    Answer = Callable[[Piece], tuple[list[dict[str, Any]], FloatArray | None]]
    """Fields of the results of some hypotheses, and where fits to the next ones may start."""

__all__ = ["KernelEngine"]

_ANSWERS: dict[type[Request], Answer] = {
    HypotestRequest: answer_hypotest,
    LimitRequest: answer_limit,
    ScanRequest: answer_scan,
    FitRequest: answer_fit,
    RankingRequest: answer_ranking,
}
# Workspaces looked up by name, with the samples and arrays that their hypotheses share.
_backgrounds: LRUCache[str, Background] = LRUCache(maxsize=4)


class KernelEngine:
    """The fit kernel, with a reference engine for what it does not support or doubts.

    Parameters
    ----------
    reference
        Makes the reference engine, when it is first needed.
    second
        Makes the engine for second opinions where the kernel doubts its fits; by default
        ``reference``.
    """

    def __init__(
        self, reference: Callable[[], Engine], second: Callable[[], Engine] | None = None
    ) -> None:
        self._reference = functools.cache(reference)
        self._second = self._reference if second is None else functools.cache(second)

    def answers(self, work: Work) -> Iterator[HypothesisResult]:
        """Yield a result for each hypothesis; requests of other kinds go to pyhf."""
        answer = _ANSWERS.get(type(work.request))
        if isinstance(work.request, ToysRequest):
            yield from KernelToys(self._reference, self._second).answers(work)
        elif answer is not None:
            yield from self._each(work, answer)
        else:
            reason = f"it does not answer a {kind_of(work.request)} request"
            for hypothesis in work.hypotheses:
                yield answer_by(self._reference(), work, hypothesis, {NOT_FOR_THE_KERNEL: reason})

    def _each(self, work: Work, answer: Answer) -> Iterator[HypothesisResult]:
        begin = time.perf_counter()
        compilation = _compile(work)
        setup = (time.perf_counter() - begin) / max(1, len(work.hypotheses))
        by_name = {hypothesis.name: hypothesis for hypothesis in work.hypotheses}
        for batch in compilation.batches:
            refusals = refused(work.request, batch)
            for name in refusals:
                yield answer_by(self._reference(), work, by_name[name])
            for name, fields in _answers(work, batch, answer, without=refusals):
                result = _result(work, by_name[name], {"setup_time": setup, **fields})
                if result.status == "ok":
                    yield result
                else:
                    yield weighed(result, answer_by(self._second(), work, by_name[name]))
        for name, reason in compilation.unsupported.items():
            yield answer_by(self._reference(), work, by_name[name], {NOT_FOR_THE_KERNEL: reason})


def _compile(work: Work) -> Compilation:
    options = work.request.model
    key = digest([work.workspace_digest, options])
    background = _backgrounds.get(key)
    if background is None:
        try:
            background = Background(work.workspace, options)
        except UnsupportedModelError as error:
            return Compilation([], {one.name: error.reason for one in work.hypotheses})
        _backgrounds[key] = background
    without = isinstance(work.request, FitRequest) and work.request.background_only
    return compile_hypotheses(background, work.hypotheses, options, may_lack_poi=without)


def _answers(
    work: Work, batch: Batch, answer: Answer, *, without: Container[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    setting = runtime()
    start: FloatArray | None = None
    size = batch.capacity(setting.capacity)
    members = [at for at, member in enumerate(batch.members) if member.name not in without]
    for first in range(0, len(members), size):
        some = members[first : first + size]
        begin = time.perf_counter()
        loaded = load(batch, some, setting, statistic_of(work.request))
        # The background does not change much from one signal to the next.
        answers, start = answer(Piece(work, batch, loaded, some, start))
        seconds = (time.perf_counter() - begin) / len(some)
        for member, fields in zip(some, answers, strict=True):
            yield batch.members[member].name, {"fit_time": seconds, **fields}
    setting.cache.publish()


def _result(work: Work, hypothesis: Hypothesis, fields: dict[str, Any]) -> HypothesisResult:
    attempt = Attempt(
        engine="kernel",
        start="chain",
        seconds=fields["fit_time"],
        problems=[fields["reason"]] if fields["reason"] else [],
    )
    return HypothesisResult(
        name=hypothesis.name,
        key=hypothesis_key(work.workspace_digest, hypothesis, work.request_digest),
        mass_hypotheses=hypothesis.values,
        engine="kernel",
        attempts=[attempt],
        **fields,
    )
