r"""Significance over the mass plane: from scattered CLs to a surface that can be contoured.

CLs falls by orders of magnitude between neighbouring points; its significance
:math:`z = \Phi^{-1}(1 - CL_s)` is nearly linear there. It is therefore the significance
that is interpolated, and a hypothesis is excluded at 95 % CL where z > 1.645 (`threshold`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

__all__ = ["ContourOptions", "Interpolation", "Mesh", "significance", "threshold"]

Interpolation = Literal["smooth", "linear"]


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


# CLs of 1e-14 and of exactly 0 or 1 say no more about where z crosses 1.645 than 5 sigma
# do, but would bend the surface there. HistFitter's contour tool cuts at 5 too (--sigmax).
_MOST = 5.0

# Triangles at the rim of the grid whose incircle is below this part of their circumcircle
# only bridge points along an edge that is nearly, not quite, straight.
_FLAT = 0.01
_MOST_TRIANGLES = 150_000
_MOST_SUBDIVISIONS = 6
_KERNELS = ("thin_plate_spline", "linear")
# An interpolation through more points than this uses each place's nearest neighbours.
_MOST_GLOBAL = 1000
_NEIGHBOURS = 60


def significance(cls: ArrayLike) -> NDArray[np.float64]:
    """Return the significance of CLs values, limited to 5 on either side; NaN stays NaN.

    Examples
    --------
    >>> from fitserve.draw.surface import significance
    >>> significance([0.05, 0.16, 0.0]).round(3).tolist()
    [1.645, 0.994, 5.0]
    """
    from scipy.special import ndtri

    found: NDArray[np.float64] = -np.asarray(ndtri(np.asarray(cls, dtype=np.float64)))
    return np.asarray(np.clip(found, -_MOST, _MOST))


def threshold(confidence_level: float) -> float:
    """Return the significance from which on a hypothesis is excluded.

    Examples
    --------
    >>> from fitserve.draw.surface import threshold
    >>> round(threshold(0.95), 3)
    1.645
    """
    return float(significance(1 - confidence_level))


@dataclass(frozen=True)
class Surface:
    """A surface over the mass plane: a fine triangulation (matplotlib's) and its values."""

    triangulation: Any
    values: NDArray[np.float64]


class Mesh:
    """The triangulated mass plane.

    Parameters
    ----------
    points
        Mass values, shape (n, 2), not all on one line. Both axes are scaled to their range
        before they are triangulated, so their units and ranges do not matter.
    """

    def __init__(self, points: NDArray[np.float64]) -> None:
        from matplotlib.tri import TriAnalyzer, Triangulation, UniformTriRefiner

        low = points.min(axis=0)
        scale = np.ptp(points, axis=0)
        self._points = (points - low) / scale
        coarse = Triangulation(*self._points.T)
        # Border triangles only: flat ones inside the grid are kept, the surface has no gaps.
        coarse.set_mask(TriAnalyzer(coarse).get_flat_tri_mask(_FLAT, rescale=False))
        self._triangles: NDArray[np.intp] = np.asarray(coarse.triangles)
        self._flat: NDArray[np.bool_] = (
            np.zeros(len(self._triangles), dtype=np.bool_)
            if coarse.mask is None
            else np.asarray(coarse.mask)
        )
        room = np.log(_MOST_TRIANGLES / len(self._triangles)) / np.log(4)
        subdivisions = int(np.clip(room, 1, _MOST_SUBDIVISIONS))
        fine, self._home = UniformTriRefiner(coarse).refine_triangulation(
            return_tri_index=True, subdiv=subdivisions
        )
        self._nodes = np.column_stack([fine.x, fine.y])
        self._fine_triangles = fine.triangles
        # The refiner keeps the pieces of one triangle together.
        self._parents = np.repeat(np.arange(len(self._triangles)), 4**subdivisions)
        self._places = low + scale * self._nodes
        self._original = points

    def holes(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the corners of the triangles that touch a NaN, shape (k, 3, 2)."""
        touched = self._touched(values) & ~self._flat
        return self._original[self._triangles[touched]]

    def surface(
        self,
        values: NDArray[np.float64],
        interpolation: Interpolation = "smooth",
        *,
        level: float,
    ) -> Surface | None:
        """Interpolate values given at the points; None where no triangle is without a NaN.

        Triangles that touch a NaN are masked: nothing is interpolated over a hole. Within
        each triangle the smooth surface stays in the range of the three corners, so that
        it has no peak or dip, and its contour no island, that no fitted point supports. It is
        therefore smooth only in triangles that the contour can pass through: elsewhere it is
        linear, whose value is above or below the level all the same.

        Parameters
        ----------
        values
            Values at the n points, NaN where there is none.
        interpolation
            See `ContourOptions`.
        level
            Of the contour.
        """
        from matplotlib.tri import Triangulation

        masked = self._touched(values) | self._flat
        if masked.all():
            return None
        found = self._linear(values)
        if interpolation == "smooth":
            at_corners = values[self._triangles]
            passed = (at_corners.min(axis=1) <= level) & (at_corners.max(axis=1) >= level)
            nodes = np.unique(self._fine_triangles[(passed & ~masked)[self._parents]])
            if nodes.size:
                found[nodes] = self._radial(values, self._nodes[nodes])
            found = self._limited(found, values, masked)
        triangulation = Triangulation(
            *self._places.T, self._fine_triangles, mask=masked[self._parents]
        )
        return Surface(triangulation, found)

    def _touched(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.asarray(np.isnan(values)[self._triangles].any(axis=1), dtype=np.bool_)

    def _linear(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        corners = self._triangles[self._home]
        a, b, c = (self._points[corners[:, i]] for i in range(3))
        ab, ac, an = b - a, c - a, self._nodes - a
        area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
        along_b = (an[:, 0] * ac[:, 1] - an[:, 1] * ac[:, 0]) / area
        along_c = (ab[:, 0] * an[:, 1] - ab[:, 1] * an[:, 0]) / area
        weights = np.column_stack([1 - along_b - along_c, along_b, along_c])
        # A node on an edge may have the triangle across it for a home. The weight of that
        # triangle's far corner is zero, so a NaN there must not count.
        at_corners = np.nan_to_num(values)[corners]
        return np.asarray((weights * at_corners).sum(axis=1))

    def _radial(
        self, values: NDArray[np.float64], nodes: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Interpolate at some nodes, of shape (k, 2), with the mean of two radial basis functions.

        The thin-plate spline alone overshoots where significance falls steeply, the linear
        one alone has a cusp at each point. Predicting single points near the contours of
        the published 1Lbb and staus grids from all others, their mean is as good as either.
        """
        from scipy.interpolate import RBFInterpolator

        good = np.isfinite(values)
        neighbours = _NEIGHBOURS if good.sum() > _MOST_GLOBAL else None
        found = np.zeros(len(nodes))
        for kernel in _KERNELS:
            radial = RBFInterpolator(
                self._points[good], values[good], kernel=kernel, degree=1, neighbors=neighbours
            )
            found += radial(nodes) / len(_KERNELS)
        return found

    def _limited(
        self,
        found: NDArray[np.float64],
        values: NDArray[np.float64],
        masked: NDArray[np.bool_],
    ) -> NDArray[np.float64]:
        at_corners = values[self._triangles]
        low = np.full(len(found), -np.inf)
        high = np.full(len(found), np.inf)
        drawn = ~masked[self._parents]
        nodes = self._fine_triangles[drawn].ravel()
        parents = np.repeat(self._parents[drawn], 3)
        # A node on an edge belongs to two triangles and obeys both.
        np.maximum.at(low, nodes, at_corners.min(axis=1)[parents])
        np.minimum.at(high, nodes, at_corners.max(axis=1)[parents])
        return np.clip(found, low, high)
