"""Check that an endpoint's answer fits its task.

The types of `fitserve_contract` say which fields there are. Here their values are checked: an
endpoint that is broken, or not what it seems, cannot put an impossible number into a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fitserve.errors import ContractError
from fitserve.kinds.base import fractions
from fitserve.kinds.registry import KINDS, kind
from fitserve.runs.verification import VERIFIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve_contract import Hypothesis, HypothesisResult, Request, Timing, ToyRange

__all__ = ["check_answer", "check_timing"]

# A century in seconds: no fit takes longer.
_LONGEST = 3.2e9
# Which part of a result belongs to which kind of request.
_REQUIRED = {one.answer: one.request for one in KINDS.values() if one.answer}
_PARTS: dict[str, tuple[type[Any], ...]] = {
    **{part: (request,) for part, request in _REQUIRED.items()},
    "verification": VERIFIABLE,
    # The client itself adds these.
    "toys": (),
    "neighbours": (),
}


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
            "an endpoint's answer does not fit its task",
            evidence=f"hypothesis '{hypothesis.name}': {problem}",
            hint="nothing of this task is kept; look at the version and the site of that worker, "
            "or go on elsewhere with fitserve resume -e",
        )


def check_timing(timing: Timing) -> None:
    """Check a task's times.

    Raises
    ------
    ContractError
        They are impossible.
    """
    if not all(map(_is_time, (timing.started, timing.decode, timing.total))):
        raise ContractError("an endpoint's answer has impossible times", evidence=str(timing))


def _is_time(seconds: float) -> bool:
    return 0 <= seconds <= _LONGEST


def _problems(
    result: HypothesisResult, hypothesis: Hypothesis, request: Request, toys: ToyRange | None
) -> Iterator[str]:
    if result.mass_hypotheses != hypothesis.values:
        yield f"mass values {result.mass_hypotheses} instead of {hypothesis.values}"
    if not _is_time(result.fit_time) or not _is_time(result.setup_time):
        yield "an impossible time"
    if result.status != "ok" and not result.reason:
        yield f"it is {result.status} without a reason"
    yield from _of_parts(result, request)
    yield from _of_cls(result)
    yield from kind(request).problems(request, result, toys)


def _of_parts(result: HypothesisResult, request: Request) -> Iterator[str]:
    for part, kinds in _PARTS.items():
        there = getattr(result, part) is not None
        if there and not isinstance(request, kinds):
            yield f"{part} was not asked for"
        wanted = part in _REQUIRED and isinstance(request, kinds)
        if wanted and not there and result.status != "failed":
            yield f"{part} is missing"


def _of_cls(result: HypothesisResult) -> Iterator[str]:
    yield from fractions("CLs", [result.CLs_obs, *result.CLs_exp])
    points = [*result.points, *(result.verification.points if result.verification else [])]
    for point in points:
        yield from fractions(f"CLs at mu = {point.mu:g}", [point.CLs_obs, *point.CLs_exp])
    if result.status == "failed" and result.CLs_obs is not None:
        yield "it is failed and has CLs"
