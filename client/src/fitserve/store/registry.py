"""Where this user's runs are, so that they can be listed and their results reused."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import platformdirs

from fitserve.errors import StoreError
from fitserve.store.atomic import write_atomic

__all__ = ["known_runs", "register"]


def register(run: Path) -> None:
    """Remember a run directory; a home that cannot be written is no reason to stop."""
    path = str(run.resolve())
    directory = _directory()
    with contextlib.suppress(OSError, StoreError):
        directory.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(path.encode()).hexdigest()[:24]
        write_atomic(directory / name, path.encode())


def known_runs() -> list[Path]:
    """Return the run directories that still exist, the most recently started first.

    One that belongs to somebody else now is none of this user's.
    """
    found = []
    with contextlib.suppress(OSError):
        for entry in _directory().iterdir():
            if entry.name.startswith("."):
                continue
            run = Path(entry.read_text())
            own = run.is_dir() and run.stat().st_uid == os.getuid()
            if own and (run / "manifest.json").is_file():
                found.append((entry.stat().st_mtime, run))
    return [run for _, run in sorted(found, reverse=True)]


def _directory() -> Path:
    return platformdirs.user_state_path("fitserve") / "runs"
