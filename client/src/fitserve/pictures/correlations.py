"""The correlation matrix of a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.contour.needed import need_pictures
from fitserve.contour.style import pictures, safe_text
from fitserve.contract import FitRequest
from fitserve.errors import InputError
from fitserve.pictures.base import chosen, new_figure, refuse_kind, refuse_nothing, write_title

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitserve.contract import Correlations, HypothesisResult
    from fitserve.store.records import Manifest

__all__ = ["correlation_matrix", "draw_correlations"]

_CELL = 0.29
_MOST_NUMBERS = 30


def correlation_matrix(correlations: Correlations) -> Any:
    """Return the whole matrix, shape (n, n).

    Examples
    --------
    >>> from fitserve.contract import Correlations
    >>> from fitserve.pictures.correlations import correlation_matrix
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
        The run is another, the hypothesis is not in it, failed, or has no such correlation.
    MissingExtraError
        What draws is not installed.
    """
    need_pictures()
    if not isinstance(manifest.request, FitRequest):
        raise refuse_kind(manifest, "fit")
    result = chosen(manifest, results, name)
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
        _draw(figure, axes, matrix[np.ix_(kept, kept)], [safe_text(names[i]) for i in kept])
    return figure


def _draw(figure: Any, axes: Any, shown: Any, labels: list[str]) -> None:
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
