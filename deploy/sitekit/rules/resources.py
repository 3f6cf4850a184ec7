"""Rules of blocks, times, nodes and workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitserve.schedulers.base import clock_seconds
from sitekit.derive import derive, hms, memory_gb, quantity_gb
from sitekit.schedulers import scheduler_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sitekit.problems import Problem
    from sitekit.site import Site

__all__ = ["RULES"]

_MINUTE = 60


def walltime(site: Site) -> Iterator[Problem]:
    """Check that a block holds its start, the longest task and some time to take tasks in."""
    derived = derive(site)
    limit = site.blocks.walltime
    if not derived.batch:
        if limit is not None:
            yield site.problem(
                "blocks.walltime",
                f"expected no time limit for {site.scheduler.type}, found {limit}",
                "nothing: remove the line",
            )
        return
    if limit is None or derived.drain_seconds is None:
        yield site.problem(
            "blocks.walltime",
            "expected a time limit, which every block of a batch system has",
            'walltime: "01:00:00"',
        )
        return
    startup = site.tasks.startup_seconds
    needed = derived.longest_seconds + startup
    advised = hms(_round_up(2 * derived.longest_seconds + startup))
    if derived.drain_seconds <= 0:
        yield site.problem(
            "blocks.walltime",
            f"expected more than {hms(needed)}, the start of a block ({startup} s) and the "
            f"longest task ({hms(derived.longest_seconds)}), found {limit}",
            f'walltime: "{advised}"',
        )
    elif derived.drain_seconds < derived.longest_seconds:
        yield site.problem(
            "blocks.walltime",
            f"a block of {limit} takes tasks for its first {hms(derived.drain_seconds)} only, so "
            "that the longest task ends in time",
            f'walltime: "{advised}"',
            "warning",
        )
    if clock_seconds(limit) % _MINUTE:
        yield site.problem(
            "blocks.walltime",
            f"expected whole minutes, which is what schedulers count, found {limit}",
            f'walltime: "{hms(_round_up(clock_seconds(limit)))}"',
        )


def _round_up(total: int) -> int:
    return -(-total // _MINUTE) * _MINUTE


def facility_limits(site: Site) -> Iterator[Problem]:
    """Check that the most one user can get is within the facility's limits."""
    derived = derive(site)
    limits = site.limits
    longest = limits.walltime
    if longest and derived.walltime_seconds and derived.walltime_seconds > clock_seconds(longest):
        yield site.problem(
            "blocks.walltime",
            f"expected at most the facility's {longest}, found {site.blocks.walltime}",
            f'walltime: "{longest}"',
        )
    nodes, per_block = derived.nodes_max, site.blocks.nodes
    if limits.nodes and nodes > limits.nodes:
        yield site.problem(
            "blocks.max",
            f"expected at most {limits.nodes} nodes of one user, found {nodes} "
            f"({site.blocks.max} blocks of {per_block})",
            f"max: {max(1, limits.nodes // per_block)}",
        )
    if limits.jobs and site.blocks.max > limits.jobs:
        yield site.problem(
            "blocks.max",
            f"expected at most {limits.jobs} jobs of one user, found {site.blocks.max}",
            f"max: {limits.jobs}",
        )
    if limits.workers and derived.workers_max and derived.workers_max > limits.workers:
        per_node = derived.workers_per_node or 1
        yield site.problem(
            "blocks.max",
            f"expected at most {limits.workers} workers of one user, found {derived.workers_max} "
            f"({nodes} nodes of {per_node})",
            f"max: {max(1, limits.workers // (per_node * per_block))}",
        )


def blocks(site: Site) -> Iterator[Problem]:
    """Check that the numbers of blocks are in order."""
    least, first, most = site.blocks.min, site.blocks.init, site.blocks.max
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
    if site.scheduler.type in {"kubernetes", "local"} and site.blocks.nodes != 1:
        yield site.problem(
            "blocks.nodes",
            f"expected 1 for {site.scheduler.type}, found {site.blocks.nodes}",
            "nodes: 1",
        )


def node(site: Site) -> Iterator[Problem]:
    """Check that workers fit into a node: its cores and its memory."""
    kind = site.scheduler.type
    cores = site.node.cores
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
    have: float | None = cores
    if cores is None and site.kubernetes:
        have = site.kubernetes.cpu.limit
    workers, threads = derived.workers_per_node, derived.threads
    if have and workers and threads and workers * threads > max(1, have):
        yield site.problem(
            "workers.threads" if site.workers.threads else "workers.per_node",
            f"expected workers x threads to be at most the {have} cores of a node, "
            f"found {workers} x {threads}",
            f"per_node: {max(1, int(have) // threads)}",
        )
    memory, each = memory_gb(site), site.workers.memory_gb
    if memory and workers and workers * each > memory:
        yield site.problem(
            "workers.per_node" if site.workers.per_node else "workers.memory_gb",
            f"expected workers x memory to be at most the {memory:g} GiB of a node, "
            f"found {workers} x {each:g} GiB",
            f"per_node: {max(1, int(memory // each))}",
        )
    if site.workers.threads and cores is None and kind == "local":
        yield site.problem(
            "workers.threads", "expected node.cores to be given as well", "node: {cores: <number>}"
        )


def gpus(site: Site) -> Iterator[Problem]:
    """Check that GPU workers have one GPU each, asked for in the scheduler's way."""
    device, kind = site.workers.device, site.scheduler.type
    count = site.node.gpu_count
    if device == "cpu":
        if count:
            yield site.problem(
                "node.gpus",
                f"{count} GPUs are asked for and charged, but fits run on the CPU",
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
    per_node = site.workers.per_node
    if per_node and per_node != count:
        yield site.problem(
            "workers.per_node",
            f"expected one worker for each of the {count} GPUs, found {per_node}: two workers on "
            "a GPU run out of its memory, fewer leave GPUs idle",
            f"per_node: {count}",
        )
    batch = scheduler_of(site)
    elsewhere = ("nvidia.com/gpu",) if kind == "kubernetes" else ("none",)
    allowed = batch.gpu_requests if batch else elsewhere
    request = site.node.gpus.request if site.node.gpus else None
    if request not in allowed:
        actual = f"found {request}" if request else "it is missing"
        yield site.problem(
            "node.gpus.request",
            f"expected one of {', '.join(allowed)} for {kind}, {actual}",
            f"request: {allowed[0]}",
        )


def kubernetes(site: Site) -> Iterator[Problem]:
    """Check that a pod asks for no more than its limit."""
    pods = site.kubernetes
    if site.scheduler.type != "kubernetes" or pods is None:
        return
    if pods.cpu.request > pods.cpu.limit:
        yield site.problem(
            "kubernetes.cpu.request",
            f"expected at most the limit of {pods.cpu.limit:g}, found {pods.cpu.request:g}",
            f"request: {pods.cpu.limit:g}",
        )
    request, limit = pods.memory.request, pods.memory.limit
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
