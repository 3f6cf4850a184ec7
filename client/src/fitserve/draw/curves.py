"""Numeric exclusion contours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.draw.grid import mass_grid
from fitserve.draw.style import need_pictures
from fitserve.draw.surface import ContourOptions, Interpolation, Mesh, Surface, significance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fitserve.draw.grid import MassGrid
    from fitserve.runs.records import Manifest
    from fitserve_contract import HypothesisResult

    Polylines = list[NDArray[np.float64]]

__all__ = ["CURVES", "Contours", "cls_of", "contour_lines", "curve_surface", "level_lines"]


CURVES = ("observed", "expected", "expected_minus_1_sigma", "expected_plus_1_sigma")
"""Names of the curves. A background fluctuation of -1 sigma excludes more, +1 sigma less."""

# Where pyhf keeps each expected curve: it orders CLs_exp from -2 to +2 sigma.
_EXPECTED_INDEX = {
    "expected": 2,
    "expected_minus_1_sigma": 1,
    "expected_plus_1_sigma": 3,
}


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
        What they are contours of, by the names of `CURVES`; none along a single mass.
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
    found = axes.tricontour(triangulation, surface.values, levels=[level])
    return [np.asarray(line) for line in found.allsegs[0]]


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
