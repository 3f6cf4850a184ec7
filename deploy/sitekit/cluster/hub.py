"""What a JupyterHub's Helm chart needs so that notebooks drive a site's workers themselves.

Of *Zero to JupyterHub with Kubernetes*, whose values these are:
https://z2jh.jupyter.org/en/stable/resources/reference.html.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fitserve.onsite.pod_fields import container_security, owner_environment, pod_security
from sitekit.derive import derive
from sitekit.kubernetes import labels, site_files

if TYPE_CHECKING:
    from sitekit.site import Site

__all__ = ["hub_values"]


def hub_values(site: Site) -> dict[str, Any]:
    """Return values of a JupyterHub in whose notebooks ``parsl:SITE`` is an endpoint.

    The hub must start notebooks in the site's namespace: accounts and ConfigMaps are of one
    namespace.

    Parameters
    ----------
    site
        A Kubernetes site, which is deployed or will be.
    """
    endpoint = derive(site).endpoint_name
    volume, mount = site_files(site, endpoint)
    # User and group are the notebook image's, and its home is to be written.
    pod = pod_security(0, 0)
    container = container_security()
    spawner = {
        # The account mounts no token by itself, and KubeSpawner asks for none unless told to.
        "automount_service_account_token": True,
        # A namespace that deploying made takes no other pods.
        "pod_security_context": {name: pod[name] for name in ("runAsNonRoot", "seccompProfile")},
        "container_security_context": {
            name: container[name] for name in ("allowPrivilegeEscalation", "capabilities")
        },
    }
    return {
        "hub": {"config": {"KubeSpawner": spawner}},
        "singleuser": {
            # It takes a container with privileges; a NetworkPolicy does the same.
            "cloudMetadata": {"blockWithIptables": False},
            "serviceAccountName": endpoint,
            "extraLabels": labels(endpoint, "client"),
            # Worker pods belong to the notebook's, so that they go with it.
            "extraEnv": {one["name"]: one for one in owner_environment()},
            "storage": {"extraVolumes": [volume], "extraVolumeMounts": [mount]},
        },
    }
