"""Why a block waits, asked of the site's scheduler where the card allows it."""

from __future__ import annotations

import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fitserve.endpoints import SiteCard

__all__ = ["waiting_reason"]

# Fixed commands: nothing that a card says is ever run.
_ASK: dict[str, tuple[str, ...]] = {
    "slurm": ("squeue", "--me", "--noheader", "--states=PD", "--format=%r"),
}
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
            *command,
        )
    try:
        done = subprocess.run(  # noqa: S603 - fixed words, and a host that is not an option
            command, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    reasons = sorted({line.strip() for line in done.stdout.splitlines() if line.strip()})
    return ", ".join(reasons[:3]) if done.returncode == 0 else ""
