"""Rules of blocks, times, nodes and workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sitekit.derive import derive, hms, memory_gb, quantity_gb, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sitekit.problems import Problem
    from sitekit.site import Site

__all__ = ["RULES"]

_MINUTE = 60


def walltime(site: Site) -> Iterator[Problem]:
    """Check that a block holds its start, the longest task and some time to take tasks in."""
    derived = derive(site)
    given = site.get("blocks.walltime")
    if not derived.batch:
        if given is not None:
            yield site.problem(
                "blocks.walltime",
                f"expected no time limit for {site.get('scheduler.type')}, found {given}",
                "nothing: remove the line",
            )
        return
    if given is None or derived.drain_seconds is None:
        yield site.problem(
            "blocks.walltime",
            "expected a time limit, which every block of a batch system has",
            'walltime: "01:00:00"',
        )
        return
    startup = site.get("tasks.startup_seconds")
    needed = derived.longest_seconds + startup
    advised = hms(_round_up(2 * derived.longest_seconds + startup))
    if derived.drain_seconds <= 0:
        yield site.problem(
            "blocks.walltime",
            f"expected more than {hms(needed)}, the start of a block ({startup} s) and the "
            f"longest task ({hms(derived.longest_seconds)}), found {given}",
            f'walltime: "{advised}"',
        )
    elif derived.drain_seconds < derived.longest_seconds:
        yield site.problem(
            "blocks.walltime",
            f"a block of {given} takes tasks for its first {hms(derived.drain_seconds)} only, so "
            "that the longest task ends in time",
            f'walltime: "{advised}"',
            "warning",
        )
    if seconds(given) % _MINUTE:
        yield site.problem(
            "blocks.walltime",
            f"expected whole minutes, which is what schedulers count, found {given}",
            f'walltime: "{hms(_round_up(seconds(given)))}"',
        )


def _round_up(total: int) -> int:
    return -(-total // _MINUTE) * _MINUTE


def facility_limits(site: Site) -> Iterator[Problem]:
    """Check that what one user gets at most is within the facility's limits."""
    derived = derive(site)
    limit = site.get("limits.walltime")
    if limit and derived.walltime_seconds and derived.walltime_seconds > seconds(limit):
        yield site.problem(
            "blocks.walltime",
            f"expected at most the facility's {limit}, found {site.get('blocks.walltime')}",
            f'walltime: "{limit}"',
        )
    nodes, per_block = derived.nodes_max, site.get("blocks.nodes")
    limit = site.get("limits.nodes")
    if limit and nodes > limit:
        yield site.problem(
            "blocks.max",
            f"expected at most {limit} nodes of one user, found {nodes} "
            f"({site.get('blocks.max')} blocks of {per_block})",
            f"max: {max(1, limit // per_block)}",
        )
    limit = site.get("limits.jobs")
    if limit and site.get("blocks.max") > limit:
        yield site.problem(
            "blocks.max",
            f"expected at most {limit} jobs of one user, found {site.get('blocks.max')}",
            f"max: {limit}",
        )
    limit = site.get("limits.workers")
    if limit and derived.workers_max and derived.workers_max > limit:
        per_node = derived.workers_per_node or 1
        yield site.problem(
            "blocks.max",
            f"expected at most {limit} workers of one user, found {derived.workers_max} "
            f"({nodes} nodes of {per_node})",
            f"max: {max(1, limit // (per_node * per_block))}",
        )


def blocks(site: Site) -> Iterator[Problem]:
    """Check that the numbers of blocks are in order."""
    least, first, most = (site.get(f"blocks.{name}") for name in ("min", "init", "max"))
    if least > most:
        yield site.problem(
            "blocks.min", f"expected at most blocks.max ({most}), found {least}", "min: 0"
        )
    if not min(least, most) <= first <= most:
        yield site.problem(
            "blocks.init",
            f"expected a number from blocks.min ({least}) to blocks.max ({most}), found {first}",
            f"init: {min(least, most)}",
        )
    if site.get("scheduler.type") in {"kubernetes", "local"} and site.get("blocks.nodes") != 1:
        yield site.problem(
            "blocks.nodes",
            f"expected 1 for {site.get('scheduler.type')}, found {site.get('blocks.nodes')}",
            "nodes: 1",
        )


