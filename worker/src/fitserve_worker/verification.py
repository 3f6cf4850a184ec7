"""A second answer by pyhf to a request that was answered before.

pyhf begins with its tighter tolerance: with the usual one its own CLs may be wrong by more than
the difference to be found. It fits from four starts, as one may end where the answer ended. It
fits doubtful hypotheses with Minuit, and those that pyhf fitted before with its other optimizer.

Of two minima of the same fit the lower one is right. Where pyhf's is higher, the difference says
nothing against the answer; where the answer's is higher, the answer is wrong.
"""

from __future__ import annotations

import functools
import math
import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import numpy as np

from fitserve_contract import (
    EngineOptions,
    HypotestRequest,
    LimitRequest,
    ScanRequest,
    Verification,
    request_digest,
)
from fitserve_worker.engines.base import UNFITTED, answer_by, cls_of, statistic_of
from fitserve_worker.engines.frames import Frame
from fitserve_worker.kernel.asymptotics import asymptotic_cls

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fitserve_contract import Hypothesis, HypothesisResult, MuPoint
    from fitserve_worker.engines.base import Work
    from fitserve_worker.engines.pyhf_hypotest import Evaluation

__all__ = ["TOLERANCE", "Minima", "Pair", "verified"]

# Two minima of -2 log L that are nearer than this are the same one.
_SAME = 1e-6

# Parameters at such minima are up to 1e-3 standard deviations apart, and the test statistics of
# Asimov data that are made of them up to this much: the lower one need not be the better one.
_SCATTER = 5e-3
TOLERANCE = 1e-4
"""Greatest difference of two CLs that counts as agreement."""
# Smaller differences are rounding.
_ROUNDING = 1e-8
# Fits that differ by less than this fraction of the largest such difference are not named.
_MINOR = 0.01


def verified(
    work: Work, hypothesis: Hypothesis, result: HypothesisResult, *, doubted: bool = False
) -> HypothesisResult:
    """Return the result of a hypothesis with pyhf's answer beside it.

    It is suspect where a CLs is wrong by more than `TOLERANCE`, judged by the lower of the two
    minima of each fit. A result without CLs, or without a fit, is returned unchanged: there is
    nothing to compare.

    Parameters
    ----------
    work
        The task.
    hypothesis, result
        One of its hypotheses, and the result.
    doubted
        Whether the result is already in doubt.
    """
    claimed = _claimed(work, result)
    if not claimed or result.engine == UNFITTED:
        return result
    begin = time.perf_counter()
    optimizer = _optimizer(work, result, doubted=doubted)
    rescaled = result.limit.rescaled if result.limit else 1.0
    try:
        # One at a time: each test has its own free fit, whose minimum is compared.
        seconds = [_by_pyhf(work, hypothesis, optimizer, point.mu, rescaled) for point in claimed]
    except Exception as error:  # noqa: BLE001 - nothing that pyhf does costs the result
        seconds, reason = [], f"{type(error).__name__}: {error}"
    else:
        reason = "; ".join(dict.fromkeys(one.reason for one in seconds if one.reason))
    pairs = [
        Pair(result, ours, second, second.points[0], statistic_of(work.request) or "qtilde")
        for ours, second in zip(claimed, seconds, strict=False)
        if second.points
    ]
    comparable = [pair for pair in pairs if pair.difference is not None]
    verification = Verification(
        engine=seconds[0].engine if seconds else f"pyhf/{optimizer}",
        largest=max((pair.difference or 0.0 for pair in comparable), default=None),
        wrong_by=max((pair.wrong_by for pair in comparable), default=None),
        tolerance=TOLERANCE,
        points=[pair.theirs for pair in pairs],
        seconds=time.perf_counter() - begin,
        above="; ".join(pair.above() for pair in comparable if pair.by_pyhf()) or None,
        reason=reason or None,
    )
    wrong = {pair.ours.mu: pair.evidence() for pair in comparable if pair.wrong_by > TOLERANCE}
    return msgspec.structs.replace(result, verification=verification, **_doubted(result, wrong))


