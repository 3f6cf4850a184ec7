"""Room above the data for the title and the legend, so that neither hides a point."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.contour.style import safe_text
from fitserve.contract import ToysRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve.store.records import Manifest

__all__ = ["add_header", "add_legend", "caption", "heading"]

_GAP = 0.02
_LINE = 68
_WIDEST = 0.94


def heading(manifest: Manifest, title: str | None) -> list[str]:
    """Return the lines that say which analysis a picture is of."""
    pallet = manifest.pallet
    text = title or pallet.title or pallet.description or pallet.name
    if "$" in text:
        return [text]  # a formula does not survive being broken
    return textwrap.wrap(text, _LINE, max_lines=2, placeholder=" ...") or [pallet.name]


def caption(manifest: Manifest) -> str:
    """Return the references of the analysis, on one line that has room above the frame."""
    parts = [_reference(key, value) for key, value in manifest.pallet.references.items()]
    if isinstance(manifest.request, ToysRequest):
        parts.insert(0, f"by {manifest.request.toys:,} toys")
    return textwrap.shorten(", ".join(parts), _LINE, placeholder=" ...")


def _reference(key: str, value: str) -> str:
    known = {"arxiv": "arXiv", "hepdata": "HEPData", "doi": "doi", "inspire": "INSPIRE"}
    name = known.get(key.lower(), key)
    bare = value.removeprefix(f"{name}:").removeprefix(f"{key}:")
    return f"{name}:{bare}"


def add_header(axes: Any, left: str) -> None:
    """Write the program's name and ``left`` above the frame."""
    axes.annotate(
        "fitserve",
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 6),
        textcoords="offset points",
        fontweight="bold",
        fontsize="large",
        va="bottom",
    )
    axes.annotate(
        safe_text(left),
        (1, 1),
        xycoords="axes fraction",
        xytext=(0, 6),
        textcoords="offset points",
        fontsize="medium",
        ha="right",
        va="bottom",
    )


def add_legend(axes: Any, lines: Sequence[str], entries: Sequence[tuple[Any, str]]) -> None:
    """Put text and a legend at the top of the frame and raise the y limit below them.

    Call it last: the y limits must be those of the data.

    Parameters
    ----------
    axes
        Matplotlib axes with their final x limits.
    lines
        Lines of text above the legend.
    entries
        Handles and labels of the legend.
    """
    renderer = axes.figure.canvas.get_renderer()
    text = axes.text(
        0.03,
        0.965,
        "\n".join(safe_text(line) for line in lines),
        transform=axes.transAxes,
        va="top",
        ha="left",
        fontsize="medium",
        linespacing=1.35,
    )
    inside = axes.get_window_extent(renderer).width * _WIDEST
    width = text.get_window_extent(renderer).width
    if width > inside:
        text.set_fontsize(text.get_fontsize() * inside / width)
    top = axes.transAxes.inverted().transform(text.get_window_extent(renderer))[0, 1]
    legend = axes.legend(
        [handle for handle, _ in entries],
        [label for _, label in entries],
        loc="upper left",
        bbox_to_anchor=(0.03, top - 0.01),
        ncols=2,
        borderpad=0,
        borderaxespad=0,
        fontsize="small",
        handlelength=2.4,
        columnspacing=1.6,
        labelspacing=0.45,
    )
    box = axes.transAxes.inverted().transform(legend.get_window_extent(renderer))
    _raise(axes, 1 - (box[0, 1] - _GAP))


def _raise(axes: Any, taken: float) -> None:
    # Never give away more than this to text: a picture is for its data.
    taken = float(np.clip(taken, 0, 0.6))
    transform = axes.yaxis.get_transform()
    low, high = transform.transform(axes.get_ylim())
    axes.set_ylim(*transform.inverted().transform([low, low + (high - low) / (1 - taken)]))
