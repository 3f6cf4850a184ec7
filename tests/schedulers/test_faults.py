"""What goes wrong on a cluster: nothing is lost, and the user is told what to do."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from schedulerrig.hosts import sh, wait_for
from schedulerrig.users import User, fitted_once, lost, site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schedulerrig.rig import Rig
    from schedulerrig.users import Running

pytestmark = pytest.mark.schedulers

# Some of the example's hypotheses, a second each with pyhf.
FEW = ("--patch", "X_[678]00_*", "--engine", "pyhf", "--max-task-hypotheses", "1")
WORKERS = ("-f", "spawn_main|HTEX-Worker", "-u", "ada")
ONE_BLOCK = {"max": 1, "walltime": "00:10:00", "idle_seconds": 10, "strategy_seconds": 2}


def _block_on(rig: Rig, node: str) -> str:
    """Return the block of ada's that runs on a node."""

    def found() -> str | None:
        jobs = rig.slurm.jobs("ada", form="%i %T %N")
        return next(
            (job for job, state, where in jobs if [state, where] == ["RUNNING", node]), None
        )

    return str(wait_for(f"a block on {node}", found, 60))


def _refused(run: Running, status: int = 5) -> str:
    """Return what a run says that cannot go on."""
    assert run.process.wait(180) == status, run.said
    assert "next: " in run.said
    assert "Traceback" not in run.said
    assert "fitserve resume" in run.said
    return f"\n{run.said}".partition("\nerror: ")[2]


@pytest.fixture(scope="module")
def far(rig: Rig) -> None:
    """Give the login node an interface to a network that nodes do not reach."""
    for words in (
        "link add far0 type veth peer name far1",
        "addr add 10.79.0.1/24 dev far0",
        "link set far0 up",
        "link set far1 up",
    ):
        rig.login.run("ip", *words.split())


@pytest.fixture
def two_blocks(quiet: Rig, ada: User) -> User:
    ada.render("faults", site("slurm"))
    return ada


def test_scancel_of_a_block(quiet: Rig, two_blocks: User) -> None:
    run = two_blocks.start("faults", *FEW)
    run.wait_until_done(2)
    job = _block_on(quiet, "c2")
    quiet.login.run("scancel", job, user="ada")
    saved = run.end()
    fitted_once(saved)
    assert any(f"job {job} on c2) was cancelled" in reason for reason in lost(saved))
    assert "(sending it again)" in run.said


def test_a_node_dies(quiet: Rig, two_blocks: User) -> None:
    run = two_blocks.start("faults", *FEW)
    run.wait_until_done(2)
    job = _block_on(quiet, "c2")
    try:
        quiet.hosts["c2"].kill()
        saved = run.end()
    finally:
        quiet.restart_node(quiet.hosts["c2"])
        wait_for("both nodes", lambda: quiet.slurm.idle() == 2, 60)
    fitted_once(saved)
    told = lost(saved)
    assert told
    # Its silence is noticed a little before Slurm notices it.
    assert all(f"job {job}" in reason and "c2" in reason for reason in told)


def test_slurmctld_restarts(quiet: Rig, two_blocks: User) -> None:
    run = two_blocks.start("faults", *FEW)
    run.wait_until_done(2)
    nodes = [quiet.hosts[name] for name in ("c1", "c2")]
    quiet.slurm.stop_controller()
    try:
        # The run would be over before the scheduler is asked again.
        for node in nodes:
            node.run("pkill", "-STOP", *WORKERS, status=None)
        run.wait_until_said("the scheduler does not answer", 90)
        before = run.done()
        for node in nodes:
            node.run("pkill", "-CONT", *WORKERS, status=None)
        run.wait_until_done(before + 1)
    finally:
        quiet.slurm.start_controller()
    saved = run.end()
    fitted_once(saved)
    assert not lost(saved)
    wait_for("no blocks", lambda: not quiet.slurm.jobs("ada"), 60)


