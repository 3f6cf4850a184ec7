"""What blocks are doing, why they do not start or were lost, and when to give up."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING

from fitserve.endpoints.base import BackendStatus
from fitserve.errors import BackendError
from fitserve.onsite.endpoint import MOST_FAILED
from fitserve.schedulers import never_runs
from fitserve.schedulers.base import ended_words, no_room

if TYPE_CHECKING:
    from pathlib import Path

    from fitserve.endpoints.parsl.blocks import Engine, Watch
    from fitserve.endpoints.parsl.site import EngineDescription
    from fitserve.schedulers.base import Job

__all__ = ["Troubles", "status_of"]

_FAILED_CLEARLY = 2
"""A run gives up after this many blocks in a row without a worker, where they say why."""
_REFUSALS = 6
_PATIENCE_SECONDS = 90.0
# What a site's preparation of a node says before it gives up with this status.
_OUR_WORD = "fitserve: "
# What Parsl's pool of workers says when it reaches none of the addresses that it was given.
_NO_WAY = "No viable ZMQ url"
_LINES = 3
# Kubernetes' word for a container that failed, before the container's own.
_POD_ERROR = "Error: "


class Troubles:
    """Looks at a site's blocks for one run."""

    def __init__(self, site: EngineDescription, engine: Engine) -> None:
        self._site = site
        self._engine = engine
        self._walltime = str(site.engine["provider"].get("walltime", ""))
        self._running_since: dict[str, float] = {}
        self._patience = max(_PATIENCE_SECONDS, site.engine.get("heartbeat_threshold", 0.0))

    def check(self) -> None:
        """Check whether blocks can start at all.

        Raises
        ------
        BackendError
            They cannot, until somebody changes something.
        """
        engine, watch = self._engine, self._engine.watch
        broken = engine.broken()
        if broken is not None:
            raise self.broken(broken)
        if watch is None or engine.workers():
            return
        live = {one: job for one, job in watch.jobs.items() if job.state != "ended"}
        self._check_refusals(watch, live)
        self._check_queued(live)
        self._check_failed(watch)
        self._check_unreached(live)

    def explain(self, error: BaseException) -> tuple[str, bool]:
        """Return why a task was lost, and whether nothing speaks against the task itself."""
        name = type(error).__name__
        host = str(getattr(error, "hostname", "")) or "its node"
        if name == "WorkerLost":
            return f"its worker process on {host} died", False
        if name != "ManagerLost":
            return f"{name}: {error}".strip(), False
        job, watch = self._engine.job_of(error), self._engine.watch
        if job is None or watch is None:
            return f"its workers on {host} went silent", True
        watch.look([job])
        block = watch.jobs[job]
        if block.ending is None:
            return f"its workers on {host} went silent, while job {job} goes on", True
        text = f"its block (job {job} on {host}) {ended_words(block.ending, self._walltime)}"
        if block.ending == "walltime":
            text += " before the task was done"
        return text, block.ending != "memory"

    def broken(self, error: BaseException | None) -> BackendError:
        """Return the error of an engine that takes no more tasks."""
        lines = str(error).strip().splitlines()
        return BackendError(
            f"the engine of site {self._site.site} broke",
            evidence=lines[-1] if lines else repr(error),
        )

    def _check_refusals(self, watch: Watch, live: dict[str, Job]) -> None:
        refused = watch.refusal
        if refused is None or live:
            return
        if not refused.again or watch.refusals >= _REFUSALS:
            often = "" if not refused.again else f" after {watch.refusals} requests"
            cause = f"the scheduler of site {self._site.site} takes no block{often}"
            if no_room(refused.text):
                cause = f"the run directory of site {self._site.site} cannot be used"
            raise BackendError(
                cause,
                evidence=refused.text,
                hint=refused.hint,
            )

    def _check_queued(self, live: dict[str, Job]) -> None:
        if any(job.state == "running" for job in live.values()):
            return
        hints = {one: never_runs(job.reason) for one, job in live.items()}
        if live and all(hints.values()):
            job = next(iter(live))
            raise BackendError(
                f"the blocks of site {self._site.site} will never run",
                evidence=f"job {job} is queued: {live[job].reason}",
                hint=f"{hints[job]}; then render it again",
            )

    def _check_failed(self, watch: Watch) -> None:
        engine = self._engine
        failed = engine.failed()
        if not failed:
            return
        last = watch.jobs[failed[-1]]
        said = _last_words(engine.stderr_of(failed[-1])) or _lines(last.reason)
        clear = [line for line in said if line.startswith(_OUR_WORD) or _NO_WAY in line]
        if len(failed) < (_FAILED_CLEARLY if clear else MOST_FAILED):
            return
        how = ended_words(last.ending or "unknown", self._walltime)
        where = f" on {last.nodes}" if last.nodes else ""
        raise BackendError(
            f"blocks of site {self._site.site} end before a worker is there",
            evidence=f"job {failed[-1]}{where} {how}: {'; '.join(clear or said)}",
            hint=self._failed_hint(clear),
        )

    def _failed_hint(self, clear: list[str]) -> str:
        site = self._site.site
        if any(_NO_WAY in line for line in clear):
            return (
                "workers do not reach this machine: network.interface in the site's file "
                "(`ip -brief address` lists what there is), then render it again"
            )
        if clear:
            return f"put that right in the site's file, then make render SITE={site}"
        return f"make doctor SITE={site} tries a node"

    def _check_unreached(self, live: dict[str, Job]) -> None:
        now = time.monotonic()
        for job, block in live.items():
            if block.state != "running" or job in self._engine.connected:
                continue
            if now - self._running_since.setdefault(job, now) > self._patience:
                raise BackendError(
                    f"workers of site {self._site.site} do not reach this machine",
                    evidence=f"job {job} has been running on {block.nodes} for "
                    f"{self._patience:.0f} s and has not reported to "
                    f"{self._engine.executor.address}",
                    hint="network.interface in the site's file (`ip -brief address` lists what "
                    "there is), then render it again; make doctor looks from a node",
                )


