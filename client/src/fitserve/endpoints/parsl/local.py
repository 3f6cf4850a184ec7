"""The embedded endpoint: Parsl's HighThroughputExecutor on this machine.

It is the engine that a Globus Compute endpoint uses on a cluster, with a provider that
starts its one block here. Everything is on the loopback interface.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fitserve.endpoints.base import LOCAL, BackendStatus, Limits, Outcome
from fitserve.endpoints.parsl import interchange
from fitserve.endpoints.parsl.guardian import Tended
from fitserve.errors import BackendError, MissingExtraError
from fitserve_contract import QUICK, STAGE_VARIABLE

if TYPE_CHECKING:
    from concurrent.futures import Future

    from parsl.config import Config

    from fitserve.endpoints.parsl.engine import ParslEngine
    from fitserve.endpoints.parsl.guardian import Guardian

__all__ = ["LocalBackend", "available_cores"]

_LOOPBACK = "127.0.0.1"
_RESTARTS = 3
_PATIENCE_SECONDS = 90.0
_STAGE = "stage"
# One thread for each worker: as many workers as cores are there already.
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
}
_XLA_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


# Not every system says which cores a process may use, and has it choose among them.
_CHOOSES_CORES = hasattr(os, "sched_getaffinity")


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if _CHOOSES_CORES else os.cpu_count() or 1


class LocalBackend:
    """One worker for each core of this machine.

    Parameters
    ----------
    workers
        Number of workers; by default one for each core that this process may use.
    """

    name = "local"

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers or available_cores()
        self.limits = Limits(
            task_bytes=64 * 1024**2,
            outstanding=4 * self._workers,
            workers=self._workers,
            compression=QUICK,
            costs=LOCAL,
        )
        self._tended: Tended[ParslEngine] | None = None
        self._stage = Path()
        self._ended: queue.Queue[str] = queue.Queue()
        self._open: dict[str, Future[str]] = {}
        self._lost: list[Outcome] = []
        self._breaks = 0

    def start(self) -> None:
        """Begin to set the engine up, in a thread: it takes seconds of mostly waiting."""
        _require_parsl()
        tended: Tended[ParslEngine] = Tended()
        self._tended = tended
        self._stage = tended.guardian.directory / _STAGE
        self._stage.mkdir()
        tended.set_up(lambda: _engine(tended.guardian, self._stage, self._workers))

    def stage(self, digest: str, compressed: bytes) -> bool:
        """Put a compressed workspace into the workers' staging directory."""
        target = self._stage / f"{digest}.json.zst"
        partial = target.with_suffix(".part")
        partial.write_bytes(compressed)
        partial.replace(target)
        return True

    def submit(self, ticket: str, task: str) -> None:
        """Submit a task; an engine that breaks or does not start is set up anew, a few times.

        Raises
        ------
        BackendError
            The engine does not start, or broke too often.
        """
        engine = self._running_engine()
        broken = _broken(engine)
        if broken is not None:
            self._renew(broken)
            engine = self._running_engine()
        future = engine.submit(task)
        self._open[ticket] = future
        future.add_done_callback(lambda _: self._ended.put(ticket))

    def outcomes(self, timeout: float) -> list[Outcome]:
        """Return what ended; wait up to ``timeout`` seconds for the first of it.

        What a broken engine held has ended too, and can be submitted again.

        Raises
        ------
        BackendError
            The engine broke too often.
        """
        ended = []
        with contextlib.suppress(queue.Empty):
            ended.append(self._ended.get(timeout=0 if self._lost else timeout))
            while True:
                ended.append(self._ended.get_nowait())
        broken = _broken(self._engine) if self._engine is not None else None
        if broken is not None:
            self._renew(broken)
        lost, self._lost = self._lost, []
        # Tasks of an engine that was given up may still end.
        return lost + [_outcome(one, self._open.pop(one)) for one in ended if one in self._open]

    def status(self) -> BackendStatus:
        """Return whether the engine is there and how many workers have reported."""
        if self._engine is None:
            return BackendStatus("starting", 0, "starting the local engine")
        workers = self._engine.workers()
        if workers == 0:
            return BackendStatus("waiting", 0, "waiting for the first worker")
        return BackendStatus("running", workers, f"{workers} workers on this machine")

    def stop(self) -> None:
        """End the workers and remove the run's directory, within seconds."""
        if self._tended is not None:
            self._tended.end()

    def logs(self) -> Path | None:
        """Return the directory of the engine's logs, which goes with the backend."""
        return self._tended.guardian.directory if self._tended is not None else None

    @property
    def _engine(self) -> ParslEngine | None:
        return self._tended.engine if self._tended is not None else None

    def _running_engine(self) -> ParslEngine:
        engine = self._tended.wait() if self._tended is not None else None
        while engine is None:
            engine = self._renew()
        return engine

    def _renew(self, broken: BaseException | None = None) -> ParslEngine | None:
        """Replace an engine that broke, or does not start.

        Raises
        ------
        BackendError
            That was done too often.
        """
        tended = self._tended
        error = broken or (tended.failure if tended is not None else None)
        self._breaks += 1
        if self._breaks > _RESTARTS or tended is None:
            raise BackendError(
                f"the local engine {'breaks again and again' if broken else 'does not start'}",
                evidence=_said(error),
                hint="try --endpoint inline",
            )
        tended.give_up()
        held, self._open = self._open, {}
        self._lost += [_outcome(ticket, done, error) for ticket, done in held.items()]
        tended.set_up(lambda: _engine(tended.guardian, self._stage, self._workers))
        return tended.wait()


