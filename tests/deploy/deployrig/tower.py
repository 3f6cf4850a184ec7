"""A site on one of the rig's login nodes, its administrator, and a look at what is there."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from deployrig.admin import ROOT, Admin, Said
from globusrig.client import Client
from globusrig.processes import AMQP_PORT
from schedulerrig import users
from schedulerrig.site import USERS

if TYPE_CHECKING:
    from pathlib import Path

    from globusrig.rig import Rig as Service
    from schedulerrig.rig import Rig

__all__ = ["FIT", "VENV", "Tower", "other_version"]

USER = "ada"
VENV = "~/.local/share/fitserve/venv"
FIT = ("--patch", "X_600_*", "--engine", "pyhf", "--verify", "0")
_HOSTS = {"slurm": "login", "torque": "login", "pbspro": "pbs"}
# Not what deploying makes, and kept where it was.
_OTHERS = (".ssh", ".ansible", ".apptainer", ".cache", "staus")

# Inside the host alone.
_KILL_ALL = f"""
for pid in $(pgrep -u {USER}); do
  case "$(tr '\\0' ' ' < /proc/$pid/cmdline)" in
    *systemd*--user*|*sd-pam*) ;;
    *) kill -KILL $pid ;;
  esac
done
"""


class Tower:
    """An ordinary user's endpoint on a login node.

    Parameters
    ----------
    place
        Home of the administrator.
    scheduler
        ``slurm``, ``torque`` or ``pbspro``.
    changes
        Sections of the site file that are otherwise; workers are the deployed release's, in no
        container.
    """

    def __init__(
        self,
        rig: Rig,
        service: Service,
        tree: Path,
        place: Path,
        scheduler: str = "slurm",
        **changes: dict[str, Any],
    ) -> None:
        self.rig = rig
        self.service = service
        self.scheduler = scheduler
        self.user = USER
        self.name = f"tower-{scheduler}"
        self.host = rig.hosts[_HOSTS[scheduler]]
        account = service.admin
        self.secrets = {
            "GLOBUS_COMPUTE_CLIENT_ID": account.id,
            "GLOBUS_COMPUTE_CLIENT_SECRET": account.secret,
        }
        self.elsewhere = {
            name: value
            for name, value in account.environment().items()
            if name.startswith("GLOBUS_SDK")
        }
        self.admin = Admin(tree, place, {})
        self.reach: tuple[object, ...] = ("--ssh-config", rig.ssh_config)
        sections: dict[str, dict[str, Any]] = {
            "login": {"host": self.host.name, "user": USER},
            "environment": {"container": None, "venv": VENV},
            "network": {"interface": "eth0"},
            "endpoint": {
                "venv": VENV,
                "heartbeat_seconds": 5,
                "idle_minutes": 1,
                "amqp_port": AMQP_PORT,
            },
            **changes,
        }
        self.site = self.admin.write_site(self.name, users.site(scheduler, **sections))
        self.first: Said | None = None
        self.before = self.files()

    @property
    def home(self) -> Path:
        return self.rig.directory / "home" / USER

    @property
    def configuration(self) -> Path:
        return self.home / ".globus_compute" / f"fitserve-{self.name}"

    def files(self) -> set[str]:
        found = {str(path.relative_to(self.home)) for path in self.home.rglob("*")}
        return {path for path in found if not path.startswith(_OTHERS)}

    def __call__(self, verb: str, *options: object, tree: Path | None = None, **more: Any) -> Said:
        admin = self.admin.at(tree) if tree else self.admin
        return admin(verb, self.site, *self.reach, *options, **more)

    def give_credentials(self) -> None:
        """By the environment."""
        self.admin.environment |= self.secrets | self.elsewhere

    def give_vault(self) -> None:
        """By a file that Ansible vault encrypted."""
        place = self.admin.place / "vault"
        place.mkdir()
        (place / "password").write_text("only for tests\n")
        vault = place / "site.vault"
        vault.write_text(
            json.dumps({f"vault_{name.lower()}": one for name, one in self.secrets.items()})
        )
        given = {
            "FITSERVE_VAULT": str(vault),
            "ANSIBLE_VAULT_PASSWORD_FILE": str(place / "password"),
        }
        self.admin.environment |= given | self.elsewhere
        program = ROOT / ".cache" / "ansible-venv" / "bin" / "ansible-vault"
        subprocess.run(
            [str(program), "encrypt", str(vault)],
            env=self.admin.environment,
            check=True,
            capture_output=True,
        )

    def status(self, *options: object) -> dict[str, Any]:
        return self.admin.status(self.site, *self.reach, *options)

    def client(self, place: Path) -> Client:
        """Return a user's command line that knows the deployed endpoint by its card."""
        client = Client(self.service, self.service.admin, place)
        card = self.admin.card(self.name)
        client("endpoints", "add", self.name, "--card", card, "--amqp-port", AMQP_PORT)
        return client

    def kill_endpoint(self) -> dict[str, Any]:
        """Kill supervisor, endpoint and its children's managers; returns the status before.

        As the kernel does when it is out of memory: their interchanges and blocks are left.
        """
        before = self.status()
        managers = [one["pid"] for one in before["processes"] if "Globus Compute" in one["command"]]
        pids = [before["endpoint"]["supervisor"], before["endpoint"]["pid"], *managers]
        self.host.run("kill", "-KILL", *pids, user=USER)
        return before

    def processes(self) -> list[str]:
        """Return the command lines of all of the user's processes on the login node."""
        done = self.host.run("ps", "-u", USER, "-o", "args=", status=None)
        return done.stdout.splitlines()

    def jobs(self) -> list[str]:
        """Return the user's jobs that are queued or run, each a line of the scheduler's."""
        if self.scheduler == "pbspro":
            shown = self.host.run("qstat", status=None).stdout.splitlines()
            return [line for line in shown if f" {USER} " in line]
        return [" ".join(job) for job in self.rig.slurm.jobs(USER)]

    def run_there(self, *words: str, status: int = 0, timeout: float = 600) -> str:
        """Run the deployed `fitserve` on the login node; returns what it says."""
        done = self.host.run(
            *(".local/bin/fitserve", *words),
            user=USER,
            # What it remembers of its runs was not deployed.
            environment={"XDG_STATE_HOME": f"/home/{USER}/.cache"},
            status=status,
            timeout=timeout,
        )
        return done.stderr

    def end(self) -> None:
        """Leave nothing of the user's running, whatever happened."""
        # The user's systemd is not of this site, and others on the same host want it.
        variables = {"XDG_RUNTIME_DIR": f"/run/user/{USERS[USER]}"}
        stop = ("systemctl", "--user", "stop", "fitserve-*")
        self.host.run(*stop, user=USER, environment=variables, status=None)
        self.host.run("sh", "-c", _KILL_ALL, status=None)
        for line in self.jobs():
            command = "qdel" if self.scheduler == "pbspro" else "scancel"
            self.host.run(command, line.split()[0], user=USER, status=None)


def other_version(tree: Path, place: Path, version: str) -> Path:
    """Make a checkout of another version, otherwise the same."""
    shutil.copytree(tree, place, ignore=shutil.ignore_patterns("__pycache__"))
    path = place / "contract" / "src" / "fitserve_contract" / "_version.py"
    lines = [
        f'__version__ = "{version}"' if line.startswith("__version__") else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines) + "\n")
    return place
