"""One process at a time writes to a run directory."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

import filelock

from fitserve.errors import StoreError
from fitserve.store.atomic import unwritable

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["RunLock"]


class RunLock:
    """The lock of a run directory; the operating system frees it when its holder dies.

    Raises
    ------
    StoreError
        Another process holds it, or the directory cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self._holder = directory / "lock.holder"
        self._lock = filelock.FileLock(directory / "lock", timeout=0)
        try:
            self._lock.acquire()
            self._holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        except filelock.Timeout as error:
            raise StoreError(
                f"the run directory {directory} is in use",
                evidence=f"by {self._held_by()}",
                hint="wait for it, stop it, or choose another --output",
            ) from error
        except OSError as error:
            raise unwritable(directory, error) from error

    def release(self) -> None:
        """Give the directory free."""
        with contextlib.suppress(OSError):
            self._holder.unlink(missing_ok=True)
        self._lock.release()

    def _held_by(self) -> str:
        try:
            return self._holder.read_text()
        except OSError:
            return "another process"
