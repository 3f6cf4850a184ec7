"""The mass grid of a run: where its hypotheses lie and what was found there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from fitserve.contour.options import ContourOptions
from fitserve.contract import cls_strengths, kind_of
from fitserve.errors import InputError, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from fitserve.contract import HypothesisResult, Request
    from fitserve.store.records import Manifest

__all__ = ["MassGrid", "State", "mass_grid"]

State = Literal["ok", "suspect", "failed", "unfinished"]

_N_EXPECTED = 5
# Points are on one line when the grid's narrower direction is below this part of the wider.
_COLLINEAR = 1e-9


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
    jumps
        Whether the CLs of each hypothesis jump against those of its neighbours.
    unplaced
        Unfinished hypotheses whose mass values are not known.
    notes
        What a reader of the picture has to know about the choice of points.
    """

    names: tuple[str, ...]
    points: NDArray[np.float64]
    labels: tuple[str, ...]
    titles: tuple[str, ...]
    cls_obs: NDArray[np.float64]
    cls_exp: NDArray[np.float64]
    states: tuple[State, ...]
    mu: float
    jumps: tuple[bool, ...] = ()
    unplaced: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def dimension(self) -> int:
        """Return 2 for a mass plane, 1 for a single mass."""
        return int(self.points.shape[1])

    @property
    def excluded(self) -> NDArray[np.bool_]:
        """Return where the observed CLs is below 0.05, shape (n,); False without a number."""
        return np.asarray(self.cls_obs < 1 - 0.95, dtype=np.bool_)


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
        The plane does not exist, is ambiguous, or is not the only thing that varies.
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
    rows = _slice(rows, labels, options.at)
    columns = _choose_columns(rows, labels, options.plane)
    points = np.array([[_number(row.values[c], labels[c]) for c in columns] for row in rows])
    _refuse_coincident(rows, points)
    notes = _notes(rows, labels, columns)
    if len(columns) > 1 and _collinear(points):
        plane = " and ".join(labels[c] for c in columns)
        notes.append(f"all points lie on one line in {plane}")
        widest = int(np.argmax(np.ptp(points, axis=0)))
        points, columns = points[:, [widest]], [columns[widest]]
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
        jumps=tuple(
            row.name in results and results[row.name].neighbours is not None for row in rows
        ),
        unplaced=tuple(unplaced),
        notes=tuple(notes),
    )


def _choose_mu(request: Request, wanted: float | None) -> float:
    available = cls_strengths(request)
    if not available:
        raise RequestError(
            "there is no contour: the run has no CLs",
            evidence=f"it answers a {kind_of(request)} request",
            hint="fitserve run PALLET, or fitserve run PALLET --limit",
        )
    if wanted is None:
        # The hypothesis as published has a signal strength of one.
        return 1.0 if 1.0 in available else available[0]
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
            is_first = mu == cls_strengths(manifest.request)[0]
            rows.append(_row(result, mu, is_first=is_first))
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


def _row(result: HypothesisResult, mu: float, *, is_first: bool) -> _Row:
    obs, exp, status = result.CLs_obs, result.CLs_exp, result.status
    if not is_first:
        point = next((p for p in result.points if p.mu == mu), None)
        if point is None:
            obs, exp, status = None, [], "failed"
        else:
            obs, exp, status = point.CLs_obs, point.CLs_exp, point.status
    if result.toys is not None:
        obs = _told_by_toys(obs, result.toys.CLs_obs_error)
        exp = list(map(_told_by_toys, exp, result.toys.CLs_exp_error))
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


def _told_by_toys(cls: float | None, error: float | None) -> float | None:
    """Return CLs, or its standard deviation where toys cannot tell it from zero.

    Of no toys beyond the observed value no significance follows to interpolate in.
    """
    return cls if cls is None or error is None else max(cls, error)


def _numeric(values: tuple[float | str, ...]) -> tuple[float | str, ...]:
    """Return the values with the strings that spell a number (some patchsets) as numbers."""
    found: list[float | str] = []
    for value in values:
        try:
            found.append(float(value))
        except ValueError:
            found.append(value)
    return tuple(found)


def _dropped(row: _Row) -> _Row:
    state: State = "suspect" if row.state == "suspect" else "failed"
    return _Row(row.name, row.values, state, math.nan, (math.nan,) * _N_EXPECTED)


