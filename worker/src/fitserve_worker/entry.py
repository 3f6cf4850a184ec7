"""From an encoded task to an encoded result, in a process with limits and known versions."""

from __future__ import annotations

import functools
import os
import platform
import re
import resource
import socket
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from cachetools import LRUCache

from fitserve_contract import (
    STAGE_VARIABLE,
    ContractError,
    HypothesisResult,
    TaskResult,
    Timing,
    WorkerInfo,
    decode_task,
    decompress,
    digest,
    encode_refusal,
    encode_result,
    envelope_digest,
    excess,
    memory_of_machine,
    request_digest,
)
from fitserve_worker.engines import answers
from fitserve_worker.engines.base import Work, failed, in_words
from fitserve_worker.outbox import find_outbox
from fitserve_worker.verification import verified

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve_contract import Task

__all__ = [
    "answer",
    "limit_memory",
    "perform",
    "worker_version",
]

# Decoded workspaces stay for the next task, up to this many bytes of their JSON.
_CACHE_BYTES = 64 * 1024**2

_cache: LRUCache[str, tuple[dict[str, Any], int]] = LRUCache(
    _CACHE_BYTES, getsizeof=lambda entry: entry[1]
)
# Parsl's variable with the number of workers in this process' pool.
_WORKERS = "PARSL_WORKER_COUNT"
# A worker may take this much even where many share a small machine: JAX and pyhf alone take
# 0.3 GiB, and 0.7 GiB with 1Lbb.
_LEAST_BYTES = 4 * 1024**3
# The workers' share of the machine's memory; the rest is for everything else.
_SHARE = 0.9
_GPUS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))
_RECORDED = ("fitserve-worker", "pyhf", "numpy", "scipy", "iminuit", "jax", "jaxlib")


def answer(text: str) -> str:
    """Do an encoded task, or return the answer kept from when it was sent before.

    A task that cannot be read is answered with a refusal.
    """
    started = time.time()
    clock = time.perf_counter()
    limit_memory()
    try:
        task = decode_task(text)
        work = Work(
            workspace_digest=task.workspace_digest,
            workspace=_workspace_of(task),
            hypotheses=task.hypotheses,
            request=task.request,
            request_digest=request_digest(task.request),
            toys=task.toys,
        )
        task_digest = envelope_digest(text)
    except ContractError as error:
        return encode_refusal(error)
    outbox = find_outbox(worker_version())
    kept = outbox.get(task_digest) if outbox else None
    if kept is not None:
        return kept
    decoded = time.perf_counter()
    results = list(_verified(work, task) if task.verify else perform(work))
    worker = _worker_info()
    result = TaskResult(
        task=task_digest,
        results=[
            # Results to verify were fitted elsewhere.
            result
            if task.verify
            else msgspec.structs.replace(result, host=worker.host, device=worker.device)
            for result in results
        ],
        worker=worker,
        timing=Timing(
            started=started,
            decode=decoded - clock,
            total=time.perf_counter() - clock,
        ),
    )
    if outbox and all(one.status != "failed" for one in results):
        outbox.put(task_digest, encode_result(msgspec.structs.replace(result, kept=True)))
    return encode_result(result)


def perform(work: Work) -> Iterator[HypothesisResult]:
    """Yield a result for every hypothesis, even if the engine breaks.

    Hypotheses that an engine has not finished when it breaks are failed, with the reason.
    """
    open_ = {hypothesis.name: hypothesis for hypothesis in work.hypotheses}
    try:
        for result in answers(work):
            del open_[result.name]
            yield result
    except Exception as error:  # noqa: BLE001 - a worker always answers
        for hypothesis in open_.values():
            yield failed(work, hypothesis, in_words(error))


def _verified(work: Work, task: Task) -> Iterator[HypothesisResult]:
    """Yield the results of a task with pyhf's answers beside them."""
    claims = {result.name: result for result in task.verify}
    for hypothesis in work.hypotheses:
        name = hypothesis.name
        if name in claims:
            yield verified(work, hypothesis, claims[name], doubted=name in task.doubted)


