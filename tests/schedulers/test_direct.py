"""A site driven from its login node by an ordinary user, on every scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from schedulerrig.hosts import wait_for
from schedulerrig.pallets import staus
from schedulerrig.users import User, fitted_once, site

if TYPE_CHECKING:
    from schedulerrig.rig import Rig

pytestmark = pytest.mark.schedulers

SCHEDULERS = {"slurm": "login", "torque": "login", "pbspro": "pbs"}


def _staus(user: User) -> str:
    """Return the published pallet, copied into the user's home."""
    name = staus(user.home).name
    user.rig.login.run("chown", "-R", f"{user.name}:", f"/home/{user.name}/{name}")
    return name


def _jobs(rig: Rig, scheduler: str) -> int:
    """Return how many jobs are in the queue or run."""
    if scheduler == "pbspro":
        return len(rig.pbs.run("qstat").stdout.splitlines()[2:])
    return len(rig.slurm.jobs())


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_doctor_then_staus_then_the_example(quiet: Rig, scheduler: str) -> None:
    user = User(quiet, quiet.hosts[SCHEDULERS[scheduler]], "ada")
    name = f"direct-{scheduler}"
    user.render(name, site(scheduler))
    path = f"/home/ada/sites/{name}.yaml"
    examined = user.sitekit("doctor", path, "--direct", "--job-seconds", "60")
    assert "FAILED" not in examined.stdout
    assert "way back: a node reaches this machine" in examined.stdout

    # The kernel is done with it in half a second: cut for more than the workers of one block.
    many = ("--max-task-hypotheses", "4")
    published = user.start(name, "--engine", "kernel", *many, pallet=_staus(user))
    most = 0

    def count() -> bool:
        nonlocal most
        most = max(most, _jobs(quiet, scheduler))
        return published.process.poll() is not None

    wait_for("the end of the run", count, 240)
    saved = published.end()
    fitted_once(saved)
    assert most == 2
    assert {record.worker.host for record in saved.records.values()} <= (
        {"p1", "p2"} if scheduler == "pbspro" else {"c1", "c2"}
    )
    assert "workers on direct-" in published.said
    wait_for("no blocks", lambda: _jobs(quiet, scheduler) == 0, 15)

    example = user.start(name, "--patch", "X_700_*", "--engine", "pyhf")
    fitted_once(example.end())
    left = user.sh("ls ~/.fitserve/run").split()
    assert not [one for one in left if one.startswith("direct-")]


def test_what_a_block_waits_for_is_shown(quiet: Rig, ada: User) -> None:
    ada.render("waits", site("slurm"))
    sbatch = ("sbatch", "--parsable", "--nodes=2", "--exclusive", "--wrap", "sleep 600")
    other = quiet.login.run(*sbatch, user="ben").stdout.strip()
    wait_for("the other's job", lambda: [other, "RUNNING"] in [j[:2] for j in quiet.slurm.jobs()])
    run = ada.start("waits", "--patch", "X_700_*", "--engine", "pyhf")
    run.wait_until_said("queued: ")
    assert "waits: 2 blocks queued: " in run.said
    assert "Resources" in run.said or "Priority" in run.said
    quiet.login.run("scancel", other, user="ben")
    fitted_once(run.end())
    assert "fitting on" in run.said


def test_two_runs_share_a_site(quiet: Rig, ada: User) -> None:
    ada.render("shared", site("slurm"))
    first = ada.start("shared", "--patch", "X_[6789]*", "--engine", "pyhf")
    first.wait_until_done(1)
    assert len(quiet.slurm.jobs("ada")) == 2
    second = ada.start("shared", "--patch", "X_700_*", "--engine", "pyhf")

    def one_each() -> bool:
        assert len(quiet.slurm.jobs("ada")) <= 3
        return second.done() > 0

    wait_for("results of the second run", one_each, 150)
    assert len(quiet.slurm.jobs("ada")) <= 2
    for run in (first, second):
        fitted_once(run.end())
    wait_for("no blocks", lambda: not quiet.slurm.jobs("ada"))


@pytest.mark.parametrize("setting", ["job_history_enable", "first_id_only"])
def test_a_pbs_that_hides_jobs_loses_nothing(rig: Rig, ada_at_pbs: User, setting: str) -> None:
    ada_at_pbs.render("hides", site("pbspro"))
    try:
        rig.set_pbs(**{setting: setting == "first_id_only"})
        run = ada_at_pbs.start("hides", "--patch", "X_700_*", "--engine", "pyhf")
        most = 0

        def count() -> bool:
            nonlocal most
            most = max(most, _jobs(rig, "pbspro"))
            return run.process.poll() is not None

        wait_for("the end of the run", count, 180)
        fitted_once(run.end())
        assert most == 2
    finally:
        rig.set_pbs()
