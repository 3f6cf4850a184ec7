"""Throughput of direct use on the rig against the number of workers, and what a task costs.

Needs root and Slurm, as the tests of schedulers do::

    PYTHONPATH=tests/rigs .venv/bin/python benchmarks/scaling/measure.py --output measured.json

Each run fits some hypotheses of the bundled example with pyhf, one in a task, through
``parsl:SITE`` as an ordinary user. What is written of each: number of workers, makespan, times
of fits and of tasks, when the first worker began, and the load of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from schedulerrig.rig import Rig
from schedulerrig.users import User, site

if TYPE_CHECKING:
    from fitserve.runs.store import SavedRun

_PATCHES = ("--patch", "X_[678]00_*")
_FITS = ("--engine", "pyhf", "--max-task-hypotheses", "1")


def measure(user: User, workers: int) -> dict[str, Any]:
    """Run with so many workers and return what that took."""
    cores = min(workers, 2)
    blocks = {"max": -(-workers // 2), "walltime": "00:30:00", "idle_seconds": 10}
    name = f"scaling{workers}"
    fields = site("slurm", blocks={**blocks, "strategy_seconds": 2})
    fields["node"] = {"cores": cores, "memory_gb": cores}
    user.render(name, fields)
    load = os.getloadavg()[0]
    began = time.time()
    saved = user.start(name, *_PATCHES, *_FITS).end(seconds=900)
    return {"workers": workers, "load": [load, os.getloadavg()[0]], **_told(saved, began)}


def _told(saved: SavedRun, began: float) -> dict[str, Any]:
    records = list(saved.records.values())
    fits = [record.result.fit_time for record in records]
    tasks = [record.task_seconds for record in records]
    first: dict[str, float] = {}
    for record in records:
        worker = f"{record.worker.host}/{record.worker.pid}"
        first[worker] = min(first.get(worker, record.started), record.started)
    return {
        "hypotheses": len(records),
        "makespan": max(record.arrived for record in records) - began,
        "submitted": min(record.submitted for record in records) - began,
        "workers_began": sorted(at - began for at in first.values()),
        "fit_seconds": sorted(fits),
        "task_overhead": median(task - fit for task, fit in zip(tasks, fits, strict=True)),
        "return_seconds": median(
            record.arrived - record.started - record.task_seconds for record in records
        ),
    }


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("measured.json"))
    asked = parser.parse_args()
    rig = Rig.new()
    try:
        rig.up()
        user = User(rig, rig.login, "ada")
        found = []
        for workers in (int(word) for word in asked.workers.split(",")):
            found.append(measure(user, workers))
            print(f"{workers} workers: {found[-1]['makespan']:.1f} s")
    finally:
        rig.down()
    made = {"cores": os.cpu_count(), "runs": found}
    asked.output.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
