"""Rules of the scheduler's own fields and of its launcher."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sitekit.fields import BATCH, PBS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sitekit.problems import Problem
    from sitekit.site import Site

__all__ = ["RULES"]

_APPLIES = {
    "account": BATCH,
    "partition": ("slurm",),
    "queue": PBS,
    "qos": ("slurm",),
    "constraint": ("slurm",),
    "clusters": ("slurm",),
    "exclusive": ("slurm",),
    "launcher": BATCH,
    "select": ("pbspro",),
    "directives": BATCH,
}
"""Which schedulers know which field of `scheduler`."""

_LAUNCHERS = {
    "slurm": ("srun", "single-node"),
    "pbspro": ("mpiexec", "mpirun", "single-node"),
    "torque": ("single-node", "aprun", "mpiexec", "mpirun", "srun"),
}
# Options that have a field of their own: given twice, the scheduler takes either.
_SLURM_OPTIONS = {
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
}
_PBS_OPTIONS = {
    "-A": "scheduler.account",
    "-q": "scheduler.queue",
    "-l walltime": "blocks.walltime",
    "-l select": "scheduler.select",
    "-l nodes": "blocks.nodes",
    "-l mem": "node.memory_gb",
}
_OWN_FIELDS = {"slurm": _SLURM_OPTIONS, "pbspro": _PBS_OPTIONS, "torque": _PBS_OPTIONS}
_OWN_RESOURCES = {"ncpus": "node.cores", "ngpus": "node.gpus", "mem": "node.memory_gb"}


def scheduler_fields(site: Site) -> Iterator[Problem]:
    """Check that the scheduler knows its fields: others would be dropped silently."""
    kind = site.scheduler.type
    given = site.origin.given.get("scheduler", {})
    for name, known in _APPLIES.items():
        if name in given and kind not in known:
            instead = {"partition": "queue: ...", "queue": "partition: ..."}.get(name, "nothing")
            yield site.problem(
                f"scheduler.{name}",
                f"{kind} has no such thing; it is for {', '.join(known)}",
                instead,
            )
    if kind == "slurm" and "exclusive" not in given:
        yield site.problem(
            "scheduler.exclusive",
            "expected to be told whether blocks take whole nodes: Parsl's default is true, which "
            "a shared partition charges in full",
            "exclusive: false",
        )
    yield from _said_twice(site, kind)
    if kind == "slurm" and site.blocks.nodes > 1:
        options = site.scheduler.directives
        if not any(option.startswith("--no-requeue") for option in options):
            yield site.problem(
                "scheduler.directives",
                "a block of several nodes that loses one is queued again by Slurm under its old "
                "id, and Parsl never replaces it",
                "directives: [--no-requeue]",
                "warning",
            )


def _said_twice(site: Site, kind: str) -> Iterator[Problem]:
    own = _OWN_FIELDS.get(kind, {})
    for index, option in enumerate(site.scheduler.directives):
        # `--name=value` and `-x value`, but also `-l resource=value`.
        names = {re.split(r"[= ]", option, maxsplit=1)[0], option.split("=", maxsplit=1)[0]}
        for name in sorted(names & set(own)):
            yield site.problem(
                f"scheduler.directives.{index}", f"expected {name} in its own field", own[name]
            )
    for index, resource in enumerate(site.scheduler.select):
        name = resource.partition("=")[0]
        if name in _OWN_RESOURCES:
            yield site.problem(
                f"scheduler.select.{index}",
                f"expected {name} in its own field",
                _OWN_RESOURCES[name],
            )


def torque_share(site: Site) -> Iterator[Problem]:
    """Warn that Parsl asks Torque for one core of each node, whatever the site says."""
    if site.scheduler.type != "torque" or (site.node.cores or 1) == 1:
        return
    options = site.scheduler.directives
    if not any("naccesspolicy" in option or option == "-n" for option in options):
        yield site.problem(
            "scheduler.directives",
            "Parsl asks Torque for ppn=1: where nodes are shared, a block gets one core",
            "directives: [-l naccesspolicy=singlejob]",
            "warning",
        )


def launcher(site: Site) -> Iterator[Problem]:
    """Check that the launcher is one that the scheduler has, and reaches every node of a block."""
    kind = site.scheduler.type
    allowed = _LAUNCHERS.get(kind)
    if allowed is None:
        return
    own = site.scheduler.launcher
    if own is None:
        yield site.problem(
            "scheduler.launcher",
            f"expected what starts the workers on a node, one of {', '.join(allowed)}; "
            "Parsl's default differs between schedulers",
            f"launcher: {{type: {allowed[0]}}}",
        )
        return
    chosen, bind_option = own.type, own.bind_option
    if chosen not in allowed:
        yield site.problem(
            "scheduler.launcher.type",
            f"expected one of {', '.join(allowed)} for {kind}, found {chosen}",
            f"type: {allowed[0]}",
        )
    most = site.nodes_max
    if chosen == "single-node" and most > 1:
        yield site.problem(
            "scheduler.launcher.type",
            f"expected a launcher that reaches all {most} nodes of a block, found single-node, "
            "which leaves all but the first idle",
            f"type: {'srun' if kind == 'slurm' else 'mpiexec'}",
        )
    if chosen == "mpiexec" and bind_option is None:
        yield site.problem(
            "scheduler.launcher.bind_option",
            "expected the name of mpiexec's binding option: --bind-to (Open MPI) or "
            "--cpu-bind (Cray MPICH)",
            "bind_option: --bind-to",
        )
    if chosen != "mpiexec" and bind_option is not None:
        yield site.problem(
            "scheduler.launcher.bind_option", f"{chosen} has no such option", "nothing"
        )


RULES: tuple[Callable[[Site], Iterator[Problem]], ...] = (
    scheduler_fields,
    torque_share,
    launcher,
)
