"""A scan of the signal strength: the profile likelihood ratio above, CLs below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.draw.frame import (
    add_legend,
    chosen,
    new_figure,
    refuse_nothing,
    title_above,
)
from fitserve.draw.style import (
    BAND,
    EXPECTED,
    OBSERVED,
    WIDE_BAND,
    need_points,
    pictures,
)
from fitserve.kinds.base import confidence_level
from fitserve_contract import LimitRequest, ScanRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fitserve.runs.records import Manifest
    from fitserve_contract import HypothesisResult, MuPoint

__all__ = ["draw_scan"]

_CLS = r"$\mathrm{CL}_\mathrm{s}$"
_LINE = "#0072b2"
_FLOOR = 1e-4
_MOST = 12.0


def draw_scan(
    manifest: Manifest,
    results: Mapping[str, HypothesisResult],
    name: str | None = None,
) -> Any:
    """Draw the scan of one hypothesis; a run for limits has the points of its search.

    Parameters
    ----------
    manifest, results
        A run for a scan or for limits.
    name
        Of the hypothesis; None where the run has one only.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    RequestError, InputError
        The run is of another kind, the hypothesis is not in it, or it failed.
    MissingExtraError
        The packages for drawing are not installed.
    """
    _, result = chosen(manifest, results, name, ScanRequest, LimitRequest)
    points = sorted(result.points, key=lambda point: point.mu)
    if not any(point.status != "failed" for point in points):
        raise refuse_nothing(result)
    need_points(sum(point.status != "failed" for point in points), "the signal strength")
    mu = np.array([point.mu for point in points])
    with pictures():
        figure = new_figure(8.0, 8.0)
        figure.subplots_adjust(left=0.13, right=0.96, bottom=0.09, top=0.95, hspace=0.07)
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(1.25, 1))
        _draw_likelihood(upper, mu, points)
        level = confidence_level(manifest.request)
        _draw_cls(lower, mu, points, 1 - level)
        margin = 0.02 * max(float(np.ptp(mu)), 1e-9)
        lower.set_xlim(mu[0] - margin, mu[-1] + margin)
        lower.set_xlabel(r"Signal strength $\mu$")
        lines = title_above(upper, manifest, result, "scan of the signal strength")
        if result.muhat is not None:
            lines.append(rf"Best fit $\hat{{\mu}}$ = {round(result.muhat, 6):.3g}")
        add_legend(upper, lines, _entries(points, 1 - level))
    return figure


def _numbers(values: list[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _draw_likelihood(axes: Any, mu: NDArray[np.float64], points: list[MuPoint]) -> None:
    rise = _numbers([point.twice_delta_nll for point in points])
    axes.plot(mu, rise, color=OBSERVED, linewidth=2.2, marker="o", markersize=3.8, zorder=4)
    top = min(float(np.nanmax(rise)) if np.isfinite(rise).any() else 1.0, _MOST)
    for level in (1.0, 4.0):
        if level < 1.2 * top:
            axes.axhline(level, color=_LINE, linestyle=":", linewidth=1.4, zorder=2)
    _mark_doubts(axes, mu, rise, points)
    axes.set_ylim(0, max(1.3, 1.05 * top))
    axes.set_ylabel(r"$-\mathrm{2}\,\Delta\,\ln\,L$")


def _draw_cls(axes: Any, mu: NDArray[np.float64], points: list[MuPoint], alpha: float) -> None:
    observed = _numbers([point.CLs_obs for point in points])
    expected = np.array([_numbers(point.CLs_exp) for point in points])
    shown = np.maximum(expected, _FLOOR / 10)
    axes.fill_between(mu, shown[:, 0], shown[:, 4], color=WIDE_BAND, linewidth=0, zorder=1)
    axes.fill_between(mu, shown[:, 1], shown[:, 3], color=BAND, linewidth=0, zorder=1.1)
    axes.plot(mu, shown[:, 2], color=EXPECTED, linestyle=(0, (5, 2.5)), linewidth=1.8, zorder=4.5)
    axes.plot(
        mu,
        np.maximum(observed, _FLOOR / 10),
        color=OBSERVED,
        linewidth=2.2,
        marker="o",
        markersize=3.8,
        zorder=4,
    )
    axes.axhline(alpha, color=_LINE, linestyle=":", linewidth=1.6, zorder=2)
    _mark_doubts(axes, mu, np.maximum(observed, _FLOOR), points)
    axes.set_yscale("log")
    axes.set_ylim(_FLOOR, 1.5)
    axes.set_ylabel(_CLS)


def _mark_doubts(
    axes: Any, mu: NDArray[np.float64], height: NDArray[np.float64], points: list[MuPoint]
) -> None:
    doubted = np.array([point.status == "suspect" for point in points])
    if doubted.any():
        axes.plot(
            mu[doubted],
            height[doubted],
            linestyle="none",
            marker="D",
            markersize=7,
            color=EXPECTED,
            fillstyle="none",
            zorder=6,
        )


def _entries(points: list[MuPoint], alpha: float) -> list[tuple[Any, str]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    dashed = Line2D([], [], color=EXPECTED, linestyle="--", linewidth=1.8)
    entries = [
        (Line2D([], [], color=OBSERVED, linewidth=2.2, marker="o", markersize=3.8), "Observed"),
        ((Patch(facecolor=BAND), dashed), r"Expected ($\pm\mathrm{1}\,\sigma$)"),
        (
            Line2D([], [], color=_LINE, linestyle=":", linewidth=1.4),
            rf"$\mathrm{{1}}\,\sigma$, $\mathrm{{2}}\,\sigma$; {_CLS} = {round(alpha, 12):g}",
        ),
        (Patch(facecolor=WIDE_BAND), r"Expected ($\pm\mathrm{2}\,\sigma$)"),
    ]
    doubted = sum(point.status == "suspect" for point in points)
    if doubted:
        diamond = Line2D(
            [], [], linestyle="none", marker="D", fillstyle="none", color=EXPECTED, markersize=7
        )
        entries.append((diamond, f"Suspect ({doubted})"))
    failed = sum(point.status == "failed" for point in points)
    if failed:
        entries.append((Line2D([], [], linestyle="none"), f"Failed, not drawn ({failed})"))
    return entries
