"""Count the client's modules whose functions a command runs, and how often it reads a run back.

Usage: .venv/bin/python tools/entered.py COMMAND...     e.g. run example --endpoint inline

The arguments are those of `fitserve`. Lists the modules on standard error.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fitserve.runs.store as runs
from fitserve.cli import cli

if TYPE_CHECKING:
    from types import FrameType

CLIENT = str(Path(__file__).resolve().parent.parent / "client" / "src" / "fitserve")
entered: set[str] = set()
reads = 0


def note(frame: FrameType, event: str, _: Any) -> None:
    """Take note of a function of the client; what runs when it is imported does not count."""
    code = frame.f_code
    # Bodies of modules and classes have no fast locals.
    function = code.co_flags & inspect.CO_OPTIMIZED and not code.co_name.startswith("<")
    if event == "call" and function and code.co_filename.startswith(CLIENT):
        entered.add(code.co_filename.removeprefix(CLIENT).strip("/"))


def counted(path: Path) -> Any:
    """Count a reading of results."""
    global reads  # noqa: PLW0603 - counted in a function that replaces another
    reads += 1
    return original(path)


original = runs._read_records  # noqa: SLF001 - all readings come through it
runs._read_records = counted  # noqa: SLF001
threading.setprofile(note)
sys.setprofile(note)
with contextlib.suppress(SystemExit):
    cli(sys.argv[1:])
sys.setprofile(None)
print(*sorted(entered), sep="\n", file=sys.stderr)
print(f"{len(entered)} modules entered, {reads} readings of results", file=sys.stderr)
