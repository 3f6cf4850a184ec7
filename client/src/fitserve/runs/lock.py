"""One process at a time writes to a run directory."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

import filelock

from fitserve.errors import StoreError
from fitserve.files import open_regular, read_regular, unwritable

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
        lock = directory / "lock"
        self._lock = filelock.FileLock(lock, timeout=0)
        try:
            # Whoever made the directory may have put a link there, to a file of ours.
            os.close(open_regular(lock, os.O_RDWR | os.O_CREAT))
            self._lock.acquire()
            self._tell()
        except filelock.Timeout as error:
            raise StoreError(
                f"the run directory {directory} is in use",
                evidence=f"by {self._held_by()}",
                hint="wait for it, stop it, or choose another --output",
            ) from error
        except OSError as error:
            raise unwritable(directory, error) from error

    def release(self) -> None:
        """Release the directory."""
        with contextlib.suppress(OSError):
            self._holder.unlink(missing_ok=True)
        self._lock.release()

    def _tell(self) -> None:
        self._holder.unlink(missing_ok=True)
        held = open_regular(self._holder, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(held, "w") as stream:
            stream.write(f"process {os.getpid()} on {socket.gethostname()}")

    def _held_by(self) -> str:
        try:
            return read_regular(self._holder).decode()
        except (OSError, ValueError):
            return "another process"
