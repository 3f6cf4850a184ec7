"""What a site's pods are doing, and what they wait for, in the cluster's own words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sitekit.deployment.helm import items
from sitekit.pods import labels

if TYPE_CHECKING:
    from sitekit.deployment.release import Release

__all__ = ["STATUS_VERSION", "pod_reason", "status", "words"]

STATUS_VERSION = 1


def status(release: Release) -> dict[str, Any]:
    """Return everything about a site in its cluster, as plain data."""
    revisions = release.revisions()
    pods = items("pods", release.namespace, release.selector)
    return {
        "status_version": STATUS_VERSION,
        "site": release.site.name,
        "namespace": release.namespace,
        "release": revisions[-1] if revisions else None,
        "endpoint": _component(release, pods, "endpoint"),
        "workers": _component(release, pods, "worker"),
        "clients": _component(release, pods, "client"),
    }


def _component(release: Release, pods: list[dict[str, Any]], which: str) -> list[dict[str, Any]]:
    wanted = labels(release.name, which).items()
    return [_pod(one) for one in pods if wanted <= one["metadata"]["labels"].items()]


def _pod(pod: dict[str, Any]) -> dict[str, Any]:
    found = pod["status"]
    containers = found.get("containerStatuses", [])
    return {
        "name": pod["metadata"]["name"],
        "phase": "Terminating" if pod["metadata"].get("deletionTimestamp") else found["phase"],
        "ready": bool(containers) and all(one["ready"] for one in containers),
        "restarts": sum(one["restartCount"] for one in containers),
        "node": pod["spec"].get("nodeName"),
        "image": pod["spec"]["containers"][0]["image"],
        "since": pod["metadata"]["creationTimestamp"],
        "reason": pod_reason(pod),
    }


def pod_reason(pod: dict[str, Any]) -> str | None:
    """Return why a pod waits, failed or was restarted, or None.

    Examples
    --------
    >>> waits = {"reason": "ImagePullBackOff", "message": "no such image"}
    >>> container = {"name": "worker", "state": {"waiting": waits}}
    >>> pod_reason({"status": {"phase": "Pending", "containerStatuses": [container]}})
    'ImagePullBackOff: no such image'
    """
    found = pod["status"]
    told = [_said(found)] if found["phase"] == "Failed" else []
    told += [
        one.get("message")
        for one in found.get("conditions", [])
        if one["type"] == "PodScheduled" and one["status"] == "False"
    ]
    for container in found.get("containerStatuses", []):
        state, last = container.get("state", {}), container.get("lastState", {})
        told.append(_said(state.get("waiting") or {}))
        for ended in (state.get("terminated"), last.get("terminated")):
            if ended and ended.get("exitCode"):
                told.append(_said(ended))
    return "; ".join(filter(None, told)) or None


def _said(state: dict[str, Any]) -> str:
    return ": ".join(filter(None, (state.get("reason"), (state.get("message") or "").strip())))


def words(found: dict[str, Any]) -> str:
    """Return a status in words, a line for each thing."""
    release = found["release"]
    if release is None:
        return f"{found['site']} is not deployed in namespace {found['namespace']}"
    revision = f"revision {release['revision']} ({release['status']})"
    lines = [f"{found['site']}: {revision} in namespace {found['namespace']}"]
    for name, plural in (("endpoint", "endpoint"), ("workers", "workers"), ("clients", "clients")):
        pods = found[name]
        if not pods:
            lines.append(f"{plural}: none")
        for pod in pods:
            state = "ready" if pod["ready"] else pod["phase"].lower()
            more = f", {pod['restarts']} restarts" if pod["restarts"] else ""
            where = f" on {pod['node']}" if pod["node"] else ""
            lines.append(f"{plural}: {pod['name']} {state}{where}{more}")
            if pod["reason"]:
                lines.append(f"  {pod['reason']}")
    return "\n".join(lines)
