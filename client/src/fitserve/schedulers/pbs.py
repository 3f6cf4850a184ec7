"""PBS Pro, OpenPBS and Torque: states and reasons of jobs, as qstat shows them.

All of them write ``qstat -f`` alike, and Slurm's command of that name nearly so.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from fitserve.schedulers.base import (
    Job,
    Rule,
    Scheduler,
    SilentSchedulerError,
    clock_seconds,
    run_command,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve.schedulers.base import Ending

__all__ = ["PBSPRO", "TORQUE", "read_pbspro", "read_qstat"]

# https://github.com/openpbs/openpbs, src/include/job.h: exit statuses that are PBS' own
_PBS_WALLTIME, _PBS_MEMORY = -29, (-26, -27)
_PBS_SIGNALLED = 256
# Exit statuses of qstat: success, unknown job, job that has finished, server without history.
_PBS_FORGOTTEN = (0, 153, 35, 34)
_PBS_QUEUED = ("Q", "H", "W", "T", "M")

# Where a site allows it, qstat shows the jobs of all users: the name that the user has on that
# machine says which are the user's own.
_WAITING = ("sh", "-c", "id -un && qstat -f")
_WAITS = ("Q", "H", "W")


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


def _ask_pbspro(ids: Sequence[str], timeout: float) -> dict[str, Job]:
    done = run_command(("qstat", "-x", "-f", "-F", "json", *ids), timeout)
    jobs = read_pbspro(done.stdout, ids)
    # The server may keep no history, or answer for the first job only (openpbs#2672).
    for ident in ids:
        if ident not in jobs:
            one = run_command(("qstat", "-f", "-F", "json", ident), timeout)
            jobs |= read_pbspro(one.stdout, [ident])
            if one.returncode not in _PBS_FORGOTTEN:
                raise SilentSchedulerError(one.stderr.strip())
    return jobs


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
    jobs = {}
    for ident in ids:
        fields = numbers.get(ident.split(".")[0])
        if fields is not None:
            jobs[ident] = _pbs_job(fields)
    return jobs


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
        limit = fields.get("Resource_List", {}).get("walltime", "")
        over = clock_seconds(str(used)) >= clock_seconds(str(limit)) > 0
        return "walltime" if over else "cancelled"
    return "failed" if status else "done"


def _ask_torque(ids: Sequence[str], timeout: float) -> dict[str, Job]:
    done = run_command(("qstat", "-f", *ids), timeout)
    if done.returncode not in _PBS_FORGOTTEN:
        raise SilentSchedulerError(done.stderr.strip())
    jobs: dict[str, Job] = {}
    for full, shown in read_qstat(done.stdout).items():
        fields: dict[str, Any] = {
            **shown,
            "resources_used": {"walltime": shown.get("resources_used.walltime", "")},
            "Resource_List": {"walltime": shown.get("Resource_List.walltime", "")},
        }
        number = full.split(".")[0]
        jobs |= {ident: _pbs_job(fields) for ident in ids if ident.split(".")[0] == number}
    return jobs


def _why(text: str) -> list[str]:
    r"""Return why the user's own jobs wait, from the user's name and the output of ``qstat -f``.

    Examples
    --------
    >>> shown = "Job Id: {}\n    Job_Owner = {}@pbs\n    job_state = Q\n    comment = {}\n"
    >>> _why("ada\n" + shown.format(7, "ada", "No nodes") + shown.format(8, "ben", "Held"))
    ['No nodes']
    """
    user, _, rest = text.partition("\n")
    return [
        job.get("comment", "")
        for job in read_qstat(rest).values()
        if job.get("job_state") in _WAITS and job.get("Job_Owner", "").split("@")[0] == user
    ]


_NEVER = (Rule(r"[Cc]an ?[Nn]ever [Rr]un", "smaller blocks: node and blocks in the site's file"),)
PBSPRO = Scheduler(
    name="pbspro",
    provider="PBSProProvider",
    cancel="qdel",
    ask=_ask_pbspro,
    waiting=_WAITING,
    why=_why,
    never=_NEVER,
)
TORQUE = Scheduler(
    name="torque",
    provider="TorqueProvider",
    cancel="qdel",
    ask=_ask_torque,
    waiting=_WAITING,
    why=_why,
    never=_NEVER,
)
