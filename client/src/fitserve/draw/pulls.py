"""Pulls, constraints and correlations of the nuisance parameters after a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.draw.frame import (
    chosen,
    in_columns,
    new_figure,
    refuse_nothing,
    write_title,
)
from fitserve.draw.style import (
    BAND,
    EXPECTED,
    OBSERVED,
    WIDE_BAND,
    pictures,
    safe_text,
)
from fitserve.errors import InputError
from fitserve_contract import FitRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fitserve.runs.records import Manifest
    from fitserve_contract import Correlations, FittedParameter, HypothesisResult

__all__ = ["correlation_matrix", "draw_correlations", "draw_pulls"]

_ROW = 0.19
_PER_COLUMN = 60
_WIDEST = 5.0
_BARS = {True: "profile-likelihood intervals (68%)", False: "uncertainties from the Hessian"}


def draw_pulls(
    manifest: Manifest,
    results: Mapping[str, HypothesisResult],
    name: str | None = None,
) -> Any:
    """Draw how far each constrained parameter is pulled, and how much it is constrained.

    A pull is in widths of the parameter's constraint, and so is its bar: the
    profile-likelihood interval where the run asked for intervals, else the uncertainty from the
    Hessian. An interval without an end, which is beyond the parameter's bound, has an arrow.
    Parameters without a constraint are written above with their values.

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
        The run is of another kind, the hypothesis is not in it, failed, or has no such parameter.
    MissingExtraError
        The packages for drawing are not installed.
    """
    request, result = chosen(manifest, results, name, FitRequest)
    if result.fit is None:
        raise refuse_nothing(result)
    pulled = [one for one in result.fit.parameters if one.pull is not None]
    if not pulled:
        raise InputError("there is nothing to draw: the model has no constrained parameter")
    rest = [one for one in result.fit.parameters if one.pull is None]
    profiled = request.intervals
    notes = [_with_uncertainty(one, profiled=profiled) for one in rest[:6]]
    if len(rest) > len(notes):
        notes.append(f"and {len(rest) - len(notes)} more without a constraint")
    ends = [_bar(one, profiled=profiled) for one in pulled]
    notes.append(f"Bars: {_BARS[profiled]}, in widths of the constraint")
    if np.isinf(ends).any():
        notes.append("An arrow: the end is beyond the parameter's bound")
    with pictures():
        groups = in_columns(pulled, _PER_COLUMN)
        figure = new_figure(5.6 * len(groups), 2.6 + _ROW * len(groups[0]))
        top = write_title(figure, manifest, result, "pulls after the fit", notes)
        bottom = 0.75 / figure.get_figheight()
        grid = figure.subplots(1, len(groups), squeeze=False)[0]
        widest = max(2.4, min(_WIDEST, 1.1 * max(abs(one.pull or 0.0) for one in pulled) + 0.5))
        for axes, group, bars in zip(grid, groups, in_columns(ends, _PER_COLUMN), strict=True):
            _draw(axes, group, np.array(bars), len(groups[0]), widest)
        inches = min(3.6, 0.35 + 0.083 * max(len(one.name) for one in pulled))
        left = inches / figure.get_figwidth()
        figure.subplots_adjust(
            left=left, right=0.97, bottom=bottom, top=top, wspace=1.15 * inches / (5.3 - inches)
        )
    return figure


def _bar(parameter: FittedParameter, *, profiled: bool) -> tuple[float, float]:
    """Return how far a bar goes down and up from the pull; infinitely where it has no end.

    Both are zero at a bound or without a Hessian, where there is a value and no uncertainty.
    """
    width = parameter.prefit_uncertainty
    if not profiled or not width or parameter.fixed:
        return parameter.constraint or 0.0, parameter.constraint or 0.0
    low, high = parameter.lower, parameter.upper
    if low is None and high is None:
        return 0.0, 0.0
    return (
        np.inf if low is None else (parameter.bestfit - low) / width,
        np.inf if high is None else (high - parameter.bestfit) / width,
    )


def _with_uncertainty(parameter: FittedParameter, *, profiled: bool) -> str:
    text = f"{parameter.name} = {parameter.bestfit:.3g}"
    if parameter.fixed:
        return f"{text} (fixed)"
    if profiled and not (parameter.lower is None and parameter.upper is None):
        low = "its lower bound" if parameter.lower is None else f"{parameter.lower:.3g}"
        high = "its upper bound" if parameter.upper is None else f"{parameter.upper:.3g}"
        return f"{text} (68% interval: {low} to {high})"
    if parameter.at_bound:
        return f"{text} (at its bound)"
    if parameter.uncertainty is not None:
        return rf"{safe_text(text)} $\pm$ {parameter.uncertainty:.2g}"
    return text


def _draw(axes: Any, group: Sequence[FittedParameter], bars: Any, rows: int, widest: float) -> None:
    """Draw a column of pulls; ``bars`` are those of `_bar`, shape (n, 2)."""
    from matplotlib.markers import CARETLEFT, CARETRIGHT
    from matplotlib.ticker import NullLocator

    height = np.arange(len(group))
    pulls = np.array([one.pull or 0.0 for one in group])
    axes.axvspan(-2, 2, color=WIDE_BAND, linewidth=0, zorder=0.4)
    axes.axvspan(-1, 1, color=BAND, linewidth=0, zorder=0.5)
    axes.axvline(0, color=EXPECTED, linewidth=0.9, linestyle=":", zorder=0.8)
    inside = np.clip(pulls, -widest, widest)
    has_bar = bars.any(axis=1)
    axes.errorbar(
        inside[has_bar],
        height[has_bar],
        xerr=np.minimum(bars[has_bar], 2 * widest).T,
        fmt="o",
        color=EXPECTED,
        markersize=3.6,
        linewidth=1.3,
        capsize=0,
        zorder=3,
    )
    for side, marker in enumerate((CARETLEFT, CARETRIGHT)):
        open_ended = height[np.isinf(bars[:, side])]
        edge = np.full(len(open_ended), widest * (2 * side - 1))
        axes.plot(edge, open_ended, marker=marker, linestyle="none", color=EXPECTED, clip_on=False)
    axes.plot(inside[~has_bar], height[~has_bar], "o", mfc="white", color=EXPECTED, markersize=4.2)
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
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(rows - 0.3, -0.7)
    axes.set_xlim(-widest, widest)
    axes.set_xlabel(r"$(\hat{\theta} - \theta_\mathrm{0})\,/\,\Delta\theta$", fontsize="medium")


_CELL = 0.29
_MOST_NUMBERS = 30


def correlation_matrix(correlations: Correlations) -> Any:
    """Return the whole matrix, shape (n, n).

    Examples
    --------
    >>> from fitserve_contract import Correlations
    >>> from fitserve.draw.pulls import correlation_matrix
    >>> correlation_matrix(Correlations(names=["a", "b"], lower=[[], [0.5]])).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    matrix = np.eye(len(correlations.names))
    for row, values in enumerate(correlations.lower):
        matrix[row, : len(values)] = values
        matrix[: len(values), row] = values
    return matrix


