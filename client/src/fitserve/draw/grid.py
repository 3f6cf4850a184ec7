"""The mass grid of a run: the places and results of its hypotheses, and how they are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fitserve.draw.planes import choose_columns, collinear, numeric, places, remarks, sliced
from fitserve.draw.style import POINT
from fitserve.draw.surface import ContourOptions, threshold
from fitserve.errors import InputError, RequestError
from fitserve.kinds.shown import at_strength, confidence_level, shown_strength
from fitserve_contract import cls_strengths, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fitserve.runs.records import Manifest
    from fitserve_contract import HypothesisResult, Request

__all__ = ["MassGrid", "State", "add_points", "mass_grid", "point_entries"]

State = Literal["ok", "suspect", "failed", "unfinished"]

_N_EXPECTED = 5


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
        return f"{100 * self.level:g}% CL" + ("" if self.mu == 1 else f", mu = {self.mu:g}")


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
    rows = sliced(rows, labels, options.at)
    columns = choose_columns(rows, labels, options.plane)
    points = places(rows, labels, columns)
    notes = []
    if len(columns) > 1 and collinear(points):
        plane = " and ".join(labels[c] for c in columns)
        notes.append(f"all points lie on one line in {plane}")
        widest = int(np.argmax(np.ptp(points, axis=0)))
        points, columns = points[:, [widest]], [columns[widest]]
    notes = [*notes, *remarks(rows, labels, columns)]
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
            values = numeric(manifest.values[name])
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
        values=numeric(result.mass_hypotheses),
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


# More of a kind are drawn smaller, so that what lies below is seen, and as pixels in every format.
_MANY = 2000
_COMMON: dict[str, Any] = {"linestyle": "none", "color": POINT, "markeredgewidth": 0.9}
_STYLES: dict[str, dict[str, Any]] = {
    "Excluded point": {"marker": "o", "markersize": 3.8, "fillstyle": "full"},
    "Point not excluded": {"marker": "o", "markersize": 3.8, "markerfacecolor": "white"},
    "Suspect, excluded": {"marker": "D", "markersize": 6.5, "fillstyle": "full"},
    "Suspect, not excluded": {"marker": "D", "markersize": 6.5, "markerfacecolor": "white"},
    "Suspect, left out": {"marker": "D", "markersize": 6.5, "fillstyle": "left"},
    "Failed": {"marker": "x", "markersize": 7.5, "markeredgewidth": 1.6},
    "Not finished": {"marker": "+", "markersize": 8.5, "markeredgewidth": 1.6},
    # Around one of the others.
    "Jumps against its neighbours": {
        "marker": "o",
        "markersize": 13,
        "fillstyle": "none",
        "markeredgewidth": 1.4,
    },
}


def add_points(axes: Any, x: NDArray[np.float64], y: NDArray[np.float64], grid: MassGrid) -> None:
    """Draw every point of a grid at ``x``, ``y``, both of shape (n,)."""
    for name, chosen in _groups(grid):
        style = {**_COMMON, **_STYLES[name]}
        if (count := int(chosen.sum())) > _MANY:
            scale = math.sqrt(_MANY / count)
            sizes = {key: style[key] * scale for key in ("markersize", "markeredgewidth")}
            style |= {**sizes, "rasterized": True}
        axes.plot(x[chosen], y[chosen], zorder=5, clip_on=False, **style)


def point_entries(grid: MassGrid) -> list[tuple[Any, str]]:
    """Return legend handles and labels of the kinds of points that a grid has."""
    from matplotlib.lines import Line2D

    return [
        (Line2D([], [], **{**_COMMON, **_STYLES[name]}), f"{name} ({int(chosen.sum())})")
        for name, chosen in _groups(grid)
    ]


def _groups(grid: MassGrid) -> list[tuple[str, NDArray[np.bool_]]]:
    states = np.array(grid.states)
    known = np.isfinite(grid.cls_obs)
    suspect = states == "suspect"
    unfinished = states == "unfinished"
    groups = {
        "Excluded point": known & grid.excluded & ~suspect,
        "Point not excluded": known & ~grid.excluded & ~suspect,
        "Suspect, excluded": known & grid.excluded & suspect,
        "Suspect, not excluded": known & ~grid.excluded & suspect,
        "Suspect, left out": ~known & suspect,
        "Failed": ~known & ~suspect & ~unfinished,
        "Not finished": unfinished,
        "Jumps against its neighbours": np.array(grid.jumps, dtype=bool),
    }
    return [(name, chosen) for name, chosen in groups.items() if chosen.any()]
