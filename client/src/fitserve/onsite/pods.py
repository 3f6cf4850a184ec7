"""Parsl's Kubernetes provider, with pods that a well-kept cluster accepts.

Parsl's own creates pods that are restarted for ever once their command has ended, that a
namespace with the restricted Pod Security profile refuses, that no node of a tainted GPU pool
takes, and of which it does not notice that somebody deleted them. Hardly more than Parsl and
the Kubernetes client is imported here: an endpoint loads this module too, from the environment
that it shares with the worker (see `deploy/kubernetes/`).
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import parsl.providers
from parsl.jobs.states import JobState, JobStatus
from parsl.providers import KubernetesProvider

from fitserve.onsite.pod_fields import OWNER_VARIABLES, container_security, pod_security

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["OWNER_VARIABLES", "PodProvider", "pod_status", "register"]

logger = logging.getLogger(__name__)

_GONE = 404
_POLL_SECONDS = 10
# A pool has nothing to put in order: what it was doing is sent again in any case.
_GRACE_SECONDS = 5
# Ends that are the cluster's doing. Parsl gives a run up for blocks that failed, not for these.
_EXPECTED = ("Evicted", "NodeAffinity", "NodeLost", "NodeShutdown", "Preempting", "Shutdown")


class PodProvider(KubernetesProvider):  # type: ignore[misc]
    """A provider whose blocks are pods of the restricted Pod Security profile.

    A pod runs once, has no token, no capabilities and a read-only root, and writes into
    ``/tmp`` alone. It belongs to the pod named by `OWNER_VARIABLES`, if they are set, so that
    the cluster removes it when that one is gone. It needs the verbs create, get and delete of
    pods, and no others.

    Parameters
    ----------
    node_selector
        Labels of the nodes that may run it.
    tolerations
        Taints of nodes that it may run on nevertheless, as Kubernetes writes them.
    priority_class
        Name of its PriorityClass; by default the cluster's.
    scratch
        Most that it may write into ``/tmp``, a Kubernetes quantity.
    labels
        Labels of the pod besides Parsl's own.
    fields
        As Parsl's KubernetesProvider has them.

    Attributes
    ----------
    silent
        What was said, or went wrong, where a pod could not be read.
    """

    def __init__(
        self,
        *,
        node_selector: Mapping[str, str] | None = None,
        tolerations: Sequence[Mapping[str, Any]] = (),
        priority_class: str | None = None,
        scratch: str = "4Gi",
        labels: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(**fields)
        self.node_selector = dict(node_selector or {})
        self.tolerations = [dict(one) for one in tolerations]
        self.priority_class = priority_class
        self.scratch = scratch
        self.labels = dict(labels or {})
        self.silent = ""

    @property
    def status_polling_interval(self) -> int:
        """Seconds between two looks at the pods."""
        return _POLL_SECONDS

    def submit(self, cmd_string: str, tasks_per_node: int, job_name: str = "fitserve") -> str:
        """Create a pod; returns the id of the block."""
        job: str = super().submit(cmd_string, tasks_per_node, job_name)
        self.resources[job]["status"] = JobStatus(JobState.PENDING)
        return job

    def cancel(self, job_ids: Sequence[str]) -> list[bool]:
        """Delete pods; one that is gone already is as good."""
        for job in job_ids:
            self._remove(job)
            self.resources[job]["status"] = JobStatus(JobState.CANCELLED)
        return [True for _ in job_ids]

    def pod(self, job: str, name: str, command: str) -> dict[str, Any]:
        """Return the pod of a block.

        Parameters
        ----------
        job
            Id of the block.
        name
            Name of the pod.
        command
            What its shell runs.
        """
        requests = {"cpu": str(self.init_cpu), "memory": self.init_mem, **self.extra_requests}
        limits = {"cpu": str(self.max_cpu), "memory": self.max_mem, **self.extra_limits}
        container = {
            "name": "worker",
            "image": self.image,
            "command": ["/bin/bash", "-c", command],
            "resources": {"requests": requests, "limits": limits},
            "securityContext": container_security(),
            # What it said last is in its status, where it is read without a right to logs.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [
                {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108 - the pod's own
                *({"name": claim, "mountPath": at} for claim, at in self.persistent_volumes),
            ],
        }
        spec = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": _GRACE_SECONDS,
            "serviceAccountName": self.service_account_name,
            "imagePullSecrets": [{"name": self.secret}] if self.secret else None,
            "nodeSelector": self.node_selector or None,
            "tolerations": self.tolerations or None,
            "priorityClassName": self.priority_class,
            "securityContext": pod_security(int(self.user_id), int(self.group_id)),
            "containers": [container],
            "volumes": [
                {"name": "scratch", "emptyDir": {"sizeLimit": self.scratch}},
                *(
                    {"name": claim, "persistentVolumeClaim": {"claimName": claim}}
                    for claim, _ in self.persistent_volumes
                ),
            ],
        }
        metadata = {
            "name": name,
            "labels": {**self.labels, "parsl-job-id": job},
            "annotations": self.annotations,
            "ownerReferences": _owner(),
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {key: value for key, value in metadata.items() if value},
            "spec": {key: value for key, value in spec.items() if value is not None},
        }

    def _create_pod(self, *, pod_name: str, job_id: str, cmd_string: str, **_: Any) -> None:
        body = self.pod(job_id, pod_name, cmd_string)
        self.kube_client.create_namespaced_pod(namespace=self.namespace, body=body)

    def _status(self) -> None:
        self.look()

    def look(self) -> None:
        """Look at every pod that has not ended; those that have are removed."""
        self.silent = ""
        for job, block in list(self.resources.items()):
            if block["status"].terminal:
                continue
            try:
                pod = self.kube_client.read_namespaced_pod(
                    name=block["pod_name"], namespace=self.namespace
                )
            except Exception as error:  # noqa: BLE001 - the cluster may come back
                if getattr(error, "status", None) == _GONE:
                    block["status"] = JobStatus(JobState.CANCELLED, "the pod was deleted")
                else:
                    self.silent = str(error).strip()
                    logger.warning("pod %s cannot be read: %s", block["pod_name"], error)
                continue
            block["status"] = pod_status(pod.to_dict())
            if block["status"].terminal:
                logger.info("pod %s ended: %s", block["pod_name"], block["status"])
                self._remove(job)

    def _remove(self, job: str) -> None:
        name = self.resources[job]["pod_name"]
        try:
            self.kube_client.delete_namespaced_pod(name=name, namespace=self.namespace)
        except Exception as error:
            if getattr(error, "status", None) != _GONE:
                raise


def pod_status(pod: Mapping[str, Any]) -> JobStatus:
    """Return what Parsl is told of a pod, with the cluster's reason.

    Parameters
    ----------
    pod
        As the Kubernetes client's ``to_dict`` gives it.

    Examples
    --------
    >>> waits = {"type": "PodScheduled", "status": "False", "message": "no node has a GPU"}
    >>> status = pod_status({"status": {"phase": "Pending", "conditions": [waits]}})
    >>> status.state.name, status.message
    ('PENDING', 'no node has a GPU')
    """
    status = pod["status"]
    phase = status.get("phase")
    states = [one.get("state") or {} for one in status.get("container_statuses") or []]
    if phase == "Succeeded":
        return JobStatus(JobState.COMPLETED)
    if phase == "Failed":
        ends = [state["terminated"] for state in states if state.get("terminated")]
        parts = [status.get("reason"), status.get("message")]
        for end in ends:
            parts += [end.get("reason"), (end.get("message") or "").strip()]
        state = JobState.TIMEOUT if status.get("reason") in _EXPECTED else JobState.FAILED
        code = ends[0].get("exit_code") if ends else None
        return JobStatus(state, ": ".join(filter(None, parts)) or None, exit_code=code)
    if phase == "Running":
        return JobStatus(JobState.RUNNING)
    waits = [
        one.get("message") or one.get("reason")
        for one in status.get("conditions") or []
        if one.get("type") == "PodScheduled" and one.get("status") == "False"
    ]
    for state in states:
        waiting = state.get("waiting") or {}
        waits.append(": ".join(filter(None, (waiting.get("reason"), waiting.get("message")))))
    state = JobState.PENDING if phase == "Pending" else JobState.UNKNOWN
    return JobStatus(state, "; ".join(filter(None, waits)) or None)


def register() -> None:
    """Put the provider where Globus Compute looks for providers."""
    parsl.providers.PodProvider = PodProvider


def _owner() -> list[dict[str, Any]] | None:
    name, uid = (os.environ.get(variable) for variable in OWNER_VARIABLES)
    if not name or not uid:
        return None
    return [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}]