def _require_parsl() -> None:
    try:
        import parsl  # noqa: F401

        import fitserve_worker  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("the endpoint 'local'", "local") from error


def _broken(engine: ParslEngine) -> BaseException | None:
    """Return why nothing comes from an engine any more: Parsl itself starts no second block."""
    broken = engine.broken()
    blocks = list(engine.executor.provider.resources.values())
    if broken is None and blocks and all(block["status"].terminal for block in blocks):
        broken = RuntimeError("its workers have ended")
    if broken is None and time.monotonic() - engine.seen > _PATIENCE_SECONDS:
        broken = RuntimeError("its workers are silent")
    return broken


def _outcome(ticket: str, done: Future[str], broken: BaseException | None = None) -> Outcome:
    """Return how a task ended; that its engine broke is not the task's fault."""
    error = done.exception() if done.done() else broken
    if error is None:
        return Outcome(ticket, done.result(), None)
    if broken is not None:
        return Outcome(ticket, None, f"the local engine broke: {_said(broken)}", again=True)
    return Outcome(ticket, None, f"{type(error).__name__}: {error}".strip())


def _said(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else repr(error)


def _engine(guardian: Guardian, stage: Path, workers: int) -> ParslEngine:
    from fitserve.endpoints.parsl.engine import ParslEngine

    config = _config(guardian, stage, workers)
    return ParslEngine(config, guardian.groups, guardian.directory / "parsl.log")


def _config(guardian: Guardian, stage: Path, workers: int) -> Config:
    from parsl.config import Config
    from parsl.launchers import SingleNodeLauncher
    from parsl.providers import LocalProvider

    from fitserve.endpoints.parsl.engine import Executor

    python = sys.executable
    executor = Executor(
        label="fitserve",
        # Without an address Parsl asks a service on the internet for this machine's.
        address=_LOOPBACK,
        loopback_address=_LOOPBACK,
        max_workers_per_node=workers,
        cores_per_worker=1e-6,
        # With a worker on every core each is bound to its own; else they are left free.
        cpu_affinity="block" if workers == available_cores() and _CHOOSES_CORES else "none",
        # Other users of this machine reach the loopback interface too, and what Parsl moves
        # on it is unpickled: without the keys in the private directory nobody joins.
        encrypted=True,
        heartbeat_period=2,
        heartbeat_threshold=20,
        poll_period=10,
        interchange_launch_cmd=[python, *interchange.COMMAND],
        provider=LocalProvider(
            launcher=SingleNodeLauncher(debug=False),
            init_blocks=1,
            min_blocks=1,
            max_blocks=1,
            worker_init=_worker_environment(guardian.temporary, stage),
        ),
    )
    # By interpreter and module: the script need not be on the user's PATH.
    executor.launch_cmd = executor.launch_cmd.replace(
        "process_worker_pool.py",
        f"{python} -m parsl.executors.high_throughput.process_worker_pool",
        1,
    )
    return Config(
        executors=[executor],
        run_dir=str(guardian.directory / "parsl"),
        strategy="none",
        strategy_period=1,
        retries=0,
        usage_tracking=0,
        initialize_logging=False,
    )


def _worker_environment(temporary: Path, stage: Path) -> str:
    flags = f"{os.environ.get('XLA_FLAGS', '')} {_XLA_ONE_THREAD}".strip()
    settings = {
        **_ONE_THREAD,
        "XLA_FLAGS": flags,
        "TMPDIR": str(temporary),
        STAGE_VARIABLE: str(stage),
    }
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in settings.items())
