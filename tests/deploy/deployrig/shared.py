"""root's multi-user site on a login node, its administrator, and a look at what is root's there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deployrig.admin import Admin
from globusrig.client import Client
from globusrig.processes import AMQP_PORT
from schedulerrig import users

if TYPE_CHECKING:
    from pathlib import Path

    from deployrig.admin import Said
    from globusrig.rig import Account
    from globusrig.rig import Rig as Service
    from schedulerrig.rig import Rig

__all__ = ["NAME", "PAM", "PLACE", "ROOTS", "Shared"]

NAME = "shared"
PLACE = "/srv/apps/fitserve"
PAM = "fitserve-rig"
ROOTS = ("/root", "/etc/fitserve", "/etc/xdg/fitserve", "/srv/apps")


class Shared:
    """A multi-user site.

    Parameters
    ----------
    place
        Home of the administrator.
    user
        As whom the administrator logs in.
    """

    def __init__(
        self, rig: Rig, service: Service, tree: Path, place: Path, user: str = "root"
    ) -> None:
        self.rig = rig
        self.service = service
        venv = f"{PLACE}/venv"
        self.admin = Admin(tree, place, service.admin.environment())
        self.admin.environment["HOME"] = str(place)
        self.site = self.admin.write_site(
            NAME,
            users.site(
                "slurm",
                login={"host": "login", "user": user},
                environment={"container": None, "venv": venv},
                network={"interface": "eth0"},
                access={
                    "mode": "multi-user",
                    "domains": ["site.example"],
                    "authentication_policy": service.policy,
                    "pam_service": PAM,
                },
                endpoint={
                    "venv": venv,
                    "heartbeat_seconds": 5,
                    "idle_minutes": 1,
                    "amqp_port": AMQP_PORT,
                },
            )
            | {"contact": "mailto:help@site.example"},
        )
        # Directories that hold sites' applications are there before any.
        (rig.directory / "apps").mkdir(exist_ok=True)
        self.before = self.files()

    def files(self) -> set[str]:
        found = self.rig.login.run("find", *ROOTS, "-not", "-path", "*/.ansible*", status=None)
        return set(found.stdout.split())

    def home(self, user: str) -> set[str]:
        """Return what an ordinary administrator has, besides keys and what Ansible puts there."""
        found = {path.name for path in (self.rig.directory / "home" / user).iterdir()}
        return found - {".ssh", ".ansible"}

    def let(self, user: str, *, may: bool = True) -> None:
        """Let sudo make a user root without a password, or no longer."""
        rule = f"/etc/sudoers.d/{user}"
        self.rig.login.run("rm", "-f", rule)
        if may:
            said = f"{user} ALL=(ALL) NOPASSWD: ALL\n"
            self.rig.login.run("install", "-m", "0440", "/dev/stdin", rule, stdin=said)

    def __call__(self, verb: str, *options: object, tree: Path | None = None, **more: Any) -> Said:
        admin = self.admin.at(tree) if tree else self.admin
        return admin(verb, self.site, "--ssh-config", self.rig.ssh_config, *options, **more)

    def status(self) -> dict[str, Any]:
        return self.admin.status(self.site, "--ssh-config", self.rig.ssh_config)

    def client(self, account: Account, place: Path) -> Client:
        client = Client(self.service, account, place)
        card = self.admin.card(NAME)
        client("endpoints", "add", NAME, "--card", card, "--amqp-port", AMQP_PORT)
        return client

    def end(self) -> None:
        """Leave nothing running, whatever happened."""
        self.rig.login.run("pkill", "-KILL", "-f", "globus-compute-endpoint|sitekit", status=None)
        self.rig.login.run("pkill", "-KILL", "-u", "ada", status=None)
        self.rig.slurm.cancel_all()
