"""Parsl with one executor, in which every wait is bounded.

Parsl itself waits for its interchange for ever, also when it has died. What Parsl logs goes into a
file of the run.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import signal
import sys
import threading
import time
from concurrent.futures import InvalidStateError
from typing import TYPE_CHECKING, Any

import zmq
from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.errors import CommandClientTimeoutError
from parsl.executors.high_throughput.zmq_pipes import CommandClient
from parsl.providers import LocalProvider

from fitserve.endpoints.parsl.enlist import end_groups

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from parsl.config import Config

__all__ = ["Executor", "ParslEngine", "close_log", "log_to"]

# Parsl logs something also where its log is closed, and `logging` would print that.
_NOWHERE = logging.NullHandler()


class _Log(logging.FileHandler):
    """A log that drops what a full disk does not take."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


def log_to(path: Path) -> logging.FileHandler:
    """Send what Parsl logs to a file; Parsl would do this itself, and never close it."""
    handler = _Log(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logger = logging.getLogger("parsl")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(_NOWHERE)
    logger.addHandler(handler)
    return handler


def close_log(handler: logging.FileHandler) -> None:
    """End what `log_to` began."""
    logging.getLogger("parsl").removeHandler(handler)
    # The disk may be full, which is reported elsewhere.
    with contextlib.suppress(OSError):
        handler.close()


_ANSWER_SECONDS = 30.0
_SEND_MILLISECONDS = 5000
_STEP_MILLISECONDS = 100
_STOP_SECONDS = 2.5


class Executor(HighThroughputExecutor):  # type: ignore[misc]
    """Parsl's executor, with bounded waits for its interchange."""

    command_client: Any

    def _start_local_interchange_process(self) -> None:
        sending = self.outgoing_q.zmq_socket
        sending.setsockopt(zmq.LINGER, 0)
        sending.setsockopt(zmq.SNDTIMEO, _SEND_MILLISECONDS)
        self.command_client.close()
        self.command_client = _Commands(
            self.loopback_address, self.interchange_port_range, self.cert_dir
        )
        self.command_client.is_gone = self.interchange_is_gone
        super()._start_local_interchange_process()

    def _result_queue_worker(self) -> None:
        try:
            super()._result_queue_worker()
        except InvalidStateError:
            # A result came as all tasks were failed; else `threading` would print this.
            if not self.bad_state_is_set:
                raise

    def interchange_is_gone(self) -> bool:
        """Return whether the interchange was started and has ended."""
        return self.interchange_proc is not None and self.interchange_proc.poll() is not None


class _Commands(CommandClient):  # type: ignore[misc]
    """Asks the interchange, for as long as it lives and can be expected to answer."""

    is_gone: Callable[[], bool]
    ok: bool

    def run(
        self,
        message: Any,
        max_retries: int = 3,  # noqa: ARG002 - Parsl's signature
        timeout_s: float | None = None,
    ) -> Any:
        with self._lock:
            if not self.ok:
                raise CommandClientTimeoutError("the interchange left a question unanswered")
            end = time.monotonic() + (timeout_s or _ANSWER_SECONDS)
            try:
                self._wait(zmq.POLLOUT, end)
                self.zmq_socket.send_pyobj(message)
                self._wait(zmq.POLLIN, end)
                return self.zmq_socket.recv_pyobj()
            except BaseException:
                # The next question could be answered with the answer to this one.
                self.ok = False
                raise

    def _wait(self, event: int, end: float) -> None:
        while not self.zmq_socket.poll(_STEP_MILLISECONDS, event):
            if self.is_gone():
                raise CommandClientTimeoutError("the interchange has ended")
            if time.monotonic() > end:
                raise CommandClientTimeoutError("the interchange does not answer")


class ParslEngine:
    """A running engine.

    Parameters
    ----------
    config
        With one `Executor`.
    groups
        Where its processes on this machine enlist.
    log
        File for what Parsl logs, and for what its interchange says.

    Attributes
    ----------
    executor
        The `Executor`.
    seen
        When there were workers last, or it was started (monotonic seconds).

    Raises
    ------
    Exception
        It cannot be started, for Parsl's reasons.
    """

    def __init__(self, config: Config, groups: Path, log: Path) -> None:
        import parsl

        from fitserve_worker import run

        [self.executor] = config.executors
        itself = self.executor.interchange_launch_cmd
        self.executor.interchange_launch_cmd = [*itself, str(groups), str(log)]
        if isinstance(self.executor.provider, LocalProvider):
            enlist = [sys.executable, "-m", "fitserve.endpoints.parsl.enlist", str(groups)]
            self.executor.launch_cmd = f"{shlex.join(enlist)} {self.executor.launch_cmd}"
        self._groups = groups
        self._log = log_to(log)
        # What is started from here inherits this: a Ctrl-C is for the client alone.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._kernel = parsl.DataFlowKernel(config)
        except BaseException:
            with contextlib.suppress(Exception):
                self.executor.shutdown()
            close_log(self._log)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._app = parsl.python_app(run, data_flow_kernel=self._kernel)
        self._lock = threading.Lock()
        self._asked = 0.0
        self._managers: list[dict[str, Any]] = []
        self.seen = time.monotonic()

    def submit(self, task: str) -> Future[str]:
        """Submit a task; a `broken` engine returns no result."""
        future: Future[str] = self._app(task)
        return future

    def managers(self) -> list[dict[str, Any]]:
        """Return what the interchange said last of the pools of workers."""
        with self._lock:
            # It is asked at most once a second: it has tasks to move.
            if time.monotonic() - self._asked > 1.0 and self.broken() is None:
                self._asked = time.monotonic()
                with contextlib.suppress(CommandClientTimeoutError):
                    self._managers = self.executor.connected_managers()
            return self._managers

    def workers(self) -> int:
        """Return how many workers have reported and take tasks."""
        count: int = sum(one["worker_count"] for one in self.managers() if one["active"])
        if count:
            self.seen = time.monotonic()
        return count

    def broken(self) -> BaseException | None:
        """Return why nothing comes from this engine any more, or None."""
        if self.executor.bad_state_is_set:
            error: BaseException = self.executor.executor_exception
            return error
        if self.executor.interchange_is_gone():
            status = self.executor.interchange_proc.returncode
            how = f"killed by signal {-status}" if status < 0 else f"with status {status}"
            return RuntimeError(f"its interchange has ended ({how})")
        if not self.executor.command_client.ok:
            return RuntimeError("its interchange does not answer")
        return None

    def stop(self, then: Callable[[], object] = lambda: None) -> bool:
        """End the engine, and do what else is to be done; returns whether that is done in time."""
        broken = self.broken()
        if broken is not None:
            # Parsl asks the interchange for its blocks, unless the executor is in a bad state.
            with contextlib.suppress(Exception):
                self.executor.set_bad_state_and_fail_all(broken)

        def work() -> None:
            # As above: commands that cancel blocks are started from here.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            for step in (self._kernel.cleanup, then):
                with contextlib.suppress(Exception):
                    step()

        thread = threading.Thread(target=work, name="fitserve-stop", daemon=True)
        try:
            thread.start()
            thread.join(_STOP_SECONDS)
        finally:
            close_log(self._log)
            end_groups(self._groups)
        return not thread.is_alive()
