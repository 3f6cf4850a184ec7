"""What a site's blocks are doing, in a line for the user."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fitserve.backends.base import BackendStatus

if TYPE_CHECKING:
    from fitserve.backends.direct.engine import Engine
    from fitserve.backends.direct.provider import Watch

__all__ = ["status_of"]


def status_of(site: str, engine: Engine) -> BackendStatus:
    """Return how many workers there are, and which blocks run or wait, and why."""
    workers, watch = engine.workers(), engine.watch
    told = f"{_count(workers, 'worker')} on {site}"
    if watch is None:
        if workers:
            return BackendStatus("running", workers, told)
        return BackendStatus("waiting", 0, f"waiting for the first worker of {site}")
    waits = _waiting(watch)
    running = watch.count("running")
    blocks = _count(running, "block")
    if workers:
        return BackendStatus("running", workers, "; ".join([f"{told} in {blocks}", *waits]))
    if running:
        text = f"{blocks} of {site} running, workers are starting"
        return BackendStatus("waiting", 0, "; ".join([text, *waits]))
    text = "; ".join(waits) or f"asking {site} for the first block"
    return BackendStatus("waiting", 0, f"{site}: {text}")


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _waiting(watch: Watch) -> list[str]:
    """Return which blocks wait and why, and why no more are asked for."""
    told = []
    reasons = Counter(job.reason for job in watch.jobs.values() if job.state == "queued")
    if reasons:
        why = ", ".join(sorted(filter(None, reasons)))
        count = _count(sum(reasons.values()), "block")
        told.append(f"{count} queued{f': {why}' if why else ''}")
    if watch.refusal:
        told.append(f"another is refused: {watch.refusal.text} (asking again)")
    if watch.silent:
        told.append(f"the scheduler does not answer: {watch.silent.splitlines()[0]}")
    return told
