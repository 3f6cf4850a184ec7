"""Writing an output where the user asked for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitserve.errors import StoreError
from fitserve.store import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["unwritable_output", "write_output"]


def write_output(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    A link is followed. Devices and pipes are written to as they are: a file must not be
    renamed over them.

    Raises
    ------
    StoreError
        The file cannot be written; what was there before is still there.
    """
    target = path.resolve()
    special = target.exists() and not target.is_file() and not target.is_dir()
    try:
        if special:
            target.write_bytes(content)
        else:
            write_atomic(target, content)
    except StoreError as error:
        raise unwritable_output(path, error.evidence) from error
    except OSError as error:
        raise unwritable_output(path, str(error)) from error


def unwritable_output(path: Path, evidence: str) -> StoreError:
    """Return the error for an output that cannot be written."""
    parent = path.resolve().parent
    if parent.is_dir():
        hint = "check the permissions and the free space there, or give another -o"
    else:
        hint = f"make the directory first: mkdir -p {parent}"
    return StoreError(f"the output {path} cannot be written", evidence=evidence, hint=hint)