def node(site: Site) -> Iterator[Problem]:
    """Check that workers fit into a node: its cores and its memory."""
    kind = site.get("scheduler.type")
    cores = site.get("node.cores")
    if cores is None and kind not in {"local", "kubernetes"}:
        yield site.problem(
            "node.cores",
            "expected the cores of a node, or of the share that is asked for",
            "cores: <number of cores>",
        )
        return
    if kind == "kubernetes" and cores is not None:
        yield site.problem(
            "node.cores", "expected kubernetes.cpu instead on Kubernetes", "nothing here"
        )
        return
    derived = derive(site)
    have = cores if cores is not None else site.get("kubernetes.cpu.limit")
    workers, threads = derived.workers_per_node, derived.threads
    if have and workers and threads and workers * threads > max(1, have):
        yield site.problem(
            "workers.threads" if site.get("workers.threads") else "workers.per_node",
            f"expected workers x threads to be at most the {have} cores of a node, "
            f"found {workers} x {threads}",
            f"per_node: {max(1, int(have) // threads)}",
        )
    memory, each = memory_gb(site), site.get("workers.memory_gb")
    if memory and workers and workers * each > memory:
        yield site.problem(
            "workers.per_node" if site.get("workers.per_node") else "workers.memory_gb",
            f"expected workers x memory to be at most the {memory:g} GiB of a node, "
            f"found {workers} x {each:g} GiB",
            f"per_node: {max(1, int(memory // each))}",
        )
    if site.get("workers.threads") and cores is None and kind == "local":
        yield site.problem(
            "workers.threads", "expected node.cores to be given as well", "node: {cores: <number>}"
        )


def gpus(site: Site) -> Iterator[Problem]:
    """Check that GPU workers have one GPU each, asked for in the scheduler's way."""
    device, kind = site.get("workers.device"), site.get("scheduler.type")
    count = site.get("node.gpus.count")
    if device == "cpu":
        if count:
            yield site.problem(
                "node.gpus",
                f"{count} GPUs are asked for and charged, and fits run on the CPU",
                "workers: {device: cuda12}, or no node.gpus",
                "warning",
            )
        return
    if not count:
        yield site.problem(
            "workers.device",
            f"expected node.gpus with device {device}, found none",
            "node: {gpus: {count: 1, kind: <model>, request: <how>}}",
        )
        return
    per_node = site.get("workers.per_node")
    if per_node and per_node != count:
        yield site.problem(
            "workers.per_node",
            f"expected one worker for each of the {count} GPUs, found {per_node}: two workers on "
            "a GPU run out of its memory, fewer leave GPUs idle",
            f"per_node: {count}",
        )
    allowed = {
        "slurm": ("gpus-per-node", "gres", "gpus", "none"),
        "pbspro": ("ngpus", "none"),
        "torque": ("none",),
        "kubernetes": ("nvidia.com/gpu",),
        "local": ("none",),
    }[kind]
    request = site.get("node.gpus.request")
    if request not in allowed:
        found = f"found {request}" if request else "it is missing"
        yield site.problem(
            "node.gpus.request",
            f"expected one of {', '.join(allowed)} for {kind}, {found}",
            f"request: {allowed[0]}",
        )


def kubernetes(site: Site) -> Iterator[Problem]:
    """Check that a pod asks for no more than its limit."""
    if site.get("scheduler.type") != "kubernetes" or site.get("kubernetes") is None:
        return
    request, limit = site.get("kubernetes.cpu.request"), site.get("kubernetes.cpu.limit")
    if request > limit:
        yield site.problem(
            "kubernetes.cpu.request",
            f"expected at most the limit of {limit:g}, found {request:g}",
            f"request: {limit:g}",
        )
    request, limit = site.get("kubernetes.memory.request"), site.get("kubernetes.memory.limit")
    if quantity_gb(request) > quantity_gb(limit):
        yield site.problem(
            "kubernetes.memory.request",
            f"expected at most the limit of {limit}, found {request}",
            f"request: {limit}",
        )


RULES: tuple[Callable[[Site], Iterator[Problem]], ...] = (
    walltime,
    facility_limits,
    blocks,
    node,
    gpus,
    kubernetes,
)