def _labels(manifest: Manifest, width: int) -> list[str]:
    labels = manifest.pallet.labels
    return labels if len(labels) == width else [f"value {i + 1}" for i in range(width)]


def _slice(rows: list[_Row], labels: list[str], at: Mapping[str, float | str]) -> list[_Row]:
    for label, wanted in at.items():
        column = _column(labels, label)
        kept = [row for row in rows if _same(row.values[column], wanted)]
        if not kept:
            present = _present(rows, column)
            raise RequestError(
                f"no hypothesis has {label} = {wanted}",
                evidence=f"{label} takes {_some(present)}",
            )
        rows = kept
    return rows


def _choose_columns(rows: list[_Row], labels: list[str], plane: Sequence[str] | None) -> list[int]:
    varying = [c for c in range(len(labels)) if len({row.values[c] for row in rows}) > 1]
    if plane is not None:
        chosen = [_column(labels, label) for label in plane]
        others = [c for c in varying if c not in chosen]
        if others:
            other = labels[others[0]]
            present = _present(rows, others[0])
            raise RequestError(
                f"{other} varies too, so the points of this plane are not one picture",
                evidence=f"{other} takes {_some(present)}",
                hint=f"choose one of them: --at {other}={present[0]}",
            )
        # A mass that was asked for and does not vary makes the picture one-dimensional.
        varying = [c for c in chosen if c in varying]
    if len(varying) > 2:  # noqa: PLR2004 - a plane
        names = [labels[c] for c in varying]
        x, y, other = names[:3]
        raise RequestError(
            f"{len(varying)} mass values vary, a picture shows two",
            evidence="these vary: " + ", ".join(names),
            hint=f"choose two and fix the others: --plane {x},{y} --at {other}=...",
        )
    if not varying:
        raise RequestError(
            "one point of the mass plane makes no contour",
            evidence="all hypotheses lie at " + ", ".join(map(_text, rows[0].values)),
            hint="see its CLs: fitserve show RUN",
        )
    return varying


def _column(labels: list[str], label: str) -> int:
    if label not in labels:
        raise RequestError(
            f"there is no mass value called {label}", evidence="there are " + ", ".join(labels)
        )
    return labels.index(label)


def _number(value: float | str, label: str) -> float:
    if isinstance(value, str) or not math.isfinite(value):
        raise RequestError(
            f"{label} is not a number and cannot be an axis",
            evidence=f"{label} = {value}",
            hint=f"choose numeric values with --plane, or fix it: --at {label}={value}",
        )
    return value


def _same(value: float | str, wanted: float | str) -> bool:
    (number,) = _numeric((wanted,))
    if isinstance(value, str) or isinstance(number, str):
        return value == wanted
    return math.isclose(value, number)


def _refuse_coincident(rows: list[_Row], points: NDArray[np.float64]) -> None:
    seen: dict[tuple[float, ...], str] = {}
    for row, point in zip(rows, points, strict=True):
        first = seen.setdefault(tuple(point.tolist()), row.name)
        if first != row.name:
            raise RequestError(
                "two hypotheses lie at the same point of the mass plane",
                evidence=f"{first} and {row.name} at " + ", ".join(map(_text, point.tolist())),
                hint="choose one of them when running: fitserve run ... --patch GLOB",
            )


def _notes(rows: list[_Row], labels: list[str], columns: list[int]) -> list[str]:
    fixed = [
        f"{labels[c]} = {_text(rows[0].values[c])}" for c in range(len(labels)) if c not in columns
    ]
    return [", ".join(fixed)] if fixed else []


def _collinear(points: NDArray[np.float64]) -> bool:
    scaled = (points - points.mean(axis=0)) / np.ptp(points, axis=0)
    singular = np.linalg.svd(scaled, compute_uv=False)
    return bool(len(points) < 3 or singular[1] < _COLLINEAR * singular[0])  # noqa: PLR2004


def _present(rows: list[_Row], column: int) -> list[str]:
    values = {row.values[column] for row in rows}
    return [_text(v) for v in sorted(values, key=lambda v: (isinstance(v, str), v))]


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _some(values: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(values[:most])
    return shown if len(values) <= most else f"{shown}, ... ({len(values)} values)"
