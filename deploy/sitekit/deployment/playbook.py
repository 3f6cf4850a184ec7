"""Run one of Ansible's playbooks for a site, with nothing secret on a command line.

How its machine is reached follows from the site file and what the administrator gives besides.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitserve._version import __version__
from fitserve.errors import BackendError, InputError
from sitekit.derive import derive
from sitekit.load import flat_site
from sitekit.render import write_files
from sitekit.rules import require_valid
from sitekit.target.places import places_of

if TYPE_CHECKING:
    from sitekit.site import Site

__all__ = ["Deployment", "Reach", "inventory"]

_ROOT = Path(__file__).resolve().parents[3]
_ANSIBLE = _ROOT / "deploy" / "ansible"
_SMOKE_SECONDS = 900


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
    if site.scheduler.type == "kubernetes":
        raise InputError(
            f"site {site.name} is a Kubernetes cluster, which has no login node to deploy to",
            hint="deploy/kubernetes holds what is applied there",
        )
    if site.status == "retired":
        raise InputError(
            f"the machine of site {site.name} is gone",
            hint="write a site file of your own that extends this one",
        )
    host = reach.host or site.login.host
    variables: dict[str, Any] = {"ansible_python_interpreter": reach.python or "auto_silent"}
    if reach.here or host is None:
        variables["ansible_connection"] = "local"
        # This one works. What is found on the path may be a shim of pyenv that leads nowhere.
        variables["ansible_python_interpreter"] = reach.python or sys.executable
    else:
        variables |= {"ansible_connection": "ssh", "ansible_host": host}
        user = reach.user or site.login.user
        if user:
            variables["ansible_user"] = user
        options = ["-o BatchMode=yes", "-o ConnectTimeout=15"]
        if reach.ssh_config:
            options.append(f"-F {Path(reach.ssh_config).resolve()}")
        if site.login.jump_host:
            options.append(f"-J {site.login.jump_host}")
        variables["ansible_ssh_common_args"] = " ".join(options)
    # A multi-user endpoint is root's; without a password asked for, as by a deploy user.
    variables["ansible_become"] = site.access.mode == "multi-user"
    return {"all": {"children": {"site": {"hosts": {site.name: variables}}}}}


class Deployment:
    """A site to be deployed, from this machine.

    Attributes
    ----------
    directory
        What is kept here of it: the site card that came back.
    """

    def __init__(self, site: Site, reach: Reach) -> None:
        require_valid(site)
        self._site = site
        self._reach = reach
        self._inventory = inventory(site, reach)
        self.directory = Path("build") / "deploy" / site.name
        self._answer: dict[str, Any] | None = None

    def run(self, playbook: str, *options: str, quiet: bool = False, **variables: Any) -> bool:
        """Run a playbook; returns whether it came to its end.

        Parameters
        ----------
        playbook
            Its name.
        options
            Ansible's.
        quiet
            What it says is shown only if it fails; otherwise it goes to standard error.
        variables
            More variables, each with ``fitserve_`` before its name.

        Raises
        ------
        BackendError
            Ansible is not installed.
        """
        program = _ansible()
        self.directory.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "ANSIBLE_CONFIG": str(_ANSIBLE / "ansible.cfg")}
        environment["ANSIBLE_HOME"] = str(_ROOT / ".cache" / "ansible")
        # A directory of its own: one may ask for the status while another upgrades.
        with tempfile.TemporaryDirectory(dir=self.directory) as scratch:
            place = Path(scratch).resolve()
            (place / "inventory.json").write_text(json.dumps(self._inventory))
            given = {**self._variables(variables), "fitserve_build": str(place)}
            (place / "variables.json").write_text(json.dumps(given))
            write_files({f"{self._site.name}.yaml": flat_site(self._site)}, place / "flat")
            command = [
                *(str(program), str(_ANSIBLE / f"{playbook}.yml")),
                *("--inventory", str(place / "inventory.json")),
                *("--extra-vars", f"@{place / 'variables.json'}", *_vault(), *options),
            ]
            done = subprocess.run(  # noqa: S603
                command,
                check=False,
                cwd=_ANSIBLE,
                env=environment,
                stdout=subprocess.PIPE if quiet else sys.stderr,
                text=True,
            )
            answer = place / "returned.json"
            if answer.is_file():
                self._answer = json.loads(answer.read_text(encoding="utf-8"))
            card = place / "site-card.json"
            if card.is_file():
                card.replace(self.directory / card.name)
        if quiet and done.returncode:
            sys.stderr.write(done.stdout)
        return done.returncode == 0

    def returned(self) -> dict[str, Any]:
        """Return the document that the playbook brought back.

        Raises
        ------
        BackendError
            It brought none.
        """
        if self._answer is None:
            raise BackendError(
                f"{self._site.name} did not answer",
                hint=f"make deploy SITE={self._site.name}, if it was not deployed",
            )
        return self._answer

    def _variables(self, more: dict[str, Any]) -> dict[str, Any]:
        site = self._site
        paths = os.pathsep.join(path for path in (str(_ROOT / "deploy"), _python_path()) if path)
        longest = derive(site).longest_seconds
        return {
            "fitserve_version": __version__,
            "fitserve_site": site.name,
            "fitserve_endpoint": derive(site).endpoint_name,
            "fitserve_digest": site.digest,
            "fitserve_scheduler": site.scheduler.type,
            "fitserve_multi_user": site.access.mode == "multi-user",
            "fitserve_places": places_of(site).as_data(),
            "fitserve_kit": [sys.executable, "-m", "sitekit"],
            "fitserve_kit_path": paths,
            "fitserve_python": self._reach.python or "",
            "fitserve_this_python": f"python3.{sys.version_info.minor}",
            "fitserve_smoke_seconds": _SMOKE_SECONDS,
            "fitserve_drain_seconds": longest + 120 * site.endpoint.idle_minutes,
            **{f"fitserve_{name}": value for name, value in more.items() if value is not None},
        }


def _python_path() -> str:
    return os.environ.get("PYTHONPATH", "")


def _vault() -> list[str]:
    """Return the options of a file that Ansible vault encrypted, if there is one."""
    path = os.environ.get("FITSERVE_VAULT")
    if not path:
        return []
    options = ["--extra-vars", f"@{Path(path).expanduser().resolve()}"]
    if not os.environ.get("ANSIBLE_VAULT_PASSWORD_FILE"):
        options.append("--ask-vault-pass")
    return options


def _ansible() -> Path:
    place = Path(os.environ.get("FITSERVE_ANSIBLE_VENV", _ROOT / ".cache" / "ansible-venv"))
    program = place / "bin" / "ansible-playbook"
    if not program.is_file():
        raise BackendError("Ansible is not installed", hint="make ansible-venv")
    return program
