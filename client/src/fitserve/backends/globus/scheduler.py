"""Why a block waits, asked of the site's scheduler where the card allows it."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

from fitserve.backends.qstat import read_qstat

if TYPE_CHECKING:
    from fitserve.endpoints import SiteCard

__all__ = ["waiting_reason"]

# Fixed commands: nothing that a card says is ever run. qstat shows the jobs of all users where a
# site lets it; whose they are is told by the name that one has on that machine.
_QSTAT = ("sh", "-c", "id -un && qstat -f")
_ASK: dict[str, tuple[str, ...]] = {
    "slurm": ("squeue", "--me", "--noheader", "--states=PD", "--format=%r"),
    "pbspro": _QSTAT,
    "torque": _QSTAT,
}
_WAITING = ("Q", "H", "W")
_SECONDS = 10


def waiting_reason(card: SiteCard) -> str:
    """Return what an endpoint without workers waits for.

    The scheduler is asked for its reason where the card names a host for it
    (``login_host``): directly on that host, else by ssh with the user's own key and without
    asking for a password.
    """
    if card.scheduler in {"", "local"}:
        return f"waiting for the first worker of {card.name}"
    told = f"waiting in the queue of {card.name} ({card.scheduler})"
    reason = _reason(card)
    return f"{told}: {reason}" if reason else told


def _reason(card: SiteCard) -> str:
    command = _ASK.get(card.scheduler)
    if command is None or not card.login_host:
        return ""
    if socket.getfqdn() != card.login_host and socket.gethostname() != card.login_host:
        if shutil.which("ssh") is None or card.login_host.startswith("-"):
            return ""
        command = (
            "ssh",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=5",
            card.login_host,
            shlex.join(command),
        )
    try:
        done = subprocess.run(  # noqa: S603 - fixed words, and a host that is not an option
            command, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if done.returncode:
        return ""
    lines = done.stdout.splitlines() if card.scheduler == "slurm" else _of_qstat(done.stdout)
    reasons = sorted({line.strip() for line in lines if line.strip()})
    return ", ".join(reasons[:3])


def _of_qstat(text: str) -> list[str]:
    r"""Return why one's own jobs wait, from one's name and what ``qstat -f`` says.

    Examples
    --------
    >>> shown = "Job Id: {}\n    Job_Owner = {}@pbs\n    job_state = Q\n    comment = {}\n"
    >>> _of_qstat("ada\n" + shown.format(7, "ada", "No nodes") + shown.format(8, "ben", "Held"))
    ['No nodes']
    """
    user, _, rest = text.partition("\n")
    return [
        job.get("comment", "")
        for job in read_qstat(rest).values()
        if job.get("job_state") in _WAITING and job.get("Job_Owner", "").split("@")[0] == user
    ]
