"""The output of commands (standard output), and their messages (standard error).

Text may come from an untrusted pallet or endpoint: nothing in it controls the terminal.
"""

from __future__ import annotations

import errno
import os
import re
import select
import sys
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import Console

    from fitserve.errors import FitserveError

__all__ = [
    "closed_pipes",
    "emit_json",
    "plain",
    "plain_console",
    "say",
    "show_table",
    "tell",
    "tell_error",
    "warn",
]

# Wider than any table: a line of a file or a pipe is not wrapped.
_UNWRAPPED = 100_000
# Control characters but for line break and tab (of ASCII and of ISO 6429, which some terminals
# take as one character), and those that turn the direction of text or break lines.
_STEERING = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

# Those that would make several lines or columns of one cell.
_BLANKS = str.maketrans("\n\t", "  ")
_BETWEEN = "  "


def plain(text: str) -> str:
    r"""Return text in which characters that steer a terminal are written out.

    Examples
    --------
    >>> from fitserve.console import plain
    >>> print(plain("S_100\x1b[2J"))
    S_100\u001b[2J
    """
    return _STEERING.sub(lambda control: f"\\u{ord(control[0]):04x}", text)


def plain_console(stream: TextIO | None = None) -> Console:
    """Return a console that prints text as it is: no markup, no emoji codes.

    It is on standard error, unless another stream is given.
    """
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> NoReturn:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    out = stream or sys.stderr
    # Text that goes into a file or a pipe is not wrapped at somebody's 80 columns.
    width = None if out.isatty() else _UNWRAPPED if stream else 200
    return Plain(
        file=stream, stderr=not stream, width=width, markup=False, emoji=False, highlight=False
    )


def closed_pipes() -> list[int]:
    """Return which of standard output and error are pipes that nobody reads from any more."""
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return [number for number, event in poll.poll(0) if event & (select.POLLERR | select.POLLHUP)]


def say(text: str) -> None:
    """Print a message: progress, notes, what was done."""
    sys.stderr.write(f"{plain(text)}\n")


def tell(text: str) -> None:
    """Print a line of a command's output."""
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
    """Print a table of a command's output: each row is one line, as far as a terminal is wide."""
    from rich.cells import cell_len

    console = plain_console(sys.stdout)
    cells = [[plain(cell).translate(_BLANKS) for cell in row] for row in (columns, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    if title is not None:
        tell(title)
    if console.is_terminal and sum(widths) + len(_BETWEEN) * (len(widths) - 1) > console.width:
        _show_folded(console, cells)
        return
    for number, row in enumerate(cells):
        padded = (c + " " * (w - cell_len(c)) for c, w in zip(row, widths, strict=True))
        line = _BETWEEN.join(padded)
        if number:
            sys.stdout.write(line + "\n")
        else:
            console.print(line, style="bold", soft_wrap=True)


def _show_folded(console: Console, cells: Sequence[Sequence[str]]) -> None:
    """Print a table that is wider than the terminal; it takes a second for 500 rows."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in cells[0]:
        table.add_column(name, overflow="fold")
    for row in cells[1:]:
        table.add_row(*row)
    console.print(table)


def emit_json(content: Any, results: Mapping[str, Any] | None = None) -> None:
    """Print JSON for a program on standard output.

    ``results`` are added to an object under this name, one encoded after the other: of many
    there is never the whole text in memory.
    """
    pretty = msgspec.json.format(msgspec.json.encode(content), indent=2)
    # JSON has these escapes too, and nothing but blanks and line breaks outside of its strings.
    text = plain(pretty.decode())
    if results is not None:
        sys.stdout.write(text.removesuffix("\n}") + ',\n  "results": {')
        for number, (name, result) in enumerate(results.items()):
            line = f"{_line(name)}: {_line(result)}"
            sys.stdout.write(("," if number else "") + f"\n    {line}")
        text = "\n  }\n}"
    sys.stdout.write(text + "\n")


def _line(content: Any) -> str:
    return plain(msgspec.json.encode(content).decode())
