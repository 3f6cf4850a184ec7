"""Upper limits on the signal strength: a band along one mass, or a map of the mass plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.draw.curves import Mesh, curve_surface, level_lines
from fitserve.draw.frame import (
    add_legend,
    add_points,
    new_figure,
    point_entries,
    refuse_kind,
    title_above,
)
from fitserve.draw.grid import ContourOptions, mass_grid
from fitserve.draw.style import (
    BAND,
    EXPECTED,
    OBSERVED,
    WIDE_BAND,
    axis_title,
    need_pictures,
    need_points,
    pictures,
)
from fitserve.kinds.base import above_bound, level_text, limit_text
from fitserve_contract import LimitRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fitserve.draw.grid import MassGrid
    from fitserve.runs.records import Manifest
    from fitserve_contract import HypothesisResult

__all__ = ["draw_limits"]

_DASHES = (0, (5, 2.5))
_MOST_NUMBERS = 90
_CROWDED = 40


def draw_limits(
    manifest: Manifest,
    results: Mapping[str, HypothesisResult],
    options: ContourOptions | None = None,
) -> Any:
    """Draw the upper limits of a run against the masses that vary.

    Along one mass these are the observed limit and the expected one with its bands; in a
    plane the observed limits as numbers on a map, with the contours of mu = 1.

    Parameters
    ----------
    manifest, results
        A run for limits: what was asked for and what is finished, by name.
    options
        Which masses to draw and how to title them.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError, RequestError
        As `fitserve.draw.grid.mass_grid`; also where the run is not one for limits.
    MissingExtraError
        The packages for drawing are not installed.
    """
    need_pictures()
    request = manifest.request
    if not isinstance(request, LimitRequest):
        raise refuse_kind(manifest, LimitRequest)
    options = options or ContourOptions()
    grid = mass_grid(manifest, results, options)
    limits = _limits(grid, results)
    what = f"Upper limits on the signal strength at {level_text(request.level)}"
    with pictures():
        figure = new_figure(9.0 if grid.dimension > 1 else 8.0, 7.0)
        figure.subplots_adjust(
            left=0.13, right=0.96 if grid.dimension == 1 else 0.88, bottom=0.11, top=0.94
        )
        axes = figure.add_subplot()
        if grid.dimension == 1:
            # An arrow at the bound of the search is a point too.
            need_points(len(grid.names), grid.labels[0])
            entries = _draw_band(axes, grid, limits, _bounds(grid, results))
            axes.set_ylabel(r"Upper limit on $\mu$")
        else:
            entries = _draw_map(figure, axes, grid, limits, results, options)
            axes.set_ylabel(axis_title(grid.titles[1], grid.labels[1], chosen=options.y))
        axes.set_xlabel(axis_title(grid.titles[0], grid.labels[0], chosen=options.x))
        lines = title_above(axes, manifest, None, what)
        total, beyond = len(grid.names), int(np.isfinite(_bounds(grid, results)).sum())
        missing = int(np.isnan(limits[:, 0]).sum()) - beyond
        if beyond:
            lines.append(f"{beyond} of {total} observed limits are above the bound of the search")
        if missing:
            lines.append(f"{missing} of {total} points have no observed limit")
        add_legend(axes, [*lines, *grid.notes], entries)
    return figure


def _limits(grid: MassGrid, results: Mapping[str, HypothesisResult]) -> NDArray[np.float64]:
    """Return observed and expected limits of the points, shape (n, 6); NaN for none."""
    limits = np.full((len(grid.names), 6), np.nan)
    for row, (name, state) in enumerate(zip(grid.names, grid.states, strict=True)):
        limit = results[name].limit if name in results else None
        if limit is not None and state in ("ok", "suspect"):
            numbers = [limit.observed, *limit.expected]
            limits[row] = [np.nan if value is None else value for value in numbers]
    return limits


def _bounds(grid: MassGrid, results: Mapping[str, HypothesisResult]) -> NDArray[np.float64]:
    """Return the POI's bound where the observed limit is above it, shape (n,); else NaN."""
    bounds = [
        above_bound(results[name], "observed") if name in results else None for name in grid.names
    ]
    return np.array([np.nan if bound is None else bound for bound in bounds])