def test_the_time_limit_ends_in_the_middle_of_a_task(quiet: Rig, ada: User) -> None:
    """Its worker hangs, which no drain period can foresee."""
    ada.render("ends", site("slurm", blocks=ONE_BLOCK))
    run = ada.start("ends", *FEW)
    run.wait_until_done(1)
    job = _block_on(quiet, "c1")
    quiet.hosts["c1"].run("pkill", "-STOP", *WORKERS)
    quiet.slurm.control("update", f"JobId={job}", "TimeLimit=1")
    saved = run.end()
    fitted_once(saved)
    told = lost(saved)
    limit = "reached its time limit (00:10:00) before the task was done"
    assert told
    assert set(told) == {f"its block (job {job} on c1) {limit}"}


def test_a_full_queue_is_waited_for(quiet: Rig, rig: Rig) -> None:
    cleo = User(rig, rig.login, "cleo")
    cleo.render("narrow", site("slurm", scheduler={"account": "narrow"}))
    sleep = ("sbatch", "--parsable", "--account=narrow", "--wrap", "sleep 600")
    other = rig.login.run(*sleep, user="cleo").stdout.strip()
    run = cleo.start("narrow", "--patch", "X_700_*", "--engine", "pyhf")
    run.wait_until_said("another is refused: ")
    assert "asking again" in run.said
    rig.login.run("scancel", other, user="cleo")
    saved = run.end()
    fitted_once(saved)
    assert {record.worker.host for record in saved.records.values()} == {"c1"}


@pytest.mark.parametrize(
    ("name", "changes", "user", "cause", "seen", "hint"),
    [
        (
            "account",
            {"scheduler": {"account": "nobodys"}},
            "ada",
            "takes no block",
            "Invalid account",
            "scheduler.account",
        ),
        (
            "partition",
            {"scheduler": {"partition": "nowhere"}},
            "ada",
            "takes no block",
            "invalid partition",
            "scheduler.partition",
        ),
        (
            "hours",
            {"scheduler": {"account": "spent"}},
            "cleo",
            "will never run",
            "MinutesLimit",
            "another account",
        ),
        (
            "limit",
            {"scheduler": {"partition": "short"}},
            "ada",
            "will never run",
            "PartitionTimeLimit",
            "blocks.walltime",
        ),
        (
            "image",
            {"environment": {"container": {"image": "/srv/none.sif"}, "venv": None}},
            "ada",
            "end before a worker is there",
            "no image /srv/none.sif",
            "site's file",
        ),
        (
            "unreached",
            {"network": {"interface": "far0"}},
            "ada",
            "end before a worker is there",
            "No viable ZMQ url from: tcp://10.79.0.1",
            "network.interface",
        ),
        (
            "address",
            {"network": {"interface": None, "address": "192.0.2.1"}},
            "ada",
            "an address that this machine does not have",
            "192.0.2.1",
            "change network",
        ),
        (
            "interface",
            {"network": {"interface": "ib0"}},
            "ada",
            "no address for the workers",
            "ib0",
            "network.interface",
        ),
    ],
)
def test_a_site_that_cannot_work_says_why(
    quiet: Rig, far: None, name: str, changes: dict[str, dict[str, object]], user: str, cause: str,
    seen: str, hint: str,
) -> None:  # fmt: skip
    who = User(quiet, quiet.login, user)
    who.render(name, site("slurm", **changes))
    before = len(quiet.slurm.control("show", "jobs", "--oneliner").splitlines())
    run = who.start(name, *FEW)
    said = _refused(run)
    told, _, rest = said.partition("seen: ")
    evidence, _, advice = rest.partition("next: ")
    assert cause in told
    assert seen in evidence
    assert hint in advice
    after = len(quiet.slurm.control("show", "jobs", "--oneliner").splitlines())
    assert after - before <= 6
    wait_for("no blocks", lambda: not quiet.slurm.jobs(user), 30)


