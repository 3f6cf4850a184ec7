"""Parts of the toys of a hypothesis: which there are, and what they make together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from fitserve.contract import HypothesisResult, MuPoint, ToyRange, ToysAnswer, ToysRequest
from fitserve.errors import ContractError
from fitserve.store.toy_statistics import distribution, edges_for, p_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from fitserve.contract import Status, ToyValues
    from fitserve.store.records import StoredResult

__all__ = ["merged", "merged_record", "missing_toys", "ranges"]

# A hypothesis of whose toys more than this part has no valid fit is doubted.
_FAILED = 0.01
_SEVERITY: tuple[Status, ...] = ("ok", "suspect", "failed")


def missing_toys(asked: int, there: Iterable[ToyRange]) -> list[ToyRange]:
    """Return the ranges of toys that are not in any of those that are there.

    Examples
    --------
    >>> from fitserve.contract import ToyRange
    >>> missing_toys(10, [ToyRange(first=6, count=2), ToyRange(first=0, count=3)])
    [ToyRange(first=3, count=3), ToyRange(first=8, count=2)]
    """
    found, at = [], 0
    for toys in sorted(there, key=lambda one: one.first):
        if toys.first > at:
            found.append(ToyRange(first=at, count=toys.first - at))
        at = max(at, toys.stop)
    if at < asked:
        found.append(ToyRange(first=at, count=asked - at))
    return found


def ranges(records: Iterable[StoredResult]) -> list[ToyRange]:
    """Return which toys are in parts."""
    return [_values(record.result).toys for record in records]


def merged(request: ToysRequest, parts: Sequence[HypothesisResult]) -> HypothesisResult:
    """Return the result of a hypothesis from its parts, in whatever order they came.

    Where toys are missing it is ``suspect``, and says how many there are.

    Raises
    ------
    ContractError
        A part has not the toys that it says.
    """
    import numpy as np

    ordered = sorted(parts, key=lambda part: _values(part).toys.first)
    signal, background = (
        _joined(request, [(_values(part).toys, getattr(_values(part), side)) for part in ordered])
        for side in ("signal", "background")
    )
    there = missing_toys(request.toys, [_values(part).toys for part in ordered])
    done = request.toys - sum(toys.count for toys in there)
    good_signal = signal[np.isfinite(signal)]
    good_background = background[np.isfinite(background)]
    first = _values(ordered[0])
    # As the toys are, so that a toy of the same value is not beyond or short of it.
    observed = float(np.float32(first.observed))
    found = p_values(good_signal, good_background, observed)
    edges = edges_for(good_signal, good_background, observed)
    failed = 2 * done - len(good_signal) - len(good_background)
    answer = ToysAnswer(
        mu=request.mu,
        asked=request.toys,
        done=done,
        failed=failed,
        positive=sum(_values(part).positive for part in ordered),
        fits=sum(_values(part).fits for part in ordered),
        observed=observed,
        asymptotic=first.asymptotic,
        edges=edges,
        signal=distribution(good_signal, edges, done - len(good_signal)),
        background=distribution(good_background, edges, done - len(good_background)),
        **{name: getattr(found, name) for name in found._fields if name not in _OF_RESULT},
    )
    status, reason = _judged(ordered, answer, found.CLs_obs)
    return msgspec.structs.replace(
        ordered[0],
        status=status,
        reason=reason,
        CLs_obs=found.CLs_obs,
        CLs_exp=found.CLs_exp,
        fit_time=sum(part.fit_time for part in ordered),
        setup_time=sum(part.setup_time for part in ordered),
        points=[
            MuPoint(
                mu=request.mu,
                CLs_obs=found.CLs_obs,
                CLs_exp=found.CLs_exp,
                status=status,
                reason=reason,
            )
        ],
        toys=answer,
        toy_values=None,
    )


_OF_RESULT = ("CLs_obs", "CLs_exp")


def merged_record(request: ToysRequest, records: Sequence[StoredResult]) -> StoredResult:
    """Return the record of a hypothesis from those of its parts."""
    last = max(records, key=lambda record: record.arrived)
    return msgspec.structs.replace(
        last,
        result=merged(request, [record.result for record in records]),
        submitted=min(record.submitted for record in records),
        started=min(record.started for record in records),
        task_seconds=sum(record.task_seconds for record in records),
        kept=all(record.kept for record in records),
    )


def _values(part: HypothesisResult) -> ToyValues:
    if part.toy_values is None:
        raise ContractError("a part of toys has no test statistics", evidence=part.name)
    return part.toy_values


def _joined(request: ToysRequest, pieces: Iterable[tuple[ToyRange, bytes]]) -> NDArray[Any]:
    """Return the test statistic of all toys that there are, in the order of their numbers."""
    import numpy as np

    every = np.zeros(request.toys, dtype=np.float32)
    known = np.zeros(request.toys, dtype=bool)
    for toys, packed in pieces:
        values = np.frombuffer(packed, dtype="<f4")
        if len(values) != toys.count or toys.stop > request.toys:
            raise ContractError(
                "a worker answered other toys than it says",
                evidence=f"{len(values)} for {toys.first} to {toys.stop - 1} of {request.toys}",
            )
        every[toys.first : toys.stop] = values
        known[toys.first : toys.stop] = True
    return every[known]


def _judged(
    parts: Sequence[HypothesisResult], answer: ToysAnswer, cls: float | None
) -> tuple[Status, str | None]:
    """Return the status of merged toys, and what speaks against them."""
    status = max((part.status for part in parts), key=_SEVERITY.index)
    reasons = dict.fromkeys(part.reason for part in parts if part.reason)
    doubts = []
    if answer.done < answer.asked:
        doubts.append(f"{answer.done} of {answer.asked} toys are done")
    if answer.failed > _FAILED * 2 * answer.done:
        doubts.append(f"{answer.failed} of {2 * answer.done} toys have no valid fit")
    if cls is None:
        doubts.append("no background-only toy is beyond the observed value: CLs is not defined")
    if doubts and status == "ok":
        status = "suspect"
    return status, "; ".join([*reasons, *doubts]) or None
