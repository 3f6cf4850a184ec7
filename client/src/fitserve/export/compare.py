"""Comparison of two sets of results, number by number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from fitserve.errors import RequestError
from fitserve.runs.records import entries_of, read_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from fitserve.runs.records import CLsEntry
    from fitserve_contract import MuPoint

__all__ = ["DIFFERENT", "Comparison", "Difference", "StatusChange", "compare", "diff", "read_cls"]

DIFFERENT = 7
"""Exit code of ``fitserve diff`` where two sets of results do not agree."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One number in two sets of results; ``delta`` is None where one of them has none."""

    name: str
    field: str
    a: float | None
    b: float | None
    delta: float | None


class StatusChange(msgspec.Struct, frozen=True, kw_only=True):
    """A hypothesis that has another status in the second set of results."""

    name: str
    a: str
    b: str
    reason: str | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between two sets of results.

    Attributes
    ----------
    tolerance
        Greatest difference that counts as agreement, of CLs.
    hypotheses, numbers
        How many hypotheses are in both, and how many numbers of theirs were compared.
    largest
        The greatest difference between two numbers, whether or not within tolerance.
    beyond
        Numbers that differ by more than the tolerance or are in one set only, worst first.
    status_changes
        Hypotheses whose status differs, where both sets record one.
    only_a, only_b
        Names that are in one set only.
    """

    tolerance: float
    hypotheses: int
    numbers: int
    largest: Difference | None
    beyond: list[Difference]
    status_changes: list[StatusChange]
    only_a: list[str]
    only_b: list[str]

    @property
    def agree(self) -> bool:
        """Return whether nothing at all differs by more than the tolerance."""
        return not (self.beyond or self.status_changes or self.only_a or self.only_b)


def read_cls(source: Path) -> dict[str, CLsEntry]:
    """Read CLs by hypothesis name, in the order of the source.

    Parameters
    ----------
    source
        A run directory; a ``results.json``; the output of the original study's script (the
        same mapping with ``mass_hypotheses``, ``CLs_obs``, ``CLs_exp``, ``fit_time``); or a
        file with such a mapping under ``hypotheses``.

    Raises
    ------
    InputError
        It is none of these, or cannot be read.
    """
    if source.is_dir():
        from fitserve.runs.store import read_run

        run = read_run(source)
        return entries_of(msgspec.to_builtins(run.results), source)
    return entries_of(read_json(source), source)


def diff(a: Path, b: Path, tolerance: float = 1e-3, *, common: bool = False) -> Comparison:
    """Compare two runs, results.json or reference files.

    Parameters
    ----------
    a, b
        Anything that `fitserve.export.compare.read_cls` reads.
    tolerance
        Greatest absolute difference of a CLs that counts as agreement.
    common
        Compare the hypotheses that are in both, and do not report the others.

    Raises
    ------
    InputError, StoreError
        One of them cannot be read.
    RequestError
        They have CLs at different signal strengths only.
    """
    return compare(read_cls(a), read_cls(b), tolerance, common=common)


def compare(
    a: Mapping[str, CLsEntry],
    b: Mapping[str, CLsEntry],
    tolerance: float = 1e-3,
    *,
    common: bool = False,
) -> Comparison:
    """Compare two sets of results by hypothesis name and signal strength; see `diff`.

    Examples
    --------
    >>> from fitserve.export.compare import compare
    >>> from fitserve.runs.records import CLsEntry
    >>> comparison = compare({"p": CLsEntry(CLs_obs=0.051)}, {"p": CLsEntry(CLs_obs=0.048)})
    >>> comparison.agree, comparison.largest.field, round(comparison.largest.delta, 3)
    (False, 'CLs_obs', -0.003)
    """
    both = [name for name in a if name in b]
    if both and not any(_fields(a[name]).keys() & _fields(b[name]).keys() for name in both):
        raise RequestError(
            "there is no signal strength at which both have CLs",
            evidence=f"mu = {_strengths(a[both[0]])} and mu = {_strengths(b[both[0]])}",
            hint="run one of them again: fitserve run PALLET --mu MU",
        )
    differences = [d for name in both for d in _numbers(name, a[name], b[name])]
    finite = [d for d in differences if d.delta is not None]
    beyond = [d for d in differences if d.delta is None or abs(d.delta) > tolerance]
    return Comparison(
        tolerance=tolerance,
        hypotheses=len(both),
        numbers=len(differences),
        largest=max(finite, key=_size, default=None),
        beyond=sorted(beyond, key=_size, reverse=True),
        status_changes=[c for name in both if (c := _status(name, a[name], b[name]))],
        only_a=[] if common else [name for name in a if name not in b],
        only_b=[] if common else [name for name in b if name not in a],
    )


def _size(difference: Difference) -> float:
    return math.inf if difference.delta is None else abs(difference.delta)


def _numbers(name: str, a: CLsEntry, b: CLsEntry) -> Iterator[Difference]:
    left, right = _fields(a), _fields(b)
    # A signal strength that one side did not ask for is not a difference of results.
    for field in left:
        if field not in right:
            continue
        x, y = left[field], right[field]
        if x is None and y is None:
            continue
        delta = None if x is None or y is None else y - x
        yield Difference(name=name, field=field, a=x, b=y, delta=delta)


def _fields(entry: CLsEntry) -> dict[str, float | None]:
    """Return the numbers of a hypothesis by name; those at another signal strength than 1 say so.

    Files without signal strengths are of hypotheses as published, which have 1.
    """
    # The first point is the one that CLs_obs and CLs_exp repeat.
    first = entry.points[0].mu if entry.points else 1.0
    fields: dict[str, float | None] = {}
    strengths: list[tuple[float, CLsEntry | MuPoint]] = [(first, entry)]
    strengths += [(point.mu, point) for point in entry.points[1:]]
    for mu, one in strengths:
        at = "" if mu == 1 else f"mu={mu:g} "
        fields[f"{at}CLs_obs"] = one.CLs_obs
        fields |= {f"{at}CLs_exp[{i}]": value for i, value in enumerate(one.CLs_exp)}
    return fields


def _strengths(entry: CLsEntry) -> str:
    return ", ".join(f"{point.mu:g}" for point in entry.points) or "1"


def _status(name: str, a: CLsEntry, b: CLsEntry) -> StatusChange | None:
    if a.status is None or b.status is None or a.status == b.status:
        return None
    return StatusChange(name=name, a=a.status, b=b.status, reason=b.reason or a.reason)
