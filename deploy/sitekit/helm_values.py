"""Helm values from a site: of our chart, and of a JupyterHub whose notebooks use the site.

The chart is `deploy/kubernetes/fitserve-endpoint`; the hub's is *Zero to JupyterHub with
Kubernetes*: https://z2jh.jupyter.org/en/stable/resources/reference.html.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fitserve.backends.pod_fields import container_security, owner_environment, pod_security
from fitserve.errors import RequestError
from sitekit.derive import derive
from sitekit.pods import labels, site_files, worker_account
from sitekit.render import render_site

if TYPE_CHECKING:
    from sitekit.render import Rendering
    from sitekit.site import Site

__all__ = ["CHART", "FILES", "helm_values", "hub_values"]

CHART = Path(__file__).resolve().parents[1] / "kubernetes" / "fitserve-endpoint"
FILES = (
    *("config.yaml", "user_config_template.yaml.j2", "user_config_schema.json"),
    *("user_environment.yaml", "engine.json", "site-card.json"),
)
"""What the endpoint's pod, and clients in the cluster, get of a rendered site."""


def helm_values(site: Site, rendering: Rendering, *, endpoint: bool = True) -> dict[str, Any]:
    """Return the values with which the chart installs a site.

    Parameters
    ----------
    site
        A Kubernetes site.
    rendering
        What else the files depend on.
    endpoint
        Whether the endpoint itself is wanted. Without it only clients in the cluster can fit.

    Returns
    -------
    dict
        Values without credentials: those are no business of a file.

    Raises
    ------
    RequestError
        The site is not one of Kubernetes.
    SiteError
        The site breaks a rule between fields.
    """
    if site.get("scheduler.type") != "kubernetes":
        raise RequestError(
            f"site {site.name} has no Helm values",
            evidence=f"its scheduler is {site.get('scheduler.type')}",
            hint="make render SITE=... writes what its endpoint needs",
        )
    files, _ = render_site(site, rendering)
    pinned = site.pinned(rendering.version)
    derived = derive(site)
    name = derived.endpoint_name
    pod = pinned.get("kubernetes.endpoint_pod")
    gpus = {"nvidia.com/gpu": str(derived.gpus)} if derived.gpus else {}
    cpu, memory = pinned.get("kubernetes.cpu"), pinned.get("kubernetes.memory")
    values: dict[str, Any] = {
        "name": name,
        "site": site.name,
        "endpoint": {
            "enabled": endpoint,
            "image": pod["image"],
            "id": rendering.endpoint_id or site.get("endpoint.id"),
            "heartbeatSeconds": site.get("endpoint.heartbeat_seconds"),
            "amqpPort": site.get("endpoint.amqp_port"),
            "resources": _resources(pod["cpu"], pod["memory"]),
            "state": {"size": pod.get("state"), "storageClass": pod.get("storage_class")},
            "priorityClass": pod.get("priority_class"),
            "credentials": {"existingSecret": site.get("kubernetes.credentials_secret")},
            "env": _proxy(site),
        },
        "worker": {
            "image": pinned.get("kubernetes.image"),
            "serviceAccount": {
                "name": worker_account(site, name),
                "create": site.get("kubernetes.service_account") is None,
            },
            "userId": site.get("kubernetes.user_id"),
            "groupId": site.get("kubernetes.group_id"),
            "resources": _resources(cpu, memory, gpus),
            "pullSecret": site.get("kubernetes.pull_secret"),
        },
        "networkPolicy": {"proxyPorts": _proxy_ports(site)},
        "configuration": {file: files[file] for file in FILES},
    }
    return values


def _resources(
    cpu: dict[str, float], memory: dict[str, str], more: dict[str, str] | None = None
) -> dict[str, dict[str, str]]:
    return {
        f"{kind}s": {"cpu": f"{cpu[kind]:g}", "memory": memory[kind], **(more or {})}
        for kind in ("request", "limit")
    }


def _proxy(site: Site) -> dict[str, str]:
    proxy = site.get("network.proxy")
    if not proxy:
        return {}
    found = {"HTTPS_PROXY": proxy["https"], "HTTP_PROXY": proxy.get("http")}
    found["NO_PROXY"] = ",".join(proxy.get("none_for") or []) or None
    return {name: value for name, value in found.items() if value}


def _proxy_ports(site: Site) -> list[int]:
    """Return the ports at which the site's proxies listen."""
    proxy = site.get("network.proxy") or {}
    places = [urlsplit(proxy[name]) for name in ("https", "http") if proxy.get(name)]
    by_default = {"https": 443, "http": 80}
    return sorted({place.port or by_default.get(place.scheme, 80) for place in places})


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
