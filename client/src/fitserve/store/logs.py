"""Logs of a backend, kept where its own directory goes with it."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["keep_logs"]

_LOGS = "logs"
# What Parsl, its workers and the scripts of its blocks have said; nothing else that is there.
_ENDINGS = (".log", ".out", ".err", ".stdout", ".stderr")


def keep_logs(run: Path, source: Path | None) -> Path | None:
    """Copy a backend's logs into a run directory; returns where they are, if there are any.

    Those that were kept before are replaced. What cannot be copied, as on a full disk, is left
    out.
    """
    if source is None:
        return None
    kept = run / _LOGS
    shutil.rmtree(kept, ignore_errors=True)
    for log in sorted(source.rglob("*")):
        if log.suffix not in _ENDINGS or log.is_symlink() or not log.is_file():
            continue
        target = kept / log.relative_to(source)
        with contextlib.suppress(OSError):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, target)
    return kept if kept.is_dir() else None
