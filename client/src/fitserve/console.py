"""Talking to a person (standard error) and to a program (standard output)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fitserve.errors import FitserveError

__all__ = ["emit_json", "say", "show_table", "tell_error", "warn"]


def say(text: str) -> None:
    """Print a line for a person."""
    sys.stderr.write(f"{text}\n")


def warn(text: str) -> None:
    """Print a warning for a person."""
    _console().print(f"! {text}", style="yellow", highlight=False, markup=False)


def tell_error(error: FitserveError) -> None:
    """Print an error: cause, what was seen, what to do next."""
    console = _console()
    console.print(f"error: {error.cause}", style="bold red", highlight=False, markup=False)
    for word, text in (("seen", error.evidence), ("next", error.hint)):
        if text:
            console.print(f"  {word}: {text}", highlight=False, markup=False)


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None
) -> None:
    """Print a table for a person; on a terminal it fits the width, elsewhere it is plain."""
    from rich.table import Table

    table = Table(title=title, box=None, pad_edge=False, header_style="bold", title_justify="left")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    _console().print(table, highlight=False, markup=False)


def emit_json(content: Any) -> None:
    """Print JSON for a program on standard output."""
    text = msgspec.json.format(msgspec.json.encode(content), indent=2)
    sys.stdout.write(text.decode() + "\n")


def _console() -> Any:
    from rich.console import Console

    # Text that goes into a file or a pipe is not wrapped at somebody's 80 columns.
    return Console(stderr=True, width=None if sys.stderr.isatty() else 200)
