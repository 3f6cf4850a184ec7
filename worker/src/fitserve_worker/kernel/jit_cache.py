"""Compiled programs on disk, shared by independent processes.

JAX writes its cache entries in place, so that a killed process leaves half an entry, and it
warns for every program if the directory cannot be written to. Here each process has a private
directory with links to the shared entries, and moves what it compiles into the shared directory
in one step. A shared directory may be read-only, as in a container image, or absent.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import stat
import tempfile
from importlib.metadata import version
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from fitserve_worker.trust import trusted

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["VARIABLE", "JitCache", "default_location", "machine_key"]

_LOG = logging.getLogger(__name__)
_PREFIX = "fitserve-jit-"
_LOCK = "lock"
# Seconds to wait for another process that compiles the same program, several times what the
# largest takes.
_PATIENCE = 120.0

VARIABLE = "FITSERVE_JIT_CACHE"
"""Names the environment variable with the shared directory; empty means none."""


def default_location() -> Path | None:
    """Return the shared directory: ``$FITSERVE_JIT_CACHE`` or the platform's place for caches."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        return Path(chosen) if chosen else None
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "fitserve" / "jit"
    except RuntimeError:  # no home directory
        return None


def machine_key() -> str:
    """Return a name for what compiled programs depend on, besides what JAX itself checks.

    Code for one processor must not be loaded on another that lacks some instruction: a home
    directory is often shared by nodes of several generations.
    """
    lines = [platform.machine(), version("jax"), version("jaxlib")]
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features", "model name")):
                lines.append(line)
            elif not line:
                break  # the first processor stands for all
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


class JitCache:
    """A private view of a shared directory of compiled programs.

    Parameters
    ----------
    shared
        The shared directory; it is made if need be. None keeps programs for this process only.

    Attributes
    ----------
    private
        The directory for JAX, removed when the process ends or, if it is killed, as workers
        usually are, by the next process of its user. None where others could replace it.
    """

    def __init__(self, shared: Path | None) -> None:
        _remove_left()
        own = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._alive = _lock(own)
        # Unlike atexit's, these are also called at the end of multiprocessing's children.
        Finalize(None, shutil.rmtree, (own, True), exitpriority=0)
        self._begun: set[str] = set()
        self._shared: Path | None = None
        place = trusted(own)
        self.private = place / "programs" if place else None
        if self.private is None:
            return
        self.private.mkdir()
        if shared is None:
            return
        shared /= machine_key()
        with contextlib.suppress(OSError):
            shared.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._shared = trusted(shared)
        if self._shared is not None:
            self._link(self._shared, self.private)

    @contextlib.contextmanager
    def first_use(self, program: str) -> Iterator[None]:
        """Let one process compile a program while the others that need it wait for it.

        Compiling takes all cores: N workers that compile the same program at the same time would
        all take N times as long.

        Parameters
        ----------
        program
            Any name for what is compiled in this context the first time.
        """
        shared, private = self._shared, self.private
        if shared is None or private is None or program in self._begun:
            yield
            return
        self._begun.add(program)
        turn = shared / f".{hashlib.sha256(program.encode()).hexdigest()[:16]}.turn"
        with contextlib.ExitStack() as stack:
            # Without a turn, where locks fail or the wait is too long, compiling only takes longer.
            with contextlib.suppress(OSError, NotImplementedError, Timeout):
                stack.enter_context(FileLock(turn, timeout=_PATIENCE, mode=0o600))
            self._link(shared, private)
            yield
            self.publish()

    @staticmethod
    def _link(shared: Path, private: Path) -> None:
        with contextlib.suppress(OSError):
            for entry in shared.iterdir():
                mine = private / entry.name
                if entry.name.startswith(".") or os.path.lexists(mine):
                    continue
                target = trusted(entry)
                if target is not None:
                    mine.symlink_to(target)

    def publish(self) -> int:
        """Move newly compiled programs into the shared directory.

        Returns
        -------
        int
            How many were moved: none where the directory cannot be written to.
        """
        if self._shared is None or self.private is None:
            return 0
        count = 0
        with os.scandir(self.private) as entries:
            fresh = [entry for entry in entries if entry.is_file(follow_symlinks=False)]
        for entry in fresh:
            target = self._shared / entry.name
            partial = self._shared / f".{entry.name}.{os.getpid()}"
            try:
                shutil.copyfile(entry.path, partial)
                partial.replace(target)
            except OSError as error:
                _LOG.debug("compiled programs are not kept in %s: %s", self._shared, error)
                partial.unlink(missing_ok=True)
                self._shared = None
                return count
            # From now on it is a link like the others, and not moved again.
            Path(entry.path).unlink()
            (self.private / entry.name).symlink_to(target.resolve())
            count += 1
        return count


def _lock(directory: Path) -> int:
    """Make a file in a directory that is locked as long as this process lives."""
    partial = directory / ".lock"
    held = os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(OSError):  # where the file system has no locks nothing is removed
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Named only now: a file of this name without a lock belongs to a process that is gone.
        partial.rename(directory / _LOCK)
    return held


def _remove_left() -> None:
    """Remove the private directories of processes of ours that were killed.

    Anybody may create something of that name in a directory for temporary files.
    """
    for own in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            status = own.lstat()
            if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
                continue
            lock = os.open(own / _LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(own, ignore_errors=True)
            finally:
                os.close(lock)
