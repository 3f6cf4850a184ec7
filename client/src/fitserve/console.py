"""Talking to a person (standard error) and to a program (standard output).

What is told may come from anybody's pallet or endpoint: nothing in it steers the terminal.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from fitserve.errors import FitserveError

__all__ = ["emit_json", "plain", "plain_console", "say", "show_table", "tell", "tell_error", "warn"]

# Control characters but for line break and tab (of ASCII and of ISO 6429, which some terminals
# take as one character), and those that turn the direction of text or break lines.
_STEERING = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    r"""Return text in which characters that steer a terminal are written out.

    Examples
    --------
    >>> from fitserve.console import plain
    >>> print(plain("S_100\x1b[2J"))
    S_100\u001b[2J
    """
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def plain_console() -> Console:
    """Return a console on standard error that prints text as it is: no markup, no emoji codes."""
    from rich.console import Console

    # Text that goes into a file or a pipe is not wrapped at somebody's 80 columns.
    width = None if sys.stderr.isatty() else 200
    return Console(stderr=True, width=width, markup=False, emoji=False, highlight=False)


def say(text: str) -> None:
    """Print a line for a person."""
    sys.stderr.write(f"{plain(text)}\n")


def tell(text: str) -> None:
    """Print a line that is what a command exists to print."""
    sys.stdout.write(f"{plain(text)}\n")


def warn(text: str) -> None:
    """Print a warning for a person."""
    plain_console().print(plain(f"! {text}"), style="yellow")


def tell_error(error: FitserveError) -> None:
    """Print an error: cause, what was seen, what to do next."""
    console = plain_console()
    console.print(plain(f"error: {error.cause}"), style="bold red")
    for word, text in (("seen", error.evidence), ("next", error.hint)):
        if text:
            console.print(plain(f"  {word}: {text}"))


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None
) -> None:
    """Print a table for a person; on a terminal it fits the width, elsewhere it is plain."""
    from rich.table import Table

    title = None if title is None else plain(title)
    table = Table(title=title, box=None, pad_edge=False, header_style="bold", title_justify="left")
    for name in columns:
        table.add_column(plain(name), overflow="fold")
    for row in rows:
        table.add_row(*map(plain, row))
    plain_console().print(table)


def emit_json(content: Any) -> None:
    """Print JSON for a program on standard output."""
    text = msgspec.json.format(msgspec.json.encode(content), indent=2)
    # JSON has these escapes too, and nothing but blanks and line breaks outside of its strings.
    sys.stdout.write(plain(text.decode()) + "\n")
