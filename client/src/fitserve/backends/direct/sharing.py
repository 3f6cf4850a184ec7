"""Several runs of one user on one site share its blocks.

Each run keeps a file in the site's run directory and touches it; the number of files that are
fresh is the number of runs.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Share"]

_TOUCH_SECONDS = 5.0
_STALE_SECONDS = 60.0


class Share:
    """The part that this run has of the blocks that a site allows.

    Parameters
    ----------
    directory
        Of all the runs; made if it is not there.
    """

    def __init__(self, directory: Path) -> None:
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._path = directory / name
        self._touched = 0.0
        self._known: tuple[int, int] = (0, 1)

    def begin(self) -> None:
        """Be counted.

        Raises
        ------
        OSError
            The directory cannot be written.
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.touch()

    def end(self) -> None:
        """Be counted no more."""
        with contextlib.suppress(OSError):
            self._path.unlink()

    def blocks(self, most: int) -> int:
        """Return how many of ``most`` blocks this run may have; at least one."""
        if time.monotonic() - self._touched > _TOUCH_SECONDS:
            self._touched = time.monotonic()
            with contextlib.suppress(OSError):
                self._path.touch()
                self._known = self._count()
        rank, runs = self._known
        return max(1, most // runs + (rank < most % runs))

    def _count(self) -> tuple[int, int]:
        now = self._path.stat().st_mtime
        fresh = []
        for path in self._path.parent.iterdir():
            # The file system's clock, not this machine's.
            with contextlib.suppress(FileNotFoundError):
                if now - path.stat().st_mtime < _STALE_SECONDS:
                    fresh.append(path.name)
                else:
                    path.unlink()
        names = sorted({*fresh, self._path.name})
        return names.index(self._path.name), len(names)
