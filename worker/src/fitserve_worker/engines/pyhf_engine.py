"""The reference engine: pyhf's models, calculators and optimizers, whose fits are checked.

A doubtful fit is tried again in other ways (`fitserve_worker.engines.ladder`).
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, assert_never

from fitserve_contract import (
    FitRequest,
    HypotestRequest,
    HypothesisResult,
    LimitRequest,
    RankingRequest,
    ScanRequest,
    ToysRequest,
    hypothesis_key,
)
from fitserve_worker.engines.base import failed, in_words
from fitserve_worker.engines.frames import (
    MOST_FRAMES,
    Frame,
    first_frame,
    likely_limit,
    next_frame,
    without_signal,
)
from fitserve_worker.engines.ladder import Climb, Ladder
from fitserve_worker.engines.limits import limits_of
from fitserve_worker.engines.minuit import BestFit, best_fit
from fitserve_worker.engines.models import (
    BuiltModel,
    below_zero,
    build,
    check_model,
    is_factor,
    signal_events,
)
from fitserve_worker.engines.pyhf_fit import fit_answer, ranking_answer
from fitserve_worker.engines.pyhf_hypotest import Evaluation, evaluate, quiet_pyhf
from fitserve_worker.engines.pyhf_limit import (
    Profile,
    at_strengths,
    find_limits,
    of_lowest,
    profile,
)
from fitserve_worker.engines.pyhf_toys import ToyFits, toys_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fitserve_contract import Attempt, EngineOptions, Hypothesis
    from fitserve_worker.engines.base import Work

    Answer = Callable[[BuiltModel, int], dict[str, Any]]
    """From a model and the seed of perturbed starts to fields of a result."""

__all__ = ["PyhfEngine"]


class PyhfEngine:
    """pyhf with a backend and an optimizer.

    Parameters
    ----------
    options
        Backend and optimizer.
    tight
        Begin with a tighter tolerance than the optimizer's usual one.
    """

    def __init__(self, options: EngineOptions, *, tight: bool = False) -> None:
        self._ladder = Ladder(options, tight=tight)
        self._name = f"pyhf/{options.backend}/{options.optimizer}"

    def answers(self, work: Work) -> Iterator[HypothesisResult]:
        """Yield a result for each hypothesis."""
        match work.request:
            case HypotestRequest() as request:
                yield from self._each(work, partial(self._hypotest, request))
            case ScanRequest() as request:
                yield from self._each(work, partial(self._scan, request))
            case LimitRequest() as request:
                for one in work.hypotheses:
                    answer = partial(self._limit, work, request, one)
                    yield from self._each(work._replace(hypotheses=[one]), answer)
            case FitRequest() as request:
                yield from self._each(work, partial(self._fit, request))
            case RankingRequest():
                yield from self._each(work, self._ranking)
            case ToysRequest() as request:
                # There are too many fits to doubt them one by one: they begin tight.
                ladder = Ladder(request.engine, tight=True)
                for one in work.hypotheses:
                    answer = partial(self._toys, work, request, ladder, one)
                    yield from self._each(work._replace(hypotheses=[one]), answer)
            case _ as never:
                assert_never(never)

    def _hypotest(self, request: HypotestRequest, built: BuiltModel, seed: int) -> dict[str, Any]:
        climbs = {mu: self._climb(built, mu, request.test_stat, seed) for mu in request.mu}
        return at_strengths(climbs)

    def _scan(self, request: ScanRequest, built: BuiltModel, seed: int) -> dict[str, Any]:
        climbs: dict[float, Climb[Evaluation] | Climb[Profile]] = {}
        for mu in request.mu:
            climb = self._profile if mu < 0 else self._climb
            climbs[mu] = climb(built, mu, request.test_stat, seed)
        return at_strengths(climbs)

    def _limit(
        self,
        work: Work,
        request: LimitRequest,
        hypothesis: Hypothesis,
        built: BuiltModel,
        seed: int,
    ) -> dict[str, Any]:
        config = built.model.config
        low, high = map(float, config.suggested_bounds()[config.poi_index])
        signal, events = signal_events(built)
        factor = is_factor(built)
        frame = Frame(low, high)
        if factor:
            frame = first_frame(likely_limit(signal, events, request.level), (low, high), request)
        attempts: list[Attempt] = []
        for _ in range(MOST_FRAMES):
            measured, at_one = built, None
            if not frame.usual:
                measured = build(work._replace(frame=frame), hypothesis.patch)
                if frame.high * frame.unit < 1 <= high:
                    at_one = self._climb(built, 1.0, request.test_stat, seed)
            climbs, crossings, doubts = find_limits(
                partial(self._climb_at, measured, request.test_stat, seed),
                frame,
                request.level,
                at_one,
            )
            fields = {**at_strengths(climbs), **({} if frame.usual else of_lowest(climbs))}
            limits = limits_of(crossings, request.level, frame.scale)
            if factor and not signal.any():
                limits = without_signal(limits)
                break
            further = next_frame(frame, crossings, fields["points"], (low, high), request)
            if further is None or not factor:
                break
            attempts += fields["attempts"]
            frame = further
        return {**fields, "limit": limits, **doubts, "attempts": attempts + fields["attempts"]}

    def _fit(self, request: FitRequest, built: BuiltModel, seed: int) -> dict[str, Any]:
        poi = built.model.config.poi_index
        held = {poi: 0.0} if request.background_only and poi is not None else {}
        climb = self._ladder.climb(
            built,
            seed,
            lambda rung, start: best_fit(
                built, rung, start, held=held, intervals=request.intervals
            ),
        )
        if climb.best is None:
            return self._of_fit(built, climb)
        answer, doubts = fit_answer(built, climb.best)
        return {**self._of_fit(built, climb, doubts), "fit": answer}

    def _ranking(self, built: BuiltModel, seed: int) -> dict[str, Any]:
        climb = self._ladder.climb(built, seed, lambda rung, start: best_fit(built, rung, start))
        if climb.best is None:
            return self._of_fit(built, climb)
        ranking, doubts = ranking_answer(built, climb.best)
        return {**self._of_fit(built, climb, doubts), "ranking": ranking}

    def _toys(
        self,
        work: Work,
        request: ToysRequest,
        ladder: Ladder,
        hypothesis: Hypothesis,
        built: BuiltModel,
        seed: int,
    ) -> dict[str, Any]:
        observed = self._climb(built, request.mu, request.test_stat, seed)
        return toys_answer(ToyFits(work, request, hypothesis, built, observed, ladder, seed))

    def _of_fit(
        self, built: BuiltModel, climb: Climb[BestFit], doubts: Sequence[str] = ()
    ) -> dict[str, Any]:
        poi, best = built.model.config.poi_index, climb.best
        # Whichever optimizer comes first, Minuit makes the last fit and gives the Hessian.
        engine = self._name if self._name.endswith("minuit") else f"{self._name}+minuit"
        reasons = [*doubts, *([climb.reason] if climb.reason else [])]
        return {
            "status": "suspect" if doubts else climb.status,
            "reason": "; ".join(reasons) or None,
            "CLs_obs": None,
            "CLs_exp": [None] * 5,
            "points": [],
            "muhat": None if best is None or poi is None else float(best.values[poi]),
            "twice_nll": best.twice_nll if best else None,
            "attempts": climb.attempts,
            "diagnostics": best.state if best else {"converged": False},
            "engine": engine,
        }

    def _each(self, work: Work, answer: Answer) -> Iterator[HypothesisResult]:
        quiet_pyhf()
        for hypothesis in work.hypotheses:
            try:
                yield self._one(work, hypothesis, answer)
            except Exception as error:  # noqa: BLE001 - one hypothesis never costs another
                yield failed(work, hypothesis, in_words(error))

    def _one(self, work: Work, hypothesis: Hypothesis, answer: Answer) -> HypothesisResult:
        self._ladder.prepare()
        key = hypothesis_key(work.workspace_digest, hypothesis, work.request_digest)
        begin = time.perf_counter()
        built = build(work, hypothesis.patch)
        check_model(built, work.request)
        ready = time.perf_counter()
        fields = answer(built, int(key[:16], 16))
        if fields.get("status") == "failed":
            reasons = [fields["reason"], below_zero(built)]
            fields["reason"] = "; ".join(filter(None, reasons))
        return HypothesisResult(
            name=hypothesis.name,
            key=key,
            mass_hypotheses=hypothesis.values,
            fit_time=time.perf_counter() - ready,
            setup_time=ready - begin,
            **{"engine": self._name, **fields},
        )

    def _climb(self, built: BuiltModel, mu: float, test_stat: str, seed: int) -> Climb[Evaluation]:
        return self._ladder.climb(
            built, seed, lambda _, start: evaluate(built, mu, test_stat, start)
        )

    def _climb_at(
        self, built: BuiltModel, test_stat: str, seed: int, mu: float
    ) -> Climb[Evaluation]:
        return self._climb(built, mu, test_stat, seed)

    def _profile(self, built: BuiltModel, mu: float, _test_stat: str, seed: int) -> Climb[Profile]:
        return self._ladder.climb(built, seed, lambda _, start: profile(built, mu, start))
