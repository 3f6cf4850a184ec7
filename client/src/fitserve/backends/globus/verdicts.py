"""What the end of a task on an endpoint means, when it is not a result."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from fitserve.endpoints import SiteCard

__all__ = ["Verdict", "blocks_told", "judge_remote"]


Kind = Literal["again", "suspect", "stop", "blocks"]


class Verdict(NamedTuple):
    """What to do about a task that ended without a result.

    ``again``: send it again as it is; ``suspect``: it may be what breaks its worker;
    ``stop``: no task will fare better, and ``hint`` says what to do about it; ``blocks``: as
    ``again``, but as ``stop`` if it goes on: blocks of an endpoint have failed, with which Parsl
    gives up all its tasks and the endpoint itself.
    """

    kind: Kind
    cause: str
    evidence: str
    hint: str = ""


BLOCKS_FAILED = r"BadStateException|TooManyJobFailuresError"
"""What is said of it: to tasks that waited, and to those that came afterwards."""
# Between the words on a block's standard error and what follows them.
_STDERR = re.compile(r"STDERR: (.*?)(?=\n(?:Error \d+:|[-+]{20})|[-+]{20}|\Z)", re.DOTALL)
_TOLD = re.compile(r"\bError (\d+):")
_ADMIN = "show this to the site's administrator: {contact}"

# In this order: the first pattern found in what the endpoint says decides.
_MEANINGS: tuple[tuple[str, Kind, str, str], ...] = (
    (
        BLOCKS_FAILED,
        "blocks",
        "blocks of workers end on the site before a worker has reported",
        _ADMIN,
    ),
    (
        r"No module named '?fitserve",
        "stop",
        "the site's workers do not have fitserve-worker",
        _ADMIN,
    ),
    (
        r"failed to map to a local user|does\s+not exist\.\s+Local user name",
        "stop",
        "the site has no account for your Globus identity",
        "log in as whom the site knows (fitserve endpoints whoami), or ask there: {contact}",
    ),
    (
        r"untrusted identity",
        "stop",
        "the endpoint serves only the identity that it was started with",
        "ask for an endpoint that serves you: {contact}",
    ),
    (
        r"ValidationError|Failed validating|is not valid under|Additional properties",
        "stop",
        "the site refuses one of the options",
        "look at what may be set: fitserve endpoints list --json",
    ),
    (
        r"[Ff]unction\s+\S*\s*(is )?not (permitted|allowed)",
        "stop",
        "the endpoint does not run this function",
        "add the endpoint by the site's present card: fitserve endpoints add NAME --card FILE",
    ),
    (
        r"disabled by current\s+configuration|DeserializationError",
        "stop",
        "the endpoint does not take what it was sent",
        "add the endpoint by the site's present card: fitserve endpoints add NAME --card FILE",
    ),
    (
        r"Unable to start user endpoint|start[- ]?up|ENDPOINT_START_FAILURE",
        "stop",
        "the site cannot start your endpoint there",
        _ADMIN,
    ),
    (r"MaxResultSizeExceeded", "suspect", "its result is too large to be sent", ""),
    (r"WorkerLost", "suspect", "its worker was lost: killed, or out of memory", ""),
    (r"ManagerLost", "again", "its node was lost{walltime}", ""),
    (r"Failed to set result or exception", "again", "the service has dropped its result", ""),
)


def judge_remote(told: str, card: SiteCard) -> Verdict:
    """Say what an endpoint's error means.

    Parameters
    ----------
    told
        The endpoint's words: a message, or the traceback of the worker.
    card
        The site, for whom to ask and how long its blocks last.

    Examples
    --------
    >>> from fitserve.endpoints import read_card
    >>> card = read_card("11111111-2222-4333-8444-555555555555")
    >>> judge_remote("parsl.executors.WorkerLost: Task failure", card).kind
    'suspect'
    """
    blocks = _STDERR.findall(told) if re.search(BLOCKS_FAILED, told) else []
    evidence = _last_words(blocks[-1] if blocks else told)
    walltime = card.limits.walltime
    words = {
        "contact": card.contact or "see the site's card",
        "walltime": f", perhaps at its time limit of {walltime}" if walltime else "",
    }
    for pattern, kind, cause, hint in _MEANINGS:
        if re.search(pattern, told):
            return Verdict(kind, cause.format(**words), evidence, hint.format(**words))
    return Verdict("suspect", "the endpoint returned an error", evidence)


def blocks_told(told: str) -> int:
    r"""Return how many blocks an endpoint says have failed.

    Examples
    --------
    >>> blocks_told("TooManyJobFailuresError: Error 1:\n\tEXIT CODE: 1\nError 2:\n")
    2
    """
    return max(map(int, _TOLD.findall(told)), default=0)


def _last_words(told: str) -> str:
    lines = [line.strip() for line in told.strip().splitlines() if line.strip(" -*")]
    return " ".join(lines[-3:])[-500:]
