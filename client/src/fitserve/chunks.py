"""Toys cut into parts: which of them, of which hypotheses, go together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from fitserve.contract import ToyRange
from fitserve.sizes import task_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fitserve.backends.base import Limits
    from fitserve.contract import Hypothesis, ToysRequest
    from fitserve.makespan import Work

__all__ = ["MOST_TOYS", "ToyPart", "toy_parts"]

# The answer for so many has some 2 MB.
MOST_TOYS = 200_000
"""Toys of one task, at most."""


class ToyPart(NamedTuple):
    """The same toys of hypotheses that may be sent together."""

    hypotheses: tuple[Hypothesis, ...]
    toys: ToyRange


def toy_parts(
    hypotheses: Sequence[Hypothesis],
    request: ToysRequest,
    missing: Mapping[str, Sequence[ToyRange]],
    work: Work,
    limits: Limits,
    longest: float | None,
) -> Iterator[ToyPart]:
    """Yield parts of the toys of hypotheses, none longer than allowed.

    Parts are of the size with which the run ends soonest in the simulation. Hypotheses of which
    a part has all toys come together in one part. Which toys are made in which part has no effect
    on them.

    Parameters
    ----------
    hypotheses
        In the order in which they are to be done.
    request
        What is asked for of each of them.
    missing
        Toys to make of those of which some are there, by name.
    work
        Of one toy with signal and one without, sent for in a task of one hypothesis.
    limits
        The backend's.
    longest
        Seconds that a part may take, if that is bounded.
    """
    whole = ToyRange(first=0, count=request.toys)
    wanted = {one.name: list(missing.get(one.name, [whole])) for one in hypotheses}
    total = sum(toys.count for found in wanted.values() for toys in found)
    if not total:
        return
    most = task_size(work._replace(number=total), limits, most=MOST_TOYS, longest=longest)
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
