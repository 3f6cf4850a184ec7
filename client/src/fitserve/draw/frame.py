"""What pictures share: which hypothesis, a figure of the right size, its text, a grid's points."""

from __future__ import annotations

import difflib
import math
import textwrap
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fitserve.draw.style import POINT, need_pictures, safe_text
from fitserve.errors import InputError, RequestError
from fitserve_contract import ToysRequest, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from fitserve.draw.grid import MassGrid
    from fitserve.runs.records import Manifest
    from fitserve_contract import HypothesisResult

__all__ = [
    "add_header",
    "add_legend",
    "add_points",
    "caption",
    "chosen",
    "heading",
    "in_columns",
    "new_figure",
    "point_entries",
    "raise_limit",
    "refuse_kind",
    "refuse_nothing",
    "title_above",
    "write_title",
]

_T = TypeVar("_T")
_Request = TypeVar("_Request")

_LINE_INCHES = 0.25
_TOP_INCHES = 0.16
_GAP = 0.02
_LINE = 68
_WIDEST = 0.94
# More of a kind are drawn smaller, so that what lies below is seen, and as pixels in every format.
_MANY = 2000
_COMMON: dict[str, Any] = {"linestyle": "none", "color": POINT, "markeredgewidth": 0.9}
_STYLES: dict[str, dict[str, Any]] = {
    "Excluded point": {"marker": "o", "markersize": 3.8, "fillstyle": "full"},
    "Point not excluded": {"marker": "o", "markersize": 3.8, "markerfacecolor": "white"},
    "Suspect, excluded": {"marker": "D", "markersize": 6.5, "fillstyle": "full"},
    "Suspect, not excluded": {"marker": "D", "markersize": 6.5, "markerfacecolor": "white"},
    "Suspect, left out": {"marker": "D", "markersize": 6.5, "fillstyle": "left"},
    "Failed": {"marker": "x", "markersize": 7.5, "markeredgewidth": 1.6},
    "Not finished": {"marker": "+", "markersize": 8.5, "markeredgewidth": 1.6},
    # Around one of the others.
    "Jumps against its neighbours": {
        "marker": "o",
        "markersize": 13,
        "fillstyle": "none",
        "markeredgewidth": 1.4,
    },
}


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
    names = {"arxiv": "arXiv", "hepdata": "HEPData", "doi": "doi", "inspire": "INSPIRE"}
    name = names.get(key.lower(), key)
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
    raise_limit(axes, 1 - (box[0, 1] - _GAP))


def add_points(axes: Any, x: NDArray[np.float64], y: NDArray[np.float64], grid: MassGrid) -> None:
    """Draw every point of a grid at ``x``, ``y``, both of shape (n,)."""
    for name, chosen in _groups(grid):
        style = {**_COMMON, **_STYLES[name]}
        if (count := int(chosen.sum())) > _MANY:
            scale = math.sqrt(_MANY / count)
            sizes = {key: style[key] * scale for key in ("markersize", "markeredgewidth")}
            style |= {**sizes, "rasterized": True}
        axes.plot(x[chosen], y[chosen], zorder=5, clip_on=False, **style)


def point_entries(grid: MassGrid) -> list[tuple[Any, str]]:
    """Return legend handles and labels of the kinds of points that a grid has."""
    from matplotlib.lines import Line2D

    return [
        (Line2D([], [], **{**_COMMON, **_STYLES[name]}), f"{name} ({int(chosen.sum())})")
        for name, chosen in _groups(grid)
    ]


def _groups(grid: MassGrid) -> list[tuple[str, NDArray[np.bool_]]]:
    states = np.array(grid.states)
    has_cls = np.isfinite(grid.cls_obs)
    suspect = states == "suspect"
    unfinished = states == "unfinished"
    groups = {
        "Excluded point": has_cls & grid.excluded & ~suspect,
        "Point not excluded": has_cls & ~grid.excluded & ~suspect,
        "Suspect, excluded": has_cls & grid.excluded & suspect,
        "Suspect, not excluded": has_cls & ~grid.excluded & suspect,
        "Suspect, left out": ~has_cls & suspect,
        "Failed": ~has_cls & ~suspect & ~unfinished,
        "Not finished": unfinished,
        "Jumps against its neighbours": np.array(grid.jumps, dtype=bool),
    }
    return [(name, chosen) for name, chosen in groups.items() if chosen.any()]


