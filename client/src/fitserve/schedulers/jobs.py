"""What a scheduler says of jobs: queued and why, running, or how they ended.

``qstat -f`` is written alike by PBS Pro, OpenPBS and Torque, and nearly so by Slurm.
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "Ending",
    "Job",
    "SilentSchedulerError",
    "ask",
    "read_pbspro",
    "read_qstat",
    "read_squeue",
]


def read_qstat(shown: str) -> dict[str, dict[str, str]]:
    r"""Read the attributes of jobs by the jobs' ids.

    Examples
    --------
    A long value goes on in lines that begin with a tab:

    >>> long = "Job Id: 7.pbs\n    job_state = Q\n    comment = Not Running: \n\tno nodes\n"
    >>> read_qstat(long)
    {'7.pbs': {'job_state': 'Q', 'comment': 'Not Running: no nodes'}}

    Slurm's command of that name breaks no lines, and has all of them begin with a tab:

    >>> read_qstat("Job Id:\t7\n\tJob_Name = mine\n\tjob_state = R\n")
    {'7': {'Job_Name': 'mine', 'job_state': 'R'}}
    """
    jobs = {}
    for block in re.split(r"(?m)^Job Id:[ \t]*", shown)[1:]:
        ident, _, rest = block.partition("\n")
        text = rest if rest.startswith("\t") else rest.replace("\n\t", "")
        attributes = re.findall(r"(?m)^[ \t]+([\w.]+) = (.*)$", text)
        jobs[ident.strip()] = dict(attributes)
    return jobs


Ending = Literal[
    "done", "failed", "cancelled", "walltime", "node", "memory", "preempted", "unknown"
]
"""How a job ended; ``unknown`` where the scheduler has forgotten it."""

# https://slurm.schedmd.com/squeue.html, job state codes
_SLURM_QUEUED = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED")
_SLURM_RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STAGE_OUT", "RESIZING", "SIGNALING")
_SLURM_ENDED: dict[str, Ending] = {
    "COMPLETED": "done",
    "CANCELLED": "cancelled",
    "TIMEOUT": "walltime",
    "DEADLINE": "walltime",
    "NODE_FAIL": "node",
    "BOOT_FAIL": "node",
    "OUT_OF_MEMORY": "memory",
    "PREEMPTED": "preempted",
}
# https://github.com/openpbs/openpbs, src/include/job.h: exit statuses that are PBS' own
_PBS_WALLTIME, _PBS_MEMORY = -29, (-26, -27)
_PBS_SIGNALLED = 256
# Exit statuses of qstat: well, unknown job, job that has finished, server without history.
_PBS_FORGOTTEN = (0, 153, 35, 34)
_PBS_QUEUED = ("Q", "H", "W", "T", "M")


class SilentSchedulerError(Exception):
    """The scheduler did not answer; what was known of its jobs still holds."""


class Job(NamedTuple):
    """A job as its scheduler sees it.

    ``reason`` is the scheduler's own word for why a job waits, or for how it ended.
    """

    state: Literal["queued", "running", "ended"]
    reason: str = ""
    ending: Ending | None = None
    nodes: str = ""


def ask(scheduler: str, ids: Sequence[str], timeout: float) -> dict[str, Job]:
    """Ask a scheduler for jobs, all in one command.

    Parameters
    ----------
    scheduler
        ``slurm``, ``pbspro`` or ``torque``.
    ids
        Of the jobs.
    timeout
        Seconds that a command may take.

    Returns
    -------
    dict
        Every job that was asked for. One that the scheduler no longer knows has ended, nobody
        knows how.

    Raises
    ------
    SilentSchedulerError
        There was no answer.
    """
    found = _ASK[scheduler](ids, timeout)
    gone = Job("ended", "the scheduler knows it no more", "unknown")
    return {ident: found.get(ident, gone) for ident in ids}


def _run(command: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - fixed words and the ids of jobs
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SilentSchedulerError(str(error)) from error


def _ask_slurm(ids: Sequence[str], timeout: float) -> dict[str, Job]:
    asked = f"--jobs={','.join(ids)}"
    # Ended jobs are there too for some minutes (MinJobAge).
    done = _run(("squeue", "--noheader", "--states=all", asked, "--format=%i|%T|%r|%N"), timeout)
    if done.returncode and "Invalid job id" not in done.stderr:
        raise SilentSchedulerError(done.stderr.strip())
    found = read_squeue(done.stdout)
    rest = [ident for ident in ids if ident not in found]
    if rest:
        form = "--format=jobid,state,exitcode,nodelist"
        asked = f"--jobs={','.join(rest)}"
        told = _run(("sacct", "-X", "--noheader", "--parsable2", asked, form), timeout)
        found |= read_squeue(told.stdout)
    return found


def read_squeue(text: str) -> dict[str, Job]:
    """Read lines of id, state, reason (or exit code) and nodes, with ``|`` between them.

    Examples
    --------
    >>> read_squeue("7|PENDING|Resources|")["7"]
    Job(state='queued', reason='Resources', ending=None, nodes='')
    >>> read_squeue("8|CANCELLED by 1000|0:0|c1")["8"].ending
    'cancelled'
    """
    jobs = {}
    for line in text.splitlines():
        ident, state, reason, nodes = (part.strip() for part in line.split("|")[:4])
        word = state.split()[0]
        if word in _SLURM_QUEUED:
            jobs[ident] = Job("queued", "" if reason == "None" else reason)
        elif word in _SLURM_RUNNING:
            jobs[ident] = Job("running", nodes=nodes)
        else:
            ending = _SLURM_ENDED.get(word, "failed")
            told = word if reason in {"None", "0:0", ""} else f"{word}, {reason}"
            jobs[ident] = Job("ended", told, ending, nodes)
    return jobs


def _ask_pbspro(ids: Sequence[str], timeout: float) -> dict[str, Job]:
    done = _run(("qstat", "-x", "-f", "-F", "json", *ids), timeout)
    found = read_pbspro(done.stdout, ids)
    # Where the server keeps no history, or answers for the first job only (openpbs#2672).
    for ident in ids:
        if ident not in found:
            one = _run(("qstat", "-f", "-F", "json", ident), timeout)
            found |= read_pbspro(one.stdout, [ident])
            if one.returncode not in _PBS_FORGOTTEN:
                raise SilentSchedulerError(one.stderr.strip())
    return found


def read_pbspro(text: str, ids: Sequence[str]) -> dict[str, Job]:
    """Read ``qstat -f -F json``, whose ids may be longer or shorter than those of ``qsub``.

    Examples
    --------
    >>> shown = '{"Jobs": {"7.pbs": {"job_state": "Q", "comment": "Not Running: No nodes"}}}'
    >>> read_pbspro(shown, ["7.pbs.site.org"])
    {'7.pbs.site.org': Job(state='queued', reason='Not Running: No nodes', ending=None, nodes='')}
    """
    try:
        shown = json.loads(text).get("Jobs", {})
    except (ValueError, AttributeError):
        return {}
    numbers = {key.split(".")[0]: fields for key, fields in shown.items()}
    found = {}
    for ident in ids:
        fields = numbers.get(ident.split(".")[0])
        if fields is not None:
            found[ident] = _pbs_job(fields)
    return found


def _pbs_job(fields: dict[str, Any]) -> Job:
    state, comment = fields.get("job_state", ""), str(fields.get("comment", ""))
    nodes = str(fields.get("exec_host", ""))
    if state in _PBS_QUEUED:
        return Job("queued", comment or ("held" if state == "H" else ""))
    if state in {"F", "C", "X"}:
        status = int(fields.get("Exit_status", fields.get("exit_status", 0)) or 0)
        ending = _pbs_ending(status, fields)
        return Job("ended", comment or f"Exit_status {status}", ending, nodes)
    return Job("running", nodes=nodes)


def _pbs_ending(status: int, fields: dict[str, Any]) -> Ending:
    if status == _PBS_WALLTIME:
        return "walltime"
    if status in _PBS_MEMORY:
        return "memory"
    if status >= _PBS_SIGNALLED:
        used = fields.get("resources_used", {}).get("walltime", "")
        asked = fields.get("Resource_List", {}).get("walltime", "")
        over = _pbs_seconds(used) >= _pbs_seconds(asked) > 0
        return "walltime" if over else "cancelled"
    return "failed" if status else "done"


def _pbs_seconds(text: str) -> int:
    seconds = 0
    for part in str(text).split(":"):
        seconds = 60 * seconds + int(part or 0)
    return seconds


def _ask_torque(ids: Sequence[str], timeout: float) -> dict[str, Job]:
    done = _run(("qstat", "-f", *ids), timeout)
    if done.returncode not in _PBS_FORGOTTEN:
        raise SilentSchedulerError(done.stderr.strip())
    found: dict[str, Job] = {}
    for full, shown in read_qstat(done.stdout).items():
        fields: dict[str, Any] = {
            **shown,
            "resources_used": {"walltime": shown.get("resources_used.walltime", "")},
            "Resource_List": {"walltime": shown.get("Resource_List.walltime", "")},
        }
        number = full.split(".")[0]
        found |= {ident: _pbs_job(fields) for ident in ids if ident.split(".")[0] == number}
    return found


_ASK: dict[str, Callable[[Sequence[str], float], dict[str, Job]]] = {
    "slurm": _ask_slurm,
    "pbspro": _ask_pbspro,
    "torque": _ask_torque,
}
