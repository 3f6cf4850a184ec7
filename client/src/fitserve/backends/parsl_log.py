"""Parsl's own log, in a file of the run: its messages are not for the user's terminal."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["close_log", "log_to"]


def log_to(path: Path) -> logging.FileHandler:
    """Send what Parsl logs to a file; Parsl would do this itself, and never close it."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logger = logging.getLogger("parsl")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    return handler


def close_log(handler: logging.FileHandler) -> None:
    """End what `log_to` began."""
    logging.getLogger("parsl").removeHandler(handler)
    handler.close()
