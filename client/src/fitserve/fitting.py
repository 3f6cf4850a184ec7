"""Which engines fitted a run, and why not the kernel where that was not asked for."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from fitserve.contract import KERNEL_DOUBT, NOT_FOR_THE_KERNEL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitserve.contract import HypothesisResult

__all__ = ["EngineCounts", "engine_counts", "most_common"]

# Reasons that are told one by one.
_MOST = 5


class EngineCounts(NamedTuple):
    """Numbers of hypotheses, each mapping with the largest first.

    ``engines`` by what fitted. ``not_for_the_kernel`` by the reason for which pyhf did, where the
    request left the choice or asked for the kernel; ``kernel_doubts`` by what the kernel doubted
    of its own answer, so that pyhf was asked too.
    """

    engines: dict[str, int]
    not_for_the_kernel: dict[str, int]
    kernel_doubts: dict[str, int]


def engine_counts(results: Iterable[HypothesisResult]) -> EngineCounts:
    """Count the hypotheses of a run by engine and by the reasons for it."""
    found = list(results)
    return EngineCounts(
        engines=_counted(one.engine for one in found),
        not_for_the_kernel=_counted(one.diagnostics.get(NOT_FOR_THE_KERNEL) for one in found),
        kernel_doubts=_counted(one.diagnostics.get(KERNEL_DOUBT) for one in found),
    )


def most_common(counts: dict[str, int]) -> list[str]:
    """Return counts in words, one line for each of the largest and one for all others.

    Examples
    --------
    >>> most_common({"the fit with mu = 1 did not converge": 3})
    ['3: the fit with mu = 1 did not converge']
    """
    lines = [f"{count}: {reason}" for reason, count in list(counts.items())[:_MOST]]
    others = list(counts.values())[_MOST:]
    return [*lines, f"{sum(others)}: for {len(others)} other reasons"] if others else lines


def _counted(names: Iterable[object]) -> dict[str, int]:
    counter = Counter(str(name) for name in names if name is not None)
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))
