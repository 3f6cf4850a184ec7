"""How the machine of an endpoint is reached, from the site file."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitserve.errors import InputError

if TYPE_CHECKING:
    from sitekit.site import Site

__all__ = ["Reach", "inventory"]


@dataclass(frozen=True)
class Reach:
    """What an administrator gives besides the site file.

    Attributes
    ----------
    host, user
        Instead of the site file's.
    here
        This machine is the login node.
    ssh_config
        Instead of ``~/.ssh/config``.
    python
        The target's Python for a release; by default the first that will do.
    """

    host: str | None = None
    user: str | None = None
    here: bool = False
    ssh_config: Path | None = None
    python: str | None = None


def inventory(site: Site, reach: Reach) -> dict[str, Any]:
    """Return Ansible's inventory of a site: one host, of the site's name.

    Examples
    --------
    >>> from sitekit.load import load_site
    >>> found = inventory(load_site("local")[0], Reach())
    >>> found["all"]["children"]["site"]["hosts"]["local"]["ansible_connection"]
    'local'

    Raises
    ------
    InputError
        The endpoint does not run on a machine that one logs in to.
    """
    if site.get("scheduler.type") == "kubernetes":
        raise InputError(
            f"site {site.name} is a Kubernetes cluster, which has no login node to deploy to",
            hint="deploy/kubernetes holds what is applied there",
        )
    if site.get("status") == "retired":
        raise InputError(
            f"the machine of site {site.name} is gone",
            hint="write a site file of your own that extends this one",
        )
    host = reach.host or site.get("login.host")
    variables: dict[str, Any] = {"ansible_python_interpreter": reach.python or "auto_silent"}
    if reach.here or host is None:
        variables["ansible_connection"] = "local"
        # This one works. What is found on the path may be a shim of pyenv that leads nowhere.
        variables["ansible_python_interpreter"] = reach.python or sys.executable
    else:
        variables |= {"ansible_connection": "ssh", "ansible_host": host}
        user = reach.user or site.get("login.user")
        if user:
            variables["ansible_user"] = user
        options = ["-o BatchMode=yes", "-o ConnectTimeout=15"]
        if reach.ssh_config:
            options.append(f"-F {Path(reach.ssh_config).resolve()}")
        if site.get("login.jump_host"):
            options.append(f"-J {site.get('login.jump_host')}")
        variables["ansible_ssh_common_args"] = " ".join(options)
    # A multi-user endpoint is root's; without a password asked for, as by a deploy user.
    variables["ansible_become"] = site.get("access.mode") == "multi-user"
    return {"all": {"children": {"site": {"hosts": {site.name: variables}}}}}
