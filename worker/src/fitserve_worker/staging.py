"""The workspace of a task: in the task itself, or staged on the worker's file system."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from cachetools import LRUCache

from fitserve.contract import ContractError, decompress, digest, excess

if TYPE_CHECKING:
    from fitserve.contract import Task

__all__ = ["STAGE_VARIABLE", "workspace_of"]

STAGE_VARIABLE = "FITSERVE_STAGE"
"""Environment variable of the worker: the directory with staged workspaces."""

# Decoded workspaces stay for the next task, up to this many bytes of their JSON.
_CACHE_BYTES = 64 * 1024**2

_cache: LRUCache[str, tuple[dict[str, Any], int]] = LRUCache(
    _CACHE_BYTES, getsizeof=lambda entry: entry[1]
)


def workspace_of(task: Task) -> dict[str, Any]:
    """Return a task's workspace, which is what its digest says.

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
    found = digest(workspace)
    if found != expected:
        raise ContractError(
            "the workspace is not the one that the task names",
            evidence=f"its digest is {found[:12]}..., the task says {expected[:12]}...",
        )
    return workspace
