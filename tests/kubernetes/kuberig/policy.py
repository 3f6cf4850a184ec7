"""What every pod of fitserve must keep to.

The rules of the Pod Security Standards' restricted profile that concern Linux pods
(https://kubernetes.io/docs/concepts/security/pod-security-standards/), and fitserve's own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["pod_specs", "violations"]

_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
}
_ADDED = {"NET_BIND_SERVICE"}
_MUTABLE = re.compile(r":(latest|main|master|nightly|dev|stable)\Z")
_VERSION = re.compile(r"(@sha256:[0-9a-f]{64}|:[\w][\w.-]*)\Z")


def pod_specs(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the pods that an object is or makes, each with a name to call it by."""
    name = f"{document['kind']}/{document['metadata']['name']}"
    spec = document.get("spec", {})
    if document["kind"] == "Pod":
        yield name, spec
    elif document["kind"] == "CronJob":
        yield name, spec["jobTemplate"]["spec"]["template"]["spec"]
    elif isinstance(spec.get("template"), dict):
        yield name, spec["template"]["spec"]


def violations(spec: dict[str, Any]) -> list[str]:
    """Return what a pod may not be, or lacks."""
    host = ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace")
    found = [f"{field} is set" for field in host if spec.get(field)]
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"} - _VOLUMES
        found += [f"volume {volume['name']} is of type {kind}" for kind in kinds]
    pod = spec.get("securityContext", {})
    if pod.get("sysctls"):
        found.append("sysctls are set")
    if spec.get("automountServiceAccountToken") is None:
        found.append("nothing is said of the service account's token")
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        found += [f"{container['name']}: {one}" for one in _container(container, pod)]
    return found


def _container(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    both = {**pod, **own}
    capabilities = own.get("capabilities", {})
    added = set(capabilities.get("add", [])) - _ADDED
    profile = both.get("seccompProfile", {}).get("type")
    name = container["image"].rpartition("/")[2]
    rules = {
        "it is privileged": not own.get("privileged"),
        "privileges may be gained": own.get("allowPrivilegeEscalation") is False,
        "procMount is not the default": own.get("procMount", "Default") == "Default",
        "capabilities are left": "ALL" in capabilities.get("drop", []) and not added,
        "it may be root": both.get("runAsNonRoot") is True and both.get("runAsUser") != 0,
        "there is no seccomp profile": profile in {"RuntimeDefault", "Localhost"},
        "its root can be written": own.get("readOnlyRootFilesystem") is True,
        "it takes a port of the node": not any("hostPort" in p for p in container.get("ports", [])),
        f"image {container['image']} has no version": _VERSION.search(name)
        and not _MUTABLE.search(name),
    }
    yield from (broken for broken, kept in rules.items() if not kept)
    for kind in ("requests", "limits"):
        lacking = {"cpu", "memory"} - set(container.get("resources", {}).get(kind, {}))
        if lacking:
            yield f"no {kind} of {', '.join(sorted(lacking))}"
