"""The exclusion contour as a picture; where one mass varies, CLs against it."""

from __future__ import annotations

import itertools
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.draw.curves import Contours, Surface, contour_lines
from fitserve.draw.frame import (
    add_header,
    add_legend,
    add_points,
    caption,
    heading,
    new_figure,
    point_entries,
)
from fitserve.draw.grid import ContourOptions, significance
from fitserve.draw.reference import read_reference
from fitserve.draw.style import (
    BAND,
    EXPECTED,
    HOLE,
    OBSERVED,
    REFERENCES,
    WIDE_BAND,
    axis_title,
    need_pictures,
    need_points,
    pictures,
    safe_text,
)
from fitserve.errors import RequestError
from fitserve.kinds.base import level_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fitserve.draw.grid import MassGrid
    from fitserve.draw.reference import Reference
    from fitserve.runs.records import Manifest
    from fitserve_contract import HypothesisResult

__all__ = ["draw_along_one_mass", "draw_contour"]

_STEPS = 24
_LEAST_SHOWN = 1e-6


def draw_along_one_mass(
    axes: Any, grid: MassGrid, references: list[Reference]
) -> list[tuple[Any, str]]:
    """Draw observed and expected CLs against the mass, with the bands of +-1 and 2 sigma.

    Between the points the significance is interpolated linearly, as for the crossings that
    `fitserve.draw.curves.contour_lines` returns; nothing is drawn next to a hole.
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
    # A hole has no CLs: its cross is drawn at the level of exclusion.
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
        (limit, f"Excluded below: {level_text(grid.level)}"),
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


_MARGIN = 0.04
_HOLES: dict[str, Any] = {"facecolor": "none", "edgecolor": HOLE, "linewidth": 0, "hatch": "////"}


def draw_contour(
    manifest: Manifest,
    results: Mapping[str, HypothesisResult],
    options: ContourOptions | None = None,
    contours: Contours | None = None,
) -> Any:
    """Draw the exclusion contour of a run, or its CLs where only one mass varies.

    Parameters
    ----------
    manifest, results
        A run: what was asked for and what is finished, by name.
    options
        What to draw and how to title it.
    contours
        Those that `fitserve.draw.curves.contour_lines` returned for the same, if there are.

    Returns
    -------
    matplotlib.figure.Figure
        Save it with `fitserve.draw.style.save_figure`, which makes the bytes reproducible.

    Raises
    ------
    InputError, RequestError
        As `fitserve.draw.grid.mass_grid`; also for references and titles that are not usable.
    MissingExtraError
        The packages for drawing are not installed.
    """
    need_pictures()
    options = options or ContourOptions()
    contours = contours or contour_lines(manifest, results, options)
    grid = contours.grid
    # Where several planes are possible, references are drawn in the same one.
    several = grid.dimension > 1 and len(manifest.pallet.labels) > grid.dimension
    same = replace(options, plane=grid.labels) if several else options
    references = [
        read_reference(path, label, manifest, results, same)
        for label, path in options.references.items()
    ]
    with pictures():
        figure = new_figure(8.0, 7.0)
        figure.subplots_adjust(left=0.13, right=0.96, bottom=0.11, top=0.94)
        axes = figure.add_subplot()
        if grid.dimension == 1:
            entries = draw_along_one_mass(axes, grid, references)
            axes.set_ylabel(r"$\mathrm{CL}_\mathrm{s}$")
        else:
            entries = _draw_plane(axes, contours, references)
            axes.set_ylabel(axis_title(grid.titles[1], grid.labels[1], chosen=options.y))
        axes.set_xlabel(axis_title(grid.titles[0], grid.labels[0], chosen=options.x))
        add_header(axes, caption(manifest))
        add_legend(axes, _lines(manifest, grid, options), entries)
    return figure


def _lines(manifest: Manifest, grid: MassGrid, options: ContourOptions) -> list[str]:
    lines = heading(manifest, options.title)
    strength = "" if grid.mu == 1 else rf", $\mu$ = {grid.mu:g}"
    lines.append(f"Limits at {level_text(grid.level)}{strength}")
    lines += grid.notes
    if grid.unplaced:
        lines.append(f"{len(grid.unplaced)} unfinished hypotheses have no known place")
    return lines


def _draw_plane(
    axes: Any, contours: Contours, references: list[Reference]
) -> list[tuple[Any, str]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch, PathPatch
    from matplotlib.path import Path

    entries: list[tuple[Any, str]] = []
    grid, surfaces = contours.grid, contours.surfaces
    holes = [] if contours.mesh is None else list(contours.mesh.holes(grid.cls_obs))
    if holes:
        triangles = [Path([*corners, corners[0]], closed=True) for corners in holes]
        axes.add_patch(PathPatch(Path.make_compound_path(*triangles), **_HOLES, zorder=0.5))
    expected, lines = surfaces["expected"], contours.expected
    _fill_band(
        axes,
        surfaces["expected_minus_1_sigma"],
        surfaces["expected_plus_1_sigma"],
        grid.threshold,
    )
    for line in lines:
        axes.plot(*line.T, color=EXPECTED, linestyle=(0, (5, 2.5)), linewidth=1.8, zorder=4.5)
    handle: Any = (
        Patch(facecolor=BAND),
        Line2D([], [], color=EXPECTED, linestyle="--", linewidth=1.8),
    )
    entries.append(
        (
            handle,
            r"Expected limit ($\pm\mathrm{1}\,\sigma$)"
            + _why_none(expected, lines, grid.threshold),
        )
    )
    observed, lines = surfaces["observed"], contours.observed
    for line in lines:
        axes.plot(*line.T, color=OBSERVED, linewidth=2.4, zorder=4)
    handle = Line2D([], [], color=OBSERVED, linewidth=2.4)
    entries.insert(0, (handle, "Observed limit" + _why_none(observed, lines, grid.threshold)))
    extent = [grid.points]
    for reference, (colour, dashes) in zip(references, _cycled(len(references)), strict=True):
        for line in reference.lines:
            axes.plot(*line.T, color=colour, linestyle=dashes, linewidth=1.8, zorder=3.5)
            extent.append(line)
        handle = Line2D([], [], color=colour, linestyle=dashes, linewidth=1.8)
        entries.append((handle, safe_text(reference.label)))
    add_points(axes, grid.points[:, 0], grid.points[:, 1], grid)
    entries += point_entries(grid)
    if holes:
        entries.append((Patch(**_HOLES), "Not interpolated: next to a hole"))
    _set_limits(axes, np.concatenate(extent))
    return entries


def _fill_band(axes: Any, more: Surface | None, less: Surface | None, level: float) -> None:
    if more is None or less is None:
        return
    # The band is what is excluded after a downward fluctuation and not after an upward one.
    inside = np.minimum(more.values - level, level - less.values)
    # Both need a number at each corner.
    hidden = more.triangulation.mask | less.triangulation.mask
    triangulation = copy(more.triangulation)
    triangulation.set_mask(hidden)
    shown = inside[triangulation.get_masked_triangles()]
    if not shown.size or shown.max() <= 0:
        return
    top = float(shown.max()) + 1.0
    axes.tricontourf(triangulation, inside, levels=[0.0, top], colors=[BAND], zorder=1)


def _why_none(surface: Surface | None, lines: list[Any], level: float) -> str:
    if lines:
        return ""
    if surface is None:
        return ": too few valid points"
    shown = surface.values[surface.triangulation.get_masked_triangles()]
    return ": all points excluded" if shown.min() >= level else ": no point excluded"


def _cycled(count: int) -> list[tuple[str, Any]]:
    return [REFERENCES[i % len(REFERENCES)] for i in range(count)]


def _set_limits(axes: Any, points: Any) -> None:
    low, high = points.min(axis=0), points.max(axis=0)
    margin = _MARGIN * (high - low)
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
