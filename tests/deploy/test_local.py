"""This machine as a site: no login node and no service.

The tests are in the order of an endpoint's life, and each goes on from the one before.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from deployrig.admin import Admin
from globusrig.client import complete

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]

NAME = "desk"


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
                "endpoint": {"venv": "~/.local/share/fitserve/venv"},
            },
        )
        self.before = self.files()

    def files(self) -> set[str]:
        found = {str(path.relative_to(self.home)) for path in self.home.rglob("*")}
        # pip asks rustc for its version, which makes .rustup where rustup manages it.
        others = {"build", ".ansible", ".cache", ".rustup"}
        return {path for path in found if path.split("/")[0] not in others}

    def __call__(self, verb: str, *options: object, **more: Any) -> Any:
        return self.admin(verb, self.site, "--here", *options, **more)

    def status(self) -> dict[str, Any]:
        return self.admin.status(self.site, "--here")

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [str(self.home / ".local" / "bin" / "fitserve"), *command],
            env={
                "HOME": str(self.home),
                "PATH": "/usr/bin:/bin",
                "LANG": "C.UTF-8",
                # What it remembers of its runs was not deployed.
                "XDG_STATE_HOME": str(self.home / ".cache"),
            },
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


def test_root_is_told_that_its_endpoint_would_be_everybodys(desk: Desk) -> None:
    desk.admin.environment |= {
        "GLOBUS_COMPUTE_CLIENT_ID": "11111111-2222-4333-8444-555555555555",
        "GLOBUS_COMPUTE_CLIENT_SECRET": "never-sent",
    }
    before = desk.files()
    said = desk("deploy", status=5)
    assert "access.mode multi-user in the site file" in said.err
    assert desk.files() == before
    assert "never-sent" not in said.all


def test_nothing_is_left(desk: Desk) -> None:
    desk("destroy", "--yes")
    left = {path for path in desk.files() if path.split("/")[0] != "run"}
    assert left == desk.before