class _Fit(NamedTuple):
    """The minimum of a fit by both engines; for the Asimov data a test statistic."""

    name: str
    ours: float
    theirs: float

    def __str__(self) -> str:
        # As many digits as show the difference.
        digits = min(9, max(3, 1 - math.floor(math.log10(abs(self.theirs - self.ours) or 1.0))))
        return f"{self.name} {self.theirs:.{digits}f}, ours {self.ours:.{digits}f}"


class Pair(NamedTuple):
    """A signal strength of a result and of pyhf's answer, to be compared.

    ``ours`` is a point of ``result``, ``theirs`` one of ``second``.
    """

    result: HypothesisResult
    ours: MuPoint
    second: HypothesisResult
    theirs: MuPoint
    test_stat: str

    @property
    def difference(self) -> float | None:
        """The greatest difference in CLs, None where pyhf has no number."""
        return _difference(cls_of(self.ours), cls_of(self.theirs))

    @property
    def wrong_by(self) -> float:
        """The greatest difference from CLs by the lower minima, if these count."""
        difference = self.difference or 0.0
        if self._negative():
            return 0.0
        best = self._by_lower_minima() if difference > TOLERANCE else None
        return difference if best is None else _difference(cls_of(self.ours), best) or 0.0

    def by_pyhf(self) -> bool:
        """Whether the difference is due to a minimum of pyhf that is too high or does not count."""
        return self.wrong_by <= TOLERANCE < (self.difference or 0.0)

    def evidence(self) -> str:
        """Return both values, and the evidence for pyhf's."""
        text = (
            f"at mu = {self.ours.mu:g} CLs is {self.ours.CLs_obs:.6g} (expected "
            f"{self.ours.CLs_exp[2]:.6g}), by {self.second.engine} {self.theirs.CLs_obs:.6g} "
            f"(expected {self.theirs.CLs_exp[2]:.6g})"
        )
        lower = self._apart(-1)
        if lower:
            text += f", which has the lower minimum: -2 log L {lower}"
        return f"{text}, which is doubted too: {self.theirs.reason}" if self.theirs.reason else text

    def above(self) -> str:
        """Return which minima of pyhf lie above ours, or do not count; empty if none does."""
        reasons = []
        if fits := self._apart(1):
            reasons.append(f"-2 log L of pyhf ends above our minimum: {fits}")
        if self._negative():
            reasons.append(f"in pyhf's minimum samples expect negative events: {self._apart(-1)}")
        return f"at mu = {self.ours.mu:g} " + "; ".join(reasons) if reasons else ""

    def _negative(self) -> bool:
        """Tell whether pyhf's minima are no lower than one that the kernel saw and rejected."""
        seen = self.result.diagnostics.get("negative_minimum")
        below = max((fit.ours - fit.theirs for fit in self._fits()), default=0.0)
        return isinstance(seen, float) and _ROUNDING < below <= seen + TOLERANCE

    def _apart(self, sign: int) -> str:
        """Return the fits that end above (1) or below (-1) ours in pyhf, but for rounding."""
        above = [sign * (fit.theirs - fit.ours) for fit in self._fits()]
        least = max(_ROUNDING, _MINOR * max(above, default=0.0))
        return "; ".join(
            str(fit) for fit, by in zip(self._fits(), above, strict=True) if by > least
        )

    def _fits(self) -> list[_Fit]:
        """Return the minima from which CLs follows; none where some are missing.

        Those of the Asimov data are compared where the background fit, and so these data, agree.
        """
        ours, theirs = self._minima()
        if ours is None or theirs is None:
            return []
        names = ("of the free fit", f"with mu = {self.ours.mu:g}", "without signal")
        fits = [
            _Fit(name, *both)
            for name, both in zip(names, zip(ours, theirs, strict=True), strict=False)
        ]
        if ours.alike(theirs):
            fits.append(_Fit("of the Asimov data", ours.q_asimov, theirs.q_asimov))
        return fits

    def _minima(self) -> tuple[Minima | None, Minima | None]:
        return _minima_of(self.result, self.ours), _minima_of(self.second, self.theirs)

    def _by_lower_minima(self) -> list[float] | None:
        """Return CLs, observed and expected, from the lower minimum of each fit."""
        ours, theirs = self._minima()
        if ours is None or theirs is None:
            return None
        return ours.lower(theirs).cls(self.ours.mu, self.test_stat)


