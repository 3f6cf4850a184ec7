"""Process groups that must not outlive their client enlist before they begin.

Each makes a file named after itself in a directory. Whoever ends them takes the directory away
first: a group is either found there, or finds no directory and ends itself.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
from pathlib import Path

__all__ = ["GROUPS", "end_groups", "enlist"]

GROUPS = "groups"
"""Name of the directory in which groups enlist."""


def enlist(directory: str) -> None:
    """Have this process' group ended with its client; ends the process if that is gone."""
    try:
        (Path(directory) / str(os.getpgrp())).touch()
    except FileNotFoundError:
        sys.exit("fitserve: the client is gone")


def end_groups(directory: Path) -> None:
    """Kill the groups in a directory, which is taken away: no other can enlist there.

    So are those that are left where somebody was kept from doing this to its end.
    """
    with contextlib.suppress(FileNotFoundError):
        directory.rename(directory.with_name(f"{directory.name}-{secrets.token_hex(4)}"))
    with contextlib.suppress(FileNotFoundError):
        for enlisted in directory.parent.glob(f"{directory.name}-*/*"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(int(enlisted.name), signal.SIGKILL)
            # Its number may become another's.
            enlisted.unlink()


if __name__ == "__main__":
    enlist(sys.argv[1])
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command of our own engine
