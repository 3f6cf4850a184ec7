"""This machine as a site: no root, no login node; without the service, then with it.

The tests are in the order of an endpoint's life, and each goes on from the one before.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from deployrig.admin import ROOT, Admin
from globusrig.client import complete
from globusrig.processes import AMQP_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from globusrig.rig import Rig as Service

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]

NAME = "desk"
# What a user's crontab is, in a file: the machine's own is not touched.
CRONTAB = """#!/bin/sh
case "$1" in
  -l) cat "$HOME/crontab" ;;
  -) cat > "$HOME/crontab" ;;
esac
"""
OTHERS = "5 4 * * * /usr/bin/true\n"


class Desk:
    """The site, and the home that it is deployed into."""

    def __init__(self, tree: Path, place: Path) -> None:
        self.home = place
        self.admin = Admin(tree, place, {})
        # Ansible keeps its own files apart from what is deployed.
        self.site = self.admin.write_site(
            NAME,
            {
                "extends": "local",
                "description": "The machine that runs the tests",
                "node": {"cores": 1},
                "blocks": {"init": 1, "min": 0, "max": 1, "strategy_seconds": 1},
                "endpoint": {
                    "venv": "~/.local/share/fitserve/venv",
                    "heartbeat_seconds": 5,
                    "idle_minutes": 1,
                    "amqp_port": AMQP_PORT,
                },
            },
        )
        binaries = place / "bin"
        binaries.mkdir()
        (binaries / "crontab").write_text(CRONTAB)
        (binaries / "crontab").chmod(0o755)
        (place / "crontab").write_text(OTHERS)
        self.admin.environment["PATH"] = f"{binaries}:{os.environ['PATH']}"
        self.before = self.files()

    def files(self) -> set[str]:
        found = {str(path.relative_to(self.home)) for path in self.home.rglob("*")}
        return {path for path in found if path.split("/")[0] not in {"build", ".ansible", ".cache"}}

    def __call__(self, verb: str, *options: object, **more: Any) -> Any:
        return self.admin(verb, self.site, "--here", *options, **more)

    def status(self) -> dict[str, Any]:
        return self.admin.status(self.site, "--here")

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [str(self.home / ".local" / "bin" / "fitserve"), *command],
            env={"HOME": str(self.home), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr


@pytest.fixture(scope="module")
def desk(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(tree, tmp_path_factory.mktemp("home"))
    yield desk
    if (desk.home / ".local").exists():  # a test failed before it was destroyed
        desk("destroy", "--yes")


def test_what_is_not_ours_is_not_touched(desk: Desk) -> None:
    theirs = desk.home / ".local" / "share" / "fitserve" / "venv"
    theirs.mkdir(parents=True)
    said = desk("deploy", status=5)
    assert "was not made by" in said.err
    theirs.rmdir()
    theirs.parent.rmdir()
    theirs.parent.parent.rmdir()
    theirs.parent.parent.parent.rmdir()
    assert desk.files() == desk.before


def test_this_machine_is_ready_for_use(desk: Desk) -> None:
    said = desk("deploy")
    assert "--endpoint local" in said.out
    desk.run("run", "example", "--patch", "X_600_0", "--engine", "pyhf", "-o", "run")
    results = complete(desk.home / "run")
    assert list(results) == ["X_600_0"]
    assert desk.status()["endpoint"] is None


def test_the_same_again_changes_nothing(desk: Desk) -> None:
    said = desk("deploy", "--diff")
    assert said.changed == 0, said.err


def test_a_half_installed_release_is_installed_anew(desk: Desk) -> None:
    release = (desk.home / ".local" / "share" / "fitserve" / "venv").resolve()
    (release / ".complete").unlink()
    (release / "bin" / "fitserve").unlink()
    assert desk("deploy").changed > 0
    assert "fitserve" in desk.run("--help") or (release / "bin" / "fitserve").is_file()
    assert (release / ".complete").is_file()


def test_credentials_of_a_vault_add_the_cloud_part(desk: Desk, service: Service) -> None:
    account = service.admin
    place = desk.home / "vault"
    place.mkdir()
    (place / "password").write_text("only for tests\n")
    vault = place / "site.vault"
    secrets = {
        "vault_globus_compute_client_id": account.id,
        "vault_globus_compute_client_secret": account.secret,
    }
    vault.write_text(json.dumps(secrets))
    encrypt = ROOT / ".cache" / "ansible-venv" / "bin" / "ansible-vault"
    password = {"ANSIBLE_VAULT_PASSWORD_FILE": str(place / "password")}
    subprocess.run(
        [str(encrypt), "encrypt", str(vault)],
        env={**desk.admin.environment, **password},
        check=True,
        capture_output=True,
    )
    assert account.secret not in vault.read_text()
    desk.admin.environment |= {"FITSERVE_VAULT": str(vault), **password}
    desk.admin.environment |= {
        name: value
        for name, value in account.environment().items()
        if name.startswith("GLOBUS_SDK")
    }
    said = desk("deploy")
    assert "another function is refused" in said.err
    assert account.secret not in said.all
    found = desk.status()
    assert found["endpoint"]["pid"]
    assert found["endpoint"]["at_boot"] == "cron"
    lines = (desk.home / "crontab").read_text()
    assert lines.startswith(OTHERS)
    assert lines.count("@reboot") == 1


def test_nothing_is_left(desk: Desk) -> None:
    kept = desk.files() & {"run", "vault"}
    desk("destroy", "--yes")
    left = {path for path in desk.files() if path.split("/")[0] not in kept}
    assert left == desk.before
    assert (desk.home / "crontab").read_text() == OTHERS
