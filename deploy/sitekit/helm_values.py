"""Helm values from a site: of our chart, and of a JupyterHub whose notebooks use the site.

The chart is `deploy/kubernetes/fitserve-endpoint`; the hub's is *Zero to JupyterHub with
Kubernetes*: https://z2jh.jupyter.org/en/stable/resources/reference.html.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fitserve.errors import RequestError
from fitserve.onsite.pod_fields import container_security, owner_environment, pod_security
from sitekit.derive import derive
from sitekit.pods import labels, resources, site_files, worker_account
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
"""The rendered files that the endpoint's pod and clients in the cluster get."""


def helm_values(site: Site, rendering: Rendering, *, endpoint: bool = True) -> dict[str, Any]:
    """Return the values with which the chart installs a site.

    Parameters
    ----------
    site
        A Kubernetes site.
    rendering
        What else the files depend on.
    endpoint
        Whether to install the endpoint itself. Without it only clients in the cluster can fit.

    Returns
    -------
    dict
        Values without credentials, which do not belong in a file.

    Raises
    ------
    RequestError
        The site is not one of Kubernetes.
    SiteError
        The site breaks a rule between fields.
    """
    if site.scheduler.type != "kubernetes":
        raise RequestError(
            f"site {site.name} has no Helm values",
            evidence=f"its scheduler is {site.scheduler.type}",
            hint="make render SITE=... writes what its endpoint needs",
        )
    files, _ = render_site(site, rendering)
    pinned = site.pinned(rendering.version)
    derived = derive(site)
    name = derived.endpoint_name
    pods = pinned.pods
    pod = pods.endpoint_pod
    gpus = {"nvidia.com/gpu": str(derived.gpus)} if derived.gpus else {}
    values: dict[str, Any] = {
        "name": name,
        "site": site.name,
        "endpoint": {
            "enabled": endpoint,
            "image": pod.image,
            "id": rendering.endpoint_id or site.endpoint.id,
            "heartbeatSeconds": site.endpoint.heartbeat_seconds,
            "amqpPort": site.endpoint.amqp_port,
            "resources": resources(pod.cpu, pod.memory),
            "state": {"size": pod.state, "storageClass": pod.storage_class},
            "priorityClass": pod.priority_class,
            "credentials": {"existingSecret": pods.credentials_secret},
            "env": _proxy(site),
        },
        "worker": {
            "image": pods.image,
            "serviceAccount": {
                "name": worker_account(site, name),
                "create": pods.service_account is None,
            },
            "userId": pods.user_id,
            "groupId": pods.group_id,
            "resources": resources(pods.cpu, pods.memory, gpus),
            "pullSecret": pods.pull_secret,
        },
        "networkPolicy": {"proxyPorts": _proxy_ports(site)},
        "configuration": {file: files[file] for file in FILES},
    }
    return values


def _proxy(site: Site) -> dict[str, str]:
    proxy = site.network.proxy
    if not proxy:
        return {}
    variables = {"HTTPS_PROXY": proxy.https, "HTTP_PROXY": proxy.http}
    variables["NO_PROXY"] = ",".join(proxy.none_for)
    return {name: value for name, value in variables.items() if value}


def _proxy_ports(site: Site) -> list[int]:
    """Return the ports at which the site's proxies listen."""
    proxy = site.network.proxy
    if proxy is None:
        return []
    places = [urlsplit(one) for one in (proxy.https, proxy.http) if one]
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
    # User and group are the notebook image's, and its home must be writable.
    pod = pod_security(0, 0)
    container = container_security()
    spawner = {
        # The account mounts no token by itself, and KubeSpawner asks for none unless told to.
        "automount_service_account_token": True,
        # A namespace that deploying made admits no other pods.
        "pod_security_context": {name: pod[name] for name in ("runAsNonRoot", "seccompProfile")},
        "container_security_context": {
            name: container[name] for name in ("allowPrivilegeEscalation", "capabilities")
        },
    }
    return {
        "hub": {"config": {"KubeSpawner": spawner}},
        "singleuser": {
            # It needs a privileged container; a NetworkPolicy does the same.
            "cloudMetadata": {"blockWithIptables": False},
            "serviceAccountName": endpoint,
            "extraLabels": labels(endpoint, "client"),
            # Worker pods belong to the notebook's, so that they go with it.
            "extraEnv": {one["name"]: one for one in owner_environment()},
            "storage": {"extraVolumes": [volume], "extraVolumeMounts": [mount]},
        },
    }
