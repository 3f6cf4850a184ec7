"""A Job that drives a site's workers itself: `fitserve run --endpoint parsl:SITE` in a pod."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from fitserve.onsite.pod_fields import container_security, owner_environment, pod_security
from sitekit.cluster.tools import run
from sitekit.derive import derive
from sitekit.kubernetes import labels, site_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sitekit.cluster.release import Release
    from sitekit.context import Rendering
    from sitekit.site import Site

__all__ = ["run_job", "smoke"]

_POLL_SECONDS = 1.0
_KEPT_SECONDS = 3600
_HYPOTHESIS = "X_200_0"
"""Of the example; one is enough to see that a pod fits."""


def run_job(site: Site, rendering: Rendering, name: str, command: Sequence[str]) -> dict[str, Any]:
    """Return a Job that runs a command where `fitserve run --endpoint parsl:SITE` works.

    It uses the endpoint's image, account and rendered site, and needs no endpoint to run.

    Parameters
    ----------
    name
        Of the Job.
    command
        Program and arguments; ``/tmp`` alone can be written.
    """
    pinned = site.pinned(rendering.version)
    endpoint = derive(site).endpoint_name
    pod = pinned.get("kubernetes.endpoint_pod")
    secret = site.get("kubernetes.pull_secret")
    volume, mount = site_files(site, endpoint)

    container = {
        "name": "client",
        "image": pod["image"],
        "command": list(command),
        "workingDir": "/tmp",  # noqa: S108 -- the pod's own
        "env": [
            *({"name": one, "value": "/tmp"} for one in ("HOME", "TMPDIR")),  # noqa: S108
            {"name": "FITSERVE_JIT_CACHE", "value": "/tmp/jit"},  # noqa: S108
            # Worker pods belong to this one, so that they go with it.
            *owner_environment(),
        ],
        "resources": {
            f"{kind}s": {"cpu": f"{pod['cpu'][kind]:g}", "memory": pod["memory"][kind]}
            for kind in ("request", "limit")
        },
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
        "securityContext": pod_security(
            site.get("kubernetes.user_id"), site.get("kubernetes.group_id")
        ),
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


def smoke(release: Release, rendering: Rendering, seconds: float) -> dict[str, Any]:
    """Have a hypothesis of the bundled example fitted by a worker pod; returns what happened.

    Raises
    ------
    BackendError
        kubectl fails.
    """
    name = f"{release.name}-smoke"
    endpoint = f"parsl:{release.site.name}"
    command = ["fitserve", "run", "example", "--patch", _HYPOTHESIS, "--endpoint", endpoint]
    command += ["--output", "/tmp/run"]  # noqa: S108
    job = run_job(release.site, rendering, name, command)
    here = ("--namespace", release.namespace)
    started = time.monotonic()
    delete = ("delete", "job", name, *here, "--ignore-not-found", "--wait=true")
    run("kubectl", *delete)
    run("kubectl", "create", *here, "--filename", "-", stdin=json.dumps(job))
    try:
        ended = _end(name, here, started + seconds)
        said = run("kubectl", "logs", f"job/{name}", *here, "--ignore-errors") if ended else ""
    finally:
        run("kubectl", *delete)
    return {
        "ok": ended == "Complete",
        "ended": ended or f"not within {seconds:g} s",
        "seconds": round(time.monotonic() - started, 1),
        "said": said.strip(),
    }


def _end(name: str, here: tuple[str, str], deadline: float) -> str | None:
    while time.monotonic() < deadline:
        job = json.loads(run("kubectl", "get", "job", name, *here, "--output", "json"))
        for condition in job["status"].get("conditions", []):
            if condition["type"] in {"Complete", "Failed"} and condition["status"] == "True":
                return str(condition["type"])
        time.sleep(_POLL_SECONDS)
    return None
