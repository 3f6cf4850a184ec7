"""Whether a directory is our own: programs are loaded and answers are given from it."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

__all__ = ["trusted"]

_LOG = logging.getLogger(__name__)
_MAPPED = Path("/proc/self/uid_map")
_OVERFLOW = Path("/proc/sys/kernel/overflowuid")
_USERS = 2**32 - 1
# Accounts with lower numbers belong to the system, not to a person.
_PERSONS = 100
# All users of a pod belong to it, and may write to its volumes.
_IN_POD = "KUBERNETES_SERVICE_HOST"


def trusted(path: Path) -> Path | None:
    """Return the real path of a file or directory, if nobody but us and root can have changed it.

    Nobody else may write to it, not even a group, since any member could. The directories above
    it, up to the root, must keep other persons from replacing it: they are ours, root's or another
    system account's, as on some network file systems, and others write to them only with the sticky
    bit, which protects what is not theirs.

    Parameters
    ----------
    path
        Links are followed. Use the path that is returned from then on, as they may be changed.
    """
    try:
        real = path.resolve(strict=True)
        status = real.stat()
        above = [] if os.environ.get(_IN_POD) else [parent.stat() for parent in real.parents]
    except (OSError, RuntimeError):
        return None
    if not _is_ours(status) or status.st_mode & (stat.S_IWOTH | stat.S_IWGRP):
        _LOG.warning("%s is not used: others may write to it", path)
        return None
    system = {*range(_PERSONS), *_seen_as_root()}
    if not all((_is_ours(one) or one.st_uid in system) and _keeps(one) for one in above):
        _LOG.warning("%s is not used: others may replace it", path)
        return None
    return real


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.getuid())


def _keeps(status: os.stat_result) -> bool:
    """Tell whether others cannot replace what is in a directory."""
    if status.st_mode & stat.S_ISVTX:
        return True
    if status.st_mode & stat.S_IWOTH:
        return False
    return not status.st_mode & stat.S_IWGRP or status.st_gid == _own_group()


def _own_group() -> int:
    """Return the number of the user's own group, where the system gives each user one."""
    return os.getuid()


def _seen_as_root() -> frozenset[int]:
    """Return the apparent owner of root's directories, where a container maps few users."""
    try:
        mapped = sum(int(line.split()[2]) for line in _MAPPED.read_text().splitlines())
        return frozenset() if mapped >= _USERS else frozenset({int(_OVERFLOW.read_text())})
    except (OSError, ValueError):
        return frozenset()
