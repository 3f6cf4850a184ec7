"""The mass grid of a run: the places and results of its hypotheses, and the choice of them.

Of the mass values one or two are the axes of a picture, and notes say what the others do.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from fitserve.errors import InputError, RequestError
from fitserve.kinds.base import at_strength, confidence_level, level_text, shown_strength
from fitserve_contract import cls_strengths, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from fitserve.runs.records import Manifest
    from fitserve_contract import HypothesisResult, Request

__all__ = [
    "ContourOptions",
    "Interpolation",
    "MassGrid",
    "State",
    "mass_grid",
    "significance",
    "threshold",
]

Value = float | str

# Points are on one line when the grid's narrower direction is below this part of the wider.
_COLLINEAR = 1e-9
# A mass depends on others where they predict it to this part of its range: mass values are
# rounded. What is exact is exact to the second.
_DEPENDENT = 5e-3
_EXACT = 1e-6

State = Literal["ok", "suspect", "failed", "unfinished"]
_N_EXPECTED = 5
Interpolation = Literal["smooth", "linear"]
# CLs of 1e-14 and of exactly 0 or 1 say no more about where z crosses 1.645 than 5 sigma
# do, but would bend the surface there. HistFitter's contour tool cuts at 5 too (--sigmax).
_MOST = 5.0


@dataclass(frozen=True, kw_only=True)
class ContourOptions:
    """Choices for a contour; the defaults suit a run whose hypotheses differ in two masses.

    Attributes
    ----------
    plane
        Labels of the two mass values to draw against each other; None takes the ones that
        vary, or the first two on which all others that vary depend linearly.
    at
        Values, by label, at which the other masses are held.
    mu
        Signal strength; None takes that of the run which is nearest to 1.
    level
        Confidence level of exclusion; None takes that of a run for limits, else 0.95.
    interpolation
        ``smooth`` (radial basis functions, limited to what the neighbouring points span) or
        ``linear`` (flat triangles), both of the significance.
    drop_suspect
        Treat suspect results as holes instead of using their numbers.
    title, x, y
        Title and axis titles (mathtext) instead of the pallet's own.
    references
        Files or runs to overlay, by label.
    """

    plane: tuple[str, ...] | None = None
    at: Mapping[str, float | str] = field(default_factory=dict)
    mu: float | None = None
    level: float | None = None
    interpolation: Interpolation = "smooth"
    drop_suspect: bool = False
    title: str | None = None
    x: str | None = None
    y: str | None = None
    references: Mapping[str, Path] = field(default_factory=dict)


def significance(cls: ArrayLike) -> NDArray[np.float64]:
    """Return the significance of CLs values, limited to 5 on either side; NaN stays NaN.

    Examples
    --------
    >>> from fitserve.draw.grid import significance
    >>> significance([0.05, 0.16, 0.0]).round(3).tolist()
    [1.645, 0.994, 5.0]
    """
    from scipy.special import ndtri

    z: NDArray[np.float64] = -np.asarray(ndtri(np.asarray(cls, dtype=np.float64)))
    return np.asarray(np.clip(z, -_MOST, _MOST))


def threshold(confidence_level: float) -> float:
    """Return the significance from which on a hypothesis is excluded.

    Examples
    --------
    >>> from fitserve.draw.grid import threshold
    >>> round(threshold(0.95), 3)
    1.645
    """
    return float(significance(1 - confidence_level))


@dataclass(frozen=True)
class MassGrid:
    """The hypotheses of a run in a mass plane, or along one mass.

    Attributes
    ----------
    names
        The n hypotheses that have a place.
    points
        Mass values in the patchset's units (GeV by convention), shape (n, 2), or (n, 1)
        where only one mass varies or all points lie on a line.
    labels, titles
        Names of the mass values as in the patchset, and as axis titles (mathtext).
    cls_obs, cls_exp
        CLs, shapes (n,) and (n, 5) in pyhf's order (-2 to +2 sigma); NaN where there is no
        number to use.
    states
        State of each hypothesis.
    mu
        Signal strength that the CLs are at.
    level
        Confidence level of exclusion.
    jumps
        Whether the CLs of each hypothesis jump against those of its neighbours.
    unplaced
        Unfinished hypotheses whose mass values are not known.
    notes
        What a reader must know about the choice of points.
    """

    names: tuple[str, ...]
    points: NDArray[np.float64]
    labels: tuple[str, ...]
    titles: tuple[str, ...]
    cls_obs: NDArray[np.float64]
    cls_exp: NDArray[np.float64]
    states: tuple[State, ...]
    mu: float
    level: float
    jumps: tuple[bool, ...] = ()
    unplaced: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def dimension(self) -> int:
        """Return 2 for a mass plane, 1 for a single mass."""
        return int(self.points.shape[1])

    @property
    def excluded(self) -> NDArray[np.bool_]:
        """Return where the observed CLs excludes, shape (n,); False without a number."""
        return np.asarray(self.cls_obs < 1 - self.level, dtype=np.bool_)

    @property
    def threshold(self) -> float:
        """Return the significance from which on a hypothesis is excluded."""
        return threshold(self.level)

    @property
    def exclusion(self) -> str:
        """Return level and signal strength in words."""
        return level_text(self.level) + ("" if self.mu == 1 else f", mu = {self.mu:g}")


@dataclass(frozen=True)
class _Row:
    name: str
    values: tuple[float | str, ...]
    state: State
    obs: float
    exp: tuple[float, ...]


def mass_grid(
    manifest: Manifest,
    results: Mapping[str, HypothesisResult],
    options: ContourOptions | None = None,
) -> MassGrid:
    """Place the hypotheses of a run in a mass plane.

    Parameters
    ----------
    manifest, results
        A run: what was asked for and what is finished.
    options
        Which masses, which slice, which signal strength.

    Raises
    ------
    InputError
        No hypothesis has both a place and a number.
    RequestError
        The plane does not exist, is ambiguous, or points of it coincide.
    """
    options = options or ContourOptions()
    mu = _choose_mu(manifest.request, options.mu)
    rows, unplaced = _rows(manifest, results, mu)
    if options.drop_suspect:
        rows = [_dropped(row) if row.state == "suspect" else row for row in rows]
    if not any(math.isfinite(row.obs) or math.isfinite(row.exp[2]) for row in rows):
        raise InputError(
            "there is nothing to draw: no hypothesis of the run has a valid CLs",
            evidence=f"{len(manifest.hypotheses)} asked for, {len(results)} finished",
            hint="see the reasons: fitserve show RUN",
        )
    labels = _labels(manifest, len(rows[0].values))
    rows = _sliced(rows, labels, options.at)
    columns = _choose_columns(rows, labels, options.plane)
    points = _places(rows, labels, columns)
    notes = []
    if len(columns) > 1 and _collinear(points):
        plane = " and ".join(labels[c] for c in columns)
        notes.append(f"all points lie on one line in {plane}")
        widest = int(np.argmax(np.ptp(points, axis=0)))
        points, columns = points[:, [widest]], [columns[widest]]
    notes = [*notes, *_remarks(rows, labels, columns)]
    axes = manifest.pallet.axes
    titles = axes if len(axes) == len(labels) else labels
    return MassGrid(
        names=tuple(row.name for row in rows),
        points=points,
        labels=tuple(labels[c] for c in columns),
        titles=tuple(titles[c] for c in columns),
        cls_obs=np.array([row.obs for row in rows]),
        cls_exp=np.array([row.exp for row in rows]),
        states=tuple(row.state for row in rows),
        mu=mu,
        level=options.level or confidence_level(manifest.request),
        jumps=tuple(
            row.name in results and results[row.name].neighbours is not None for row in rows
        ),
        unplaced=tuple(unplaced),
        notes=tuple(notes),
    )


def _choose_mu(request: Request, wanted: float | None) -> float:
    available = cls_strengths(request)
    shown = shown_strength(request)
    if shown is None:
        raise RequestError(
            "there is no contour: the run has no CLs",
            evidence=f"it answers a {kind_of(request)} request",
            hint="fitserve run PALLET, or fitserve run PALLET --limit",
        )
    if wanted is None:
        return shown
    for mu in available:
        if math.isclose(mu, wanted):
            return mu
    raise RequestError(
        f"the run has no CLs at mu = {wanted:g}",
        evidence="it has mu = " + ", ".join(f"{mu:g}" for mu in available),
    )


def _rows(
    manifest: Manifest, results: Mapping[str, HypothesisResult], mu: float
) -> tuple[list[_Row], list[str]]:
    rows: list[_Row] = []
    unplaced: list[str] = []
    nothing = (math.nan,) * _N_EXPECTED
    for name in manifest.hypotheses:
        result = results.get(name)
        if result is not None:
            rows.append(_row(manifest.request, result, mu))
        elif name in manifest.values:
            values = _numeric(manifest.values[name])
            rows.append(_Row(name, values, "unfinished", math.nan, nothing))
        else:
            unplaced.append(name)
    widths = {len(row.values) for row in rows}
    if len(widths) > 1 or widths == {0}:
        raise InputError(
            "the hypotheses do not all have the same number of mass values",
            evidence=f"numbers of values: {sorted(widths)}",
        )
    return rows, unplaced


def _row(request: Request, result: HypothesisResult, mu: float) -> _Row:
    point = at_strength(request, result, mu)
    obs, exp, status = point.CLs_obs, point.CLs_exp, point.status
    if result.toys is not None:
        obs = _cls_by_toys(obs, result.toys.CLs_obs_error)
        exp = list(map(_cls_by_toys, exp, result.toys.CLs_exp_error))
    expected = [math.nan if value is None else value for value in exp]
    if len(expected) != _N_EXPECTED:
        expected = [math.nan] * _N_EXPECTED
    row = _Row(
        name=result.name,
        values=_numeric(result.mass_hypotheses),
        state=status,
        obs=math.nan if obs is None else obs,
        exp=tuple(expected),
    )
    if status == "failed" or (math.isnan(row.obs) and math.isnan(row.exp[2])):
        return _dropped(row)
    return row


def _cls_by_toys(cls: float | None, error: float | None) -> float | None:
    """Return CLs, or its standard deviation where toys cannot distinguish it from zero.

    Without toys beyond the observed value there is no significance to interpolate.
    """
    return cls if cls is None or error is None else max(cls, error)


def _dropped(row: _Row) -> _Row:
    state: State = "suspect" if row.state == "suspect" else "failed"
    return _Row(row.name, row.values, state, math.nan, (math.nan,) * _N_EXPECTED)


def _labels(manifest: Manifest, width: int) -> list[str]:
    labels = manifest.pallet.labels
    return labels if len(labels) == width else [f"value {i + 1}" for i in range(width)]


def _numeric(values: tuple[Value, ...]) -> tuple[Value, ...]:
    """Return the values with the strings that spell a number (some patchsets) as numbers."""
    numbers: list[Value] = []
    for value in values:
        try:
            numbers.append(float(value))
        except ValueError:
            numbers.append(value)
    return tuple(numbers)


def _sliced(rows: list[_Row], labels: Sequence[str], at: Mapping[str, Value]) -> list[_Row]:
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


def _choose_columns(
    rows: Sequence[_Row], labels: Sequence[str], plane: Sequence[str] | None
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


def _places(
    rows: Sequence[_Row], labels: Sequence[str], columns: Sequence[int]
) -> NDArray[np.float64]:
    """Return where the hypotheses lie, shape (n, len(columns)).

    Raises
    ------
    RequestError
        A mass value is no number, or two hypotheses lie at the same point.
    """
    points = np.array([[_number(row.values[c], labels[c]) for c in columns] for row in rows])
    seen: dict[tuple[float, ...], _Row] = {}
    for row, point in zip(rows, points.tolist(), strict=True):
        first = seen.setdefault(tuple(point), row)
        if first is not row:
            raise _coincident(rows, labels, first, row, ", ".join(map(_text, point)))
    return points


def _collinear(points: NDArray[np.float64]) -> bool:
    """Return whether points of a plane, shape (n, 2), are all on one line."""
    scaled = (points - points.mean(axis=0)) / np.ptp(points, axis=0)
    singular = np.linalg.svd(scaled, compute_uv=False)
    return bool(len(points) < 3 or singular[1] < _COLLINEAR * singular[0])  # noqa: PLR2004


def _remarks(rows: Sequence[_Row], labels: Sequence[str], columns: Sequence[int]) -> list[str]:
    """Return notes on the mass values that are not drawn.

    First those that are fixed, then those that vary: as a linear function of the drawn ones where
    they are one, else with their range.
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


