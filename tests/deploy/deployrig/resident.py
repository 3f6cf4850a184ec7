"""An administrator who is logged in on the machine that they deploy to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from deployrig.admin import ROOT, Admin, copy_checkout, python_path
from schedulerrig.hosts import sh
from schedulerrig.site import USERS, VENV

if TYPE_CHECKING:
    import subprocess

    from schedulerrig.hosts import Host
    from schedulerrig.rig import Rig

__all__ = ["Resident"]

_ANSIBLE = "/srv/ansible"
_SEEN = Path("/srv/resident")


class Resident(Admin):
    """Deploys from a checkout of their own on one of the rig's hosts.

    Parameters
    ----------
    rig, host, user
        Where and who.
    """

    def __init__(self, rig: Rig, host: Host, user: str) -> None:
        self._host = host
        self._user = user
        place = rig.directory / _SEEN.name
        place.mkdir()
        super().__init__(copy_checkout(place / "tree"), place, {})
        # Wheels are there already: a rig has no network.
        sh("cp", "-r", ROOT / ".cache" / "deploy", place / "cache")
        sh("chown", "-R", f"{USERS[user]}:{USERS[user]}", place)
        self._make_ansible()
        self.environment = {
            "PYTHONPATH": python_path(_SEEN / "tree"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "FITSERVE_DEPLOY_CACHE": str(_SEEN / "cache"),
            "FITSERVE_ANSIBLE_VENV": _ANSIBLE,
        }

    def _make_ansible(self) -> None:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = f"lib/{version}/site-packages"
        script = f"""
        /srv/python/bin/{version} -m venv --without-pip {_ANSIBLE}
        echo /srv/fitserve/.cache/ansible-venv/{packages} > {_ANSIBLE}/{packages}/rig.pth
        install -m 755 /dev/stdin {_ANSIBLE}/bin/ansible-playbook
        """
        program = f"#!{_ANSIBLE}/bin/python\nfrom ansible.cli.playbook import main\nmain()\n"
        self._host.run("sh", "-ec", script, stdin=program)

    def _run(self, words: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
        there = [word.replace(str(self.place), str(_SEEN)) for word in words]
        return self._host.run(
            *(f"{VENV}/bin/python", "-m", "sitekit", *there),
            user=self._user,
            cwd=str(_SEEN),
            environment=self.environment,
            status=None,
            timeout=timeout,
        )
