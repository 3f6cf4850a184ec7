"""Saving a figure: whole or not at all, and with the same bytes for the same picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitserve.contour.style import pictures
from fitserve.errors import RequestError
from fitserve.output import write_output

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FORMATS", "figure_bytes", "save_figure"]

FORMATS = ("png", "pdf", "svg")

# Neither the time nor anything else that differs from one drawing to the next.
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
