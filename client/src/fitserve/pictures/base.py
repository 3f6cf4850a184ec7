"""What all pictures share: which hypothesis, a figure of the right size, text above it."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Any, TypeVar

from fitserve.contour.headroom import add_header, caption, heading
from fitserve.contour.style import safe_text
from fitserve.contract import kind_of
from fitserve.errors import InputError, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fitserve.contract import HypothesisResult
    from fitserve.store.records import Manifest

__all__ = [
    "chosen",
    "in_columns",
    "new_figure",
    "refuse_kind",
    "refuse_nothing",
    "title_above",
    "write_title",
]

_T = TypeVar("_T")

_LINE_INCHES = 0.25
_TOP_INCHES = 0.16


def chosen(
    manifest: Manifest, results: Mapping[str, HypothesisResult], name: str | None
) -> HypothesisResult:
    """Return the result of a hypothesis; ``name`` may be None where there is one only.

    Raises
    ------
    RequestError
        It is not in the run, is not finished, or there are several to choose from.
    """
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
    return results[name]


def refuse_kind(manifest: Manifest, wanted: str) -> RequestError:
    """Return the error of a picture that needs another run."""
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
    """Write the header above the frame and return the lines that belong into the picture."""
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
    >>> from fitserve.pictures.base import in_columns
    >>> in_columns([1, 2, 3, 4, 5], 4)
    [[1, 2, 3], [4, 5]]
    """
    length = math.ceil(len(rows) / math.ceil(len(rows) / most))
    return [list(rows[start : start + length]) for start in range(0, len(rows), length)]
