"""Parts of a report besides its table of all hypotheses."""

from __future__ import annotations

import itertools
import shlex
from typing import TYPE_CHECKING

from fitserve.kinds import kind
from fitserve.kinds.shown import shown_strength

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve.kinds.base import Detail
    from fitserve.runs.store import SavedRun

__all__ = [
    "details",
    "has_contour",
    "left_out",
    "next_commands",
]

# Nobody reads a longer page: a fit may have hundreds of parameters.
_MOST_TABLES = 10
_MOST_ROWS = 500


def has_contour(run: SavedRun) -> bool:
    """Return whether the request asks for CLs, of which a contour can be drawn."""
    return shown_strength(run.manifest.request) is not None


def details(run: SavedRun) -> list[Detail]:
    """Return parameters of fits, impacts of rankings or points of scans, of the first hypotheses.

    It is empty for other requests, whose numbers are all in the table of hypotheses.
    """
    return list(itertools.islice(_tables(run), _MOST_TABLES))


def left_out(run: SavedRun) -> str | None:
    """Return what `details` leaves out, and where to find it; None where it has everything."""
    found = list(itertools.islice(_tables(run), _MOST_TABLES + 1))
    parts = []
    if len(found) > _MOST_TABLES:
        parts.append(f"the first {_MOST_TABLES} hypotheses")
    if any(len(one.rows) >= _MOST_ROWS for one in found[:_MOST_TABLES]):
        parts.append(f"{_MOST_ROWS} rows of each at most")
    if not parts:
        return None
    export = f"fitserve export {shlex.quote(str(run.path))} --format csv -o FILE"
    return f"Here are {' and '.join(parts)}; everything is in: {export}"


def next_commands(run: SavedRun) -> list[str]:
    """Return the commands that draw what is not in the report."""
    names = kind(run.manifest.request).pictures
    several = len(run.manifest.hypotheses) > 1
    commands = []
    for name in names:
        patch = " --patch NAME" if several and name != "limits" else ""
        path = shlex.quote(str(run.path))
        commands.append(f"fitserve plot {name} {path}{patch} -o {name}.png")
    return commands


def _tables(run: SavedRun) -> Iterator[Detail]:
    request = run.manifest.request
    for name in run.manifest.hypotheses:
        result = run.results.get(name)
        detail = result and kind(request).detail(request, result, _MOST_ROWS)
        if detail:
            yield detail
