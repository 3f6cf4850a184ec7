"""Slurm: what sbatch takes, and what squeue says about jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fitserve.schedulers import slurm as client
from sitekit.schedulers.base import BatchScheduler, Job, Question
from sitekit.shell import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sitekit.problems import Problem
    from sitekit.site import Site

__all__ = ["SLURM"]

_FORMAT = "%i|%j|%T|%r|%M|%D|%N"
_WORDS = {"PENDING": "queued", "RUNNING": "running", "COMPLETING": "ending"}


def _jobs(everyone: bool, timeout: int) -> list[Job]:
    whose = [] if everyone else ["--me"]
    done = run("squeue", "--noheader", *whose, f"--format={_FORMAT}", timeout=timeout)
    rows = [line.split("|") for line in done.out.splitlines()]
    return [_job(row) for row in rows if len(row) == _FORMAT.count("|") + 1]


def _job(row: list[str]) -> Job:
    ident, name, state, reason, elapsed, count, nodes = row
    word = _WORDS.get(state, state.lower())
    reason = "" if reason == "None" else reason
    return Job(ident, name, word, reason, elapsed, nodes or count, of_endpoint=False)


def _exclusive(site: Site) -> Iterator[Problem]:
    """Check that the site says whether blocks take whole nodes."""
    if "exclusive" not in site.origin.given.get("scheduler", {}):
        yield site.problem(
            "scheduler.exclusive",
            "expected true or false, whether blocks take whole nodes: Parsl's default is true, "
            "which a shared partition charges in full",
            "exclusive: false",
        )


def _requeue(site: Site) -> Iterator[Problem]:
    """Warn that a block of several nodes is queued again, which Parsl does not see."""
    options = site.scheduler.directives
    if site.blocks.nodes > 1 and not any(one.startswith("--no-requeue") for one in options):
        yield site.problem(
            "scheduler.directives",
            "a block of several nodes that loses one is queued again by Slurm under its old "
            "id, and Parsl never replaces it",
            "directives: [--no-requeue]",
            "warning",
        )


def _partition(_: Mapping[str, Any]) -> str:
    listed = run("sinfo", "--noheader", "--format=%P", timeout=10).out.split()
    return next((name.rstrip("*") for name in listed if name.endswith("*")), "")


SLURM = BatchScheduler(
    client=client.SLURM,
    submit=("sbatch", "--parsable"),
    jobs=_jobs,
    fields=(
        *("account", "partition", "qos", "constraint", "clusters", "exclusive"),
        *("launcher", "directives"),
    ),
    directives={
        "--account": "scheduler.account",
        "-A": "scheduler.account",
        "--partition": "scheduler.partition",
        "-p": "scheduler.partition",
        "--qos": "scheduler.qos",
        "-q": "scheduler.qos",
        "--constraint": "scheduler.constraint",
        "-C": "scheduler.constraint",
        "--time": "blocks.walltime",
        "-t": "blocks.walltime",
        "--nodes": "blocks.nodes",
        "-N": "blocks.nodes",
        "--exclusive": "scheduler.exclusive",
        "--mem": "node.memory_gb",
        "--cpus-per-task": "node.cores",
        "-c": "node.cores",
        "--gpus-per-node": "node.gpus",
        "--gpus": "node.gpus",
        "--gres": "node.gpus",
    },
    rules=(_exclusive, _requeue),
    launchers=("srun", "single-node"),
    launcher_of_many="srun",
    containers=("apptainer", "singularity", "docker", "podman", "podman-hpc", "shifter"),
    gpu_requests=("gpus-per-node", "gres", "gpus", "none"),
    questions=(
        Question("partition", "Slurm partition (empty: the default one)", ("slurm",), _partition),
    ),
    blueprints=("slurm", "slurm-gpu"),
)
