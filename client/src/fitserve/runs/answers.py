"""Whether what an endpoint answered can be an answer to what it was asked.

The types of `fitserve.contract` say what fields there are. Here is what they have to mean: an
endpoint that is broken, or is not what it seems, puts no number into a run that cannot be one.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from fitserve.contract import (
    FitRequest,
    HypotestRequest,
    LimitRequest,
    RankingRequest,
    ScanRequest,
    ToysRequest,
)
from fitserve.errors import ContractError
from fitserve.runs.verification import VERIFIABLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fitserve.contract import (
        FitAnswer,
        Hypothesis,
        HypothesisResult,
        Request,
        Timing,
        ToyRange,
        ToyValues,
        UpperLimits,
    )

__all__ = ["check_answer", "check_timing"]

# Rounding of a fraction, or of a correlation.
_ROUNDING = 1e-6
# A century in seconds: what is beyond it is no time of a fit.
_LONGEST = 3.2e9
_FLOAT_BYTES = 4
# Which part of a result belongs to which kind of request.
_PARTS: dict[str, tuple[type[Request], ...]] = {
    "limit": (LimitRequest,),
    "fit": (FitRequest,),
    "ranking": (RankingRequest,),
    "toy_values": (ToysRequest,),
    "verification": VERIFIABLE,
    # These the client itself adds.
    "toys": (),
    "neighbours": (),
}
_REQUIRED = ("limit", "fit", "ranking", "toy_values")


def check_answer(
    result: HypothesisResult, hypothesis: Hypothesis, request: Request, toys: ToyRange | None
) -> None:
    """Check an endpoint's answer for one hypothesis.

    Parameters
    ----------
    result
        The answer.
    hypothesis, request
        What was asked.
    toys
        Which of the toys of a request for toys were asked for.

    Raises
    ------
    ContractError
        A number is out of its range or there are more or fewer than there can be, the mass values
        are not those asked for, or a part is missing or was not asked for.
    """
    for problem in _problems(result, hypothesis, request, toys):
        raise ContractError(
            "an endpoint's answer cannot be one to what it was asked",
            evidence=f"hypothesis '{hypothesis.name}': {problem}",
            hint="nothing of this task is kept; look at the version and the site of that worker, "
            "or go on elsewhere with fitserve resume -e",
        )


def check_timing(timing: Timing) -> None:
    """Check a task's times.

    Raises
    ------
    ContractError
        They are no times.
    """
    if not all(map(_is_time, (timing.started, timing.decode, timing.total))):
        raise ContractError("an endpoint's answer has times that are none", evidence=str(timing))


def _is_time(seconds: float) -> bool:
    return 0 <= seconds <= _LONGEST


def _problems(
    result: HypothesisResult, hypothesis: Hypothesis, request: Request, toys: ToyRange | None
) -> Iterator[str]:
    if result.mass_hypotheses != hypothesis.values:
        yield f"mass values {result.mass_hypotheses} instead of {hypothesis.values}"
    if not _is_time(result.fit_time) or not _is_time(result.setup_time):
        yield "a time that is none"
    if result.status != "ok" and not result.reason:
        yield f"it is {result.status} without a reason"
    yield from _of_parts(result, request)
    yield from _of_cls(result, request)
    if result.limit:
        yield from _of_limits(result.limit, request)
    if result.fit:
        yield from _of_fit(result.fit)
    if result.toy_values:
        yield from _of_toys(result.toy_values, toys)


def _of_parts(result: HypothesisResult, request: Request) -> Iterator[str]:
    for part, kinds in _PARTS.items():
        there = getattr(result, part) is not None
        if there and not isinstance(request, kinds):
            yield f"{part} was not asked for"
        wanted = part in _REQUIRED and isinstance(request, kinds)
        if wanted and not there and result.status != "failed":
            yield f"{part} is missing"


def _of_cls(result: HypothesisResult, request: Request) -> Iterator[str]:
    yield from _of_fractions("CLs", [result.CLs_obs, *result.CLs_exp])
    points = [*result.points, *(result.verification.points if result.verification else [])]
    for point in points:
        yield from _of_fractions(f"CLs at mu = {point.mu:g}", [point.CLs_obs, *point.CLs_exp])
    if result.status == "failed" and result.CLs_obs is not None:
        yield "it is failed and has CLs"
    asked = isinstance(request, HypotestRequest) and result.status == "ok"
    if asked and None in (result.CLs_obs, *result.CLs_exp):
        yield "it is ok and has no CLs"
    if isinstance(request, HypotestRequest | ScanRequest):
        found = tuple(point.mu for point in result.points)
        # Asked for twice, a signal strength may be answered once.
        allowed = [request.mu, tuple(dict.fromkeys(request.mu))]
        if found not in [*allowed, *([()] if result.status == "failed" else [])]:
            yield f"signal strengths {_few(found)} instead of {_few(request.mu)}"
        elif found and _first(result) != [result.CLs_obs, *result.CLs_exp]:
            yield "its CLs is not that of the first signal strength"
    elif result.points and not isinstance(request, LimitRequest):
        yield "signal strengths that were not asked for"


def _first(result: HypothesisResult) -> list[float | None]:
    return [result.points[0].CLs_obs, *result.points[0].CLs_exp]


def _of_fractions(what: str, values: Iterable[float | None]) -> Iterator[str]:
    for value in values:
        if value is not None and not -_ROUNDING <= value <= 1 + _ROUNDING:
            yield f"{what} is {value:g}, outside 0 to 1"


def _of_limits(limit: UpperLimits, request: Request) -> Iterator[str]:
    if isinstance(request, LimitRequest) and limit.level != request.level:
        yield f"limits at level {limit.level:g} instead of {request.level:g}"
    for value in (limit.observed, *limit.expected):
        if value is not None and value < 0:
            yield f"an upper limit of {value:g} on the signal strength"


def _of_fit(fit: FitAnswer) -> Iterator[str]:
    names = {parameter.name for parameter in fit.parameters}
    if len(names) < len(fit.parameters):
        yield "a parameter twice"
    if any((one.uncertainty or 0.0) < 0 for one in fit.parameters):
        yield "an uncertainty below zero"
    correlations = fit.correlations
    if not names.issuperset(correlations.names):
        yield "correlations of other parameters than were fitted"
    if [len(row) for row in correlations.lower] != list(range(len(correlations.names))):
        yield "more or fewer correlations than pairs of parameters"
    if any(abs(value) > 1 + _ROUNDING for value in itertools.chain(*correlations.lower)):
        yield "a correlation outside -1 to 1"
    for channel in fit.channels:
        for yields in (channel.total, *(sample.yields for sample in channel.samples)):
            lengths = {
                len(yields.prefit),
                len(yields.prefit_uncertainty),
                len(yields.postfit),
                len(yields.postfit_uncertainty),
            }
            if lengths != {len(channel.data)}:
                yield f"yields of channel '{channel.name}' for other bins than it has"


def _of_toys(values: ToyValues, asked: ToyRange | None) -> Iterator[str]:
    if values.toys != asked:
        yield f"toys {values.toys.first} to {values.toys.stop - 1} were not asked for"
    lengths = {len(values.signal), len(values.background)}
    if lengths != {_FLOAT_BYTES * values.toys.count}:
        yield "more or fewer test statistics than toys"
    if not 0 <= values.positive <= 2 * values.toys.count or values.fits < 0:
        yield "numbers of fits that are none"
    if not math.isfinite(values.observed) or values.observed < 0:
        yield f"a test statistic of {values.observed:g}"
    asymptotic = values.asymptotic
    yield from _of_fractions("asymptotic CLs", [asymptotic.CLs_obs, *asymptotic.CLs_exp])


def _few(strengths: Sequence[float]) -> str:
    told = ", ".join(f"{mu:g}" for mu in strengths[:3])
    return f"{told} ..." if len(strengths) > 3 else told or "none"  # noqa: PLR2004
