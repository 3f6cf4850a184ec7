"""Jobs of a batch system: its commands, and how each says what a job does and waits for.

The jobs of an endpoint are found by the names that Parsl gives them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fitserve.schedulers.pbs import read_qstat
from sitekit.fields import PBS
from sitekit.shell import run

if TYPE_CHECKING:
    from sitekit.shell import Result
    from sitekit.site import Site

__all__ = [
    "Job",
    "cancel_job",
    "cancel_jobs",
    "find_jobs",
    "job_state",
    "outputs_at_home",
    "submit_job",
]

_SUBMIT = {"slurm": ("sbatch", "--parsable"), "pbspro": ("qsub",), "torque": ("qsub",)}
_CANCEL = {"slurm": "scancel", "pbspro": "qdel", "torque": "qdel"}

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


def submit_job(site: Site, script: Path) -> Result:
    """Submit a script from its own directory; the job's id is in the last line of the answer."""
    command = _SUBMIT[site.scheduler.type]
    timeout = site.scheduler.cmd_timeout
    return run(*command, script.name, timeout=timeout, cwd=script.parent)


def cancel_job(site: Site, job: str) -> Result:
    """Cancel a job."""
    return run(_CANCEL[site.scheduler.type], job, timeout=site.scheduler.cmd_timeout)


def job_state(site: Site, job: str) -> str:
    """Return what the scheduler says of a job, or ``gone``."""
    timeout = site.scheduler.cmd_timeout
    if site.scheduler.type == "slurm":
        done = run("squeue", "--noheader", f"--jobs={job}", "--format=%T %r", timeout=timeout)
        return done.out.strip() or "gone"
    done = run("qstat", job, timeout=timeout)
    rows = [line.split() for line in done.out.splitlines() if line.split()]
    states = [row[4] for row in rows if len(row) > 4 and job.startswith(row[0].rstrip("*"))]  # noqa: PLR2004
    return states[0] if states and states[0] not in _ENDED else "gone"


def find_jobs(site: Site, endpoint: str, *, everyone: bool = False) -> list[Job]:
    """Return the jobs of an endpoint and of direct runs on its site.

    Parameters
    ----------
    everyone
        All users' jobs, not this one's alone: those of an endpoint that is root's.
    """
    kind, timeout = site.scheduler.type, site.scheduler.cmd_timeout
    if kind == "slurm":
        whose = [] if everyone else ["--me"]
        done = run("squeue", "--noheader", *whose, f"--format={_SLURM}", timeout=timeout)
        rows = [line.split("|") for line in done.out.splitlines() if line.count("|") == 6]  # noqa: PLR2004
        found = [Job(*_told(row), of_endpoint=False) for row in rows]
    elif kind in PBS:
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
    if site.scheduler.type not in PBS:
        return []
    ours = re.compile(rf"{_name(endpoint)}block-[0-9.]+(\.submit)?\.[oe][0-9]+\Z")
    found = Path.home().glob("parsl.*.[oe][0-9]*")
    return sorted(path for path in found if ours.match(path.name) and path.is_file())


def _told(row: list[str]) -> tuple[str, str, str, str, str, str]:
    ident, name, state, reason, elapsed, count, nodes = row
    word = _WAITING.get(state) or _RUNNING.get(state, state.lower())
    return ident, name, word, "" if reason == "None" else reason, elapsed, nodes or count


def _pbs_jobs(timeout: int) -> list[Job]:
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
    jobs = find_jobs(site, endpoint, everyone=site.access.mode == "multi-user")
    return [job.id for job in jobs if job.of_endpoint and cancel_job(site, job.id).ok]
