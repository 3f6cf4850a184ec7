"""fitserve's command line against the rig, and what it leaves in a run directory."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from fitserve.errors import StoreError
from fitserve.runs.store import read_run
from globusrig.processes import AMQP_PORT
from globusrig.rig import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from fitserve.runs.records import Event
    from globusrig.rig import Account, Endpoint, Rig

# Eleven of the example's hypotheses: some seconds of fits with pyhf on two workers. However a plan
# would cut them, there are tasks that are done while others are still to be.
PATCHES = ("--patch", "X_700_[0-3]*", "--patch", "X_600_*")
MANY = ("--engine", "pyhf", "--max-task-hypotheses", "1", "--verify", "0")
FIT = (*PATCHES, *MANY)


class Client:
    """The command line as a user runs it, with a state of its own."""

    def __init__(self, rig: Rig, account: Account, place: Path) -> None:
        self.rig = rig
        self.place = place
        state = {name: str(place / name.lower()) for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME")}
        self.environment = {**account.environment(), **state, "PYTHONWARNINGS": "ignore"}
        self._started: list[subprocess.Popen[str]] = []

    def add(self, name: str, endpoint: Endpoint) -> None:
        self(
            *("endpoints", "add", name, "--replace"),
            *("--card", endpoint.card, "--amqp-port", AMQP_PORT),
        )

    def __call__(
        self,
        *arguments: object,
        status: int = 0,
        timeout: float = 150,
        prelude: str = "",
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; ``prelude`` is Python that changes fitserve before it."""
        done = subprocess.run(
            self._command(prelude, arguments),
            env=self.environment,
            cwd=self.place,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert done.returncode == status, f"status {done.returncode}\n{done.stderr}{done.stdout}"
        assert "Traceback" not in done.stderr
        return done

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self._command("", arguments),
            env=self.environment,
            cwd=self.place,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._started.append(process)
        return process

    def finish(self, process: subprocess.Popen[str], timeout: float = 150) -> str:
        """Wait for a started command to succeed, and return what it printed."""
        output, _ = process.communicate(timeout=timeout)
        assert process.returncode == 0, output
        return output

    def close(self) -> None:
        while self._started:
            process = self._started.pop()
            if process.poll() is None:
                process.kill()
            process.communicate()

    def _command(self, prelude: str, arguments: tuple[object, ...]) -> list[str]:
        program = f"{prelude}\nfrom fitserve.cli import main\nmain()"
        return [sys.executable, "-c", program, *map(str, arguments)]


def events(run: Path, *kinds: str) -> list[Event]:
    with contextlib.suppress(StoreError):
        return [event for event in read_run(run).events() if event.event in kinds]
    return []


def wait_for_events(run: Path, kind: str, count: int = 1, seconds: float = 60) -> None:
    wait_for(lambda: len(events(run, kind)) >= count, seconds, f"{count} events '{kind}' in {run}")


def complete(run: Path) -> dict[str, Any]:
    """Return results.json of a run in which nothing is missing."""
    assert read_run(run).unfinished == []
    return json.loads((run / "results.json").read_text())