def _difference(ours: Sequence[float | None], theirs: Sequence[float | None]) -> float | None:
    pairs = zip(ours, theirs, strict=True)
    differences = [
        abs(one - other) for one, other in pairs if one is not None and other is not None
    ]
    return max(differences) if len(differences) == len(ours) else None


def _claimed(work: Work, result: HypothesisResult) -> list[MuPoint]:
    """Return the points to verify: all of the request, or those that decide a limit."""
    points = {point.mu: point for point in result.points if point.CLs_obs is not None}
    if isinstance(work.request, LimitRequest):
        limits = [result.limit.observed, result.limit.expected[2]] if result.limit else []
        strengths = [1.0, *(_nearest(points, value) for value in limits if value is not None)]
    elif isinstance(work.request, HypotestRequest | ScanRequest):
        # Without a signal CLs is one, and sqrt(q) is only rounding.
        strengths = [mu for mu in work.request.mu if mu > 0]
    else:
        strengths = []
    return [points[mu] for mu in dict.fromkeys(strengths) if mu in points]


def _nearest(strengths: Iterable[float], value: float) -> float:
    return min(strengths, key=lambda mu: abs(mu - value))


def _optimizer(
    work: Work, result: HypothesisResult, *, doubted: bool
) -> Literal["scipy", "minuit"]:
    optimizer: Literal["scipy", "minuit"] = work.request.engine.optimizer
    if doubted:
        optimizer = "minuit"
    if result.engine.endswith(optimizer):
        return "minuit" if optimizer == "scipy" else "scipy"
    return optimizer


def _by_pyhf(
    work: Work,
    hypothesis: Hypothesis,
    optimizer: Literal["scipy", "minuit"],
    mu: float,
    rescaled: float,
) -> HypothesisResult:
    """Return pyhf's answer at a signal strength, with the signal rescaled as in the result."""
    request = work.request
    engine = EngineOptions(engine="pyhf", backend=request.engine.backend, optimizer=optimizer)
    test = HypotestRequest(
        mu=(mu,),
        test_stat=statistic_of(request) or "qtilde",
        model=request.model,
        engine=engine,
    )
    again = work._replace(request=test, request_digest=request_digest(test))
    frame = _frame(again, hypothesis, rescaled)
    if frame is None or not frame.low <= mu / frame.unit <= frame.high:
        return _lowest(again, hypothesis, test, engine)
    test = msgspec.structs.replace(test, mu=(mu / frame.unit,))
    second = _lowest(again._replace(request=test, frame=frame), hypothesis, test, engine)
    return msgspec.structs.replace(
        second,
        muhat=None if second.muhat is None else second.muhat * frame.unit,
        points=[msgspec.structs.replace(point, mu=mu) for point in second.points],
    )


def _frame(work: Work, hypothesis: Hypothesis, rescaled: float) -> Frame | None:
    from fitserve_worker.engines.models import build

    if rescaled == 1:
        return None
    config = build(work, hypothesis.patch).model.config
    low, high = map(float, config.suggested_bounds()[config.poi_index])
    return Frame(low, high, rescaled, rescaled)


def _lowest(
    again: Work, hypothesis: Hypothesis, test: HypotestRequest, engine: EngineOptions
) -> HypothesisResult:
    """Return pyhf's answer, with the lower minima that other starts lead to."""
    from fitserve_worker.engines.pyhf_engine import PyhfEngine
    from fitserve_worker.engines.pyhf_hypotest import from_elsewhere

    second = answer_by(PyhfEngine(engine, tight=True), again, hypothesis)
    own = _minima_of(second, second.points[0]) if second.points else None
    if own is None:
        return second
    seed = int(second.key[:16], 16)
    elsewhere = map(Minima.of, from_elsewhere(again, hypothesis, test, seed))
    lowest = functools.reduce(Minima.lower, elsewhere, own)
    ends_lower = [one < other - _SAME for one, other in zip(lowest[:4], own[:4], strict=True)]
    return _with(second, lowest, test) if any(ends_lower) else second


