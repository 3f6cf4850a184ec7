"""What batch schedulers say of jobs, and what that means for a run."""

from __future__ import annotations

import re

from fitserve.schedulers import kubernetes
from fitserve.schedulers.base import NO_ROOM, Refusal, Rule
from fitserve.schedulers.pbs import PBSPRO, TORQUE
from fitserve.schedulers.slurm import SLURM

__all__ = ["BY_PROVIDER", "SCHEDULERS", "never_runs", "refusal"]

SCHEDULERS = {one.name: one for one in (SLURM, PBSPRO, TORQUE)}
"""All schedulers, by name."""
BY_PROVIDER = {one.provider: one for one in SCHEDULERS.values()}
"""All schedulers, by the provider of Parsl that submits to them."""

# sbatch and qsub refuse in similar words; a cluster's own come first.
_REFUSALS = (
    *kubernetes.REFUSALS,
    Rule(
        r"submit limit|MaxSubmit|would exceed.*limit|queued jobs|Maximum number of jobs",
        "wait until jobs of yours have ended (`squeue --me` or `qstat -u $USER` lists them)",
        again=True,
    ),
    Rule(
        r"contact slurm controller|timed out|[Ss]ocket|Connection refused|cannot connect",
        "wait until the scheduler answers again",
        again=True,
    ),
    Rule(
        r"[Ii]nvalid account|account.*not|[Uu]nauthorized|[Ii]nvalid project|[Aa]ccount.*required",
        "change scheduler.account in the site's file (`sacctmgr show assoc`), then render it again",
    ),
    Rule(
        r"[Ii]nvalid partition|[Uu]nknown queue|[Ii]nvalid qos|not enabled|access to queue",
        "change scheduler.partition, queue or qos in the site's file, then render it again",
    ),
    Rule(
        r"time limit|walltime|exceeds",
        "shorten blocks.walltime in the site's file, then render it again",
    ),
    Rule(
        r"node configuration|generic resource|gres|[Ii]nvalid feature|[Mm]emory|CPU count|policy",
        "change node, blocks or workers in the site's file, then render it again",
    ),
    Rule(
        NO_ROOM, "make room there, or change directories.run in the site's file and render it again"
    ),
)
_NEVER = (*kubernetes.NEVER, *(rule for one in SCHEDULERS.values() for rule in one.never))


def refusal(text: str) -> Refusal:
    """Return what the message means with which a scheduler refused a block.

    Examples
    --------
    >>> refusal("sbatch: error: Invalid account or account/partition combination").again
    False
    >>> refusal("sbatch: error: AssocMaxSubmitJobLimit").again
    True
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    message = "; ".join(dict.fromkeys(lines))
    for rule in _REFUSALS:
        if re.search(rule.pattern, text):
            return Refusal(message, rule.again, rule.hint)
    return Refusal(
        message, again=True, hint="make doctor SITE=... says what the site's file asks for"
    )


def never_runs(reason: str) -> str | None:
    """Return what to change for a job that waits for this reason, or None if it will run.

    Examples
    --------
    >>> never_runs("Resources") is None
    True
    >>> never_runs("PartitionTimeLimit")
    "shorten blocks.walltime in the site's file"
    """
    return next((rule.hint for rule in _NEVER if re.search(rule.pattern, reason)), None)
