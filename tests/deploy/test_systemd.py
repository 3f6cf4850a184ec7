"""An endpoint that systemd keeps: the login node of PBS has one, where the user lingers.

The tests are in the order of an endpoint's life, and each goes on from the one before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deployrig.tower import Tower
from globusrig.client import complete
from globusrig.rig import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deployrig.tunnel import Tunnels
    from globusrig.rig import Rig as Service
    from schedulerrig.rig import Rig

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]

ONE = ("--patch", "X_600_0", "--engine", "pyhf", "--verify", "0", "--refit")


@pytest.fixture(scope="module")
def tower(
    rig: Rig, service_there: Service, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tower]:
    tower = Tower(rig, service_there, tree, tmp_path_factory.mktemp("admin"), "pbspro")
    tower.give_credentials()
    yield tower
    tower.end()


def test_systemd_takes_over_once_it_is_there(rig: Rig, tower: Tower, tunnels: Tunnels) -> None:
    """As when the user is allowed to linger later on."""
    tower.host.run("pkill", "-KILL", "-u", "ada", status=None)
    tower("deploy")
    before = tower.status()["endpoint"]
    assert (before["kept_by"], before["at_boot"]) == ("supervisor", "cron")
    tower.host.kill()
    rig.restart_login(tower.host)
    tunnels.open(tower.host)
    wait_for(lambda: tower.status()["endpoint"]["supervisor"], 150, "the supervisor")
    tower("deploy")
    after = tower.status()["endpoint"]
    assert (after["kept_by"], after["at_boot"]) == ("systemd", "systemd")
    assert (after["id"], after["supervisor"]) == (before["id"], None)
    assert tower.host.run("crontab", "-l", user="ada", status=1).stdout == ""
    again = tower("deploy", "--diff")
    assert again.changed == 0, again.err


def test_systemd_ends_the_jobs_of_a_killed_endpoint(rig: Rig, tower: Tower, tmp_path: Path) -> None:
    wait_for(lambda: not tower.jobs(), 120, "the end of the smoke test's block")
    sleeping = ("qsub", "-l", "select=1:ncpus=2", "-l", "walltime=00:30:00", "-o", "/dev/null")
    others = [
        rig.pbs.run(*sleeping, "-e", "/dev/null", user="ben", stdin="sleep 900\n").stdout.strip()
        for _ in range(2)
    ]
    client = tower.client(tmp_path)
    try:
        running = client.start("run", "example", *ONE, "-e", tower.name, "-o", tmp_path / "run")
        wait_for(tower.jobs, 200, "a job")
        before = tower.status()
        [job] = before["jobs"]
        assert (job["state"], job["of_endpoint"]) == ("queued", True)
        # All of it at once: its children give their jobs back if they are only asked to end.
        pids = [before["endpoint"]["pid"], *(one["pid"] for one in before["processes"])]
        # One that ends by itself meanwhile is as good as killed.
        tower.host.run("kill", "-KILL", *pids, user="ada", status=None)
        wait_for(
            lambda: not any(line.startswith(job["id"]) for line in tower.jobs()),
            200,
            "the end of the job",
        )
        wait_for(lambda: tower.status()["endpoint"]["pid"], 200, "another one")
        assert tower.status()["orphans"] == []
        for job in others:
            rig.pbs.run("qdel", job, user="ben")
        client.finish(running, 600)
        complete(tmp_path / "run")
    finally:
        client.close()
        for job in others:
            rig.pbs.run("qdel", job, user="ben", status=None)


def test_nothing_is_left(tower: Tower) -> None:
    tower("destroy", "--yes")
    assert tower.files() == tower.before
    wait_for(lambda: tower.jobs() == [], 20, "the end of all jobs")
    units = tower.home / ".config" / "systemd"
    assert not list(units.rglob("fitserve*"))
