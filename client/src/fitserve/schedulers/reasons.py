"""What a scheduler's refusals and reasons mean for a run, and what to do about them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fitserve.schedulers.jobs import Ending

__all__ = ["Refusal", "ended_words", "never_runs", "no_room", "refusal"]

_NO_ROOM = r"No space left|[Dd]isk quota|Read-only file system"

# What sbatch, qsub and Kubernetes say, whether asking again can help, and what to do.
_REFUSALS: tuple[tuple[str, bool, str], ...] = (
    (
        r"exceeded quota",
        True,
        "wait until pods of the namespace have ended (`kubectl describe resourcequota`)",
    ),
    (
        r"cannot create resource|violates PodSecurity|service account|PriorityClass",
        False,
        "make doctor SITE=... looks for what the namespace allows and has",
    ),
    (
        r"submit limit|MaxSubmit|would exceed.*limit|queued jobs|Maximum number of jobs",
        True,
        "wait until jobs of yours have ended (`squeue --me` or `qstat -u $USER` lists them)",
    ),
    (
        r"contact slurm controller|timed out|[Ss]ocket|Connection refused|cannot connect",
        True,
        "wait until the scheduler answers again",
    ),
    (
        r"[Ii]nvalid account|account.*not|[Uu]nauthorized|[Ii]nvalid project|[Aa]ccount.*required",
        False,
        "change scheduler.account in the site's file (`sacctmgr show assoc`), then render it again",
    ),
    (
        r"[Ii]nvalid partition|[Uu]nknown queue|[Ii]nvalid qos|not enabled|access to queue",
        False,
        "change scheduler.partition, queue or qos in the site's file, then render it again",
    ),
    (
        r"time limit|walltime|exceeds",
        False,
        "shorten blocks.walltime in the site's file, then render it again",
    ),
    (
        r"node configuration|generic resource|gres|[Ii]nvalid feature|[Mm]emory|CPU count|policy",
        False,
        "change node, blocks or workers in the site's file, then render it again",
    ),
    (
        _NO_ROOM,
        False,
        "make room there, or change directories.run in the site's file and render it again",
    ),
)
# https://slurm.schedmd.com/resource_limits.html: such a job waits for ever, or until somebody
# changes a limit.
_NEVER = (
    (r"PartitionTimeLimit|WallDurationPerJob", "shorten blocks.walltime in the site's file"),
    (
        r"(Minutes|RunMinutes|Hours)Limit|AssocGrpBilling",
        "the account's hours are used up: another account in the site's file, or ask for more",
    ),
    (r"PartitionNodeLimit|MaxNodePerJob|MaxNodesPerJob", "fewer blocks.nodes in the site's file"),
    (r"PerJobLimit|PerJob$", "smaller blocks: node and blocks in the site's file"),
    (r"InvalidImageName|ErrImageNeverPull", "another kubernetes.image in the site's file"),
    (r"BadConstraints", "another scheduler.constraint in the site's file"),
    (
        r"(Invalid|Not)(Account|QOS)|AccountNotAllowed|QOSNotAllowed|^InvalidAccount|^InvalidQOS",
        "another scheduler.account or qos in the site's file",
    ),
    (r"JobHeldAdmin", "ask the site why it holds your jobs"),
    (r"[Cc]an ?[Nn]ever [Rr]un", "smaller blocks: node and blocks in the site's file"),
)
_ENDED: dict[Ending, str] = {
    "walltime": "reached its time limit ({walltime})",
    "cancelled": "was cancelled",
    "node": "lost its node",
    "preempted": "was preempted",
    "memory": "used more memory than it asked for",
    "failed": "failed",
    "done": "ended",
    "unknown": "ended",
}


class Refusal(NamedTuple):
    """Why a block was not taken; ``again`` says whether it may be later."""

    text: str
    again: bool
    hint: str


def refusal(text: str) -> Refusal:
    """Judge what a scheduler said when it refused a block.

    Examples
    --------
    >>> refusal("sbatch: error: Invalid account or account/partition combination").again
    False
    >>> refusal("sbatch: error: AssocMaxSubmitJobLimit").again
    True
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = "; ".join(dict.fromkeys(lines))
    for pattern, again, hint in _REFUSALS:
        if re.search(pattern, text):
            return Refusal(said, again, hint)
    return Refusal(said, again=True, hint="make doctor SITE=... says what the site's file asks for")


def no_room(text: str) -> bool:
    """Return whether a block was not asked for since its script could not be written.

    Examples
    --------
    >>> no_room("Unable to write submit script: [Errno 28] No space left on device")
    True
    >>> no_room("sbatch: error: AssocMaxSubmitJobLimit")
    False
    """
    return re.search(_NO_ROOM, text) is not None


def never_runs(reason: str) -> str | None:
    """Return what to change for a job that waits for this reason, or None if it will run.

    Examples
    --------
    >>> never_runs("Resources") is None
    True
    >>> never_runs("PartitionTimeLimit")
    "shorten blocks.walltime in the site's file"
    """
    return next((hint for pattern, hint in _NEVER if re.search(pattern, reason)), None)


def ended_words(ending: Ending, walltime: str) -> str:
    """Return how a block ended, to follow the words "its block"."""
    return _ENDED[ending].format(walltime=walltime)
