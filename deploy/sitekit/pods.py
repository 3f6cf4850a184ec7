"""A site's pods: what its chart and its rendered files share, and a Job that runs a command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fitserve.onsite.pod_fields import container_security, owner_environment, pod_security
from sitekit.derive import derive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sitekit.fields import Cpu, Memory
    from sitekit.site import Site

__all__ = ["COMMANDS", "HOME", "labels", "resources", "run_job", "site_files", "worker_account"]

COMMANDS = "/etc/fitserve/bin"
"""Where the endpoint's pod has the chart's own commands, which come first on its PATH."""
HOME = "/var/lib/fitserve"
"""Home of the endpoint in its pod: the volume that it keeps its state on."""
_KEPT_SECONDS = 3600


def labels(endpoint: str, component: str) -> dict[str, str]:
    """Return the labels of a pod of an endpoint.

    Parameters
    ----------
    endpoint
        The endpoint's name.
    component
        ``endpoint``, ``worker`` or ``client``: a pod that drives workers itself.

    Examples
    --------
    >>> labels("fitserve-river", "worker")["app.kubernetes.io/component"]
    'worker'
    """
    return {
        "app.kubernetes.io/name": "fitserve",
        "app.kubernetes.io/instance": endpoint,
        "app.kubernetes.io/component": component,
    }


def worker_account(site: Site, endpoint: str) -> str:
    """Return the service account of worker pods: the site's own, or the one of the chart."""
    own = site.kubernetes.service_account if site.kubernetes else None
    return own or f"{endpoint}-worker"


def site_files(site: Site, endpoint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the volume of the rendered site, and its mount where ``parsl:SITE`` is looked for."""
    name = "fitserve-site"
    volume = {"name": name, "configMap": {"name": f"{endpoint}-site"}}
    return volume, {"name": name, "mountPath": f"/etc/xdg/fitserve/sites/{site.name}"}


def resources(
    cpu: Cpu, memory: Memory, more: dict[str, str] | None = None
) -> dict[str, dict[str, str]]:
    """Return a container's requests and limits."""
    return {
        "requests": {"cpu": f"{cpu.request:g}", "memory": memory.request, **(more or {})},
        "limits": {"cpu": f"{cpu.limit:g}", "memory": memory.limit, **(more or {})},
    }


def run_job(site: Site, version: str, name: str, command: Sequence[str]) -> dict[str, Any]:
    """Return a Job that runs a command where `fitserve run --endpoint parsl:SITE` works.

    It uses the endpoint's image, account and rendered site, and needs no endpoint to run.

    Parameters
    ----------
    version
        Of fitserve, for images that name it.
    name
        Of the Job.
    command
        Program and arguments; ``/tmp`` alone can be written.
    """
    endpoint = derive(site).endpoint_name
    pods = site.pinned(version).pods
    pod, secret = pods.endpoint_pod, pods.pull_secret
    volume, mount = site_files(site, endpoint)

    container = {
        "name": "client",
        "image": pod.image,
        "command": list(command),
        "workingDir": "/tmp",  # noqa: S108 -- the pod's own
        "env": [
            *({"name": one, "value": "/tmp"} for one in ("HOME", "TMPDIR")),  # noqa: S108
            {"name": "FITSERVE_JIT_CACHE", "value": "/tmp/jit"},  # noqa: S108
            # Worker pods belong to this one, so that they go with it.
            *owner_environment(),
        ],
        "resources": resources(pod.cpu, pod.memory),
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108
            mount,
        ],
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "serviceAccountName": endpoint,
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "securityContext": pod_security(pods.user_id, pods.group_id),
        "containers": [container],
        "volumes": [
            {"name": "scratch", "emptyDir": {"sizeLimit": "2Gi"}},
            volume,
        ],
    }
    if secret:
        spec["imagePullSecrets"] = [{"name": secret}]
    marks = labels(endpoint, "client")
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": dict(marks)},
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "template": {"metadata": {"labels": dict(marks)}, "spec": spec},
        },
    }
