"""Processes of the rig: started in a session of their own, ended with all that they started."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
AMQP_PORT = 5671
"""What a site file allows besides 443, which is for root alone."""


class Child:
    """A process with a log."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                cwd=log.parent,
            )

    def wait_until(self, ready: Callable[[], bool], seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not ready():
            ended = self.process.poll()
            if ended is not None or time.monotonic() > end:
                told = self.log.read_text(errors="replace")[-2000:]
                raise AssertionError(f"{what}: not ready (exit status {ended})\n{told}")
            time.sleep(0.1)

    def kill(self) -> None:
        """End this process alone, at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def stop(self, grace: float = 15.0) -> None:
        """End the process, then whatever of its session is left."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class RabbitMQ:
    """Debian's broker on the loopback interface, with its data in a directory of ours."""

    url = f"amqp://guest:guest@127.0.0.1:{AMQP_PORT}/"

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        (directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{AMQP_PORT}\n"
            "log.console = false\nvm_memory_high_watermark.absolute = 1GB\n"
            "disk_free_limit.absolute = 100MB\n"
        )
        (directory / "enabled_plugins").write_text("[].\n")
        self._environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(directory),
            "RABBITMQ_NODENAME": f"fitserve{os.getpid()}@localhost",
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(free_port()),
        }
        self._child: Child | None = None

    @staticmethod
    def installed() -> bool:
        return _SERVER.is_file() and shutil.which("erl") is not None

    def start(self) -> None:
        # The script itself: Debian's wrapper would change to another user.
        log = self._directory / "broker.log"
        self._child = Child([str(_SERVER)], log, self._environment)
        self._child.wait_until(lambda: listens(AMQP_PORT), 90, "the broker")

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None
        # Erlang's port mapper makes itself a session of its own and would stay for ever.
        for process in psutil.process_iter(["name"]):
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get("HOME") == str(self._directory)
                if process.info["name"] == "epmd" and ours:
                    process.kill()
