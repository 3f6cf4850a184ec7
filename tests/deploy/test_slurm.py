"""An ordinary user's endpoint on a login node of Slurm, deployed over SSH, to its end.

The tests are in the order of an endpoint's life, and each goes on from the one before.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from deployrig.admin import Admin, Said, copy_checkout
from globusrig.client import Client, complete
from globusrig.processes import AMQP_PORT
from globusrig.rig import wait_for
from schedulerrig import users

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from globusrig.rig import Rig as Service
    from schedulerrig.rig import Rig

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]

NAME = "tower"
VENV = "~/.local/share/fitserve/venv"
FIT = ("--patch", "X_600_*", "--engine", "pyhf")


class Tower:
    """The site, its administrator, and a look at its login node."""

    def __init__(self, rig: Rig, service: Service, tree: Path, place: Path) -> None:
        self.rig = rig
        self.service = service
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
        self.site = self.admin.write_site(
            NAME,
            users.site(
                "slurm",
                login={"host": "login", "user": "ada"},
                environment={"container": None, "venv": VENV},
                network={"interface": "eth0"},
                endpoint={
                    "venv": VENV,
                    "heartbeat_seconds": 5,
                    "idle_minutes": 1,
                    "amqp_port": AMQP_PORT,
                },
            ),
        )
        self.first: Said | None = None
        self.before = self.files()

    @property
    def home(self) -> Path:
        return self.rig.directory / "home" / "ada"

    def files(self) -> set[str]:
        found = {str(path.relative_to(self.home)) for path in self.home.rglob("*")}
        return {path for path in found if not path.startswith((".ssh", ".ansible", ".cache"))}

    def __call__(self, verb: str, *options: object, tree: Path | None = None, **more: Any) -> Said:
        admin = self.admin
        if tree is not None:
            admin = Admin(tree, admin.place, {})
            admin.environment |= self.secrets | self.elsewhere
        return admin(verb, self.site, "--ssh-config", self.rig.ssh_config, *options, **more)

    def status(self, *options: object) -> dict[str, Any]:
        return self.admin.status(self.site, "--ssh-config", self.rig.ssh_config, *options)

    def processes(self) -> list[str]:
        """Return the command lines of all of the user's processes on the login node."""
        done = self.rig.login.run("ps", "-u", "ada", "-o", "args=", status=None)
        return done.stdout.splitlines()


@pytest.fixture(scope="module")
def tower(
    rig: Rig, service_there: Service, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tower]:
    tower = Tower(rig, service_there, tree, tmp_path_factory.mktemp("admin"))
    yield tower
    rig.login.run("pkill", "-KILL", "-u", "ada", status=None)  # inside the host alone
    rig.slurm.cancel_all()


@pytest.fixture
def client(tower: Tower, tmp_path: Path) -> Iterator[Client]:
    client = Client(tower.service, tower.service.admin, tmp_path)
    card = tower.admin.card(NAME)
    client("endpoints", "add", NAME, "--card", card, "--amqp-port", AMQP_PORT)
    yield client
    client.close()


# -- without credentials -----------------------------------------------------------------------


def test_check_changes_nothing(tower: Tower) -> None:
    said = tower("deploy", "--check", "--diff")
    assert said.changed > 0
    assert tower.files() == tower.before


def test_without_credentials_the_site_is_for_direct_use(tower: Tower) -> None:
    said = tower("deploy")
    assert "GLOBUS_COMPUTE_CLIENT_ID=... GLOBUS_COMPUTE_CLIENT_SECRET=... make deploy" in said.out
    assert f"--endpoint parsl:{NAME}" in said.out
    assert not (tower.home / ".globus_compute" / f"fitserve-{NAME}").exists()
    run = (*(".local/bin/fitserve", "run", "example", "-e", f"parsl:{NAME}"), *FIT, "-o", "direct")
    done = tower.rig.login.run(*run, user="ada", timeout=240)
    assert "5 of 5" in done.stderr or (tower.home / "direct" / "results.json").is_file()
    shutil.rmtree(tower.home / "direct")
    assert tower.rig.slurm.jobs("ada") == []
    again = tower("deploy")
    assert again.changed == 0, again.err


# -- with credentials --------------------------------------------------------------------------


def test_with_credentials_the_endpoint_is_up_and_tried(tower: Tower) -> None:
    tower.admin.environment |= tower.secrets | tower.elsewhere
    tower.first = tower("deploy")
    card = json.loads(tower.admin.card(NAME).read_text())
    assert card["endpoint_id"]
    assert card["endpoint_id"] in tower.first.out
    assert "another function is refused" in tower.first.err
    configured = tower.home / ".globus_compute" / f"fitserve-{NAME}" / "config.yaml"
    assert f'allowed_functions: ["{card["function_id"]}"]' in configured.read_text()


