"""How pictures look, what they need, and how they are saved.

The style is mplhep's of ATLAS without any experiment's label.

Pictures can be read without colour too: observed and expected differ in line style, excluded and
other points in filling, holes and doubtful points in shape, and regions without interpolation are
hatched. The colours are of the Okabe-Ito palette (Okabe and Ito, Color Universal Design, 2008).
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitserve.errors import InputError, MissingExtraError, RequestError
from fitserve.files import write_output

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "BAND",
    "EXPECTED",
    "FORMATS",
    "HOLE",
    "OBSERVED",
    "POINT",
    "REFERENCES",
    "WIDE_BAND",
    "axis_title",
    "figure_bytes",
    "need_pictures",
    "need_points",
    "pictures",
    "safe_text",
    "save_figure",
]

OBSERVED = "#9e1b32"
EXPECTED = "#000000"
BAND = "#f7dc6f"
WIDE_BAND = "#fcf3cf"
POINT = "#4d4d4d"
HOLE = "#b5b5b5"
_NESTING = re.compile(r"[{\\^_]")
_MOST_NESTING = 40
REFERENCES = (
    ("#0072b2", (0, (6, 1.5, 1, 1.5))),
    ("#009e73", (0, (1, 1.2))),
    ("#cc79a7", (0, (8, 2, 1, 2, 1, 2))),
    ("#d55e00", (0, (4, 2))),
)
"""Colour and dashes of each overlaid reference, in turn."""


@contextlib.contextmanager
def pictures() -> Iterator[None]:
    """Draw in fitserve's style and with reproducible identifiers while in the context."""
    import matplotlib as mpl

    with warnings.catch_warnings():
        # Its import checks for newer names of its own functions with every release.
        warnings.simplefilter("ignore", DeprecationWarning)
        import mplhep

    changes: dict[str, Any] = {
        "figure.figsize": (8.0, 7.0),
        "figure.constrained_layout.use": False,
        "font.size": 13,
        "axes.formatter.limits": (-3, 5),
        "axes.autolimit_mode": "data",
        "axes.labelpad": 4,
        "axes.unicode_minus": True,
        "axes.axisbelow": False,
        "ytick.major.size": 8,
        "ytick.minor.size": 4,
        "xtick.major.size": 8,
        "xtick.minor.size": 4,
        "hatch.linewidth": 0.6,
        # The same picture has the same bytes: identifiers are hashed with this, not drawn.
        "svg.hashsalt": "fitserve",
    }
    with mpl.rc_context({**mplhep.style.ATLAS, **changes}):
        yield


def axis_title(title: str, label: str, *, chosen: str | None = None) -> str:
    r"""Return an axis title that matplotlib can set.

    Parameters
    ----------
    title
        The catalogue's title: text with mathtext between dollar signs, or all mathtext.
    label
        The patchset's name of the value, used where the title cannot be set.
    chosen
        The user's own title, used instead of both.

    Raises
    ------
    RequestError
        The user's own title is not valid mathtext.

    Examples
    --------
    >>> from fitserve.draw.style import axis_title
    >>> axis_title(r"m(\tilde{\tau})", "mst")
    '$m(\\tilde{\\tau})$'
    >>> axis_title(r"$m(\nosuchcommand$", "m_1")
    'm_1'
    """
    if chosen is not None:
        if not _is_mathtext(chosen):
            raise RequestError(
                "the axis title is not text that matplotlib can set",
                evidence=chosen,
                hint=r"write mathematics between dollar signs, as in '$m(\tilde{\tau})$ [GeV]'",
            )
        return chosen
    if "$" not in title and re.search(r"[\\^{}]", title):
        title = f"${title}$"
    return title if _is_mathtext(title) else safe_text(label)


def safe_text(text: str) -> str:
    """Return the text if matplotlib can set it, else with its dollar signs as plain ones."""
    return text if _is_mathtext(text) else text.replace("$", r"\$")


def _is_mathtext(text: str) -> bool:
    from matplotlib.mathtext import MathTextParser

    # Each of these may nest, and matplotlib sets what is nested by recursion.
    if len(_NESTING.findall(text)) > _MOST_NESTING:
        return False
    try:
        MathTextParser("path").parse(text)
    except (ValueError, RecursionError):
        return False
    return True


_PACKAGES = ("matplotlib", "mplhep", "jinja2", "scipy")
# Two points have a line between them whatever the curve is.
_LEAST_POINTS = 3


def need_pictures(what: str = "drawing") -> None:
    """Check that the packages of the extra ``plot`` are there, without importing them.

    Raises
    ------
    MissingExtraError
        One is not.
    """
    if not all(find_spec(name) for name in _PACKAGES):
        raise MissingExtraError(what, "plot")


def need_points(count: int, along: str) -> None:
    """Check that there are enough points for a curve.

    Parameters
    ----------
    count
        How many points have a number.
    along
        What varies between them.

    Raises
    ------
    InputError
        There are too few.
    """
    if count < _LEAST_POINTS:
        raise InputError(
            f"there are too few points for a curve along {along}",
            evidence=f"{count} with a valid number, {_LEAST_POINTS} are needed",
            hint="the numbers are in: fitserve show RUN",
        )


FORMATS = ("png", "pdf", "svg")

# Without times, or anything else that differs from one drawing to the next.
_METADATA: Mapping[str, dict[str, Any]] = {
    "png": {"Software": "fitserve"},
    "pdf": {"Creator": "fitserve", "CreationDate": None},
    "svg": {"Creator": "fitserve", "Date": None},
}


def save_figure(figure: Any, path: Path, *, dpi: int = 200) -> None:
    """Save a figure in the format that the name of ``path`` ends with.

    Raises
    ------
    RequestError
        The format is none of `FORMATS`.
    StoreError
        The file cannot be written.
    """
    write_output(path, figure_bytes(figure, format_of(path), dpi=dpi))


def format_of(path: Path) -> str:
    """Return the picture format that a name asks for.

    Raises
    ------
    RequestError
        It asks for none of `FORMATS`.
    """
    wanted = Path(path).suffix.lower().removeprefix(".")
    if wanted not in FORMATS:
        raise RequestError(
            "the picture's format is not known",
            evidence=str(path),
            hint="end its name with ." + ", .".join(FORMATS),
        )
    return wanted


def figure_bytes(figure: Any, format_: str, *, dpi: int = 200) -> bytes:
    """Return a figure as the bytes of a file of one of `FORMATS`."""
    buffer = io.BytesIO()
    with pictures():
        figure.savefig(buffer, format=format_, dpi=dpi, metadata=_METADATA[format_])
    return buffer.getvalue()
