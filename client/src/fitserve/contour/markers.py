"""Fitted points, doubtful ones and holes, told apart by shape and filling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.contour.style import POINT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fitserve.contour.grid import MassGrid

__all__ = ["add_points", "point_entries"]

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
