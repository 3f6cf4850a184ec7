"""What Kubernetes' restricted Pod Security profile asks of a pod, and a read-only root besides.

Of the Pod Security Standards: https://kubernetes.io/docs/concepts/security/pod-security-standards/.
"""

from __future__ import annotations

from typing import Any

__all__ = ["container_security", "pod_security"]


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