def test_a_bad_node_is_left_out(quiet: Rig, ada: User) -> None:
    """The environment is missing on c1, which is free first."""
    ada.render("bad", site("slurm", blocks=ONE_BLOCK, environment={"venv": "/tmp/venv"}))  # noqa: S108
    quiet.hosts["c2"].run("ln", "-s", "/srv/venv", "/tmp/venv")  # noqa: S108
    run = ada.start("bad", "--patch", "X_700_*", "--engine", "pyhf")
    saved = run.end()
    fitted_once(saved)
    assert {record.worker.host for record in saved.records.values()} == {"c2"}


@pytest.fixture
def small(rig: Rig) -> Iterator[str]:
    """Return a directory with hardly any room."""
    rig.login.run("mkdir", "-p", "/home/ada/small", user="ada")
    rig.login.run("mount", "-t", "tmpfs", "-o", "size=200k,mode=0777", "tmpfs", "/home/ada/small")
    try:
        yield "small"
    finally:
        rig.login.run("umount", "/home/ada/small")


def _says_that_it_cannot_use(quiet: Rig, ada: User, place: str, *words: str) -> None:
    """Run where the run directory is in a place without room, which the client says in words."""
    ada.render("cramped", site("slurm", directories={"run": f"~/{place}/run"}))
    run = ada.start("cramped", *FEW)
    assert run.process.wait(60) == 5
    for part in ("the run directory of site cramped cannot be used", *words):
        assert part in run.said
    assert not quiet.slurm.jobs("ada")


def test_a_full_disk(quiet: Rig, ada: User, small: str) -> None:
    _says_that_it_cannot_use(quiet, ada, small, "No space left on device", "directories.run")


@pytest.fixture
def shared_disk(rig: Rig) -> Iterator[str]:
    """Return a directory with some room, on a disk of its own that nodes see too."""
    place = "/home/ada/shared"
    image = rig.directory / "shared.img"
    with image.open("wb") as stream:
        stream.truncate(16 * 1024**2)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True, capture_output=True)
    device = sh("losetup", "--find", "--show", image).strip()
    hosts = [rig.login, *(rig.hosts[name] for name in ("c1", "c2"))]
    rig.login.run("mkdir", "-p", place, user="ada")
    try:
        for host in hosts:
            host.run("mount", device, place)
        rig.login.run("chown", "ada:", place)
        yield "shared"
    finally:
        for host in hosts:
            host.run("umount", "--lazy", place, status=None)
        sh("losetup", "--detach", device)


def _fill(user: User, disk: str) -> None:
    fill = f"cat /dev/zero >> ~/{disk}/filled"
    last = f"while head -c 1024 /dev/zero >> ~/{disk}/filled; do :; done; exit 1"
    # Its file system finds some more room once it has really written.
    user.sh(f"{fill}; sync; {fill}; sync; {last}", status=1)


def _goes_on_once_there_is_room(ada: User, run: Running, disk: str) -> None:
    """Resume a run that a full disk has stopped: what was fitted is not fitted again."""
    ada.sh(f"rm ~/{disk}/filled")
    before = set(run.saved.records)
    sent = len(run.saved.events())
    ada.host.run("/srv/venv/bin/fitserve", "resume", run.name, user="ada", timeout=240)
    fitted = [
        name
        for event in run.saved.events()[sent:]
        if event.event == "submitted"
        for name in event.details["hypotheses"]
    ]
    assert not before & set(fitted)
    assert len(run.saved.records) == len(run.saved.manifest.hypotheses)


def test_the_sites_disk_fills_up_in_a_run(quiet: Rig, ada: User, shared_disk: str) -> None:
    """There is no room for the script of another block when the first is cancelled."""
    ada.render("filling", site("slurm", directories={"run": "~/shared/run"}, blocks=ONE_BLOCK))
    run = ada.start("filling", *FEW)
    run.wait_until_done(2)
    job = _block_on(quiet, "c1")
    quiet.hosts["c1"].run("pkill", "-STOP", *WORKERS)  # before all is done
    _fill(ada, shared_disk)
    quiet.login.run("scancel", job, user="ada")
    said = _refused(run)
    assert "No space left on device" in said
    assert "make room" in said
    assert "Logging error" not in run.said
    wait_for("no blocks", lambda: not quiet.slurm.jobs("ada"), 30)
    _goes_on_once_there_is_room(ada, run, shared_disk)


