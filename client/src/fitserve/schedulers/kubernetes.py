"""Kubernetes: pods as the jobs that they are to a run, and what a cluster's words mean."""

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
"""What a cluster says when it takes no pod."""
NEVER = (
    Rule(r"InvalidImageName|ErrImageNeverPull", "another kubernetes.image in the site's file"),
)
"""Reasons with which a pod waits for ever."""


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
