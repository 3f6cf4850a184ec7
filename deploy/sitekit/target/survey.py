"""Look at a machine before anything is installed on it, and print what it is as JSON.

Run from standard input by any Python from 3.11 on, with one argument: a JSON object with the
``paths`` that a deployment makes (``~`` and variables are those of this machine), the
``manifest`` of an earlier one among them, and the ``endpoint`` directory. Changes nothing.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


def expand(path: str) -> str:
    """Return a path with ``~`` and variables of this machine."""
    return os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111 -- a text, as given


def existing(path: Path) -> Path:
    """Return a path, or the nearest directory above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def manager(scope: str) -> bool:
    """Return whether systemd manages this user's (or the system's) services."""
    if shutil.which("systemctl") is None:
        return False
    command = ["systemctl", scope, "is-system-running"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() in {"running", "degraded", "starting", "initializing"}


def others(manifest: Path, links: list[str]) -> list[str]:
    """Return the endpoints deployed here that use one of the same environments."""
    endpoints = []
    for other in manifest.parent.parent.glob("*/manifest.json"):
        deployment = json.loads(other.read_text())
        if other != manifest and set(deployment["links"]) & set(links):
            endpoints.append(deployment["endpoint"])
    return sorted(endpoints)


def look(request: dict[str, Any]) -> dict[str, Any]:
    """Return what this machine is, and which of the requested paths exist."""
    paths: dict[str, Any] = {
        name: [expand(one) for one in path] if isinstance(path, list) else expand(path)
        for name, path in request["paths"].items()
    }
    manifest = Path(paths["manifest"])
    registered = Path(paths["configuration"], "endpoint.json")
    link = Path(paths["links"][0])
    library, version = platform.libc_ver()
    return {
        "paths": paths,
        "home": str(Path.home()),
        "user": getpass.getuser(),
        "root": os.getuid() == 0,
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "executable": os.path.realpath(sys.executable),
        "machine": platform.machine(),
        "libc": f"{library} {version}",
        "systemd": manager("--system" if request["multi_user"] else "--user"),
        "cron": shutil.which("crontab") is not None,
        "free_gb": shutil.disk_usage(existing(Path(paths["root"]))).free / 2**30,
        "manifest": json.loads(manifest.read_text()) if manifest.is_file() else None,
        "there": [path for path in paths["made"] if os.path.lexists(path)],
        "others": others(manifest, paths["links"]),
        "release": link.resolve().name if link.is_symlink() else None,
        "endpoint_id": json.loads(registered.read_text())["endpoint_id"]
        if registered.is_file()
        else None,
        "credentials": Path(paths["credentials"]).is_file(),
    }


if __name__ == "__main__":
    json.dump(look(json.loads(sys.argv[1])), sys.stdout)
