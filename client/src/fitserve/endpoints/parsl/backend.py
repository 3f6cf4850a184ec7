"""The backend `parsl:SITE`: the site's blocks are this run's own jobs.

Several runs of one user on one site share the blocks that it allows.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import secrets
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitserve.endpoints.base import DIRECT, BackendStatus, Limits, Outcome
from fitserve.endpoints.parsl.blocks import STAGE_DIRECTORY, Engine
from fitserve.endpoints.parsl.guardian import Tended
from fitserve.endpoints.parsl.site import find_engine, read_engine, site_directory
from fitserve.endpoints.parsl.troubles import Troubles, status_of
from fitserve.errors import BackendError, MissingExtraError, RequestError
from fitserve.onsite.endpoint import MOST_FAILED
from fitserve.schedulers.base import clock_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future

__all__ = ["Share", "SiteBackend"]

_TOUCH_SECONDS = 5.0
_STALE_SECONDS = 60.0


class Share:
    """The share of a run in the blocks that a site allows.

    Parameters
    ----------
    directory
        Of all the runs; made if it is not there.

    Attributes
    ----------
    path
        The run's file there.
    """

    def __init__(self, directory: Path) -> None:
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.path = directory / name
        self._touched = 0.0
        self._place: tuple[int, int] = (0, 1)

    def begin(self) -> None:
        """Register this run.

        Raises
        ------
        OSError
            The directory cannot be written.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.touch()

    def end(self) -> None:
        """Unregister this run."""
        with contextlib.suppress(OSError):
            self.path.unlink()

    def blocks(self, most: int) -> int:
        """Return how many of ``most`` blocks this run may have; at least one."""
        if time.monotonic() - self._touched > _TOUCH_SECONDS:
            self._touched = time.monotonic()
            with contextlib.suppress(OSError):
                self.path.touch()
                self._place = self._count()
        rank, runs = self._place
        return max(1, most // runs + (rank < most % runs))

    def _count(self) -> tuple[int, int]:
        now = self.path.stat().st_mtime
        fresh = []
        for path in self.path.parent.iterdir():
            # The file system's clock, not this machine's.
            with contextlib.suppress(FileNotFoundError):
                if now - path.stat().st_mtime < _STALE_SECONDS:
                    fresh.append(path.name)
                else:
                    path.unlink()
        names = sorted({*fresh, self.path.name})
        return names.index(self.path.name), len(names)


# Of an endpoint's name: the rest is a site's name, or the path that it was rendered to.
_PREFIX = "parsl:"
_TASK_BYTES = 64 * 1024**2
_WORKERS = 4
"""Of a node, assumed where the site does not say."""
_ROOM_BYTES = 1024**2
_RUNS = "runs"
# Their workers share no file system with the client.
_APART = {"KubernetesProvider", "PodProvider"}
# Their blocks start at once.
_UNQUEUED = {"LocalProvider"}


class SiteBackend:
    """Drives a site from its login node.

    Parameters
    ----------
    name
        ``parsl:SITE``.
    workers
        No more blocks than these workers need; by default all that the site allows a user.
    options
        Must be empty: a site's options are in what was rendered.

    Raises
    ------
    BackendError
        The site was not rendered, or cannot be read.
    RequestError
        Options are given.
    """

    def __init__(
        self, name: str, workers: int | None = None, options: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._site = read_engine(find_engine(name.removeprefix(_PREFIX)))
        if options:
            words = " ".join(f"--option {key}={value}" for key, value in options.items())
            raise RequestError(
                f"{name} takes no options: they were fixed when the site was rendered",
                evidence=f"--set {' '.join(options)}",
                hint=f"make render SITE={self._site.site} ARGS='{words} --out ...'",
            )
        provider = self._site.engine["provider"]
        per_node = self._site.engine.get("max_workers_per_node") or _WORKERS
        per_block = max(1, int(per_node * provider.get("nodes_per_block", 1)))
        most = int(provider["max_blocks"])
        self._most = min(most, math.ceil(workers / per_block)) if workers else most
        expected = workers or self._most * per_block
        self.limits = Limits(
            task_bytes=_TASK_BYTES,
            outstanding=max(16, 4 * expected),
            workers=expected,
            task_seconds=_longest_task(self._site.engine),
            costs=DIRECT._replace(
                queue=0.0 if provider["type"] in _UNQUEUED else DIRECT.queue,
                workers_per_block=per_block,
            ),
        )
        self._directory: Path | None = None
        self._tended: Tended[Engine] | None = None
        self._ended: queue.Queue[tuple[str, Future[str]]] = queue.Queue()
        self._share: Share | None = None
        self._troubles: Troubles | None = None

    def start(self) -> None:
        """Begin to set the engine up, in a thread.

        Raises
        ------
        MissingExtraError
            Parsl or the worker is not installed.
        BackendError
            The site's run directory cannot be used.
        """
        try:
            import parsl  # noqa: F401

            import fitserve_worker  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(f"the endpoint '{self.name}'", "local") from error
        base = site_directory(self._site)
        try:
            base.mkdir(mode=0o700, parents=True, exist_ok=True)
            _need_room(base)
            self._tended = Tended()
            self._directory = base / f"direct-{secrets.token_hex(4)}"
            self._tended.own(self._directory)
            self._directory.mkdir(mode=0o700)
            (self._directory / STAGE_DIRECTORY).mkdir()
            self._share = Share(base / _RUNS / self._site.site)
            self._tended.guardian.watch("file", self._share.path)
            self._share.begin()
        except OSError as error:
            raise self._no_directory(base, error) from error
        staged, guardian = _sees_stage(self._site.engine), self._tended.guardian
        directory, most = self._directory, self._share.blocks(self._most)
        self._tended.set_up(
            lambda: Engine(self._site, directory, guardian, staged=staged, most=most)
        )

    def stage(self, digest: str, compressed: bytes) -> bool:
        """Put a compressed workspace into the run's directory, which workers see.

        Raises
        ------
        BackendError
            It cannot be written.
        """
        if self._directory is None or not _sees_stage(self._site.engine):
            return False
        target = self._directory / STAGE_DIRECTORY / f"{digest}.json.zst"
        partial = target.with_suffix(".part")
        try:
            with partial.open("wb") as stream:
                stream.write(compressed)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(target)
        except OSError as error:
            raise self._no_directory(target.parent, error) from error
        return True

    def submit(self, ticket: str, task: str) -> None:
        """Submit a task.

        Raises
        ------
        BackendError
            The site cannot be driven, or takes no blocks.
        """
        engine, troubles = self._running()
        broken = engine.broken()
        if broken is not None:
            raise troubles.broken(broken)
        future = engine.submit(task)
        future.add_done_callback(lambda done: self._ended.put((ticket, done)))

    def outcomes(self, timeout: float) -> list[Outcome]:
        """Return what ended; wait up to ``timeout`` seconds for the first of it.

        Raises
        ------
        BackendError
            No more tasks will end, for a reason that the user has to remove.
        """
        engine, troubles = self._running()
        self._steer(engine)
        troubles.check()
        ended = []
        with contextlib.suppress(queue.Empty):
            ended.append(self._ended.get(timeout=timeout))
            while True:
                ended.append(self._ended.get_nowait())
        outcomes = []
        for ticket, done in ended:
            error = done.exception()
            if error is None:
                outcomes.append(Outcome(ticket, done.result(), None))
                continue
            if engine.broken() is not None:
                raise troubles.broken(error)
            text, again = troubles.explain(error)
            outcomes.append(Outcome(ticket, None, text, again))
        return outcomes

    def status(self) -> BackendStatus:
        """Return how many workers there are, and which blocks run or wait, and why."""
        engine = self._tended.engine if self._tended is not None else None
        if engine is None:
            return BackendStatus("starting", 0, f"starting the engine of {self._site.site}")
        return status_of(self._site.site, engine)

    def stop(self) -> None:
        """Give the blocks back and remove the run's directory, within seconds."""
        if self._tended is not None:
            self._tended.end()
        if self._share is not None:
            self._share.end()

    def logs(self) -> Path | None:
        """Return the run's directory on the site, with the logs of Parsl and of its blocks."""
        return self._directory

    def _running(self) -> tuple[Engine, Troubles]:
        engine = self._tended.wait() if self._tended is not None else None
        if engine is None:
            failure = self._tended.failure if self._tended is not None else None
            if isinstance(failure, BackendError):
                raise failure
            if isinstance(failure, OSError):
                raise self._no_directory(self._directory or Path(), failure) from failure
            raise BackendError(
                f"the engine of site {self._site.site} does not start",
                evidence=repr(failure),
                hint=f"make doctor SITE={self._site.site}",
            )
        if self._troubles is None:
            self._troubles = Troubles(self._site, engine)
        return engine, self._troubles

    def _steer(self, engine: Engine) -> None:
        """Keep to this run's share, and ask for nothing while the scheduler refuses."""
        watch = engine.watch
        if watch is None or self._share is None:
            return
        most = self._share.blocks(self._most)
        live = watch.count("queued") + watch.count("running")
        # With blocks that work, those that fail end nothing; but no more of them are asked for.
        hold = watch.wait or watch.silent or len(engine.failed()) >= MOST_FAILED
        engine.limit(min(most, live) if hold else most)

    def _no_directory(self, path: Path, error: OSError) -> BackendError:
        return BackendError(
            f"the run directory of site {self._site.site} cannot be used",
            evidence=f"{path}: {error.strerror or error}",
            hint="make room there (`df -h`, `quota`), or change directories.run in the site's "
            "file and render it again",
        )


def _longest_task(engine: Mapping[str, Any]) -> float | None:
    """Return what a block's time limit leaves for a task after it has stopped taking them."""
    drain, walltime = engine.get("drain_period"), engine["provider"].get("walltime")
    if not drain or not walltime:
        return None
    return float(max(1, clock_seconds(walltime) - drain))


def _sees_stage(engine: Mapping[str, Any]) -> bool:
    """Return whether workers see the run's directory and variables of the block."""
    return engine.get("container_type") in {None, "apptainer", "singularity"} and (
        engine["provider"]["type"] not in _APART
    )


def _need_room(directory: Path) -> None:
    """Write as much as a run needs at least.

    Raises
    ------
    OSError
        The disk is full, over quota or read-only.
    """
    with tempfile.TemporaryFile(dir=directory) as stream:
        stream.write(bytes(_ROOM_BYTES))
        stream.flush()
        os.fsync(stream.fileno())
