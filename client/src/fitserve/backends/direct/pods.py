"""A site's pods as blocks: what their provider sees of them, for a `Watch`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fitserve.backends.direct.jobs import Job, SilentSchedulerError
from fitserve.backends.direct.provider import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from parsl.jobs.states import JobStatus

    from fitserve.backends.direct.jobs import Ending
    from fitserve.backends.pods import PodProvider

__all__ = ["PodWatch", "pod_job", "reader"]


class PodWatch(Watch):
    """What is known of this run's pods.

    Attributes
    ----------
    read
        Has the provider look at its pods; returns the status of each, and what the cluster said
        where it did not answer.
    """

    read: Callable[[], tuple[dict[str, JobStatus], str]]

    def said(self, error: Exception) -> str:
        """Return what the cluster said when it took no pod, without its headers."""
        return _message(error) or super().said(error)

    def _ask(self, ids: Sequence[str]) -> dict[str, Job]:
        found, silent = self.read()
        if silent:
            raise SilentSchedulerError(silent)
        return {ident: pod_job(found[ident]) for ident in ids if ident in found}


def pod_job(status: JobStatus) -> Job:
    """Return a pod as the job that it is to a run.

    Examples
    --------
    >>> from parsl.jobs.states import JobState, JobStatus
    >>> pod_job(JobStatus(JobState.PENDING, "no node has a GPU"))
    Job(state='queued', reason='no node has a GPU', ending=None, nodes='')
    """
    told = status.message or ""
    if status.state.name == "PENDING":
        return Job("queued", told)
    if not status.terminal:
        return Job("running", told)
    endings: dict[str, Ending] = {
        "COMPLETED": "done",
        "CANCELLED": "cancelled",
        # Kubernetes' own doing: evicted, preempted, or the node went.
        "TIMEOUT": "preempted" if told.startswith("Preempting") else "node",
    }
    failed: Ending = "memory" if "OOMKilled" in told else "failed"
    return Job("ended", told, endings.get(status.state.name, failed))


def reader(provider: PodProvider) -> Callable[[], tuple[dict[str, JobStatus], str]]:
    """Return what `PodWatch.read` is for a provider."""

    def read() -> tuple[dict[str, JobStatus], str]:
        try:
            provider.look()
        except Exception as error:  # noqa: BLE001 - the cluster may come back
            return {}, _message(error) or str(error)
        known = dict(provider.resources)
        return {job: resource["status"] for job, resource in known.items()}, provider.silent

    return read


def _message(error: Exception) -> str:
    try:
        return str(json.loads(getattr(error, "body", ""))["message"])
    except (KeyError, TypeError, ValueError):
        return ""