def _lines(reason: str) -> list[str]:
    """Return the last lines of why a pod ended, in which its last words are."""
    lines = reason.removeprefix(_POD_ERROR).splitlines()
    return [line.strip() for line in lines if line.strip()][-_LINES:]


def _last_words(path: Path | None) -> list[str]:
    if path is None:
        return []
    with contextlib.suppress(OSError):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip()][-_LINES:]
    return []


def status_of(site: str, engine: Engine) -> BackendStatus:
    """Return how many workers there are, and which blocks run or wait, and why."""
    workers, watch = engine.workers(), engine.watch
    workers_text = f"{_count(workers, 'worker')} on {site}"
    if watch is None:
        if workers:
            return BackendStatus("running", workers, workers_text)
        return BackendStatus("waiting", 0, f"waiting for the first worker of {site}")
    waits = _waiting(watch)
    running = watch.count("running")
    blocks = _count(running, "block")
    if workers:
        return BackendStatus("running", workers, "; ".join([f"{workers_text} in {blocks}", *waits]))
    if running:
        text = f"{blocks} of {site} running, workers are starting"
        return BackendStatus("waiting", 0, "; ".join([text, *waits]))
    text = "; ".join(waits) or f"asking {site} for the first block"
    return BackendStatus("waiting", 0, f"{site}: {text}")


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _waiting(watch: Watch) -> list[str]:
    """Return which blocks wait and why, and why no more are asked for."""
    parts = []
    reasons = Counter(job.reason for job in watch.jobs.values() if job.state == "queued")
    if reasons:
        why = ", ".join(sorted(filter(None, reasons)))
        count = _count(sum(reasons.values()), "block")
        parts.append(f"{count} queued{f': {why}' if why else ''}")
    if watch.refusal:
        parts.append(f"another is refused: {watch.refusal.text} (asking again)")
    if watch.silent:
        parts.append(f"the scheduler does not answer: {watch.silent.splitlines()[0]}")
    return parts
