"""An endpoint's jobs in the site's scheduler, by the names that Parsl gives them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fitserve.backends.qstat import read_qstat
from sitekit.doctor.shell import run

if TYPE_CHECKING:
    from sitekit.site import Site

__all__ = ["Job", "cancel_jobs", "find_jobs", "outputs_at_home"]

_SLURM = "%i|%j|%T|%r|%M|%D|%N"
_WAITING = {"PENDING": "queued", "Q": "queued", "H": "held", "W": "queued"}
_RUNNING = {"RUNNING": "running", "R": "running", "E": "ending", "COMPLETING": "ending"}
_ENDED = {"C", "F"}


class Job(NamedTuple):
    """A job: one block of workers.

    Attributes
    ----------
    state
        ``queued``, ``running``, or the scheduler's own word.
    reason
        Why it waits, in the scheduler's words; empty where it gives none.
    of_endpoint
        Whether the Globus Compute endpoint asked for it; a client on this machine did
        otherwise (``parsl:SITE``).
    """

    id: str
    name: str
    state: str
    reason: str
    elapsed: str
    nodes: str
    of_endpoint: bool


def find_jobs(site: Site, endpoint: str) -> list[Job]:
    """Return the jobs of an endpoint and of direct runs on its site.

    They are this user's, or all users' for an endpoint that is root's.
    """
    kind = site.scheduler.type
    timeout = float(site.scheduler.cmd_timeout)
    if kind == "slurm":
        # Jobs of a multi-user endpoint are its users'.
        whose = [] if site.access.mode == "multi-user" else ["--me"]
        done = run("squeue", "--noheader", *whose, f"--format={_SLURM}", timeout=timeout)
        rows = [line.split("|") for line in done.out.splitlines() if line.count("|") == 6]  # noqa: PLR2004
        found = [Job(*_told(row), of_endpoint=False) for row in rows]
    elif kind in {"pbspro", "torque"}:
        found = _pbs_jobs(timeout)
    else:
        return []
    ours = re.compile(_name(endpoint))
    return [
        job._replace(of_endpoint=bool(matched[1]))
        for job in found
        if (matched := ours.match(job.name))
    ]


def _name(endpoint: str) -> str:
    """Return a pattern of the names that Parsl gives jobs; its group is there for an endpoint's.

    Its provider for Torque puts ``parsl.`` before what begins with it already.
    """
    return rf"(?:parsl\.){{1,2}}{re.escape(endpoint)}(-HighThroughputExecutor)?\."


def outputs_at_home(site: Site, endpoint: str) -> list[Path]:
    """Return the files of jobs' output that PBS has put into the user's home.

    It does so where it ignores the file that was asked for, as Debian's qsub over Slurm does.
    They are told by the job's name, or that of its script, with ``.o`` or ``.e`` and its number.
    """
    if site.scheduler.type not in {"pbspro", "torque"}:
        return []
    ours = re.compile(rf"{_name(endpoint)}block-[0-9.]+(\.submit)?\.[oe][0-9]+\Z")
    found = Path.home().glob("parsl.*.[oe][0-9]*")
    return sorted(path for path in found if ours.match(path.name) and path.is_file())


def _told(row: list[str]) -> tuple[str, str, str, str, str, str]:
    ident, name, state, reason, elapsed, count, nodes = row
    word = _WAITING.get(state) or _RUNNING.get(state, state.lower())
    return ident, name, word, "" if reason == "None" else reason, elapsed, nodes or count


def _pbs_jobs(timeout: float) -> list[Job]:
    """Read `qstat -f`, which every PBS has: names are cut short in its tables."""
    done = run("qstat", "-f", timeout=timeout)
    jobs = []
    for ident, fields in read_qstat(done.out).items():
        state = fields.get("job_state", "")
        if state in _ENDED:
            continue
        jobs.append(
            Job(
                ident,
                fields.get("Job_Name", ""),
                _WAITING.get(state) or _RUNNING.get(state) or state,
                fields.get("comment", ""),
                fields.get("resources_used.walltime", ""),
                fields.get("exec_host", ""),
                of_endpoint=False,
            )
        )
    return jobs


def cancel_jobs(site: Site, endpoint: str) -> list[str]:
    """Cancel the jobs of an endpoint, each by its id; those of direct runs are left alone.

    Returns
    -------
    list of str
        Ids that were cancelled.
    """
    command = "scancel" if site.scheduler.type == "slurm" else "qdel"
    timeout = float(site.scheduler.cmd_timeout)
    found = [job.id for job in find_jobs(site, endpoint) if job.of_endpoint]
    return [ident for ident in found if run(command, ident, timeout=timeout).ok]
