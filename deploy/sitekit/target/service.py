"""Start an endpoint and keep it running: by systemd, or else by a supervisor and cron."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

from fitserve.errors import BackendError
from sitekit.jobs import cancel_jobs
from sitekit.shell import run
from sitekit.target.processes import (
    alive,
    end,
    end_all,
    find_processes,
    manager_pid,
    running_digest,
    running_file,
    supervisor_pid,
    wanted_digest,
)

if TYPE_CHECKING:
    from sitekit.shell import Result
    from sitekit.target.deployed import Deployed

__all__ = ["busy_children", "ensure", "manager_kind", "stop", "wait_until_idle"]

_START_SECONDS = 90.0
_STOP_SECONDS = 130.0
_SECONDS = 30.0
_POLL = 1.0


def manager_kind(deployed: Deployed) -> str:
    """Return ``systemd`` where a unit was installed, otherwise ``supervisor``."""
    return "systemd" if deployed.path(deployed.places.unit).is_file() else "supervisor"


def ensure(deployed: Deployed, *, drain_seconds: float) -> dict[str, Any]:
    """Keep the endpoint running with its present configuration, and have it started at boot.

    One that runs with an older configuration is restarted once no user's child is alive; children
    end by themselves when they have been idle for a while.

    Returns
    -------
    dict
        ``changed``, ``endpoint_id``, how it starts at ``boot``, and whether a restart is
        ``pending`` because users' fits are running.

    Raises
    ------
    BackendError
        It does not start.
    """
    changed = _enable(deployed)
    pending = False
    if not _is_kept_running(deployed):
        _start(deployed)
        changed = True
    elif running_digest(deployed) != wanted_digest(deployed):
        if wait_until_idle(deployed, drain_seconds):
            _start_again(deployed)
            changed = True
        else:
            pending = True
    return {
        "changed": changed,
        "endpoint_id": _wait_for_id(deployed),
        "boot": boot(deployed),
        "pending": pending,
    }


def busy_children(deployed: Deployed) -> list[str]:
    """Return the ids of users' child endpoints that are alive."""
    endpoint = deployed.endpoint_id
    if endpoint is None:
        return []
    return sorted({one.child for one in find_processes(endpoint) if not one.orphan})


def wait_until_idle(deployed: Deployed, seconds: float) -> bool:
    """Wait for all children to have ended; returns whether they have."""
    deadline = time.monotonic() + seconds
    while busy_children(deployed):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL)
    return True


def boot(deployed: Deployed) -> str:
    """Return what starts the endpoint when the machine starts: systemd, cron or nothing.

    ``login``: systemd starts it when its user logs in and ends it at logout, for lack of lingering.
    """
    if manager_kind(deployed) == "systemd":
        return "systemd" if _lingers(deployed) else "login"
    return "cron" if _cron_line(deployed) in _cron() else "nothing"


def stop(deployed: Deployed, *, disable: bool) -> dict[str, Any]:
    """Stop the endpoint, its children and their jobs; each process and job by its id.

    Parameters
    ----------
    disable
        Also do not start it at boot.
    """
    pids = _pids(deployed)
    if manager_kind(deployed) == "systemd":
        _systemctl(deployed, "disable" if disable else "stop", *(["--now"] if disable else []))
    if disable:
        _forget_cron(deployed)
    # A supervisor may still run from before there was systemd.
    end(_pids(deployed), _STOP_SECONDS)
    endpoint = deployed.endpoint_id
    left = end_all(endpoint) if endpoint else []
    jobs = cancel_jobs(deployed.site, deployed.name)
    running_file(deployed).unlink(missing_ok=True)
    return {"changed": bool(pids or left or jobs), "processes": [*pids, *left], "jobs": jobs}


def _pids(deployed: Deployed) -> list[int]:
    return [pid for pid in (supervisor_pid(deployed), manager_pid(deployed)) if pid is not None]


def _is_kept_running(deployed: Deployed) -> bool:
    if supervisor_pid(deployed) is not None:
        return True
    return manager_kind(deployed) == "systemd" and _systemctl(deployed, "is-active", "--quiet").ok


