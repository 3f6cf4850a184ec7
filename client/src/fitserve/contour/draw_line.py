"""CLs along one mass, for grids that have no plane."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.contour.markers import add_points, point_entries
from fitserve.contour.needed import need_points
from fitserve.contour.style import BAND, EXPECTED, OBSERVED, WIDE_BAND
from fitserve.contour.surface import significance
from fitserve.errors import RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fitserve.contour.grid import MassGrid
    from fitserve.contour.reference import Reference

__all__ = ["draw_along_one_mass"]

_STEPS = 24
_LEAST_SHOWN = 1e-6


def draw_along_one_mass(
    axes: Any, grid: MassGrid, references: list[Reference]
) -> list[tuple[Any, str]]:
    """Draw observed and expected CLs against the mass, with the bands of +-1 and 2 sigma.

    Between the points the significance is interpolated linearly, as for the crossings that
    `fitserve.contour.contour_lines` returns; nothing is drawn next to a hole.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import FixedLocator

    if references:
        raise RequestError(
            "a reference contour cannot be laid over a picture of one mass",
            evidence="only " + grid.labels[0] + " varies in this run",
            hint="leave --reference out, or compare with: fitserve diff A B",
        )
    need_points(
        int((np.isfinite(grid.cls_obs) | np.isfinite(grid.cls_exp[:, 2])).sum()), grid.labels[0]
    )
    order = np.argsort(grid.points[:, 0])
    x, obs, exp = grid.points[order, 0], grid.cls_obs[order], grid.cls_exp[order]
    fine = np.unique(np.concatenate([np.linspace(a, b, _STEPS) for a, b in itertools.pairwise(x)]))
    floor = _floor(obs, exp)
    curves = [np.maximum(_between(x, exp[:, i], fine), floor) for i in range(exp.shape[1])]
    axes.fill_between(fine, curves[0], curves[4], color=WIDE_BAND, linewidth=0, zorder=1)
    axes.fill_between(fine, curves[1], curves[3], color=BAND, linewidth=0, zorder=1.1)
    axes.plot(fine, curves[2], color=EXPECTED, linestyle=(0, (5, 2.5)), linewidth=1.8, zorder=4.5)
    observed = np.maximum(_between(x, obs, fine), floor)
    axes.plot(fine, observed, color=OBSERVED, linewidth=2.4, zorder=4)
    axes.axhline(1 - grid.level, color="#0072b2", linestyle=":", linewidth=1.6, zorder=2)
    # A hole has no CLs: its cross stands on the line it might have crossed.
    height = np.where(np.isfinite(grid.cls_obs), np.maximum(grid.cls_obs, floor), 1 - grid.level)
    add_points(axes, grid.points[:, 0], height, grid)
    axes.set_yscale("log")
    # The room for the legend above a CLs of 1 is not part of the axis.
    decades = 10.0 ** np.arange(np.floor(np.log10(floor)), 1)
    axes.yaxis.set_major_locator(FixedLocator(decades.tolist()))
    minor = np.outer(decades[:-1], np.arange(2, 10)).ravel()
    axes.yaxis.set_minor_locator(FixedLocator(minor.tolist()))
    margin = 0.03 * np.ptp(x)
    axes.set_xlim(x[0] - margin, x[-1] + margin)
    axes.set_ylim(floor / 1.3, 1.3)
    dashed = Line2D([], [], color=EXPECTED, linestyle="--", linewidth=1.8)
    limit = Line2D([], [], color="#0072b2", linestyle=":", linewidth=1.6)
    return [
        (Line2D([], [], color=OBSERVED, linewidth=2.4), "Observed"),
        ((Patch(facecolor=BAND), dashed), r"Expected ($\pm\mathrm{1}\,\sigma$)"),
        (Patch(facecolor=WIDE_BAND), r"Expected ($\pm\mathrm{2}\,\sigma$)"),
        (limit, f"Excluded below: {100 * grid.level:g}% CL"),
        *point_entries(grid),
    ]


def _between(
    x: NDArray[np.float64], cls: NDArray[np.float64], fine: NDArray[np.float64]
) -> NDArray[np.float64]:
    from scipy.special import ndtr

    # numpy.interp carries a NaN to every place next to it, but not beyond the next point.
    return np.asarray(ndtr(-np.interp(fine, x, significance(cls))))


def _floor(obs: NDArray[np.float64], exp: NDArray[np.float64]) -> float:
    least = float(np.nanmin(np.concatenate([obs, exp[:, 1]])))
    return max(_LEAST_SHOWN, min(least / 2, 0.01))