def test_the_same_again_changes_nothing(tower: Tower) -> None:
    said = tower("deploy", "--diff")
    assert said.changed == 0, said.err


def test_secrets_are_in_one_private_file(tower: Tower) -> None:
    """Neither in what was said or rendered, nor on a command line, nor readable by others."""
    assert tower.first is not None
    secret = tower.service.admin.secret
    assert secret not in tower.first.all
    holders = [
        path
        for place in (tower.home, tower.admin.place)
        for path in place.rglob("*")
        if path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes()
    ]
    [holder] = holders
    assert holder == tower.home / ".config" / "fitserve" / f"fitserve-{NAME}.env"
    assert holder.stat().st_mode & 0o777 == 0o600
    assert not any(secret in command for command in tower.processes())


def test_status_and_smoke(tower: Tower) -> None:
    found = tower.status()
    assert found["endpoint"]["pid"]
    assert found["endpoint"]["kept_by"] == "supervisor"
    assert found["orphans"] == []
    assert found["versions"]["globus-compute-endpoint"] == "4.19.0"
    said = tower("smoke")
    for stage in ("identity", "endpoint", "function", "workers", "fit", "refusal"):
        assert f" {stage} " in said.out, said.out


def test_a_physicist_runs_through_the_endpoint(tower: Tower, client: Client) -> None:
    client("run", "example", *FIT, "-e", NAME, "-o", "run", timeout=300)
    results = complete(client.place / "run")
    assert {one["status"] for one in results["results"]} <= {"ok", "suspect"}
    found = tower.status()
    assert found["children"]
    assert all(job["of_endpoint"] for job in found["jobs"])


def test_a_killed_endpoint_comes_back_and_what_it_left_is_ended(tower: Tower) -> None:
    before = tower.status()
    endpoint = before["endpoint"]["pid"]
    # The whole endpoint, its supervisor and its children's managers, as by a power cut.
    pids = [endpoint, before["endpoint"]["supervisor"]]
    pids += [one["pid"] for one in before["processes"] if "Globus Compute" in one["command"]]
    tower.rig.login.run("kill", "-KILL", *pids, user="ada")
    left = tower.status()
    assert left["endpoint"]["pid"] is None
    said = tower("deploy")
    assert said.changed > 0
    after = tower.status()
    assert after["orphans"] == []
    assert after["endpoint"]["id"] == before["endpoint"]["id"]
    alive = {one["pid"] for one in after["processes"]} | {after["endpoint"]["pid"]}
    assert not alive & {one["pid"] for one in left["orphans"]}


# -- versions ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_tree(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkout of another version: the same, with one more line."""
    place = copy_checkout(tmp_path_factory.mktemp("other"))
    shutil.rmtree(place / "worker")
    for part in ("worker", "client"):
        shutil.rmtree(place / part, ignore_errors=True)
        shutil.copytree(tree / part, place / part)
    with (place / "worker" / "src" / "fitserve_worker" / "environment.py").open("a") as stream:
        stream.write("\nOTHER_VERSION = True\n")
    return place


def test_a_release_that_fails_its_trial_does_not_serve(
    tower: Tower, other_tree: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(other_tree, broken)
    with (broken / "worker" / "src" / "fitserve_worker" / "entry.py").open("a") as stream:
        stream.write("\n\ndef run(task):\n    raise RuntimeError('broken on purpose')\n")
    before = tower.status()
    said = tower("upgrade", tree=broken, status=5)
    assert "broken on purpose" in said.err
    after = tower.status()
    assert after["versions"]["release"] == before["versions"]["release"]
    assert after["endpoint"]["pid"] == before["endpoint"]["pid"]


def test_upgrade_and_rollback(tower: Tower, other_tree: Path) -> None:
    before = tower.status()
    tower("upgrade", tree=other_tree)
    after = tower.status()
    assert after["versions"]["previous"] == before["versions"]["release"]
    assert after["versions"]["release"] != before["versions"]["release"]
    # The same endpoint package and configuration: it went on, with its users' tasks.
    assert after["endpoint"]["pid"] == before["endpoint"]["pid"]
    link = tower.home / ".local" / "share" / "fitserve" / "venv"
    assert link.readlink().name == after["versions"]["release"]
    tower("rollback")
    back = tower.status()
    assert back["versions"]["release"] == before["versions"]["release"]


# -- the end -----------------------------------------------------------------------------------


def test_nothing_is_left(tower: Tower) -> None:
    tower("destroy", "--yes")
    assert tower.files() == tower.before
    assert tower.rig.slurm.jobs("ada") == []
    wait_for(
        lambda: not any("fitserve" in one or "parsl" in one for one in tower.processes()),
        10,
        "the end of all processes",
    )
