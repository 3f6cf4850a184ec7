"""Fields that pods of fitserve have in common, whoever makes them; without Parsl.

They keep to the restricted profile of Kubernetes' Pod Security Standards
(https://kubernetes.io/docs/concepts/security/pod-security-standards/), and their root cannot be
written.
"""

from __future__ import annotations

from typing import Any

__all__ = ["OWNER_VARIABLES", "container_security", "owner_environment", "pod_security"]

OWNER_VARIABLES = ("FITSERVE_POD_NAME", "FITSERVE_POD_UID")
"""Say which pod drives the workers: with it, they go."""


def owner_environment() -> list[dict[str, Any]]:
    """Return the variables of a pod that drives workers: `OWNER_VARIABLES`, by what it is.

    Examples
    --------
    >>> owner_environment()[1]
    {'name': 'FITSERVE_POD_UID', 'valueFrom': {'fieldRef': {'fieldPath': 'metadata.uid'}}}
    """
    fields = ("metadata.name", "metadata.uid")
    return [
        {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": field}}}
        for variable, field in zip(OWNER_VARIABLES, fields, strict=True)
    ]


def pod_security(user: int, group: int) -> dict[str, Any]:
    """Return the ``securityContext`` of a pod.

    Parameters
    ----------
    user, group
        Ids of its processes, and of the group that its volumes belong to.

    Examples
    --------
    >>> pod_security(1000, 100)["fsGroup"]
    100
    """
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": group,
        "fsGroup": group,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """Return the ``securityContext`` of each container of a pod."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
