"""Results kept on the site until their client certainly has them.

A result can be lost on its way back: the service drops what nobody fetches, a client's disk
is full. Each answer is therefore also written here, under the digest of its task, so that
the same task sent again is answered without fitting again. Failed fits are not kept.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from fitserve_worker.trust import trusted

__all__ = ["CACHE_VARIABLE", "Entry", "Outbox", "find_outbox"]

CACHE_VARIABLE = "FITSERVE_CACHE_DIR"
"""Environment variable of the worker: the user's cache directory on the site."""

_KEPT_SECONDS = 14 * 24 * 3600.0
_KEPT_BYTES = 1024**3


class Entry(NamedTuple):
    """A kept answer: its task's digest, its size, and when it was written (epoch seconds)."""

    digest: str
    bytes: int
    written: float


class Outbox:
    """A directory of answers; several workers may use it at a time.

    Parameters
    ----------
    directory
        Made when first written to, for its owner alone.
    version
        Version of the worker; answers of other versions are not returned.
    """

    def __init__(self, directory: Path, version: str) -> None:
        self._directory = directory
        self._suffix = f"-{version}.json"
        self._tidied = False

    def get(self, digest: str) -> str | None:
        """Return the answer to the task with this digest, if it is here."""
        path = self._path(digest)
        if path is None or not self._private():
            return None
        try:
            return path.read_text(encoding="ascii")
        except (OSError, UnicodeError):
            return None

    def put(self, digest: str, answer: str) -> bool:
        """Keep an answer; returns whether it could be written.

        A full or read-only disk is no reason to fail the task: its answer is on its way.
        """
        path = self._path(digest)
        if path is None:
            return False
        temporary: Path | None = None
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self._private():
                return False
            self._tidy()
            descriptor, name = tempfile.mkstemp(dir=self._directory, prefix=".")
            temporary = Path(name)
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                stream.write(answer)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except (OSError, UnicodeError):
            if temporary is not None:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
            return False
        return True

    def entries(self) -> list[Entry]:
        """Return all kept answers, the oldest first."""
        entries = []
        with contextlib.suppress(OSError):
            for path in self._directory.glob("[0-9a-f]*.json"):
                with contextlib.suppress(OSError):
                    stat = path.stat()
                    entries.append(Entry(path.name.split("-")[0], stat.st_size, stat.st_mtime))
        return sorted(entries, key=lambda entry: entry.written)

    def clear(self) -> int:
        """Remove everything, and return the number of answers removed."""
        return sum(self._remove(entry) for entry in self.entries())

    def _path(self, digest: str) -> Path | None:
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            return None
        return self._directory / f"{digest}{self._suffix}"

    def _private(self) -> bool:
        # An answer that others can write cannot be trusted.
        return trusted(self._directory) is not None

    def _tidy(self) -> None:
        if self._tidied:
            return
        self._tidied = True
        kept = self.entries()
        total = sum(entry.bytes for entry in kept)
        oldest = time.time() - _KEPT_SECONDS
        for entry in kept:
            if entry.written > oldest and total <= _KEPT_BYTES:
                break
            self._remove(entry)
            total -= entry.bytes

    def _remove(self, entry: Entry) -> int:
        removed = 0
        for path in self._directory.glob(f"{entry.digest}-*.json"):
            with contextlib.suppress(OSError):
                path.unlink()
                removed = 1
        return removed


def find_outbox(version: str) -> Outbox | None:
    """Return the outbox of this user on this site, or None where the site sets no directory."""
    cache = os.environ.get(CACHE_VARIABLE)
    return Outbox(Path(cache) / "outbox", version) if cache else None
