"""PBS Pro, OpenPBS and Torque: what qsub takes, and what qstat says about jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitserve.schedulers import pbs as client
from sitekit.schedulers.base import BatchScheduler, Job, Question
from sitekit.shell import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sitekit.problems import Problem
    from sitekit.site import Site

__all__ = ["PBSPRO", "TORQUE"]

_WORDS = {"Q": "queued", "H": "held", "W": "queued", "R": "running", "E": "ending"}
_ENDED = {"C", "F"}
_DIRECTIVES = {
    "-A": "scheduler.account",
    "-q": "scheduler.queue",
    "-l walltime": "blocks.walltime",
    "-l select": "scheduler.select",
    "-l nodes": "blocks.nodes",
    "-l mem": "node.memory_gb",
}
_QUEUES = {"pbspro": "workq", "torque": "batch"}
_QUESTIONS = (Question("queue", "Queue", tuple(_QUEUES), lambda a: _QUEUES[a["scheduler"]]),)


def _jobs(_everyone: bool, timeout: int) -> list[Job]:
    """Read `qstat -f`, which every PBS has: in its tables names are cut short.

    It shows the jobs of all users.
    """
    done = run("qstat", "-f", timeout=timeout)
    jobs = []
    for ident, fields in client.read_qstat(done.out).items():
        state = fields.get("job_state", "")
        if state in _ENDED:
            continue
        jobs.append(
            Job(
                ident,
                fields.get("Job_Name", ""),
                _WORDS.get(state, state),
                fields.get("comment", ""),
                fields.get("resources_used.walltime", ""),
                fields.get("exec_host", ""),
                of_endpoint=False,
            )
        )
    return jobs


def _share(site: Site) -> Iterator[Problem]:
    """Warn that Parsl asks Torque for one core of each node, whatever the site says."""
    if (site.node.cores or 1) == 1:
        return
    options = site.scheduler.directives
    if not any("naccesspolicy" in option or option == "-n" for option in options):
        yield site.problem(
            "scheduler.directives",
            "Parsl asks Torque for ppn=1: where nodes are shared, a block gets one core",
            "directives: [-l naccesspolicy=singlejob]",
            "warning",
        )


PBSPRO = BatchScheduler(
    client=client.PBSPRO,
    submit=("qsub",),
    jobs=_jobs,
    output_at_home=True,
    fields=("account", "queue", "select", "launcher", "directives"),
    directives=_DIRECTIVES,
    launchers=("mpiexec", "mpirun", "single-node"),
    launcher_of_many="mpiexec",
    containers=("apptainer", "singularity", "docker", "podman", "podman-hpc", "shifter"),
    gpu_requests=("ngpus", "none"),
    questions=_QUESTIONS,
    blueprints=("pbspro",),
)
TORQUE = BatchScheduler(
    client=client.TORQUE,
    submit=("qsub",),
    jobs=_jobs,
    output_at_home=True,
    fields=("account", "queue", "launcher", "directives"),
    directives=_DIRECTIVES,
    rules=(_share,),
    launchers=("single-node", "aprun", "mpiexec", "mpirun", "srun"),
    launcher_of_many="mpiexec",
    containers=("apptainer", "singularity", "shifter"),
    gpu_requests=("none",),
    questions=_QUESTIONS,
    blueprints=("torque",),
)
