"""Reading files that somebody else may have made: regular ones only, no larger than memory."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from fitserve.contract import memory_there

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["open_regular", "read_regular"]

_WHY = {
    errno.ELOOP: "it is a symbolic link, which is not followed here",
    errno.EINVAL: "it is no regular file",
    errno.EFBIG: "it is larger than half of the memory there is",
}


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
        As there, or it is larger than half of the memory there is.
    """
    with os.fdopen(open_regular(path), "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > memory_there() // 2:
            raise _refused(errno.EFBIG, path)
        return stream.read(size)


def _refused(code: int, path: Path) -> OSError:
    return OSError(code, _WHY[code], str(path))
