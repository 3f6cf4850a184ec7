"""Run on a compute node, inside the workers' environment, and print what it is as JSON.

Standard library only, and any Python from 3.8 on: it must run in whatever image a site has.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
from typing import Any

PACKAGES = ("fitserve-worker", "pyhf", "jax", "jaxlib", "parsl", "globus-compute-endpoint")


def main() -> None:
    """Print the findings."""
    with open("preflight.json", encoding="utf-8") as file:  # noqa: PTH123 -- Python 3.8 is enough
        task = json.load(file)
    json.dump(look(task), sys.stdout)


def look(task: dict[str, Any]) -> dict[str, Any]:
    """Return what this node is and what it can reach.

    Parameters
    ----------
    task
        ``address`` and ``port`` to dial back to (or no port), and the ``nonce`` to send there.
    """
    return {
        "nonce": task["nonce"],
        "host": socket.gethostname(),
        "time": time.time(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gb": _memory_gb(),
        "packages": {name: _version(name) for name in PACKAGES},
        "back": _dial(task["address"], task["port"], task["nonce"]),
        "gpus": _gpus(),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _dial(address: str, port: int | None, nonce: str) -> str:
    """Return why the endpoint's side did not answer; an empty text if it did."""
    if port is None:
        return ""
    try:
        with socket.create_connection((address, port), timeout=20) as connection:
            connection.sendall(nonce.encode() + b"\n")
            answer = connection.recv(200).decode(errors="replace").strip()
    except OSError as error:
        return f"{address}:{port}: {error}"
    return "" if answer == nonce else f"{address}:{port}: something else answers there"


def _gpus() -> list[dict[str, str]]:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(  # noqa: S603
            query, capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(",") for line in done.stdout.splitlines() if "," in line]
    return [{"name": row[0].strip(), "driver": row[1].strip()} for row in rows]


if __name__ == "__main__":
    main()
