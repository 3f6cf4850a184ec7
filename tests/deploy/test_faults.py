"""What breaks below a run through a deployed endpoint on Slurm, and what its user sees.

Nothing is lost, and nothing is fitted twice unless its result was lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deployrig.tower import VENV
from fitserve.runs.store import read_run
from globusrig.client import Client, complete, wait_for_events
from globusrig.rig import wait_for
from schedulerrig.users import fitted_once, lost

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from deployrig.tower import Tower
    from deployrig.tunnel import Tunnels
    from schedulerrig.hosts import Host
    from schedulerrig.rig import Rig

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(900)]

WORKERS = ("-f", "spawn_main|HTEX-Worker", "-u", "ada")
# A second each with pyhf, on one block at a time.
FEW = ("--patch", "X_[678]00_*", "--engine", "pyhf", "--max-task-hypotheses", "1")
OPTIONS = ("--refit", "--set", "max_blocks=1")


class Run:
    """A run through the endpoint that goes on."""

    def __init__(self, tower: Tower, client: Client) -> None:
        self.tower = tower
        self.client = client
        self.place = client.place / "run"
        self.process = self._start("run", "example", *FEW, *OPTIONS, "-e", tower.name)

    def _start(self, *words: object) -> subprocess.Popen[str]:
        return self.client.start(*words, "-o", self.place)

    def block(self) -> tuple[str, Host]:
        """Return the running block and its node, once results come from it."""
        wait_for_events(self.place, "finished", 2, 400)
        running = [
            (job, where)
            for job, state, where in self.tower.rig.slurm.jobs("ada", form="%i %T %N")
            if state == "RUNNING"
        ]
        [(job, where)] = running
        return job, self.tower.rig.hosts[where]

    def end(self) -> str:
        """Wait for its end; nothing is missing or was done twice. Returns what it said."""
        output = self.client.finish(self.process, 600)
        complete(self.place)
        fitted_once(read_run(self.place))
        return " ".join(output.split())

    def lost(self) -> set[str]:
        return set(lost(read_run(self.place)))


@pytest.fixture(scope="module")
def tower(tower: Tower) -> Iterator[Tower]:
    tower.give_credentials()
    tower("deploy")
    yield tower
    tower("destroy", "--yes")


@pytest.fixture
def client(tower: Tower, client: Client) -> Iterator[Client]:
    # A block of what was before, such as the smoke test, may still be there.
    tower.rig.slurm.cancel_all()
    yield client
    client.close()
    tower.rig.slurm.cancel_all()


@pytest.fixture
def run(tower: Tower, client: Client) -> Run:
    return Run(tower, client)


def test_a_block_is_cancelled(rig: Rig, run: Run) -> None:
    """The endpoint has its tasks done by another block: the user sees new workers start."""
    job, node = run.block()
    node.run("pkill", "-STOP", *WORKERS)  # in the middle of their tasks
    rig.login.run("scancel", job, user="ada")
    run.end()
    assert run.lost() == set()


def test_a_node_dies(rig: Rig, run: Run) -> None:
    _, node = run.block()
    node.run("pkill", "-STOP", *WORKERS)
    node.kill()
    try:
        run.end()
    finally:
        rig.restart_node(node)
        wait_for(lambda: rig.slurm.idle() >= 1, 60, "a node")
    assert run.lost() == set()
    hosts = {record.worker.host for record in read_run(run.place).records.values()}
    assert hosts == {"c1", "c2"}


def test_the_time_limit_ends_in_the_middle_of_a_task(rig: Rig, run: Run) -> None:
    """Its worker hangs, which no drain period can foresee."""
    job, node = run.block()
    node.run("pkill", "-STOP", *WORKERS)
    rig.slurm.control("update", f"JobId={job}", "TimeLimit=1")
    run.end()
    assert run.lost() == set()
    assert "TIMEOUT" in rig.slurm.control("show", "job", job)


def test_all_of_the_endpoint_is_killed(tower: Tower, run: Run) -> None:
    """As by the kernel out of memory: what it left is ended, and it is deployed again."""
    job, node = run.block()
    node.run("pkill", "-STOP", *WORKERS)  # in the middle of their tasks
    before = tower.kill_endpoint()
    ended = tower.status("--end-orphans")
    assert ended["orphans_ended"] > 0
    assert ended["jobs_ended"] == [job]
    tower("deploy")
    assert tower.status()["endpoint"]["id"] == before["endpoint"]["id"]
    run.end()
    assert run.lost() == {f"your endpoint on {tower.name} has ended"}


def test_no_block_finds_the_environment(tower: Tower, client: Client) -> None:
    """The user is told what the nodes said, and goes on where they were once it is there."""
    release = tower.host.run("readlink", "-f", f"/home/ada/{VENV[2:]}").stdout.strip()
    nodes = [tower.rig.hosts[name] for name in ("c1", "c2")]
    for node in nodes:
        node.run("mount", "-t", "tmpfs", "tmpfs", release)
    place = client.place / "run"
    try:
        words = ("run", "example", *FEW, *OPTIONS, "-e", tower.name, "-o", place)
        said = " ".join(client(*words, status=5, timeout=600).stderr.split())
    finally:
        for node in nodes:
            node.run("umount", release)
    told, _, rest = said.partition(" seen: ")
    evidence, _, advice = rest.partition(" next: ")
    assert "blocks of workers end on the site before a worker has reported" in told
    assert f"no virtual environment in {release}" in evidence
    assert "administrator" in advice
    client("resume", place, timeout=600)
    complete(place)


def test_the_login_node_is_rebooted(tower: Tower, run: Run, tunnels: Tunnels) -> None:
    """Nobody does anything: cron starts the endpoint, and the client sends again what it had."""
    _, node = run.block()
    node.run("pkill", "-STOP", *WORKERS)  # in the middle of their tasks
    before = tower.status()["endpoint"]["id"]
    tower.host.kill()
    tower.rig.restart_login(tower.host)
    tunnels.open(tower.host)
    said = run.end()
    assert f"your endpoint on {tower.name} has ended (sending it again)" in said
    assert run.lost() == {f"your endpoint on {tower.name} has ended"}
    after = tower.status()
    assert after["endpoint"]["id"] == before
    assert after["orphans"] == []
