"""What a user of the rig does: sites rendered, doctors asked, runs started and looked at."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fitserve.runs.store import read_run
from schedulerrig.hosts import wait_for
from schedulerrig.site import VENV

if TYPE_CHECKING:
    import subprocess

    from fitserve.runs.store import SavedRun
    from schedulerrig.hosts import Host
    from schedulerrig.rig import Rig

__all__ = ["Running", "User", "fitted_once", "lost", "site"]

_COMMON: dict[str, Any] = {
    "description": "Two nodes of two cores, for tests",
    "blocks": {"max": 2, "walltime": "00:10:00", "idle_seconds": 10, "strategy_seconds": 2},
    "tasks": {"longest_minutes": 2, "startup_seconds": 60},
    "network": {"heartbeat_seconds": 2, "lost_after_seconds": 8},
    "node": {"cores": 2, "memory_gb": 2},
    "workers": {"memory_gb": 1},
    "environment": {"container": None, "venv": VENV},
    "user_options": {
        "walltime_minutes": {"minimum": 4, "maximum": 60},
        "max_blocks": {"minimum": 1, "maximum": 4},
    },
}
_SCHEDULERS: dict[str, dict[str, Any]] = {
    "slurm": {"partition": "cpu", "account": "physics"},
    "torque": {"queue": "cpu", "directives": ["-r n", "-l naccesspolicy=singlejob"]},
    "pbspro": {"queue": "workq"},
}


def site(scheduler: str, /, **changes: dict[str, Any]) -> dict[str, Any]:
    """Return a site file's content; ``changes`` go into its sections."""
    fields = {"extends": scheduler, "scheduler": _SCHEDULERS[scheduler], **_COMMON}
    for section, change in changes.items():
        fields[section] = {**fields.get(section, {}), **change}
    return fields


class Running:
    """A run that goes on."""

    def __init__(self, user: User, process: subprocess.Popen[str], name: str, log: Path) -> None:
        self._user = user
        self.process = process
        self.name = name
        self._log = log

    @property
    def said(self) -> str:
        return self._log.read_text()

    @property
    def saved(self) -> SavedRun:
        return read_run(self._user.seen / self.name)

    def done(self) -> int:
        """Return how many hypotheses have results."""
        path = self._user.seen / self.name
        return len(self.saved.records) if (path / "manifest.json").exists() else 0

    def wait_until_done(self, count: int, seconds: float = 150) -> None:
        def enough() -> bool:
            assert self.process.poll() is None, self.said
            return self.done() >= count

        wait_for(f"{count} results", enough, seconds)

    def wait_until_said(self, text: str, seconds: float = 120) -> None:
        try:
            wait_for(f"'{text}'", lambda: text in self.said, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said}") from error

    def end(self, status: int = 0, seconds: float = 240) -> SavedRun:
        """Wait for its end; returns what it left."""
        assert self.process.wait(seconds) == status, self.said
        return self.saved


class User:
    """A user at a login node of the rig."""

    def __init__(self, rig: Rig, host: Host, name: str) -> None:
        self.rig = rig
        self.host = host
        self.name = name
        self.home = rig.directory / "home" / name
        self._runs = 0

    @property
    def seen(self) -> Path:
        """The user's home as it is on the host, with what is mounted there."""
        return Path(f"/proc/{self.host.pid}/root/home/{self.name}")

    def render(self, name: str, fields: dict[str, Any]) -> None:
        """Write a site file and render it to where the client finds it."""
        sites = self.home / "sites"
        made = yaml.safe_dump(fields)
        self.sh("mkdir -p ~/sites; cat > ~/sites/" + f"{name}.yaml", stdin=made)
        self.sitekit(
            "render", f"/home/{self.name}/sites/{name}.yaml",
            *("--out", f"/home/{self.name}/.config/fitserve/sites/{name}"),
        )  # fmt: skip
        assert sites.is_dir()

    def sitekit(
        self, *words: str, status: int = 0, timeout: float = 90
    ) -> subprocess.CompletedProcess[str]:
        return self.host.run(
            *(f"{VENV}/bin/python", "-m", "sitekit", *words),
            user=self.name,
            cwd="/srv/fitserve",
            status=status,
            timeout=timeout,
        )

    def sh(self, script: str, *, stdin: str = "", status: int = 0) -> str:
        done = self.host.run("bash", "-c", script, user=self.name, stdin=stdin, status=status)
        return done.stdout

    def start(
        self, site_name: str, *options: str, pallet: str = "example", place: str = "."
    ) -> Running:
        """Start a run through a site; unless told otherwise, some seconds of fits with pyhf.

        Its directory is in ``place``, below the user's home.
        """
        self._runs += 1
        name = f"run-{self.host.name}-{self._runs}-{time.monotonic_ns() % 10**6}"
        log = self.rig.directory / "log" / f"{self.name}-{name}"
        name = f"{place}/{name}"
        command = (
            *(f"{VENV}/bin/fitserve", "run", pallet, "-e", f"parsl:{site_name}"),
            *("-o", name, "--refit", "--verify", "0"),
            *(options or ("--engine", "pyhf")),
        )
        process = self.host.start(*command, log=log, user=self.name)
        return Running(self, process, name, log)


def fitted_once(saved: SavedRun) -> None:
    """Require that nothing is missing, and that nothing was sent again without being lost.

    What was sent to be verified is another task of the same hypotheses.
    """
    names = set(saved.records)
    assert len(names) == len(saved.manifest.hypotheses)
    events = saved.events()
    sent = {
        event.details["task"]: event.details["hypotheses"]
        for event in events
        if event.event == "submitted" and "verify" not in event.details
    }
    gone = [event.details["task"] for event in events if event.event == "lost"]
    times = Counter(name for hypotheses in sent.values() for name in hypotheses)
    again = Counter(name for task in gone for name in sent.get(task, ()))
    assert all(times[name] == 1 + again[name] for name in names)


def lost(saved: SavedRun) -> list[str]:
    """Return why tasks were lost."""
    return [event.details["reason"] for event in saved.events() if event.event == "lost"]