def _varying(rows: Sequence[_Row]) -> list[int]:
    return [c for c in range(len(rows[0].values)) if len({row.values[c] for row in rows}) > 1]


def _independent(rows: Sequence[_Row], labels: Sequence[str], varying: Sequence[int]) -> list[int]:
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
    rows: Sequence[_Row], labels: Sequence[str], first: _Row, second: _Row, where: str
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
    rows: Sequence[_Row], labels: Sequence[str], column: int, drawn: Sequence[int]
) -> str | None:
    """Return a mass value as a linear function of one or two others, None where it is none."""
    try:
        values = np.array([[float(row.values[c]) for c in (column, *drawn)] for row in rows])
    except ValueError:
        return None
    wanted, others = values[:, 0], values[:, 1:]
    span = float(np.ptp(wanted))
    for chosen in [[i] for i in range(len(drawn))] + [list(range(len(drawn)))]:
        terms = np.column_stack([others[:, chosen], np.ones(len(rows))])
        solution, _, rank, _ = np.linalg.lstsq(terms, wanted, rcond=None)
        worst = float(np.abs(terms @ solution - wanted).max())
        # So few points always lie on a plane.
        if rank == terms.shape[1] < len(rows) and worst <= _DEPENDENT * span:
            slopes = {labels[drawn[i]]: float(a) for i, a in zip(chosen, solution, strict=False)}
            constant = float(solution[-1]) if abs(solution[-1]) > max(worst, _EXACT * span) else 0.0
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
    (number,) = _numeric((wanted,))
    if isinstance(value, str) or isinstance(number, str):
        return value == wanted
    return math.isclose(value, number)


def _present(rows: Sequence[_Row], column: int) -> list[str]:
    values = {row.values[column] for row in rows}
    return [_text(v) for v in sorted(values, key=lambda v: (isinstance(v, str), v))]


def _text(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _some(values: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(values[:most])
    return shown if len(values) <= most else f"{shown}, ... ({len(values)} values)"
