"""root's endpoint on a login node of Slurm: users' fits run under their own accounts.

The tests are in the order of an endpoint's life, and each goes on from the one before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from deployrig.admin import Admin
from globusrig.client import Client, complete
from globusrig.processes import AMQP_PORT
from globusrig.rig import wait_for
from schedulerrig import users

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deployrig.admin import Said
    from globusrig.rig import Account
    from globusrig.rig import Rig as Service
    from schedulerrig.rig import Rig

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]

NAME = "shared"
PLACE = "/srv/apps/fitserve"
PAM = "fitserve-rig"
# Whoever has an account and is not ben.
PAM_RULES = """\
account required pam_succeed_if.so quiet user != ben
account required pam_permit.so
auth    required pam_permit.so
session required pam_permit.so
"""
ONE = ("--patch", "X_600_0", "--engine", "pyhf")
ROOTS = ("/root", "/etc/fitserve", "/etc/xdg/fitserve", "/srv/apps")


class Shared:
    """The site, its administrator, and a look at what is root's on its login node."""

    def __init__(self, rig: Rig, service: Service, tree: Path, place: Path) -> None:
        self.rig = rig
        self.service = service
        venv = f"{PLACE}/venv"
        self.admin = Admin(tree, place, service.admin.environment())
        self.admin.environment["HOME"] = str(place)
        self.site = self.admin.write_site(
            NAME,
            users.site(
                "slurm",
                login={"host": "login", "user": "root"},
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
        self.before = self.files()

    def files(self) -> set[str]:
        found = self.rig.login.run("find", *ROOTS, "-not", "-path", "*/.ansible*", status=None)
        return set(found.stdout.split())

    def __call__(self, verb: str, *options: object, **more: Any) -> Said:
        return self.admin(verb, self.site, "--ssh-config", self.rig.ssh_config, *options, **more)

    def status(self) -> dict[str, Any]:
        return self.admin.status(self.site, "--ssh-config", self.rig.ssh_config)

    def client(self, account: Account, place: Path) -> Client:
        client = Client(self.service, account, place)
        card = self.admin.card(NAME)
        client("endpoints", "add", NAME, "--card", card, "--amqp-port", AMQP_PORT)
        return client


@pytest.fixture(scope="module")
def shared(
    rig: Rig, service_there: Service, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shared]:
    rig.login.run("tee", f"/etc/pam.d/{PAM}", stdin=PAM_RULES)
    (rig.directory / "apps").mkdir()
    shared = Shared(rig, service_there, tree, tmp_path_factory.mktemp("admin"))
    yield shared
    rig.login.run("pkill", "-KILL", "-f", "globus-compute-endpoint|sitekit", status=None)
    rig.login.run("pkill", "-KILL", "-u", "ada", status=None)
    rig.slurm.cancel_all()
    # Users' own, which root does not take away: the next site is to find homes as they were.
    for own in (".fitserve", ".globus_compute"):
        rig.login.run("rm", "-rf", f"/home/ada/{own}")


def test_root_deploys_it_over_ssh_and_again(shared: Shared) -> None:
    said = shared("deploy")
    assert "another function is refused" in said.err
    assert "fitserve endpoints check shared" in said.err
    again = shared("deploy", "--diff")
    assert again.changed == 0, again.err
    modes = shared.rig.login.run("stat", "-c", "%a", f"/etc/fitserve/fitserve-{NAME}.env")
    assert modes.stdout.split() == ["600"]
    denied = shared.rig.login.run("ls", "/etc/fitserve", user="ada", status=2)
    assert "Permission denied" in denied.stderr


def test_a_user_fits_under_their_own_account(shared: Shared, tmp_path: Path) -> None:
    client = shared.client(shared.service.member, tmp_path)
    client("run", "example", *ONE, "-e", NAME, "-o", tmp_path / "run", timeout=600)
    complete(tmp_path / "run")
    owners = shared.rig.login.run("sacct", "-X", "-n", "-a", "-o", "user%20,jobname%60").stdout
    ours = [line.split()[0] for line in owners.splitlines() if f"parsl.fitserve-{NAME}" in line]
    assert ours
    assert set(ours) == {"ada"}
    found = shared.status()
    assert len(found["children"]) == 1
    pids = [one["pid"] for one in found["processes"]]
    accounts = shared.rig.login.run("ps", "-o", "user=", "-p", ",".join(map(str, pids)))
    assert "ada" in accounts.stdout.split()


def test_policy_mapping_and_pam_decide_who_is_let_in(shared: Shared, tmp_path: Path) -> None:
    service = shared.service
    for account, told in (
        (service.stranger, "authentication policy"),
        (service.admin, "the site has no account for your Globus identity"),
        (service.barred, "the site cannot start your endpoint there"),
    ):
        place = tmp_path / account.username
        place.mkdir()
        client = shared.client(account, place)
        done = client("run", "example", *ONE, "-e", NAME, "-o", place / "run", status=5)
        assert told in " ".join(done.stderr.split())
    assert not shared.rig.login.run("ps", "-u", "ben", "-o", "args=", status=None).stdout
    # What PAM said is for the administrator alone.
    logs = (f"/root/.globus_compute/fitserve-{NAME}", f"{PLACE}/fitserve-{NAME}/supervisor.log")
    assert "[PAM_" in shared.rig.login.run("grep", "-rhs", "PAM", *logs).stdout


def test_nothing_of_roots_is_left(shared: Shared) -> None:
    said = shared("destroy", "--yes")
    assert "ended" in said.out
    assert shared.files() == shared.before
    wait_for(lambda: not shared.rig.slurm.jobs(), 20, "the end of all jobs")
    left = shared.rig.login.run("ps", "-e", "-o", "args=").stdout
    assert "globus-compute" not in left
    assert "sitekit" not in left
