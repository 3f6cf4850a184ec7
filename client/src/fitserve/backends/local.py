"""The embedded endpoint: Parsl's HighThroughputExecutor on this machine.

It is the engine that a Globus Compute endpoint uses on a cluster, with a provider that
starts its one block here. Everything is on the loopback interface.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitserve.backends import interchange
from fitserve.backends.base import BackendStatus, Limits, Outcome
from fitserve.backends.costs import LOCAL
from fitserve.backends.guardian import Guardian
from fitserve.backends.parsl_log import close_log, log_to
from fitserve.contract import QUICK
from fitserve.errors import BackendError, MissingExtraError

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["LocalBackend", "available_cores"]

_LOOPBACK = "127.0.0.1"
_RESTARTS = 3
_BLOCK_SECONDS = 20.0
# One thread for each worker: as many workers as cores are there already.
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
}
_XLA_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


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
        self._scratch = Path(tempfile.mkdtemp(prefix="fitserve-local-"))
        (self._scratch / "stage").mkdir()
        self._ended: queue.Queue[Outcome] = queue.Queue()
        self._engine: _Engine | None = None
        self._starting: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._restarts = 0
        self._troubled = False

    def start(self) -> None:
        """Begin to set the engine up, in a thread: it takes seconds of mostly waiting."""
        _require_parsl()
        self._starting = threading.Thread(target=self._set_up, name="fitserve-local-start")
        self._starting.start()

    def stage(self, digest: str, compressed: bytes) -> bool:
        """Put a compressed workspace into the workers' staging directory."""
        target = self._scratch / "stage" / f"{digest}.json.zst"
        partial = target.with_suffix(".part")
        partial.write_bytes(compressed)
        partial.replace(target)
        return True

    def submit(self, ticket: str, task: str) -> None:
        """Submit a task; a broken engine is set up anew, a few times.

        Raises
        ------
        BackendError
            The engine cannot be set up, or broke too often.
        """
        engine = self._running_engine()
        try:
            future = engine.submit(task)
        except Exception as error:
            self._engine = None
            engine.stop()
            self._restarts += 1
            if self._restarts > _RESTARTS:
                raise BackendError(
                    "the local engine breaks again and again",
                    evidence=str(error).strip().splitlines()[-1] if str(error) else repr(error),
                    hint=f"read the logs in {self._scratch}",
                ) from error
            self._set_up()
            future = self._running_engine().submit(task)
        future.add_done_callback(lambda done: self._ended.put(_outcome(ticket, done)))

    def outcomes(self, timeout: float) -> list[Outcome]:
        """Return what ended; wait up to ``timeout`` seconds for the first of it."""
        try:
            ended = [self._ended.get(timeout=timeout)]
        except queue.Empty:
            return []
        with contextlib.suppress(queue.Empty):
            while True:
                ended.append(self._ended.get_nowait())
        self._troubled = self._troubled or any(outcome.error for outcome in ended)
        return ended

    def status(self) -> BackendStatus:
        """Return whether the engine is there and how many workers have reported."""
        if self._engine is None:
            return BackendStatus("starting", 0, "starting the local engine")
        workers = self._engine.workers()
        if workers == 0:
            return BackendStatus("waiting", 0, "waiting for the first worker")
        return BackendStatus("running", workers, f"{workers} workers on this machine")

    def stop(self) -> None:
        """End the workers and remove the scratch directory, unless it tells of trouble."""
        if self._starting is not None:
            self._starting.join()
        if self._engine is not None:
            self._engine.stop()
            self._engine = None
        if self._failure is None and not self._troubled:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def logs(self) -> Path | None:
        """Return the scratch directory, which holds the engine's logs."""
        return self._scratch if self._scratch.exists() else None

    def _running_engine(self) -> _Engine:
        if self._starting is not None:
            self._starting.join()
        if self._engine is None:
            raise BackendError(
                "the local engine does not start",
                evidence=repr(self._failure),
                hint=f"read the logs in {self._scratch}, or try --endpoint inline",
            )
        return self._engine

    def _set_up(self) -> None:
        try:
            self._engine = _Engine(self._scratch, self._workers)
            self._failure = None
        except Exception as error:  # noqa: BLE001 - told by `_running_engine`, in its thread
            self._failure = error


