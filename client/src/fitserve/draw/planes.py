"""Which mass values are the axes of a picture, and notes on the others."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from fitserve.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Placed", "choose_columns", "collinear", "numeric", "places", "remarks", "sliced"]

Value = float | str

# Points are on one line when the grid's narrower direction is below this part of the wider.
_COLLINEAR = 1e-9
# A mass depends on others where they predict it to this part of its range: mass values are
# rounded. What is exact is exact to the second.
_DEPENDENT = 5e-3
_EXACT = 1e-6


class Placed(Protocol):
    """A hypothesis with its mass values."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def values(self) -> tuple[Value, ...]:
        """Its mass values."""


_Placed = TypeVar("_Placed", bound=Placed)


def numeric(values: tuple[Value, ...]) -> tuple[Value, ...]:
    """Return the values with the strings that spell a number (some patchsets) as numbers."""
    found: list[Value] = []
    for value in values:
        try:
            found.append(float(value))
        except ValueError:
            found.append(value)
    return tuple(found)


def sliced(rows: list[_Placed], labels: Sequence[str], at: Mapping[str, Value]) -> list[_Placed]:
    """Return the hypotheses that have certain mass values.

    Raises
    ------
    RequestError
        There are none, or no such mass value.
    """
    for label, wanted in at.items():
        column = _column(labels, label)
        kept = [row for row in rows if _same(row.values[column], wanted)]
        if not kept:
            raise RequestError(
                f"no hypothesis has {label} = {wanted}",
                evidence=f"{label} takes {_some(_present(rows, column))}",
            )
        rows = kept
    return rows


def choose_columns(
    rows: Sequence[Placed], labels: Sequence[str], plane: Sequence[str] | None
) -> list[int]:
    """Return which one or two of the mass values are drawn.

    Without a choice they are those that vary; where more than two do, the first two on which
    all others depend linearly.

    Raises
    ------
    RequestError
        There are no such two, or nothing varies.
    """
    varying = _varying(rows)
    if plane is not None:
        # A mass that was asked for and does not vary makes the picture one-dimensional.
        varying = [c for c in (_column(labels, label) for label in plane) if c in varying]
    elif len(varying) > 2:  # noqa: PLR2004 - a plane
        varying = _independent(rows, labels, varying)
    if not varying:
        raise RequestError(
            "one point of the mass plane makes no contour",
            evidence="all hypotheses lie at " + ", ".join(map(_text, rows[0].values)),
            hint="see its CLs: fitserve show RUN",
        )
    return varying


def places(
    rows: Sequence[Placed], labels: Sequence[str], columns: Sequence[int]
) -> NDArray[np.float64]:
    """Return where the hypotheses lie, shape (n, len(columns)).

    Raises
    ------
    RequestError
        A mass value is no number, or two hypotheses lie at the same point.
    """
    points = np.array([[_number(row.values[c], labels[c]) for c in columns] for row in rows])
    seen: dict[tuple[float, ...], Placed] = {}
    for row, point in zip(rows, points.tolist(), strict=True):
        first = seen.setdefault(tuple(point), row)
        if first is not row:
            raise _coincident(rows, labels, first, row, ", ".join(map(_text, point)))
    return points


def collinear(points: NDArray[np.float64]) -> bool:
    """Return whether points of a plane, shape (n, 2), are all on one line."""
    scaled = (points - points.mean(axis=0)) / np.ptp(points, axis=0)
    singular = np.linalg.svd(scaled, compute_uv=False)
    return bool(len(points) < 3 or singular[1] < _COLLINEAR * singular[0])  # noqa: PLR2004


def remarks(rows: Sequence[Placed], labels: Sequence[str], columns: Sequence[int]) -> list[str]:
    """Return notes on the mass values that are not drawn.

    What is fixed comes first, then what varies: as a function of the drawn ones where it is a
    linear one of them, else with its range.
    """
    varying = _varying(rows)
    rest = [c for c in range(len(labels)) if c not in columns]
    fixed = [f"{labels[c]} = {_text(rows[0].values[c])}" for c in rest if c not in varying]
    notes = [", ".join(fixed)] if fixed else []
    for column in rest:
        if column in varying:
            present = _present(rows, column)
            notes.append(
                _relation(rows, labels, column, columns)
                or f"{labels[column]} varies from {present[0]} to {present[-1]}"
            )
    return notes


