"""Parsl's providers, which tell a `Watch` what the scheduler or Kubernetes says of every block."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

from fitserve.schedulers import refusal
from fitserve.schedulers.base import Job, Refusal, SilentSchedulerError
from fitserve.schedulers.kubernetes import pod_job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fitserve.onsite.pods import PodProvider

__all__ = ["PodWatch", "Watch", "ask_pods", "watched"]

_FIRST_WAIT, _LONGEST_WAIT = 5.0, 120.0


class Watch:
    """The state of this run's blocks.

    Parameters
    ----------
    ask
        Returns the jobs with these ids; raises `SilentSchedulerError`.
    submitting, submitted
        Are called before each block is asked for, and with its id when it was taken.

    Attributes
    ----------
    jobs
        By id, as the scheduler said last.
    silent
        What the scheduler said, or did not say, when it did not answer.
    refusals
        How often in a row a block was refused; ``refusal`` is the last.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[str]], dict[str, Job]] = lambda _: {},
        *,
        submitting: Callable[[], None] = lambda: None,
        submitted: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.ask = ask
        self.submitting = submitting
        self._submitted = submitted
        self._lock = threading.Lock()
        self._again = 0.0
        self.jobs: dict[str, Job] = {}
        self.silent = ""
        self.refusals = 0
        self.refusal: Refusal | None = None

    def look(self, ids: Sequence[str] | None = None) -> None:
        """Ask for jobs, by default for all that have not ended."""
        with self._lock:
            asked = list(ids or (one for one, job in self.jobs.items() if job.state != "ended"))
            if not asked:
                return
            try:
                self.jobs |= self.ask(asked)
            except SilentSchedulerError as error:
                self.silent = str(error) or "no answer"
            else:
                self.silent = ""

    def took(self, ident: str) -> None:
        """Take note of a new block."""
        self.jobs[ident] = Job("queued")
        self.refusals, self.refusal = 0, None
        self._submitted(ident)

    def said(self, error: Exception) -> str:
        """Return what the scheduler said when it took no block."""
        said = [str(getattr(error, name, "") or "") for name in ("stderr", "stdout")]
        return "\n".join(filter(str.strip, said)) or str(error)

    def refused(self, text: str) -> None:
        """Take note of a block that was not taken; the next is asked for later and later."""
        self.refusal = refusal(text)
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2**self.refusals)
        self.refusals += 1
        self._again = time.monotonic() + wait

    @property
    def wait(self) -> float:
        """Seconds until another block may be asked for."""
        return max(0.0, self._again - time.monotonic()) if self.refusal else 0.0

    def count(self, state: str) -> int:
        """Return how many blocks are in this state."""
        return sum(job.state == state for job in self.jobs.values())


def watched(base: type[Any], watch: Watch, seconds: float) -> type[Any]:
    """Return a provider whose status comes from a `Watch`, every so many seconds.

    Parsl's own asks once a minute, takes what the scheduler no longer shows for completed, and
    does not read why a block waits.
    """
    from parsl.jobs.states import JobState, JobStatus

    queued = {"queued": JobState.PENDING, "running": JobState.RUNNING}
    ended = {
        "done": JobState.COMPLETED,
        "walltime": JobState.TIMEOUT,
        "preempted": JobState.TIMEOUT,
        "cancelled": JobState.CANCELLED,
    }

    def status(self: Any) -> None:
        watch.look()
        for ident, resource in self.resources.items():
            job = watch.jobs.get(ident)
            if job is None or resource["status"].terminal:
                continue
            state = queued.get(job.state) or ended.get(job.ending or "", JobState.FAILED)
            resource["status"] = JobStatus(
                state,
                message=job.reason or None,
                stdout_path=resource.get("job_stdout_path"),
                stderr_path=resource.get("job_stderr_path"),
            )

    def submit(self: Any, *arguments: Any, **named: Any) -> Any:
        if watch.wait:
            raise RuntimeError("a block was refused a moment ago")
        watch.submitting()
        try:
            ident = base.submit(self, *arguments, **named)
        except Exception as error:
            watch.refused(watch.said(error))
            raise
        if ident is None:
            # Torque's provider only logs what qsub said.
            watch.refused(_said(self))
        else:
            watch.took(ident)
        return ident

    def execute_wait(self: Any, command: str, timeout: float | None = None) -> Any:
        answer = base.execute_wait(self, command, timeout)
        self.last_answer = answer
        return answer

    members = {
        "_status": status,
        "submit": submit,
        "execute_wait": execute_wait,
        "status_polling_interval": property(lambda _: seconds),
    }
    return type(base.__name__, (base,), members)


def _said(provider: Any) -> str:
    code, out, err = getattr(provider, "last_answer", (0, "", ""))
    return str(err or out or f"exit status {code}")


class PodWatch(Watch):
    """The state of this run's pods."""

    def said(self, error: Exception) -> str:
        """Return what the cluster said when it took no pod, without its headers."""
        return _message(error) or super().said(error)


def ask_pods(provider: PodProvider, ids: Sequence[str]) -> dict[str, Job]:
    """Return pods of a provider as jobs.

    Raises
    ------
    SilentSchedulerError
        The cluster did not answer.
    """
    try:
        provider.look()
    except Exception as error:
        # The cluster may come back.
        raise SilentSchedulerError(_message(error) or str(error)) from error
    if provider.silent:
        raise SilentSchedulerError(provider.silent)
    known = dict(provider.resources)
    return {ident: pod_job(known[ident]["status"]) for ident in ids if ident in known}


def _message(error: Exception) -> str:
    try:
        return str(json.loads(getattr(error, "body", ""))["message"])
    except (KeyError, TypeError, ValueError):
        return ""
