"""A Job that drives a site's workers itself, and the smoke test: by such a Job, or an endpoint."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from fitserve.errors import BackendError
from fitserve.onsite.pod_fields import container_security, owner_environment, pod_security
from sitekit.cluster.release import CREDENTIALS
from sitekit.cluster.tools import run
from sitekit.derive import derive
from sitekit.documents import text
from sitekit.helm_values import resources
from sitekit.pods import labels, site_files
from sitekit.render import write_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fitserve.errors import Check
    from sitekit.cluster.release import Release
    from sitekit.context import Rendering
    from sitekit.site import Site

__all__ = ["CARD", "have_a_fit", "run_job"]

CARD = "site-card.json"
_REFUSED = "refused-function"
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
    endpoint = derive(site).endpoint_name
    pods = site.pinned(rendering.version).pods
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


class _Served(NamedTuple):
    """What `sitekit.target.smoke` must know of an endpoint."""

    site: Site
    endpoint_id: str | None
    serving: str | None
    multi_user: bool = False


def have_a_fit(
    release: Release, rendering: Rendering, directory: Path, seconds: float
) -> list[dict[str, Any]]:
    """Have a fit done by a worker pod; returns the stages, as `stages_words` shows them.

    Through the endpoint, if there is one; a function that is not fitserve's must be refused then.

    Parameters
    ----------
    directory
        Of what this machine keeps of the site.
    seconds
        How long the fit may take.

    Raises
    ------
    BackendError
        There are no credentials, or kubectl or helm fails; a stage that is not in order says so.
    """
    card = release.card()
    if card is None:
        return [_by_a_job(release, rendering, seconds)]
    write_files({CARD: text(card)}, directory)
    if not release.log_in():
        raise BackendError(
            f"the smoke test of {release.site.name} needs the endpoint's credentials",
            evidence=f"they are in no secret that can be read in namespace {release.namespace}",
            hint=f"set {' and '.join(CREDENTIALS)}",
        )
    # A child of the revision before would be asked otherwise, while there is one.
    serving = f"{rendering.version}-{release.revisions()[-1]['revision']}"
    served = _Served(release.site, card["endpoint_id"], serving)
    return [one.as_data() for one in _through_the_service(served, directory, seconds)]


def _by_a_job(release: Release, rendering: Rendering, seconds: float) -> dict[str, Any]:
    """Have a hypothesis of the bundled example fitted by a worker pod; returns the stage."""
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
    told = "the example was fitted by a worker pod"
    if ended != "Complete":
        reason = ended or f"not within {seconds:g} s"
        told = f"the example was not fitted: {reason}; {said.strip()[-2000:]}"
    took = round(time.monotonic() - started, 1)
    return {"what": "fit", "told": told, "seconds": took, "ok": ended == "Complete", "next": ""}


def _end(name: str, here: tuple[str, str], deadline: float) -> str | None:
    while time.monotonic() < deadline:
        job = json.loads(run("kubectl", "get", "job", name, *here, "--output", "json"))
        for condition in job["status"].get("conditions", []):
            if condition["type"] in {"Complete", "Failed"} and condition["status"] == "True":
                return str(condition["type"])
        time.sleep(_POLL_SECONDS)
    return None


def _through_the_service(served: _Served, directory: Path, seconds: float) -> Iterator[Check]:
    from sitekit.target.smoke import refusal, through_the_service

    good = True
    for stage in through_the_service(served, directory / CARD, seconds):
        good = good and stage.ok
        yield stage
    if good:
        kept = directory / _REFUSED
        known = kept.read_text(encoding="utf-8").strip() if kept.exists() else None
        stage, function = refusal(served, known)
        if function:
            write_files({_REFUSED: f"{function}\n"}, directory)
        yield stage