def _workspace_of(task: Task) -> dict[str, Any]:
    """Return a task's workspace, checked against its digest.

    Raises
    ------
    ContractError
        The workspace is neither in the task nor staged, is damaged, or has another digest.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", task.workspace_digest):
        raise ContractError("the workspace's digest is not a SHA-256")
    if task.workspace is not None:
        return _checked(task.workspace, task.workspace_digest)
    cached = _cache.get(task.workspace_digest)
    if cached is not None:
        return cached[0]
    workspace, size = _read(task.workspace_digest)
    if size <= _CACHE_BYTES:
        _cache[task.workspace_digest] = workspace, size
    return workspace


def _read(name: str) -> tuple[dict[str, Any], int]:
    directory = os.environ.get(STAGE_VARIABLE)
    if not directory:
        raise ContractError(
            "the task carries no workspace and this worker has no staging directory",
            evidence=f"{STAGE_VARIABLE} is not set in the worker's environment",
        )
    path = Path(directory) / f"{name}.json.zst"
    try:
        raw = decompress(path.read_bytes())
        if too_much := excess(raw):
            raise ContractError("the staged workspace is too large", evidence=too_much)
        workspace = msgspec.json.decode(raw, type=dict[str, Any])
    except OSError as error:
        raise ContractError("the staged workspace is missing", evidence=str(error)) from error
    except msgspec.MsgspecError as error:
        raise ContractError("the staged workspace is not JSON", evidence=str(error)) from error
    return _checked(workspace, name), len(raw)


def _checked(workspace: dict[str, Any], expected: str) -> dict[str, Any]:
    actual = digest(workspace)
    if actual != expected:
        raise ContractError(
            "the workspace is not the one that the task names",
            evidence=f"its digest is {actual[:12]}..., the task says {expected[:12]}...",
        )
    return workspace


@functools.cache
def limit_memory() -> int | None:
    """Limit the memory of this process, if it is a worker that shares a machine.

    A worker of a pool may take its share of the machine's memory, or of its control group's.
    A task that needs more fails with a `MemoryError`, or ends the process, and is reported like
    any other failure. Only memory that is written to counts (``RLIMIT_DATA``): JAX reserves 1.6 GB
    of addresses on a CPU and uses a fifth of it; with a GPU, whose driver reserves tens of GB,
    nothing is limited.

    Returns
    -------
    int or None
        Bytes; None where nothing is limited.
    """
    workers = os.environ.get(_WORKERS, "")
    on_cpu = os.environ.get("JAX_PLATFORMS") == "cpu" or not any(map(Path.exists, _GPUS))
    if not workers.isdecimal() or not on_cpu:
        return None
    whole = _SHARE * memory_of_machine()
    limit = int(max(whole / max(1, int(workers)), min(_LEAST_BYTES, whole)))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    return limit


@functools.cache
def _worker_info() -> WorkerInfo:
    """Return this process' host and device, and the versions that decide its numbers."""
    return WorkerInfo(
        host=socket.gethostname(),
        pid=os.getpid(),
        python=platform.python_version(),
        device=_device(),
        versions=dict(_versions()),
    )


def worker_version() -> str:
    """Return the version of fitserve-worker, or ``unknown`` where it is not installed."""
    try:
        return version("fitserve-worker")
    except PackageNotFoundError:
        return "unknown"


def _device() -> str:
    # To ask JAX is to import it: there is a device to report only once an engine has done so.
    jax = sys.modules.get("jax")
    if jax is None:
        return f"cpu: {platform.machine()}"
    device = jax.devices()[0]
    return f"{device.platform}: {device.device_kind}"


def _versions() -> list[tuple[str, str]]:
    versions = []
    for name in _RECORDED:
        try:
            versions.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return versions
