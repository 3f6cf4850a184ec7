"""Names that a site's pods, its chart and its rendered files must agree on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sitekit.site import Site

__all__ = ["COMMANDS", "HOME", "labels", "site_files", "worker_account"]

COMMANDS = "/etc/fitserve/bin"
"""Where the endpoint's pod has the chart's own commands, which come first on its PATH."""
HOME = "/var/lib/fitserve"
"""Home of the endpoint in its pod: the volume that it keeps its state on."""


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
