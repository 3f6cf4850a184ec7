"""Slurm: states and reasons of jobs, as squeue and sacct show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitserve.schedulers.base import Job, Rule, Scheduler, SilentSchedulerError, run_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve.schedulers.base import Ending

__all__ = ["SLURM", "read_squeue"]

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


def _ask_slurm(ids: Sequence[str], timeout: float) -> dict[str, Job]:
    which = f"--jobs={','.join(ids)}"
    # It shows ended jobs too, for some minutes (MinJobAge).
    done = run_command(
        ("squeue", "--noheader", "--states=all", which, "--format=%i|%T|%r|%N"), timeout
    )
    if done.returncode and "Invalid job id" not in done.stderr:
        raise SilentSchedulerError(done.stderr.strip())
    jobs = read_squeue(done.stdout)
    rest = [ident for ident in ids if ident not in jobs]
    if rest:
        form = "--format=jobid,state,exitcode,nodelist"
        which = f"--jobs={','.join(rest)}"
        ended = run_command(("sacct", "-X", "--noheader", "--parsable2", which, form), timeout)
        jobs |= read_squeue(ended.stdout)
    return jobs


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
            ending_words = word if reason in {"None", "0:0", ""} else f"{word}, {reason}"
            jobs[ident] = Job("ended", ending_words, ending, nodes)
    return jobs


SLURM = Scheduler(
    name="slurm",
    provider="SlurmProvider",
    cancel="scancel",
    ask=_ask_slurm,
    waiting=("squeue", "--me", "--noheader", "--states=PD", "--format=%r"),
    why=str.splitlines,
    # https://slurm.schedmd.com/resource_limits.html
    never=(
        Rule(
            r"PartitionTimeLimit|WallDurationPerJob", "shorten blocks.walltime in the site's file"
        ),
        Rule(
            r"(Minutes|RunMinutes|Hours)Limit|AssocGrpBilling",
            "the account's hours are used up: another account in the site's file, or ask for more",
        ),
        Rule(
            r"PartitionNodeLimit|MaxNodePerJob|MaxNodesPerJob",
            "fewer blocks.nodes in the site's file",
        ),
        Rule(r"PerJobLimit|PerJob$", "smaller blocks: node and blocks in the site's file"),
        Rule(r"BadConstraints", "another scheduler.constraint in the site's file"),
        Rule(
            r"(Invalid|Not)(Account|QOS)|AccountNotAllowed|QOSNotAllowed|^InvalidAccount|^InvalidQOS",
            "another scheduler.account or qos in the site's file",
        ),
        Rule(r"JobHeldAdmin", "ask the site why it holds your jobs"),
    ),
    avoid="#SBATCH --exclude={nodes}",
)
