"""Rules of the scheduler's own fields and of its launcher."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sitekit.schedulers import BATCH, scheduler_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sitekit.problems import Problem
    from sitekit.site import Site

__all__ = ["RULES"]

_OWN_RESOURCES = {"ncpus": "node.cores", "ngpus": "node.gpus", "mem": "node.memory_gb"}


def scheduler_fields(site: Site) -> Iterator[Problem]:
    """Check that the scheduler knows its fields: others would be dropped silently."""
    kind = site.scheduler.type
    fields = site.origin.given.get("scheduler", {})
    for name in fields:
        owners = [one.name for one in BATCH.values() if name in one.fields]
        if owners and kind not in owners:
            instead = {"partition": "queue: ...", "queue": "partition: ..."}.get(name, "nothing")
            yield site.problem(
                f"scheduler.{name}",
                f"{kind} has no such thing; it is for {', '.join(owners)}",
                instead,
            )


def directives(site: Site) -> Iterator[Problem]:
    """Check that no directive has a field of its own: the scheduler could take either value."""
    batch = scheduler_of(site)
    own = batch.directives if batch else {}
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


def own_rules(site: Site) -> Iterator[Problem]:
    """Check a site against its scheduler's own rules."""
    batch = scheduler_of(site)
    for rule in batch.rules if batch else ():
        yield from rule(site)


def launcher(site: Site) -> Iterator[Problem]:
    """Check that the launcher is one that the scheduler has, and reaches every node of a block."""
    batch = scheduler_of(site)
    if batch is None:
        return
    allowed = batch.launchers
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
            f"expected one of {', '.join(allowed)} for {batch.name}, found {chosen}",
            f"type: {allowed[0]}",
        )
    most = site.nodes_max
    if chosen == "single-node" and most > 1:
        yield site.problem(
            "scheduler.launcher.type",
            f"expected a launcher that reaches all {most} nodes of a block, found single-node, "
            "which leaves all but the first idle",
            f"type: {batch.launcher_of_many}",
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
    directives,
    own_rules,
    launcher,
)
