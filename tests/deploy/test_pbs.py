"""An ordinary user's endpoint on login nodes of Torque and of PBS Pro, from SSH to its end.

The tests are in the order of an endpoint's life, and each goes on from the one before; first
all of one scheduler, then all of the other.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from deployrig.tower import Tower, other_version
from fitserve import __version__
from globusrig.client import complete
from globusrig.rig import wait_for
from schedulerrig.pallets import staus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deployrig.tunnel import Tunnels
    from globusrig.rig import Rig as Service
    from schedulerrig.rig import Rig

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", params=["torque", "pbspro"])
def tower(
    request: pytest.FixtureRequest,
    rig: Rig,
    service_there: Service,
    tree: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Tower]:
    tower = Tower(rig, service_there, tree, tmp_path_factory.mktemp("admin"), request.param)
    tower.give_credentials()
    yield tower
    tower.end()


def test_deployed_over_ssh_then_the_same_again(tower: Tower) -> None:
    said = tower("deploy")
    assert said.changed > 0
    assert "another function is refused" in said.err
    again = tower("deploy", "--diff")
    assert again.changed == 0, again.err


def test_smoke_and_status(tower: Tower) -> None:
    said = tower("smoke")
    for stage in ("endpoint", "function", "fit", "refusal"):
        assert f" {stage} " in said.out, said.out
    found = tower.status()
    assert found["endpoint"]["pid"]
    assert found["orphans"] == []
    kept = {"torque": ("supervisor", "cron"), "pbspro": ("systemd", "systemd")}[tower.scheduler]
    assert (found["endpoint"]["kept_by"], found["endpoint"]["at_boot"]) == kept
    # The block of that fit, by the name that the scheduler shows of it.
    assert [job["state"] for job in found["jobs"] if job["of_endpoint"]] in (["running"], [])


def test_staus_directly(tower: Tower) -> None:
    pallet = staus(tower.home)
    tower.run_there("run", pallet.name, "-e", f"parsl:{tower.name}", "-o", "direct")
    assert len(complete(tower.home / "direct")) == 57
    shutil.rmtree(tower.home / "direct")


def test_staus_through_the_endpoint(tower: Tower, tmp_path: Path) -> None:
    client = tower.client(tmp_path)
    client("run", staus(tower.home), "-e", tower.name, "-o", tmp_path / "run", timeout=600)
    assert len(complete(tmp_path / "run")) == 57


def test_a_killed_endpoint_is_started_again(tower: Tower) -> None:
    """By systemd, or by the supervisor: nobody deploys anew."""
    before = tower.status()["endpoint"]["pid"]
    tower.host.run("kill", "-KILL", before, user="ada")
    wait_for(lambda: tower.status()["endpoint"]["pid"] not in {None, before}, 200, "another one")


def test_a_login_node_that_was_rebooted_has_its_endpoint_again(
    tower: Tower, tunnels: Tunnels
) -> None:
    before = tower.status()
    tower.host.kill()
    tower.rig.restart_login(tower.host)
    tunnels.open(tower.host)
    wait_for(lambda: tower.status()["endpoint"]["pid"], 150, "the endpoint")
    assert tower.status()["endpoint"]["id"] == before["endpoint"]["id"]
    tower("smoke")


def test_upgrade_and_rollback(tower: Tower, tree: Path, tmp_path: Path) -> None:
    before = tower.status()
    tower("upgrade", tree=other_version(tree, tmp_path / "tree", "0.2.0"))
    after = tower.status()
    assert after["versions"]["fitserve"] == "0.2.0"
    assert after["endpoint"]["pid"] == before["endpoint"]["pid"]
    tower("rollback")
    back = tower.status()
    assert back["versions"]["release"] == before["versions"]["release"]
    assert back["versions"]["fitserve"] == __version__


def test_nothing_is_left(tower: Tower) -> None:
    tower("destroy", "--yes")
    assert tower.files() == tower.before
    wait_for(lambda: tower.jobs() == [], 20, "the end of all jobs")
    wait_for(
        lambda: not any("fitserve" in one or "parsl" in one for one in tower.processes()),
        10,
        "the end of all processes",
    )
