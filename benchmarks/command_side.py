"""`fitserve run` as its user meets it: from the start of its process to results.json.

In an environment of its own with what ``make install`` installs: Parsl's processes import whatever
clients of clusters are there, which the environment of the tests has and a physicist's has not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["install", "measure"]

ROOT = Path(__file__).parent.parent


def install(where: Path) -> Path:
    """Install fitserve in ``where`` as ``make install`` does, and return its command."""
    subprocess.run(
        [sys.executable, str(ROOT / "tools" / "setup_env.py"), "run"],
        check=True,
        env=os.environ | {"FITSERVE_VENV": str(where)},
    )
    return where / "bin" / "fitserve"


def measure(fitserve: Path, pallet: Path, warm: int = 3) -> dict[str, Any]:
    """Time runs of a pallet's file, nothing compiled before the first of them.

    Returns
    -------
    dict
        Seconds: ``cold`` of the first run, ``warm`` a list of those after it. ``hypotheses`` by
        status, of the last.
    """
    with tempfile.TemporaryDirectory() as scratch:
        cold, *rest = [_once(fitserve, pallet, Path(scratch), number) for number in range(1 + warm)]
        results = json.loads((Path(scratch) / f"run{warm}" / "results.json").read_text())
    statuses = [one["status"] for one in results.values()]
    return {
        "cold": cold,
        "warm": rest,
        "hypotheses": {status: statuses.count(status) for status in sorted(set(statuses))},
    }


def _once(fitserve: Path, pallet: Path, scratch: Path, number: int) -> float:
    environment = os.environ | {
        "FITSERVE_JIT_CACHE": str(scratch / "jit"),
        "XDG_STATE_HOME": str(scratch / "state"),
    }
    output = scratch / f"run{number}"
    command = [str(fitserve), "run", str(pallet), "--refit", "--verify", "0"]
    begin = time.perf_counter()
    subprocess.run(
        [*command, "--output", str(output), "--quiet"],
        check=True,
        capture_output=True,
        env=environment,
    )
    seconds = time.perf_counter() - begin
    if not (output / "results.json").is_file():
        raise RuntimeError(f"{output} has no results")
    return seconds