def _require_parsl() -> None:
    try:
        import parsl  # noqa: F401

        import fitserve_worker  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("the endpoint 'local'", "local") from error


def _outcome(ticket: str, done: Future[str]) -> Outcome:
    error = done.exception()
    if error is None:
        return Outcome(ticket, done.result(), None)
    return Outcome(ticket, None, f"{type(error).__name__}: {error}".strip())


class _Engine:
    """A Parsl kernel with one executor, and the guardian that it does not outlive."""

    def __init__(self, scratch: Path, workers: int) -> None:
        import parsl

        from fitserve_worker import run

        config, executor = _config(scratch, workers)
        self._executor = executor
        self._log = log_to(scratch / "parsl.log")
        self._guardian = Guardian()
        self._guardian.watch("directory", scratch)
        try:
            self._kernel = parsl.DataFlowKernel(config)
            self._guardian.watch("pid", executor.interchange_proc.pid)
            for pid in _block_pids(executor.provider):
                self._guardian.watch("group", os.getpgid(pid))
        except BaseException:
            self._guardian.dismiss()
            close_log(self._log)
            raise
        self._app = parsl.python_app(run, data_flow_kernel=self._kernel)
        self._known = (0.0, 0)

    def submit(self, task: str) -> Future[str]:
        if self._executor.bad_state_is_set:
            raise self._executor.executor_exception
        future: Future[str] = self._app(task)
        return future

    def workers(self) -> int:
        # The interchange is asked at most once a second: it has tasks to move.
        asked, count = self._known
        if time.monotonic() - asked > 1.0:
            managers = self._executor.connected_managers()
            count = sum(manager["worker_count"] for manager in managers if manager["active"])
            self._known = (time.monotonic(), count)
        return count

    def stop(self) -> None:
        blocks = [job["remote_pid"] for job in self._executor.provider.resources.values()]
        with contextlib.suppress(Exception):
            self._kernel.cleanup()
        for pid in blocks:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(os.getpgid(pid), signal.SIGKILL)
        self._guardian.dismiss()
        close_log(self._log)


def _block_pids(provider: Any) -> list[int]:
    """Wait for Parsl's scaling thread to have started the block, and return its processes."""
    end = time.monotonic() + _BLOCK_SECONDS
    while not provider.resources and time.monotonic() < end:
        time.sleep(0.05)
    return [job["remote_pid"] for job in provider.resources.values()]


def _config(scratch: Path, workers: int) -> tuple[Any, Any]:
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.launchers import SingleNodeLauncher
    from parsl.providers import LocalProvider

    python = sys.executable
    executor = HighThroughputExecutor(
        label="fitserve",
        # Without an address Parsl asks a service on the internet for this machine's.
        address=_LOOPBACK,
        loopback_address=_LOOPBACK,
        max_workers_per_node=workers,
        cores_per_worker=1e-6,
        # With a worker on every core each is bound to its own; else they are left free.
        cpu_affinity="block" if workers == available_cores() else "none",
        # Other users of this machine reach the loopback interface too, and what Parsl moves
        # on it is unpickled: without the keys in the private scratch directory nobody joins.
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
            worker_init=_worker_environment(scratch),
        ),
    )
    # By interpreter and module: the script need not be on the user's PATH.
    executor.launch_cmd = executor.launch_cmd.replace(
        "process_worker_pool.py",
        f"{python} -m parsl.executors.high_throughput.process_worker_pool",
        1,
    )
    config = Config(
        executors=[executor],
        run_dir=str(scratch / "parsl"),
        strategy="none",
        strategy_period=1,
        retries=0,
        usage_tracking=0,
        initialize_logging=False,
    )
    return config, executor


def _worker_environment(scratch: Path) -> str:
    from fitserve_worker.staging import STAGE_VARIABLE

    flags = f"{os.environ.get('XLA_FLAGS', '')} {_XLA_ONE_THREAD}".strip()
    settings = {
        **_ONE_THREAD,
        "XLA_FLAGS": f'"{flags}"',
        STAGE_VARIABLE: f'"{scratch / "stage"}"',
    }
    return "\n".join(f"export {name}={value}" for name, value in settings.items())