def raise_limit(axes: Any, taken: float) -> None:
    """Raise the y limit of axes so that text may take this part of their height."""
    # Text takes no more than this: a picture is for its data.
    taken = float(np.clip(taken, 0, 0.6))
    transform = axes.yaxis.get_transform()
    low, high = transform.transform(axes.get_ylim())
    axes.set_ylim(*transform.inverted().transform([low, low + (high - low) / (1 - taken)]))


def chosen(
    manifest: Manifest,
    results: Mapping[str, HypothesisResult],
    name: str | None,
    *kinds: type[_Request],
) -> tuple[_Request, HypothesisResult]:
    """Return the request and the result that a picture shows.

    Parameters
    ----------
    manifest, results
        A run.
    name
        Of the hypothesis; None where the run has one only.
    kinds
        Types of the requests that have such a picture; an error names the first.

    Raises
    ------
    RequestError
        The run is of another kind, the hypothesis is not in it or not finished, or there are
        several to choose from.
    MissingExtraError
        The packages for drawing are not installed.
    """
    need_pictures()
    request = manifest.request
    if not isinstance(request, kinds):
        raise refuse_kind(manifest, kinds[0])
    names = manifest.hypotheses
    if name is None:
        if len(names) > 1:
            raise RequestError(
                "the picture is of one hypothesis, and the run has several",
                evidence=f"{len(names)}, among them {', '.join(names[:3])}",
                hint="--patch NAME",
            )
        name = names[0]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[:3]
        raise RequestError(
            f"the run has no hypothesis '{name}'",
            evidence=f"it has {len(names)}, among them {', '.join(close)}",
            hint="fitserve show RUN",
        )
    if name not in results:
        raise RequestError(f"'{name}' is not finished", hint="fitserve resume RUN")
    return request, results[name]


def refuse_kind(manifest: Manifest, needed: type[Any]) -> RequestError:
    """Return the error of a picture that needs a run with another type of request."""
    wanted = needed.__struct_config__.tag
    return RequestError(
        f"the picture needs a run with --{wanted}",
        evidence=f"this one answers a {kind_of(manifest.request)} request",
        hint=f"fitserve run PALLET --{wanted}",
    )


def refuse_nothing(result: HypothesisResult) -> InputError:
    """Return the error of a hypothesis that failed."""
    return InputError(
        f"there is nothing to draw: '{result.name}' has no valid fit",
        evidence=result.reason or result.status,
        hint="choose another hypothesis: fitserve show RUN",
    )


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure, size in inches; call it within `pictures`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def title_above(
    axes: Any, manifest: Manifest, result: HypothesisResult | None, what: str
) -> list[str]:
    """Write the header above the frame, and return the lines that belong inside it."""
    add_header(axes, caption(manifest))
    lines = heading(manifest, None)
    if result is not None:
        lines.append(safe_text(f"{result.name}: {what}"))
        if result.status != "ok":
            lines.append(safe_text(f"{result.status.upper()}: {result.reason}"[:90]))
    else:
        lines.append(what)
    return lines


def write_title(
    figure: Any,
    manifest: Manifest,
    result: HypothesisResult,
    what: str,
    notes: Sequence[str],
) -> float:
    """Write the text above a figure that has no room for it inside its frame.

    Returns
    -------
    float
        Where the frame may end, in parts of the figure's height.
    """
    width, height = figure.get_figwidth(), figure.get_figheight()
    left = 0.25 / width
    lines = [*heading(manifest, None), f"{result.name}: {what}", *notes]
    if result.status != "ok":
        lines.append(f"{result.status.upper()}: {result.reason}"[:90])
    figure.text(
        left, 1 - _TOP_INCHES / height, "fitserve",
        fontweight="bold", fontsize="large", va="top",
    )  # fmt: skip
    figure.text(
        1 - left, 1 - _TOP_INCHES / height, safe_text(caption(manifest)), ha="right", va="top"
    )
    at = _TOP_INCHES + 0.33
    for line in lines:
        figure.text(left, 1 - at / height, safe_text(line), fontsize="small", va="top")
        at += _LINE_INCHES
    return float(1 - (at + 0.12) / height)


def in_columns(rows: Sequence[_T], most: int) -> list[list[_T]]:
    """Cut rows into columns of nearly the same length, no more than ``most`` each.

    Examples
    --------
    >>> from fitserve.draw.frame import in_columns
    >>> in_columns([1, 2, 3, 4, 5], 4)
    [[1, 2, 3], [4, 5]]
    """
    length = math.ceil(len(rows) / math.ceil(len(rows) / most))
    return [list(rows[start : start + length]) for start in range(0, len(rows), length)]
