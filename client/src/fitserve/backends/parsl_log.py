"""Parsl's own log, in a file of the run: its messages are not for the user's terminal."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["close_log", "log_to"]


# Parsl logs something also where its log is closed, and `logging` would print that.
_NOWHERE = logging.NullHandler()


class _Log(logging.FileHandler):
    """A log that goes without what a full disk does not take."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


def log_to(path: Path) -> logging.FileHandler:
    """Send what Parsl logs to a file; Parsl would do this itself, and never close it."""
    handler = _Log(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logger = logging.getLogger("parsl")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(_NOWHERE)
    logger.addHandler(handler)
    return handler


def close_log(handler: logging.FileHandler) -> None:
    """End what `log_to` began."""
    logging.getLogger("parsl").removeHandler(handler)
    # The disk may be full, of which something else tells.
    with contextlib.suppress(OSError):
        handler.close()
