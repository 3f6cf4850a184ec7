"""Writing outputs so that a reader finds the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
import uuid
from typing import TYPE_CHECKING

from fitserve.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["unwritable", "write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` beside ``path``, then rename it into place.

    A link is followed. Devices and pipes are written to as they are: they cannot be renamed
    onto.

    Raises
    ------
    StoreError
        The file cannot be written; what was there before is still there.
    """
    target = path.resolve()
    try:
        if target.exists() and not target.is_file() and not target.is_dir():
            target.write_bytes(content)
            return
        _replace(target, content)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> StoreError:
    """Return the error for an output that could not be written."""
    parent = path.resolve().parent
    if not parent.is_dir():
        hint = f"make the directory first: mkdir -p {parent}"
    else:
        hint = "check the permissions and the free space there, or give another -o"
    return StoreError(
        "the output cannot be written", evidence=f"{path}: {error.strerror or error}", hint=hint
    )


def _replace(target: Path, content: bytes) -> None:
    # Not tempfile: its files are private (mode 0600), an output follows the user's umask.
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