def _with(second: HypothesisResult, lowest: Minima, request: HypotestRequest) -> HypothesisResult:
    """Return pyhf's answer with minima that are lower than those from its initial values."""
    (mu,) = request.mu
    observed, *expected = lowest.cls(mu, request.test_stat)
    point = msgspec.structs.replace(
        second.points[0],
        CLs_obs=observed,
        CLs_exp=list(expected),
        twice_delta_nll=lowest.held - lowest.free,
        q_asimov=lowest.q_asimov,
    )
    return msgspec.structs.replace(
        second,
        CLs_obs=observed,
        CLs_exp=list(expected),
        points=[point],
        muhat=lowest.muhat,
        twice_nll=lowest.free,
        twice_nll_background=lowest.background,
    )


def _doubted(result: HypothesisResult, wrong: dict[float, str]) -> dict[str, Any]:
    """Return the fields that change where the result is wrong."""
    if not wrong:
        return {}
    points = [
        msgspec.structs.replace(
            point, status="suspect", reason=_joined(point.reason, wrong[point.mu])
        )
        if point.mu in wrong
        else point
        for point in result.points
    ]
    reason = _joined(result.reason, "; ".join(wrong.values()))
    return {"status": "suspect", "reason": reason, "points": points}


def _joined(first: str | None, second: str) -> str:
    return f"{first}; {second}" if first else second


class Minima(NamedTuple):
    """-2 log L of the observed data at its minima, and the test statistic of the Asimov data."""

    free: float
    held: float
    background: float
    q_asimov: float
    muhat: float

    @classmethod
    def of(cls, evaluation: Evaluation) -> Minima:
        """Return the minima of pyhf's evaluation."""
        return cls(
            evaluation.twice_nll,
            evaluation.twice_nll + evaluation.twice_delta_nll,
            evaluation.twice_nll_background,
            evaluation.q_asimov,
            evaluation.muhat,
        )

    def lower(self, other: Minima) -> Minima:
        """Return the lower minimum of each fit; the Asimov data are those of the background.

        Where both have the same and neither test statistic is clearly better, this one's is kept.
        """
        if not self.alike(other):
            q_asimov = min(self, other, key=lambda one: one.background).q_asimov
        elif abs(self.q_asimov - other.q_asimov) > _SCATTER:
            q_asimov = min(self.q_asimov, other.q_asimov)
        else:
            q_asimov = self.q_asimov
        return Minima(
            free=min(self.free, other.free),
            held=min(self.held, other.held),
            background=min(self.background, other.background),
            q_asimov=q_asimov,
            muhat=min(self, other, key=lambda one: one.free).muhat,
        )

    def alike(self, other: Minima) -> bool:
        """Whether the Asimov data of both are the same, within `_SCATTER`."""
        return abs(self.background - other.background) <= _SAME

    def cls(self, mu: float, test_stat: str) -> list[float]:
        """Return observed and expected CLs."""
        # Equation 16 of arXiv:1007.1727.
        below = self.muhat < 0 and test_stat == "qtilde"
        lowest = self.background if below else self.free
        q = 0.0 if self.muhat > mu else max(0.0, self.held - lowest)
        cls = asymptotic_cls(np.array([q]), np.array([self.q_asimov]), test_stat)
        return [float(cls.observed[0]), *cls.expected[0].tolist()]


def _minima_of(result: HypothesisResult, point: MuPoint) -> Minima | None:
    """Return the minima of a result at one of its points, None where some are missing."""
    values = (
        result.twice_nll,
        point.twice_delta_nll,
        result.twice_nll_background,
        point.q_asimov,
        result.muhat,
    )
    if None in values:
        return None
    free, delta, background, q_asimov, muhat = (float(one or 0.0) for one in values)
    return Minima(free, free + delta, background, q_asimov, muhat)
