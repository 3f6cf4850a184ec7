"""Toys cut into parts: which of them, of which hypotheses, go together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from fitserve.contract import ToyRange

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fitserve.contract import Hypothesis, ToysRequest

__all__ = ["ToyPart", "toy_parts"]

# What no part is longer than unless the user bounds it, and what it is not worth to go below.
_TASK_SECONDS = 60.0
_WORTH_SECONDS = 5.0
_PER_WORKER = 4
# The answer for so many toys of a hypothesis has some 2 MB.
_MOST_TOYS = 200_000


class ToyPart(NamedTuple):
    """The same toys of hypotheses that may be sent together."""

    hypotheses: tuple[Hypothesis, ...]
    toys: ToyRange


def toy_parts(
    hypotheses: Sequence[Hypothesis],
    request: ToysRequest,
    missing: Mapping[str, Sequence[ToyRange]],
    each: float,
    workers: int,
    longest: float | None,
) -> Iterator[ToyPart]:
    """Yield parts of the toys of hypotheses, none longer than allowed.

    Hypotheses of which a part has all toys come together in one part. Which toys are made in
    which part has no effect on them.

    Parameters
    ----------
    hypotheses
        In the order in which they are to be done.
    request
        What is asked for of each of them.
    missing
        Toys to make of those of which some are there, by name.
    each
        Estimated seconds of one toy with signal and one without.
    workers
        How many parts are done at a time.
    longest
        Seconds that a part may take, if that is bounded.
    """
    whole = ToyRange(first=0, count=request.toys)
    wanted = {one.name: list(missing.get(one.name, [whole])) for one in hypotheses}
    total = each * sum(toys.count for found in wanted.values() for toys in found)
    seconds = min(_TASK_SECONDS, max(_WORTH_SECONDS, total / (_PER_WORKER * max(1, workers))))
    if longest is not None:
        seconds = min(seconds, longest)
    most = max(1, min(_MOST_TOYS, math.floor(seconds / each)))
    together = tuple(
        one for one in hypotheses if request.toys <= most and wanted[one.name] == [whole]
    )
    if together:
        yield ToyPart(together, whole)
    names = {one.name for one in together}
    for one in hypotheses:
        if one.name not in names:
            for toys in wanted[one.name]:
                for part in _cut(toys, most):
                    yield ToyPart((one,), part)


def _cut(toys: ToyRange, most: int) -> Iterator[ToyRange]:
    """Cut a range into as few ranges of nearly the same length as may be."""
    pieces = math.ceil(toys.count / most)
    for index in range(pieces):
        first, stop = (toys.count * i // pieces for i in (index, index + 1))
        yield ToyRange(first=toys.first + first, count=stop - first)
