"""Kubernetes: pods as jobs of a run, and what the messages of a cluster mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitserve.schedulers.base import Job, Rule

if TYPE_CHECKING:
    from parsl.jobs.states import JobStatus

    from fitserve.schedulers.base import Ending

__all__ = ["NEVER", "REFUSALS", "pod_job"]

REFUSALS = (
    Rule(
        r"exceeded quota",
        "wait until pods of the namespace have ended (`kubectl describe resourcequota`)",
        again=True,
    ),
    Rule(
        r"cannot create resource|violates PodSecurity|service account|PriorityClass",
        "make doctor SITE=... looks for what the namespace allows and has",
    ),
)
"""Messages with which a cluster refuses a pod."""
NEVER = (
    Rule(r"InvalidImageName|ErrImageNeverPull", "another kubernetes.image in the site's file"),
)
"""Reasons with which a pod waits for ever."""


def pod_job(status: JobStatus) -> Job:
    """Return a pod as a job of a run.

    Examples
    --------
    >>> from parsl.jobs.states import JobState, JobStatus
    >>> pod_job(JobStatus(JobState.PENDING, "no node has a GPU"))
    Job(state='queued', reason='no node has a GPU', ending=None, nodes='')
    """
    message = status.message or ""
    if status.state.name == "PENDING":
        return Job("queued", message)
    if not status.terminal:
        return Job("running", message)
    endings: dict[str, Ending] = {
        "COMPLETED": "done",
        "CANCELLED": "cancelled",
        # Kubernetes' own doing: evicted, preempted, or the node went.
        "TIMEOUT": "preempted" if message.startswith("Preempting") else "node",
    }
    failed: Ending = "memory" if "OOMKilled" in message else "failed"
    return Job("ended", message, endings.get(status.state.name, failed))