def _start(deployed: Deployed) -> None:
    # The unit or the supervisor first ends what an earlier endpoint left.
    if manager_kind(deployed) == "systemd":
        _started(_systemctl(deployed, "start"))
        _note(deployed)
        return
    with (deployed.state / "supervisor.log").open("ab") as log:
        subprocess.Popen(  # noqa: S603 -- our own script, made by deploying
            [str(deployed.state / "serve")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=deployed.state,
        )


def _start_again(deployed: Deployed) -> None:
    if manager_kind(deployed) == "systemd":
        if supervisor_pid(deployed) is not None:  # systemd takes over from it
            end(_pids(deployed), _STOP_SECONDS)
        _started(_systemctl(deployed, "restart"))
        _note(deployed)
        return
    pid, before = supervisor_pid(deployed), manager_pid(deployed)
    if pid is not None:
        os.kill(pid, 1)  # SIGHUP
    deadline = time.monotonic() + _STOP_SECONDS
    while before is not None and alive(before) and time.monotonic() < deadline:
        time.sleep(_POLL)


def _note(deployed: Deployed) -> None:
    text = json.dumps({"digest": wanted_digest(deployed)})
    running_file(deployed).write_text(text, encoding="utf-8")


def _started(done: Result) -> None:
    if not done.ok:
        raise BackendError("systemd does not start the endpoint", evidence=done.words)


def _wait_for_id(deployed: Deployed) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if deployed.endpoint_id is not None and manager_pid(deployed) is not None:
            return deployed.endpoint_id
        time.sleep(_POLL)
    log = deployed.configuration / "endpoint.log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    messages = deployed.state / "supervisor.log"
    if messages.is_file():
        lines += messages.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
    raise BackendError(
        f"the endpoint {deployed.name} does not start",
        evidence="\n".join(lines[-20:]) or "it wrote nothing",
        hint=f"make logs SITE={deployed.site.name}",
    )


# -- at boot ---------------------------------------------------------------------------------


def _enable(deployed: Deployed) -> bool:
    if manager_kind(deployed) == "systemd":
        _forget_cron(deployed)
        _systemctl(deployed, "daemon-reload")
        enabled = _systemctl(deployed, "is-enabled", "--quiet").ok
        if not enabled:
            _started(_systemctl(deployed, "enable"))
        if _lingers(deployed):
            return not enabled
        # Not every site allows it; `boot` reports the result.
        run("loginctl", "enable-linger", timeout=_SECONDS)
        return not enabled or _lingers(deployed)
    line, lines = _cron_line(deployed), _cron()
    if shutil.which("crontab") is None or line in lines:
        return False
    _write_cron([*lines, line])
    return True


def _lingers(deployed: Deployed) -> bool:
    """Return whether the services of the endpoint's user run while that user is logged out."""
    if deployed.multi_user:
        return True
    words = ("show-user", getpass.getuser(), "--property=Linger", "--value")
    return run("loginctl", *words, timeout=_SECONDS).out.strip() == "yes"


def _systemctl(deployed: Deployed, verb: str, *options: str) -> Result:
    scope = "--system" if deployed.multi_user else "--user"
    unit = f"{deployed.name}.service"
    words = [] if verb == "daemon-reload" else [unit]
    return run("systemctl", scope, verb, *options, *words, timeout=_STOP_SECONDS)


def _cron_line(deployed: Deployed) -> str:
    log = deployed.state / "supervisor.log"
    return f"@reboot {deployed.state / 'serve'} >> {log} 2>&1"


def _cron() -> list[str]:
    return run("crontab", "-l", timeout=_SECONDS).out.splitlines()


def _forget_cron(deployed: Deployed) -> None:
    lines = _cron()
    others = [line for line in lines if line != _cron_line(deployed)]
    if others != lines:
        _write_cron(others)


def _write_cron(lines: list[str]) -> None:
    if shutil.which("crontab") is None:
        return
    # A table without lines is removed, or it would stay.
    text = "".join(f"{line}\n" for line in lines)
    done = run("crontab", "-" if lines else "-r", timeout=_SECONDS, text=text)
    if not done.ok:
        raise BackendError("the crontab cannot be written", evidence=done.words)
