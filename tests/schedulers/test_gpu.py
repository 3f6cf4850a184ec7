"""A site with GPUs: Slurm counts and hands out two pretended ones on each node."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from schedulerrig.hosts import wait_for
from schedulerrig.users import User, fitted_once, site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schedulerrig.hosts import Host
    from schedulerrig.rig import Rig

pytestmark = pytest.mark.schedulers

FEW = ("--patch", "X_[678]00_*", "--engine", "pyhf", "--max-task-hypotheses", "1")
# One line for each GPU that the job was given, in nvidia-smi's words.
DRIVER = """\
#!/bin/sh
for gpu in $(echo "$CUDA_VISIBLE_DEVICES" | tr , ' '); do echo "Pretended, {driver}"; done
"""


def _site(gpus: int, blocks: int, request: str = "gres") -> dict[str, Any]:
    fields = site(
        "slurm",
        scheduler={"partition": "gpu"},
        blocks={"max": blocks},
        # Less than half of a node's memory, so that two blocks fit.
        node={
            "cores": gpus,
            "memory_gb": 1,
            "gpus": {"count": gpus, "kind": "pretended", "request": request},
        },
        workers={"device": "cuda12", "memory_gb": 0.5},
        # There is none to compute on, and JAX would stop.
        environment={"variables": {"JAX_PLATFORMS": "cpu"}},
    )
    return {**fields, "extends": "slurm-gpu"}


@pytest.fixture
def nodes(quiet: Rig) -> list[Host]:
    return [quiet.hosts["c1"], quiet.hosts["c2"]]


@pytest.fixture
def driver(nodes: list[Host]) -> Iterator[None]:
    """Give the nodes a driver, by the program that tells of it."""
    path = "/usr/local/bin/nvidia-smi"
    for node in nodes:
        node.run("tee", path, stdin=DRIVER.format(driver="550.54.15"))
        node.run("chmod", "755", path)
    yield
    for node in nodes:
        node.run("rm", path)


def _examined(user: User, name: str, status: int = 0) -> str:
    path = f"/home/ada/sites/{name}.yaml"
    done = user.sitekit("doctor", path, "--direct", "--job-seconds", "60", status=status)
    return " ".join(done.stdout.split())


def _environments(nodes: list[Host]) -> list[dict[str, str]]:
    """Return the environment of each pool of workers, with its node as ``host``."""
    script = 'for pid in $(pgrep -u ada -f "^[^ ]*python.*process_worker_pool"); do '
    script += "tr '\\0' '\\n' < /proc/$pid/environ | grep -a '^[A-Z_0-9]*=' && echo; done"
    found = []
    for node in nodes:
        told = node.run("bash", "-c", script, status=None).stdout
        for part in told.split("\n\n"):
            pairs = dict(line.split("=", 1) for line in part.splitlines() if "=" in line)
            if "SLURM_JOB_ID" in pairs:
                found.append({"host": node.name, **pairs})
    return found


def test_the_doctor_counts_the_gpus_of_a_job(ada: User, driver: None) -> None:
    ada.render("gpus", _site(gpus=2, blocks=1))
    said = _examined(ada, "gpus")
    assert "FAILED" not in said
    assert "GPUs: 2 x Pretended, driver 550.54.15" in said


def test_the_doctor_misses_a_driver(ada: User) -> None:
    """The job was given its GPUs, and nothing on the node can use them."""
    ada.render("gpus", _site(gpus=2, blocks=1))
    said = _examined(ada, "gpus", status=5)
    assert "FAILED GPUs: the job sees 0 GPUs, 2 are asked for" in said
    assert "CUDA_VISIBLE_DEVICES=0,1" in said


@pytest.mark.parametrize("asked", ["gres", "gpus-per-node", "gpus"])
def test_workers_of_a_block_have_a_gpu_each(
    quiet: Rig, ada: User, nodes: list[Host], asked: str
) -> None:
    ada.render("gpus", _site(gpus=2, blocks=1, request=asked))
    run = ada.start("gpus", *FEW)
    run.wait_until_done(1)
    [job] = quiet.slurm.jobs("ada")
    shown = quiet.slurm.control("show", "job", job[0])
    assert "Partition=gpu" in shown
    assert re.search(r"(Tres\w*|JobTRES|Gres)\S*=\S*gpu[:=]2", shown, re.IGNORECASE), shown
    [pool] = _environments(nodes)
    assert pool["CUDA_VISIBLE_DEVICES"] == "0,1"
    logs = ada.sh("grep -rh 'Pinned worker to accelerator' ~/.fitserve/run/direct-*")
    assert sorted(re.findall(r"accelerator: (\S+)", logs)) == ["0", "1"]
    fitted_once(run.end())


def test_blocks_on_one_node_have_a_gpu_each(quiet: Rig, ada: User, nodes: list[Host]) -> None:
    ada.render("gpu", _site(gpus=1, blocks=2))
    # The other node is taken, so that both blocks come to one.
    taken = ("sbatch", "--parsable", "--exclusive", "--nodelist=c2", "--wrap", "sleep 600")
    other = quiet.login.run(*taken, user="ben").stdout.strip()
    wait_for("the other's job", lambda: [other, "RUNNING"] in [j[:2] for j in quiet.slurm.jobs()])
    run = ada.start("gpu", *FEW)
    pools = wait_for(
        "two pools", lambda: (found := _environments(nodes)) and len(found) == 2 and found, 120
    )
    assert {pool["host"] for pool in pools} == {"c1"}
    assert {pool["CUDA_VISIBLE_DEVICES"] for pool in pools} == {"0", "1"}
    assert all(pool["FITSERVE_GPU_0"] == pool["CUDA_VISIBLE_DEVICES"] for pool in pools)
    fitted_once(run.end())
