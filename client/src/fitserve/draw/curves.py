r"""Numeric exclusion contours, and the surface of significance that they are contours of.

CLs falls by orders of magnitude between neighbouring points; its significance
:math:`z = \Phi^{-1}(1 - CL_s)` is nearly linear there. It is therefore the significance that is
interpolated, and a hypothesis is excluded at 95 % CL where z > 1.645
(`fitserve.draw.grid.threshold`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.draw.grid import ContourOptions, Interpolation, mass_grid, significance
from fitserve.draw.style import need_pictures

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fitserve.draw.grid import MassGrid
    from fitserve.runs.records import Manifest
    from fitserve_contract import HypothesisResult

    Polylines = list[NDArray[np.float64]]

__all__ = ["CURVES", "Contours", "Mesh", "cls_of", "contour_lines", "curve_surface", "level_lines"]

CURVES = ("observed", "expected", "expected_minus_1_sigma", "expected_plus_1_sigma")
"""Names of the curves. A background fluctuation of -1 sigma excludes more, +1 sigma less."""
# Triangles at the rim of the grid whose incircle is below this part of their circumcircle
# only bridge points along an edge that is nearly, not quite, straight.
_FLAT = 0.01
_MOST_TRIANGLES = 150_000
_MOST_SUBDIVISIONS = 6
_KERNELS = ("thin_plate_spline", "linear")
# An interpolation through more points than this uses each place's nearest neighbours.
_MOST_GLOBAL = 1000
_NEIGHBOURS = 60
# Where pyhf keeps each expected curve: it orders CLs_exp from -2 to +2 sigma.
_EXPECTED_INDEX = {
    "expected": 2,
    "expected_minus_1_sigma": 1,
    "expected_plus_1_sigma": 3,
}


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
        heights = self._linear(values)
        if interpolation == "smooth":
            at_corners = values[self._triangles]
            passed = (at_corners.min(axis=1) <= level) & (at_corners.max(axis=1) >= level)
            nodes = np.unique(self._fine_triangles[(passed & ~masked)[self._parents]])
            if nodes.size:
                heights[nodes] = self._radial(values, self._nodes[nodes])
            heights = self._limited(heights, values, masked)
        triangulation = Triangulation(
            *self._places.T, self._fine_triangles, mask=masked[self._parents]
        )
        return Surface(triangulation, heights)

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
        heights = np.zeros(len(nodes))
        for kernel in _KERNELS:
            radial = RBFInterpolator(
                self._points[good], values[good], kernel=kernel, degree=1, neighbors=neighbours
            )
            heights += radial(nodes) / len(_KERNELS)
        return heights

    def _limited(
        self,
        heights: NDArray[np.float64],
        values: NDArray[np.float64],
        masked: NDArray[np.bool_],
    ) -> NDArray[np.float64]:
        at_corners = values[self._triangles]
        low = np.full(len(heights), -np.inf)
        high = np.full(len(heights), np.inf)
        drawn = ~masked[self._parents]
        nodes = self._fine_triangles[drawn].ravel()
        parents = np.repeat(self._parents[drawn], 3)
        # A node on an edge belongs to two triangles and obeys both.
        np.maximum.at(low, nodes, at_corners.min(axis=1)[parents])
        np.minimum.at(high, nodes, at_corners.max(axis=1)[parents])
        return np.clip(heights, low, high)


@dataclass(frozen=True)
class Contours:
    """The exclusion contours of a run.

    Attributes
    ----------
    grid
        The points that they were made from.
    interpolation
        How the significance was interpolated between them.
    observed, expected, expected_minus_1_sigma, expected_plus_1_sigma
        Polylines, each of shape (k, 2) in the units of the mass values; a closed one ends
        where it begins. Along a single mass each crossing is one array of shape (1, 1).
        Empty where nothing or everything is excluded.
    mesh, surfaces
        The surfaces that these are contours of, by the names of `CURVES`; none along a single mass.
    """

    grid: MassGrid
    interpolation: Interpolation
    observed: Polylines
    expected: Polylines
    expected_minus_1_sigma: Polylines
    expected_plus_1_sigma: Polylines
    mesh: Mesh | None = field(default=None, repr=False)
    surfaces: Mapping[str, Surface | None] = field(default_factory=dict, repr=False)

    def curve(self, name: str) -> Polylines:
        """Return the polylines of one of `CURVES`."""
        lines: Polylines = getattr(self, name)
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the contours and their points as plain data for JSON (docs/contour.md)."""
        grid = self.grid
        return {
            "confidence_level": grid.level,
            "mu": grid.mu,
            "interpolation": self.interpolation,
            "axes": [
                {"label": label, "title": title}
                for label, title in zip(grid.labels, grid.titles, strict=True)
            ],
            "notes": list(grid.notes),
            **{name: [line.tolist() for line in self.curve(name)] for name in CURVES},
            "points": [
                {
                    "name": name,
                    "values": point.tolist(),
                    "status": state,
                    "CLs_obs": _plain(obs),
                    "CLs_exp": [_plain(value) for value in exp],
                }
                for name, point, state, obs, exp in zip(
                    grid.names, grid.points, grid.states, grid.cls_obs, grid.cls_exp, strict=True
                )
            ],
            "unplaced": list(grid.unplaced),
        }