def draw_correlations(
    manifest: Manifest,
    results: Mapping[str, HypothesisResult],
    name: str | None = None,
    *,
    threshold: float = 0.1,
    most: int = 40,
) -> Any:
    """Draw the correlations of the parameters that have a large one.

    Parameters
    ----------
    manifest, results
        A run for fits.
    name
        Of the hypothesis; None where the run has one only.
    threshold
        Parameters whose largest correlation is below this are left out.
    most
        No more parameters than this, those with the largest correlations.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    RequestError, InputError
        The run is of another kind, the hypothesis is not in it, failed, or has no such correlation.
    MissingExtraError
        The packages for drawing are not installed.
    """
    _, result = chosen(manifest, results, name, FitRequest)
    if result.fit is None:
        raise refuse_nothing(result)
    names = result.fit.correlations.names
    matrix = correlation_matrix(result.fit.correlations)
    largest = np.abs(matrix - np.eye(len(names))).max(axis=1, initial=0.0)
    strongest = np.argsort(-largest, kind="stable")[:most]
    kept = np.sort(strongest[largest[strongest] >= threshold])
    if not len(kept):
        raise InputError(
            "there is nothing to draw: no two parameters are correlated",
            evidence=f"the largest correlation is {largest.max(initial=0.0):.2g}",
            hint="--threshold 0",
        )
    left_out = len(names) - len(kept)
    notes = []
    if left_out:
        notes.append(f"{left_out} of {len(names)} parameters, less correlated, are left out")
    with pictures():
        size = max(3.0, _CELL * len(kept))
        side = min(3.6, 0.4 + 0.085 * max(len(names[index]) for index in kept))
        figure = new_figure(side + size + 1.0, side + size + 1.7)
        top = write_title(figure, manifest, result, "correlations after the fit", notes)
        axes = figure.add_subplot()
        figure.subplots_adjust(
            left=side / figure.get_figwidth(),
            right=(side + size) / figure.get_figwidth(),
            bottom=side / figure.get_figheight(),
            top=min(top, (side + size) / figure.get_figheight()),
        )
        _draw_matrix(figure, axes, matrix[np.ix_(kept, kept)], [safe_text(names[i]) for i in kept])
    return figure


def _draw_matrix(figure: Any, axes: Any, shown: Any, labels: list[str]) -> None:
    from matplotlib.ticker import NullLocator

    image = axes.imshow(shown, vmin=-1, vmax=1, cmap="PuOr", aspect="equal")
    ticks = np.arange(len(labels))
    axes.set_xticks(ticks, labels, rotation=90, fontsize="x-small")
    axes.set_yticks(ticks, labels, fontsize="x-small")
    axes.tick_params(which="both", length=0)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    if len(labels) <= _MOST_NUMBERS:
        for row, column in np.ndindex(*shown.shape):
            value = shown[row, column]
            if row != column and abs(value) >= 0.01:  # noqa: PLR2004 - as many digits as are written
                axes.text(
                    column,
                    row,
                    f"{value:.2f}".replace("0.", ".").replace("-", "\N{MINUS SIGN}"),
                    ha="center",
                    va="center",
                    fontsize=6,
                    color="white" if abs(value) > 0.7 else "black",  # noqa: PLR2004
                )
    box = axes.get_position()
    bar = figure.colorbar(image, cax=figure.add_axes((box.x1 + 0.012, box.y0, 0.018, box.height)))
    bar.ax.tick_params(labelsize="small")
    bar.set_label("Correlation", fontsize="medium")
