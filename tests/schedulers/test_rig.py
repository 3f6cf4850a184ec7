"""The rig is what it is said to be, and leaves nothing behind."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from schedulerrig.hosts import alive, wait_for
from schedulerrig.rig import Rig, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.schedulers


def _ended(rig: Rig, job: str) -> bool:
    return job not in {found[0] for found in rig.slurm.jobs()}


@pytest.fixture
def quiet(rig: Rig) -> Iterator[Rig]:
    yield rig
    rig.slurm.cancel_all()


def test_jobs_run_on_nodes_as_the_user_who_submitted_them(quiet: Rig) -> None:
    sbatch = ("sbatch", "--parsable", "--output=%j.out", "--nodes=2", "--wrap")
    submitted = quiet.login.run(*sbatch, "srun hostname; id -un", user="ada")
    job = submitted.stdout.strip()
    wait_for("the job", lambda: _ended(quiet, job))
    told = quiet.login.run("cat", f"{job}.out", user="ada").stdout.split()
    assert sorted(told) == ["ada", "c1", "c2"]
    accounts = ("sacct", "-X", "-n", "-j", job, "-o", "state,account")

    # slurmctld tells the database when it finds the time, which is after the queue is empty.
    def accounted() -> bool:
        return quiet.login.run(*accounts, user="ada").stdout.split() == ["COMPLETED", "physics"]

    wait_for("the job's account", accounted)


def test_a_gpu_is_asked_for(quiet: Rig) -> None:
    srun = ("srun", "--partition=gpu", "--gres=gpu:1", "printenv", "CUDA_VISIBLE_DEVICES")
    assert quiet.login.run(*srun, user="ada").stdout == "0\n"


def test_the_login_node_is_reached_by_ssh_as_a_user_and_as_root(rig: Rig) -> None:
    for user in ("ada", "root"):
        ssh = ("ssh", "-F", str(rig.ssh_config), "-l", user, "login", "hostname; id -un; pwd")
        done = subprocess.run(ssh, capture_output=True, text=True, check=True, timeout=20)
        home = "/root" if user == "root" else f"/home/{user}"
        assert done.stdout.split() == ["login", user, home]
    assert not list(Path("/root").glob("only-there"))
    rig.login.run("touch", "/root/only-there", "/etc/only-there", "/usr/local/only-there")
    for place in ("/root", "/etc", "/usr/local"):
        assert not Path(place, "only-there").exists()


def test_a_user_runs_fitserve_there(rig: Rig) -> None:
    done = rig.login.run("/srv/venv/bin/fitserve", "--version", user="ada")
    assert "fitserve" in done.stdout
    assert rig.login.run("ls", "/root", user="ada", status=2).stdout == ""


def test_nothing_is_left() -> None:
    absent = missing()
    if absent:
        pytest.skip(absent)
    rig = Rig.new()
    try:
        rig.up()
        pids = [host.pid for host in rig.hosts.values()]
        head = rig.hosts["head"]
        inside = head.run("pgrep", "-c", "slurmctld|mariadbd|slurmdbd|munged").stdout
        assert int(inside) >= 4
    finally:
        rig.down()
    assert not any(alive(pid) for pid in pids)
    assert not rig.directory.exists()
    assert not Path("/sys/class/net", rig.switch.outside).exists()
    assert str(rig.directory) not in Path("/proc/mounts").read_text()
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with command.open("rb") as stream:
            assert str(rig.directory).encode() not in stream.read()