def contour_lines(
    manifest: Manifest,
    results: Mapping[str, HypothesisResult],
    options: ContourOptions | None = None,
) -> Contours:
    """Return the observed and expected exclusion contours of a run.

    Parameters
    ----------
    manifest, results
        A run: what was asked for and what is finished, by name.
    options
        Which plane, signal strength, level and interpolation.

    Raises
    ------
    InputError, RequestError
        As `fitserve.draw.grid.mass_grid`.
    MissingExtraError
        Matplotlib, which follows the curves, is not installed.
    """
    need_pictures("a contour")
    options = options or ContourOptions()
    grid = mass_grid(manifest, results, options)
    curves: dict[str, Any]
    if grid.dimension == 1:
        curves = {name: _crossings(grid, cls_of(grid, name)) for name in CURVES}
        return Contours(grid, options.interpolation, **curves)
    mesh = Mesh(grid.points)
    surfaces = {name: curve_surface(mesh, grid, name, options) for name in CURVES}
    curves = {name: level_lines(surface, grid.threshold) for name, surface in surfaces.items()}
    return Contours(grid, options.interpolation, **curves, mesh=mesh, surfaces=surfaces)


def cls_of(grid: MassGrid, name: str) -> NDArray[np.float64]:
    """Return the CLs at the points that make one of `CURVES`, shape (n,)."""
    return grid.cls_obs if name == "observed" else grid.cls_exp[:, _EXPECTED_INDEX[name]]


def curve_surface(mesh: Mesh, grid: MassGrid, name: str, options: ContourOptions) -> Surface | None:
    """Return the surface of significance that one of `CURVES` is a contour of."""
    z = significance(cls_of(grid, name))
    return mesh.surface(z, options.interpolation, level=grid.threshold)


def level_lines(surface: Surface | None, level: float) -> Polylines:
    """Return the polylines along which a surface has the value ``level``."""
    from matplotlib.figure import Figure

    if surface is None:
        return []
    triangulation = surface.triangulation
    values = surface.values[triangulation.get_masked_triangles()]
    if not values.min() < level < values.max():
        return []
    axes = Figure().add_subplot()
    drawn = axes.tricontour(triangulation, surface.values, levels=[level])
    return [np.asarray(line) for line in drawn.allsegs[0]]


def _crossings(grid: MassGrid, cls: NDArray[np.float64]) -> Polylines:
    order = np.argsort(grid.points[:, 0])
    x, z = grid.points[order, 0], significance(cls[order]) - grid.threshold
    # A NaN on either side makes the product NaN: no crossing is claimed next to a hole.
    (left,) = np.nonzero(z[:-1] * z[1:] < 0)
    at = x[left] - z[left] * (x[left + 1] - x[left]) / (z[left + 1] - z[left])
    on_point = x[z == 0]
    return [np.array([[value]]) for value in np.sort(np.concatenate([at, on_point]))]


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
