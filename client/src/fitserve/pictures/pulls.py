"""Pulls and constraints of the nuisance parameters after a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.contour.needed import need_pictures
from fitserve.contour.style import BAND, EXPECTED, OBSERVED, WIDE_BAND, pictures, safe_text
from fitserve.contract import FitRequest
from fitserve.errors import InputError
from fitserve.pictures.base import (
    chosen,
    in_columns,
    new_figure,
    refuse_kind,
    refuse_nothing,
    write_title,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fitserve.contract import FittedParameter, HypothesisResult
    from fitserve.store.records import Manifest

__all__ = ["draw_pulls"]

_ROW = 0.19
_PER_COLUMN = 60
_WIDEST = 5.0


def draw_pulls(
    manifest: Manifest,
    results: Mapping[str, HypothesisResult],
    name: str | None = None,
) -> Any:
    """Draw how far each constrained parameter is pulled, and how much it is constrained.

    A pull is in widths of the parameter's constraint, and so is its bar, the uncertainty
    after the fit. Parameters without a constraint are written below with their values.

    Parameters
    ----------
    manifest, results
        A run for fits.
    name
        Of the hypothesis; None where the run has one only.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    RequestError, InputError
        The run is another, the hypothesis is not in it, failed, or has no such parameter.
    MissingExtraError
        What draws is not installed.
    """
    need_pictures()
    if not isinstance(manifest.request, FitRequest):
        raise refuse_kind(manifest, "fit")
    result = chosen(manifest, results, name)
    if result.fit is None:
        raise refuse_nothing(result)
    pulled = [one for one in result.fit.parameters if one.pull is not None]
    if not pulled:
        raise InputError("there is nothing to draw: the model has no constrained parameter")
    rest = [one for one in result.fit.parameters if one.pull is None]
    notes = [_told(one) for one in rest[:6]]
    if len(rest) > len(notes):
        notes.append(f"and {len(rest) - len(notes)} more without a constraint")
    with pictures():
        groups = in_columns(pulled, _PER_COLUMN)
        figure = new_figure(5.6 * len(groups), 2.6 + _ROW * len(groups[0]))
        top = write_title(figure, manifest, result, "pulls after the fit", notes)
        bottom = 0.75 / figure.get_figheight()
        grid = figure.subplots(1, len(groups), squeeze=False)[0]
        widest = max(2.4, min(_WIDEST, 1.1 * max(abs(one.pull or 0.0) for one in pulled) + 0.5))
        for axes, group in zip(grid, groups, strict=True):
            _draw(axes, group, len(groups[0]), widest)
        inches = min(3.6, 0.35 + 0.083 * max(len(one.name) for one in pulled))
        left = inches / figure.get_figwidth()
        figure.subplots_adjust(
            left=left, right=0.97, bottom=bottom, top=top, wspace=1.15 * inches / (5.3 - inches)
        )
    return figure


def _told(parameter: FittedParameter) -> str:
    text = f"{parameter.name} = {parameter.bestfit:.3g}"
    if parameter.fixed:
        return f"{text} (fixed)"
    if parameter.at_bound:
        return f"{text} (at its bound)"
    if parameter.uncertainty is not None:
        return rf"{safe_text(text)} $\pm$ {parameter.uncertainty:.2g}"
    return text


def _draw(axes: Any, group: Sequence[FittedParameter], rows: int, widest: float) -> None:
    height = np.arange(len(group))
    pulls = np.array([one.pull or 0.0 for one in group])
    bars = np.array([one.constraint or 0.0 for one in group])
    axes.axvspan(-2, 2, color=WIDE_BAND, linewidth=0, zorder=0.4)
    axes.axvspan(-1, 1, color=BAND, linewidth=0, zorder=0.5)
    axes.axvline(0, color=EXPECTED, linewidth=0.9, linestyle=":", zorder=0.8)
    inside = np.clip(pulls, -widest, widest)
    known = bars > 0
    axes.errorbar(
        inside[known],
        height[known],
        xerr=bars[known],
        fmt="o",
        color=EXPECTED,
        markersize=3.6,
        linewidth=1.3,
        capsize=0,
        zorder=3,
    )
    # At a bound or without a Hessian there is a value and no uncertainty.
    axes.plot(inside[~known], height[~known], "o", mfc="white", color=EXPECTED, markersize=4.2)
    for row, pull in zip(height, pulls, strict=True):
        if abs(pull) > widest:
            axes.annotate(
                f"{pull:.1f}",
                (np.sign(pull) * widest, row),
                xytext=(-np.sign(pull) * 6, 0),
                textcoords="offset points",
                ha="right" if pull > 0 else "left",
                va="center",
                color=OBSERVED,
                fontsize="x-small",
            )
    axes.set_yticks(height, [safe_text(one.name) for one in group], fontsize="x-small")
    axes.tick_params(axis="y", which="both", length=0)
    axes.yaxis.set_minor_locator(_no_ticks())
    axes.set_ylim(rows - 0.3, -0.7)
    axes.set_xlim(-widest, widest)
    axes.set_xlabel(r"$(\hat{\theta} - \theta_\mathrm{0})\,/\,\Delta\theta$", fontsize="medium")


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()
