"""Keep an endpoint running where there is no systemd: one process, no terminal, no root.

``python -m sitekit.target.supervisor SITE`` starts the endpoint, and starts it again when it ends,
after ending what a killed one left behind. SIGTERM ends both, SIGHUP restarts the endpoint with
its present configuration and credentials.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sitekit.jobs import cancel_jobs
from sitekit.load import load_site
from sitekit.target.deployed import Deployed
from sitekit.target.processes import (
    alive,
    end,
    end_orphans,
    lock_file,
    manager_pid,
    running_file,
    wanted_digest,
)

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Supervisor", "Tidied", "main", "tidy"]

_GRACE = 120.0


class Tidied(NamedTuple):
    """What was ended: an endpoint without a supervisor, orphans of its children, jobs."""

    endpoint: int | None
    orphans: int
    jobs: list[str]

    def __str__(self) -> str:
        """Return one line, empty if nothing was ended."""
        if self == (None, 0, []):
            return ""
        endpoint = f"endpoint {self.endpoint}, " if self.endpoint else ""
        return f"{endpoint}{self.orphans} processes, jobs {', '.join(self.jobs) or 'none'}"


def tidy(deployed: Deployed) -> Tidied:
    """End an endpoint without a supervisor, what its children left, and their jobs.

    Only where no endpoint should be running: its jobs would be cancelled too.
    """
    pid = manager_pid(deployed)
    if pid is not None:
        end([pid], _GRACE)
    if deployed.endpoint_id is None:
        return Tidied(pid, 0, [])
    orphans = end_orphans(deployed.endpoint_id)
    return Tidied(pid, orphans, cancel_jobs(deployed.site, deployed.name))


_SETTLE = 10.0


class Supervisor:
    """Keeps one endpoint running until it is told to stop."""

    def __init__(self, deployed: Deployed) -> None:
        self._deployed = deployed
        self._stop = False
        self._again = False
        self._endpoint: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Keep the endpoint running; returns when told to stop."""
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_restart)
        restart = self._deployed.site.endpoint.restart
        while not self._stop:
            self._again = False
            left = str(tidy(self._deployed))
            if left:
                _say(f"ended what was left: {left}")
            status = self._serve()
            _say(f"the endpoint ended with status {status}")
            if not (self._stop or self._again):
                if restart == "no" or (restart == "on-failure" and status == 0):
                    return
                self._wait()

    def _serve(self) -> int:
        deployed = self._deployed
        command = [str(deployed.link / "bin" / "globus-compute-endpoint"), "start", deployed.name]
        digest = wanted_digest(deployed)
        _say(f"starting {' '.join(command)}")
        self._endpoint = subprocess.Popen(  # noqa: S603
            command,
            env=deployed.environment(),
            stdin=subprocess.DEVNULL,
            cwd=deployed.state,
            start_new_session=True,
        )
        running_file(deployed).write_text(json.dumps({"digest": digest}), encoding="utf-8")
        if self._stop or self._again:  # a signal came while it was being started
            self._endpoint.terminate()
        try:
            return self._endpoint.wait()
        finally:
            self._endpoint = None

    def _wait(self) -> None:
        # Globus refuses a new start for three heartbeats after an endpoint was killed.
        seconds = 3 * self._deployed.site.endpoint.heartbeat_seconds + _SETTLE
        _say(f"starting it again in {seconds:.0f} s")
        deadline = time.monotonic() + seconds
        while not (self._stop or self._again) and time.monotonic() < deadline:
            time.sleep(0.5)

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True
        self._end_endpoint()

    def _on_restart(self, _number: int, _frame: FrameType | None) -> None:
        self._again = True
        self._end_endpoint()

    def _end_endpoint(self) -> None:
        if self._endpoint is not None and alive(self._endpoint.pid):
            self._endpoint.terminate()


def _say(text: str) -> None:
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    sys.stderr.write(f"{moment} {text}\n")
    sys.stderr.flush()


def main(site: str) -> None:
    """Keep a site's endpoint running, unless another process does so already."""
    os.umask(0o077)
    deployed = Deployed(load_site(site)[0])
    with lock_file(deployed).open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            _say("another process keeps it running already")
            return
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        Supervisor(deployed).run()


if __name__ == "__main__":
    main(str(Path(sys.argv[1])))