def _varying(rows: Sequence[Placed]) -> list[int]:
    return [c for c in range(len(rows[0].values)) if len({row.values[c] for row in rows}) > 1]


def _independent(
    rows: Sequence[Placed], labels: Sequence[str], varying: Sequence[int]
) -> list[int]:
    for pair in itertools.combinations(varying, 2):
        others = [c for c in varying if c not in pair]
        if all(_relation(rows, labels, other, pair) for other in others):
            return list(pair)
    names = [labels[c] for c in varying]
    x, y, other = names[:3]
    raise RequestError(
        f"{len(varying)} mass values vary, a picture shows two",
        evidence="these vary: " + ", ".join(names),
        hint=f"choose two and fix the others: --plane {x},{y} --at {other}=...",
    )


def _coincident(
    rows: Sequence[Placed], labels: Sequence[str], first: Placed, second: Placed, where: str
) -> RequestError:
    both = f"{first.name} and {second.name} both lie at {where}"
    for column, label in enumerate(labels):
        if first.values[column] != second.values[column]:
            present = _present(rows, column)
            return RequestError(
                f"{label} varies too, so that points of this plane coincide",
                evidence=f"{both}; {label} takes {_some(present)}",
                hint=f"choose one of them: --at {label}={present[0]}",
            )
    return RequestError(
        "two hypotheses lie at the same point of the mass plane",
        evidence=both,
        hint="choose one of them when running: fitserve run ... --patch GLOB",
    )


def _relation(
    rows: Sequence[Placed], labels: Sequence[str], column: int, drawn: Sequence[int]
) -> str | None:
    """Return a mass value as a linear function of one or two others, None where it is none."""
    try:
        values = np.array([[float(row.values[c]) for c in (column, *drawn)] for row in rows])
    except ValueError:
        return None
    wanted, known = values[:, 0], values[:, 1:]
    span = float(np.ptp(wanted))
    for chosen in [[i] for i in range(len(drawn))] + [list(range(len(drawn)))]:
        terms = np.column_stack([known[:, chosen], np.ones(len(rows))])
        found, _, rank, _ = np.linalg.lstsq(terms, wanted, rcond=None)
        worst = float(np.abs(terms @ found - wanted).max())
        # So few points always lie on a plane.
        if rank == terms.shape[1] < len(rows) and worst <= _DEPENDENT * span:
            slopes = {labels[drawn[i]]: float(a) for i, a in zip(chosen, found, strict=False)}
            constant = float(found[-1]) if abs(found[-1]) > max(worst, _EXACT * span) else 0.0
            equals = "=" if worst <= _EXACT * span else "is about"
            return f"{labels[column]} {equals} {_sum(slopes, constant)}"
    return None


def _sum(slopes: Mapping[str, float], constant: float) -> str:
    """Return a linear function in words.

    Examples
    --------
    >>> _sum({"m1": 1.0, "m2": -0.5}, 130.0)
    'm1 \u2212 0.5 m2 + 130'
    """
    parts = []
    for name, slope in slopes.items():
        size = f"{abs(slope):.3g}"
        parts.append((slope, name if size == "1" else f"{size} {name}"))
    if constant:
        parts.append((constant, f"{abs(constant):.4g}"))
    total = ""
    for value, text in parts:
        sign = "\N{MINUS SIGN}" if value < 0 else "+" if total else ""
        total += f" {sign} {text}" if total else f"{sign}{text}"
    return total


def _column(labels: Sequence[str], label: str) -> int:
    if label not in labels:
        raise RequestError(
            f"there is no mass value called {label}", evidence="there are " + ", ".join(labels)
        )
    return list(labels).index(label)


def _number(value: Value, label: str) -> float:
    if isinstance(value, str) or not math.isfinite(value):
        raise RequestError(
            f"{label} is not a number and cannot be an axis",
            evidence=f"{label} = {value}",
            hint=f"choose numeric values with --plane, or fix it: --at {label}={value}",
        )
    return value


def _same(value: Value, wanted: Value) -> bool:
    (number,) = numeric((wanted,))
    if isinstance(value, str) or isinstance(number, str):
        return value == wanted
    return math.isclose(value, number)


def _present(rows: Sequence[Placed], column: int) -> list[str]:
    values = {row.values[column] for row in rows}
    return [_text(v) for v in sorted(values, key=lambda v: (isinstance(v, str), v))]


def _text(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _some(values: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(values[:most])
    return shown if len(values) <= most else f"{shown}, ... ({len(values)} values)"
