"""The ranking of nuisance parameters by their impact on the parameter of interest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.draw.frame import chosen, new_figure, refuse_nothing, write_title
from fitserve.draw.style import EXPECTED, pictures, safe_text
from fitserve.errors import InputError
from fitserve_contract import RankingRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fitserve.runs.records import Manifest
    from fitserve_contract import HypothesisResult, Impact

__all__ = ["draw_ranking"]

_UP, _DOWN = "#0072b2", "#e69f00"
_ROW = 0.27


def draw_ranking(
    manifest: Manifest,
    results: Mapping[str, HypothesisResult],
    name: str | None = None,
    *,
    most: int = 20,
) -> Any:
    """Draw the nuisance parameters with the largest impacts, and their pulls.

    Parameters
    ----------
    manifest, results
        A run for rankings.
    name
        Of the hypothesis; None where the run has one only.
    most
        How many parameters.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    RequestError, InputError
        The run is of another kind, the hypothesis is not in it, failed, or has no such parameter.
    MissingExtraError
        The packages for drawing are not installed.
    """
    _, result = chosen(manifest, results, name, RankingRequest)
    if result.ranking is None:
        raise refuse_nothing(result)
    impacts = result.ranking.impacts[:most]
    if not impacts:
        raise InputError("there is nothing to draw: the model has no free nuisance parameter")
    poi = result.ranking.poi
    best_fit = f"{poi.name} = {poi.bestfit:.3g}"
    if poi.uncertainty is not None:
        best_fit = rf"{safe_text(best_fit)} $\pm$ {poi.uncertainty:.2g}"
    elif poi.at_bound:
        best_fit += " (at its bound: impacts go one way only)"
    left_out = len(result.ranking.impacts) - len(impacts)
    notes = [best_fit] + ([f"{left_out} smaller impacts are not drawn"] if left_out else [])
    with pictures():
        figure = new_figure(8.4, 3.1 + _ROW * len(impacts))
        top = write_title(figure, manifest, result, "impact of nuisance parameters", notes)
        height = figure.get_figheight()
        inches = min(3.4, 0.4 + 0.09 * max(len(one.parameter.name) for one in impacts))
        axes = figure.add_subplot()
        figure.subplots_adjust(
            left=inches / figure.get_figwidth(),
            right=0.96,
            bottom=0.8 / height,
            top=top - 0.6 / height,
        )
        _draw_impacts(axes, impacts, poi.name)
        _draw_pulls(axes, impacts)
    return figure


def _draw_impacts(axes: Any, impacts: Sequence[Impact], poi: str) -> None:
    from matplotlib.patches import Patch
    from matplotlib.ticker import NullLocator

    rows = np.arange(len(impacts))

    def widths(field: str) -> Any:
        return np.array([getattr(one, field) or 0.0 for one in impacts])

    for field, colour in (("prefit_up", _UP), ("prefit_down", _DOWN)):
        axes.barh(rows, widths(field), 0.8, facecolor="none", edgecolor=colour, linewidth=1.2)
    for field, colour, hatch in (("postfit_up", _UP, ""), ("postfit_down", _DOWN, "////")):
        axes.barh(
            rows, widths(field), 0.8, facecolor=colour, edgecolor="white", hatch=hatch, alpha=0.85,
            linewidth=0, zorder=2,
        )  # fmt: skip
    fields = ("postfit_up", "postfit_down", "prefit_up", "prefit_down")
    largest = max(float(np.abs(widths(field)).max()) for field in fields) or 1.0
    axes.axvline(0, color=EXPECTED, linewidth=0.9, zorder=2.5)
    axes.set_xlim(-1.15 * largest, 1.15 * largest)
    axes.set_ylim(len(impacts) - 0.4, -0.6)
    axes.set_yticks(rows, [safe_text(one.parameter.name) for one in impacts], fontsize="small")
    axes.tick_params(axis="y", which="both", length=0)
    axes.tick_params(axis="x", which="both", top=False)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"Shift of the best fit of {safe_text(poi)}", fontsize="medium")
    sigma = r"\hat{\theta}"
    axes.figure.legend(
        [
            Patch(facecolor=_UP),
            Patch(facecolor=_DOWN, edgecolor="white", hatch="////", linewidth=0),
            Patch(facecolor="none", edgecolor=_UP, linewidth=1.2),
            Patch(facecolor="none", edgecolor=_DOWN, linewidth=1.2),
        ],
        [
            rf"After the fit: ${sigma} + \Delta\hat{{\theta}}$",
            rf"After the fit: ${sigma} - \Delta\hat{{\theta}}$",
            rf"Constraint: ${sigma} + \Delta\theta$",
            rf"Constraint: ${sigma} - \Delta\theta$",
        ],
        loc="upper right",
        bbox_to_anchor=(0.98, 1 - 0.5 / axes.figure.get_figheight()),
        fontsize="small",
        borderpad=0,
        labelspacing=0.4,
    )


def _draw_pulls(axes: Any, impacts: Sequence[Impact]) -> None:
    """Draw pulls on an axis of their own above the frame."""
    pulls = axes.twiny()
    rows = np.arange(len(impacts))
    values = np.array(
        [np.nan if one.parameter.pull is None else one.parameter.pull for one in impacts]
    )
    bars = np.array([one.parameter.constraint or 0.0 for one in impacts])
    pulls.errorbar(
        values, rows, xerr=bars, fmt="o", color=EXPECTED, markersize=4, linewidth=1.4, zorder=4
    )
    widest = max(2.0, 1.1 * float(np.nanmax(np.abs(values) + bars, initial=0.0)))
    for at in (-1, 1):
        pulls.axvline(at, color=EXPECTED, linestyle=":", linewidth=0.9)
    pulls.set_xlim(-widest, widest)
    pulls.tick_params(axis="x", which="both", bottom=False, top=True, labelsize="small")
    pulls.set_xlabel(
        r"Pull $(\hat{\theta} - \theta_\mathrm{0})\,/\,\Delta\theta$ (points; bars: Hessian)",
        fontsize="medium",
    )
