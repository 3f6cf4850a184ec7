"""Files: read where somebody else may have made them, written whole or not at all.

Only regular files are read, and none larger than memory. A reader, or a crash at any moment, sees
the old file or the new one. A journal, to which JSON lines are appended, survives a crash in the
middle of a line.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from fitserve.errors import StoreError
from fitserve_contract import excess, memory_there
from fitserve_contract.codec import no_collection

__all__ = [
    "Journal",
    "open_regular",
    "read_journal",
    "read_regular",
    "replace_file",
    "sync_directory",
    "unwritable",
    "unwritable_output",
    "write_atomic",
    "write_output",
]

_WHY = {
    errno.ELOOP: "it is a symbolic link, which is not followed here",
    errno.EINVAL: "it is no regular file",
    errno.EFBIG: "it is larger than half of the memory",
}

T = TypeVar("T")
_BLOCK = 1024**2
_encoder = msgspec.json.Encoder()


def open_regular(path: Path, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """Open a file without following a link at the end of its path, and return its descriptor.

    Raises
    ------
    OSError
        It cannot be opened, is a symbolic link, or is no regular file: a device may have no end,
        and a pipe makes whoever opens it wait.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    except OSError as error:
        # A socket, or a pipe that nobody reads, cannot even be opened.
        code = errno.EINVAL if error.errno == errno.ENXIO else error.errno
        if code in _WHY:
            raise _refused(code, path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _refused(errno.EINVAL, path)
    return descriptor


def read_regular(path: Path) -> bytes:
    """Return the content of a file that `open_regular` opens.

    Raises
    ------
    OSError
        As `open_regular`, or it is larger than half of the memory.
    """
    with os.fdopen(open_regular(path), "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > memory_there() // 2:
            raise _refused(errno.EFBIG, path)
        return stream.read(size)


def _refused(code: int, path: Path) -> OSError:
    return OSError(code, _WHY[code], str(path))


def replace_file(path: Path, content: bytes, mode: int | None = None) -> None:
    """Replace the file at ``path`` by one with this content, durably.

    Parameters
    ----------
    mode
        Who may read and write it; as for any file that is made, if None.

    Raises
    ------
    OSError
        It cannot be written; the old file, if there was one, is untouched.
    """
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes private files.
        Path(temporary).chmod(0o666 & ~_umask() if mode is None else mode)
        Path(temporary).replace(path)
        sync_directory(path.parent)
    except OSError:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        raise


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file of a run by one with this content, durably.

    Raises
    ------
    StoreError
        It cannot be written; the old file, if there was one, is untouched.
    """
    try:
        replace_file(path, content)
    except OSError as error:
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


def write_output(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    A link is followed. Devices and pipes are written to directly: no file may replace them.

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


def read_journal(path: Path, type_: type[T]) -> list[T]:
    """Return the entries of a journal; an unfinished last line is what a crash left.

    Raises
    ------
    StoreError
        The file cannot be read, or another line than the last is damaged.
    """
    try:
        content = read_regular(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot read {path}", evidence=str(error)) from error
    # A million results take some GB: the memory alone bounds them.
    if too_much := excess(content, sys.maxsize):
        raise StoreError(f"{path} is too large to be read", evidence=too_much)
    with no_collection():
        return _decoded(path, content, msgspec.json.Decoder(type_))


def _decoded(path: Path, content: bytes, decoder: msgspec.json.Decoder[T]) -> list[T]:
    """Return the entries, with no copy of all the lines."""
    entries: list[T] = []
    begin, lines = 0, memoryview(content)
    while (end := content.find(b"\n", begin)) >= 0:
        try:
            entries.append(decoder.decode(lines[begin:end]))
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise StoreError(
                f"line {len(entries) + 1} of {path} is damaged",
                evidence=str(error),
                hint=f"restore the file, or delete that line: its hypotheses are then refitted "
                f"by fitserve resume {path.parent}",
            ) from error
        begin = end + 1
    return entries


class Journal(Generic[T]):
    """The writing end of a journal; one process holds it at a time (`fitserve.runs.store`)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
            self._end = self._whole_lines(0)
            # What a crash left of a line would make the next one unreadable.
            os.ftruncate(self._descriptor, self._end)
            sync_directory(path.parent)
        except OSError as error:
            raise unwritable(path, error) from error

    def append(self, entries: list[Any]) -> None:
        """Append entries, all or none, and return when they are on disk.

        Raises
        ------
        StoreError
            They cannot be written: the file is as it was before.
        """
        data = b"".join(_encoder.encode(entry) + b"\n" for entry in entries)
        try:
            # A Ctrl-C may have come after entries were written and before they were counted.
            self._end = self._whole_lines(self._end)
            os.ftruncate(self._descriptor, self._end)
            written = 0
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self._end + written)
            os.fsync(self._descriptor)
        except BaseException as error:
            # Ctrl-C too, or the next entries would be written over the beginning of these.
            os.ftruncate(self._descriptor, self._end)
            if isinstance(error, OSError):
                raise unwritable(self._path, error) from error
            raise
        self._end += len(data)

    def close(self) -> None:
        """Close the file; may be repeated."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _whole_lines(self, start: int) -> int:
        """Return where the last whole line after ``start`` ends."""
        end = os.fstat(self._descriptor).st_size
        while end > start:
            block = max(start, end - _BLOCK)
            newline = os.pread(self._descriptor, end - block, block).rfind(b"\n")
            if newline >= 0:
                return block + newline + 1
            end = block
        return start