def test_the_disk_of_results_fills_up_in_a_run(
    quiet: Rig, two_blocks: User, shared_disk: str
) -> None:
    run = two_blocks.start("faults", *FEW, place=shared_disk)
    run.wait_until_done(2)
    nodes = [quiet.hosts[name] for name in ("c1", "c2")]
    for node in nodes:
        node.run("pkill", "-STOP", *WORKERS, status=None)
    _fill(two_blocks, shared_disk)
    for node in nodes:
        node.run("pkill", "-CONT", *WORKERS, status=None)
    said = _refused(run, 6)
    assert "No space left on device" in said
    wait_for("no blocks", lambda: not quiet.slurm.jobs("ada"), 30)
    _goes_on_once_there_is_room(two_blocks, run, shared_disk)


@pytest.fixture
def quota(rig: Rig) -> Iterator[str]:
    """Return a directory in which ada may have hardly anything more: a quota of Btrfs."""
    image = rig.directory / "quota.img"
    with image.open("wb") as stream:
        stream.truncate(128 * 1024**2)
    subprocess.run(["mkfs.btrfs", "-q", str(image)], check=True, capture_output=True)
    place = "/home/ada/quota"
    rig.login.run("mkdir", "-p", place, user="ada")
    rig.login.run("mount", "-o", "loop", "/srv/quota.img", place)
    try:
        for words in ("quota enable .", "subvolume create hers", "qgroup limit 300k hers"):
            rig.login.run("btrfs", *words.split(), cwd=place)
        rig.login.run("chown", "ada:", f"{place}/hers")
        yield "quota/hers"
    finally:
        rig.login.run("umount", place)


def test_a_user_over_quota(quiet: Rig, ada: User, quota: str) -> None:
    _says_that_it_cannot_use(quiet, ada, quota, "Disk quota exceeded", "`quota`")


def test_a_client_that_is_killed_leaves_no_block(quiet: Rig, two_blocks: User) -> None:
    run = two_blocks.start("faults", *FEW)
    run.wait_until_done(1)
    assert quiet.slurm.jobs("ada")
    quiet.login.run("pkill", "-KILL", "-u", "ada", "-f", "fitserve run")
    run.process.wait(30)
    wait_for("no blocks", lambda: not quiet.slurm.jobs("ada"), 30)
    left = quiet.login.run("pgrep", "-u", "ada", "-f", "interchange", status=None).stdout
    assert not left
    finished = run.done()
    resumed = two_blocks.host.run(
        "/srv/venv/bin/fitserve", "resume", run.name, user="ada", timeout=240
    )
    assert f"{len(run.saved.manifest.hypotheses)} of" in resumed.stderr
    fitted = [event.details for event in run.saved.events() if event.event == "finished"]
    assert len(fitted) >= finished
    assert len(run.saved.records) == len(run.saved.manifest.hypotheses)


def test_an_interrupted_run_gives_its_blocks_back(quiet: Rig, two_blocks: User) -> None:
    run = two_blocks.start("faults", *FEW)
    run.wait_until_done(1)
    # As a terminal does, to all that is in the client's group, and to what has left it.
    quiet.login.run("pkill", "-INT", "-u", "ada", "-f", "fitserve run|interchange")
    assert run.process.wait(10) == 130
    assert "Traceback" not in run.said
    wait_for("no blocks", lambda: not quiet.slurm.jobs("ada"), 5)


def test_an_interchange_that_is_killed_ends_the_run(quiet: Rig, two_blocks: User) -> None:
    run = two_blocks.start("faults", *FEW)
    run.wait_until_done(1)
    quiet.login.run("pkill", "-KILL", "-u", "ada", "-f", "interchange")
    said = _refused(run)
    assert "the engine of site faults broke" in said
    assert "its interchange has ended (killed by signal 9)" in said
    wait_for("no blocks", lambda: not quiet.slurm.jobs("ada"), 15)
    left = two_blocks.sh("ls ~/.fitserve/run").split()
    assert not [one for one in left if one.startswith("direct-")]
