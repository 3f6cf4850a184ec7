"""An append-only file of JSON lines that survives a crash in the middle of a line."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from fitserve.errors import StoreError
from fitserve.files import open_regular, read_regular, sync_directory, unwritable
from fitserve_contract import excess
from fitserve_contract.codec import no_collection

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Journal", "read_journal"]

T = TypeVar("T")

_BLOCK = 1024**2

_encoder = msgspec.json.Encoder()


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
    """The writing end; one process holds it at a time (see `fitserve.runs.lock`)."""

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
            found = os.pread(self._descriptor, end - block, block).rfind(b"\n")
            if found >= 0:
                return block + found + 1
            end = block
        return start