def _draw_band(
    axes: Any, grid: MassGrid, limits: NDArray[np.float64], bounds: NDArray[np.float64]
) -> list[tuple[Any, str]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    order = np.argsort(grid.points[:, 0])
    x, ordered = grid.points[order, 0], limits[order]
    axes.fill_between(x, ordered[:, 1], ordered[:, 5], color=WIDE_BAND, linewidth=0, zorder=1)
    axes.fill_between(x, ordered[:, 2], ordered[:, 4], color=BAND, linewidth=0, zorder=1.1)
    axes.plot(x, ordered[:, 3], color=EXPECTED, linestyle=_DASHES, linewidth=1.8, zorder=4.5)
    axes.plot(x, ordered[:, 0], color=OBSERVED, linewidth=2.4, zorder=4)
    axes.axhline(1.0, color="#0072b2", linestyle=":", linewidth=1.6, zorder=2)
    # A point without a limit is drawn at mu = 1; a limit above the bound is an arrow at the bound.
    above = np.isfinite(bounds)
    height = np.where(np.isfinite(limits[:, 0]), limits[:, 0], np.where(above, np.nan, 1.0))
    arrows: dict[str, Any] = {
        "linestyle": "none",
        "marker": "^",
        "markersize": 8,
        "color": OBSERVED,
    }
    axes.plot(grid.points[above, 0], bounds[above], zorder=5, **arrows)
    add_points(axes, grid.points[:, 0], height, grid)
    axes.set_yscale("log")
    margin = 0.03 * np.ptp(x)
    axes.set_xlim(x[0] - margin, x[-1] + margin)
    shown = [*ordered[np.isfinite(ordered)], *bounds[above], 1.0]
    axes.set_ylim(min(shown) / 1.3, max(shown) * 1.3)
    dashed = Line2D([], [], color=EXPECTED, linestyle="--", linewidth=1.8)
    beyond = (Line2D([], [], **arrows), f"Observed limit above ({int(above.sum())})")
    return [
        (Line2D([], [], color=OBSERVED, linewidth=2.4), "Observed"),
        ((Patch(facecolor=BAND), dashed), r"Expected ($\pm\mathrm{1}\,\sigma$)"),
        (Patch(facecolor=WIDE_BAND), r"Expected ($\pm\mathrm{2}\,\sigma$)"),
        (Line2D([], [], color="#0072b2", linestyle=":", linewidth=1.6), r"$\mu = \mathrm{1}$"),
        *([beyond] if above.any() else []),
        *point_entries(grid),
    ]


def _draw_map(
    figure: Any,
    axes: Any,
    grid: MassGrid,
    limits: NDArray[np.float64],
    results: Mapping[str, HypothesisResult],
    options: ContourOptions,
) -> list[tuple[Any, str]]:
    from matplotlib.colors import LogNorm
    from matplotlib.lines import Line2D

    limited = np.isfinite(limits[:, 0])
    observed = limits[limited, 0]
    mesh = Mesh(grid.points)
    if limited.any():
        # A limit and its logarithm vary as smoothly as a significance does.
        norm = LogNorm(min(observed.min(), 0.5), max(observed.max(), 2.0))
        surface = mesh.surface(np.log10(limits[:, 0]), "linear", level=0.0)
        drawn: Any = None
        if surface is not None:
            drawn = axes.tripcolor(
                surface.triangulation,
                10**surface.values,
                norm=norm,
                cmap="cividis",
                shading="gouraud",
                rasterized=True,
                alpha=0.85,
                zorder=0.6,
            )
        else:
            drawn = axes.scatter(
                *grid.points[limited].T, c=observed, norm=norm, cmap="cividis", s=500, alpha=0.85
            )
        bar = figure.colorbar(drawn, ax=axes, pad=0.02, fraction=0.05)
        bar.set_label(r"Observed upper limit on $\mu$")
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        bar.ax.yaxis.set_minor_formatter(
            lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else ""
        )
    entries = []
    for name, colour, dashes, label in (
        ("observed", OBSERVED, "-", r"Observed $\mu = \mathrm{1}$"),
        ("expected", EXPECTED, _DASHES, r"Expected $\mu = \mathrm{1}$"),
    ):
        lines = level_lines(curve_surface(mesh, grid, name, options), grid.threshold)
        for line in lines:
            axes.plot(*line.T, color="white", linewidth=3.6, zorder=3.9)
            axes.plot(*line.T, color=colour, linestyle=dashes, linewidth=2.2, zorder=4)
        text = label if lines else f"{label}: nowhere"
        entries.append((Line2D([], [], color=colour, linestyle=dashes, linewidth=2.2), text))
    _write_numbers(axes, grid, results)
    low, high = grid.points.min(axis=0), grid.points.max(axis=0)
    margin = 0.05 * (high - low)
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    return entries


def _write_numbers(axes: Any, grid: MassGrid, results: Mapping[str, HypothesisResult]) -> None:
    """Write the limits at their points, or draw the points where there is no room."""
    if len(grid.names) > _MOST_NUMBERS:
        add_points(axes, grid.points[:, 0], grid.points[:, 1], grid)
        return
    from matplotlib.patheffects import withStroke

    size = "x-small" if len(grid.names) <= _CROWDED else "xx-small"
    for name, point, state in zip(grid.names, grid.points, grid.states, strict=True):
        axes.text(
            *point,
            _number(results.get(name), state),
            ha="center",
            va="center",
            fontsize=size,
            fontstyle="italic" if state != "ok" else "normal",
            zorder=6,
            path_effects=[withStroke(linewidth=2.0, foreground="white")],
        )


def _number(result: HypothesisResult | None, state: str) -> str:
    if result is None or result.limit is None or state not in ("ok", "suspect"):
        return state
    observed = result.limit.observed
    return limit_text(result, "observed") if observed is None else f"{observed:.2g}"
