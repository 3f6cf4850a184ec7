"""Writing files so that a reader, or a crash at any moment, sees the old or the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

from fitserve.errors import StoreError

__all__ = ["sync_directory", "unwritable", "write_atomic"]


def write_atomic(path: Path, content: bytes) -> None:
    """Replace the file at ``path`` by one with this content, durably.

    Raises
    ------
    StoreError
        It cannot be written; the old file, if there was one, is untouched.
    """
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes private files; what a run writes is as readable as any other file.
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
        sync_directory(path.parent)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        raise unwritable(path, error) from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def unwritable(path: Path, error: OSError) -> StoreError:
    """Return the error to raise when ``path`` cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StoreError(
        "the disk or quota is full" if full else f"cannot write {path}",
        evidence=str(error),
        hint="free some space, then fitserve resume" if full else "choose another --output",
    )


def _umask() -> int:
    # There is no way to read the umask without setting it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
