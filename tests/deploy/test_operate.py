"""Looking after a deployed endpoint: `status`, `logs`, `stop`, and what a killed one leaves.

The tests are in the order of an endpoint's life, and each goes on from the one before. Here is no
systemd, see test_systemd.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from globusrig.client import Client, complete
from globusrig.rig import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deployrig.tower import Tower
    from schedulerrig.rig import Rig

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(1500)]

ONE = ("--patch", "X_600_0", "--engine", "pyhf", "--verify", "0", "--refit")


@pytest.fixture(scope="module")
def tower(tower: Tower) -> Iterator[Tower]:
    tower.give_credentials()
    yield tower
    tower("destroy", "--yes")


@pytest.fixture
def full(rig: Rig) -> Iterator[Callable[[], None]]:
    """Have Slurm's nodes taken by another user; returns what gives them back."""
    words = ("sbatch", "--parsable", "--output=/dev/null", "--nodes=2", "--exclusive")
    wait_for(lambda: rig.slurm.idle() == 2, 120, "idle nodes")
    job = rig.login.run(*words, "--wrap", "sleep 900", user="ben").stdout.strip()
    wait_for(lambda: [job, "RUNNING"] in rig.slurm.jobs("ben", form="%i %T"), 30, "ben's job")

    def give_back() -> None:
        rig.login.run("scancel", job, user="ben", status=None)

    yield give_back
    give_back()


def test_a_first_diff_shows_no_secret(tower: Tower) -> None:
    for options in (("--check", "--diff"), ("--diff",)):
        said = tower("deploy", *options)
        assert said.changed > 0
        assert "+++" in said.err  # it does show files
        for value in tower.secrets.values():
            assert value not in said.out
        assert tower.secrets["GLOBUS_COMPUTE_CLIENT_SECRET"] not in said.err


def test_a_check_of_what_is_deployed_finds_and_changes_nothing(tower: Tower) -> None:
    def state() -> dict[str, tuple[int, int]]:
        # The endpoint touches the file of its process every few seconds.
        places = (tower.configuration, tower.home / ".config", tower.home / ".local")
        found = [path for place in places for path in place.rglob("*") if path.is_file()]
        ours = [path for path in found if path.suffix not in {".log", ".pid", ".pyc"}]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in ours}

    before = state()
    said = tower("deploy", "--check", "--diff")
    assert said.changed == 0, said.err
    assert "+++" not in said.err
    assert state() == before


def test_status_after_a_fit(tower: Tower) -> None:
    tower("smoke")
    found = tower.status()
    assert set(found["disk"]) == {"root", "run", "cache"}
    assert all(one["free_gb"] > 0 for one in found["disk"].values())
    assert found["last_fits"][0]["ago_seconds"] < 600
    assert found["workers"]["most"] == 4
    running = [job for job in found["jobs"] if job["state"] == "running"]
    assert found["workers"]["of_running_jobs"] == 2 * len(running)


def test_status_says_why_a_job_waits(
    tower: Tower, client: Client, full: Callable[[], None]
) -> None:
    running = client.start("run", "example", *ONE, "-e", tower.name, "-o", client.place / "run")
    wait_for(tower.jobs, 200, "a job")
    found = tower.status()
    job = found["jobs"][0]
    assert (job["state"], job["of_endpoint"]) == ("queued", True)
    assert job["reason"]
    assert found["workers"]["of_running_jobs"] == 0
    assert f"job        {job['id']} queued: {job['reason']}" in tower("status").out
    full()
    client.finish(running, 600)
    complete(client.place / "run")


def test_logs(tower: Tower) -> None:
    said = tower("logs", "--lines", "5").out
    parts = said.split("==> ")[1:]
    names = {part.splitlines()[0].rpartition("/")[2] for part in parts}
    assert {"supervisor.log", "endpoint.log"} <= names
    assert all(1 < len(part.splitlines()) <= 6 for part in parts), said


def test_what_a_dead_endpoint_left_is_shown_and_ended(
    tower: Tower, client: Client, full: Callable[[], None]
) -> None:
    running = client.start("run", "example", *ONE, "-e", tower.name, "-o", client.place / "run")
    wait_for(tower.jobs, 200, "a job")
    before = tower.kill_endpoint()
    left = tower.status()
    assert left["endpoint"]["pid"] is None
    assert left["orphans"]
    assert [job["id"] for job in left["jobs"]] == [job["id"] for job in before["jobs"]]
    ended = tower.status("--end-orphans")
    assert ended["orphans_ended"] == len(ended["orphans"]) > 0
    assert ended["jobs_ended"] == [job["id"] for job in left["jobs"]]
    after = tower.status()
    assert (after["orphans"], after["jobs"]) == ([], [])
    for one in left["orphans"]:
        tower.host.run("test", "-e", f"/proc/{one['pid']}", status=1)
    full()
    tower("deploy")
    client.finish(running, 600)
    complete(client.place / "run")


def test_stop_and_deploy_again(tower: Tower) -> None:
    # An idle child ends a minute after its last fit.
    wait_for(lambda: not any("uep." in line for line in tower.processes()), 200, "no child")
    said = tower("stop").out
    assert " processes and " in said
    assert "users' fits were running" not in said
    found = tower.status()
    assert (found["endpoint"]["pid"], found["endpoint"]["at_boot"]) == (None, "nothing")
    assert (found["children"], found["orphans"], found["jobs"]) == ([], [], [])
    assert tower("status").out.splitlines()[0].endswith("is stopped")
    tower("deploy")
    found = tower.status()
    assert found["endpoint"]["pid"]
    assert found["endpoint"]["at_boot"] == "cron"


def test_a_stop_waits_for_fits_as_long_as_it_is_told_to(
    tower: Tower, client: Client, full: Callable[[], None]
) -> None:
    running = client.start("run", "example", *ONE, "-e", tower.name, "-o", client.place / "run")
    wait_for(tower.jobs, 200, "a job")
    said = tower("stop", "--drain-seconds", "3").out
    assert "users' fits were running: their clients send them again" in said
    assert tower.status()["jobs"] == []
    full()
    tower("deploy")
    client.finish(running, 600)
    complete(client.place / "run")
    # Its child ends by itself, a minute after the last fit.
    assert tower.status()["children"]
    assert "users' fits were running" not in tower("stop", "--drain-seconds", "300").out
