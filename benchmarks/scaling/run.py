"""Predict makespans, compare with the rig, and write the page's tables and figure.

``python benchmarks/scaling/run.py`` prints tables in Markdown and writes
``docs/figures/scaling.png``. It reads ``measured.json``, which ``measure.py`` writes.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median, pstdev
from typing import Any

import matplotlib as mpl
import numpy as np
from costs import BATCHES, WAYS, planned
from matplotlib import pyplot as plt
from simulation import Estimate, Scatter, simulate

from fitserve.endpoints.base import LOCAL, QUEUE_SECONDS, Costs
from fitserve.runs.estimate import Work

ROOT = Path(__file__).resolve().parents[2]
MEASURED = Path(__file__).with_name("measured.json")
FIGURE = ROOT / "docs" / "figures" / "scaling.png"
WORKERS = (1, 10, 100, 1_000, 10_000)
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def main() -> None:
    """Print the tables and draw the figure."""
    found = {
        (batch.name, name): [planned(batch, way, workers) for workers in WORKERS]
        for batch in BATCHES
        for name, way in WAYS.items()
    }
    print(_table(found))
    runs = json.loads(MEASURED.read_text())["runs"] if MEASURED.exists() else []
    compared = [_compared(run) for run in runs]
    print(_comparison(compared))
    _draw(found)


def _duration(seconds: float) -> str:
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"


def _table(found: dict[tuple[str, str], list[Estimate]]) -> str:
    head = " | ".join(f"{workers:,}" for workers in WORKERS)
    lines = [f"| | workers: | {head} |", f"|---|---|{'---|' * len(WORKERS)}"]
    for (name, way), estimates in found.items():
        cells = (f"{_duration(one.makespan)} ({one.size})" for one in estimates)
        lines.append(f"| {name} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _compared(run: dict[str, Any]) -> dict[str, float]:
    """Predict a run of the rig from what it says of single tasks."""
    fits = np.array(run["fit_seconds"])
    start = median(run["workers_began"])
    costs = Costs(task=run["task_overhead"], start=start, dispatch=LOCAL.dispatch)
    work = Work(run["hypotheses"], float(fits.mean()))
    scatter = Scatter(pstdev(np.log(fits)), doubt=0.0)
    predicted = simulate(costs, work, run["workers"], 1, scatter)
    return {
        "workers": run["workers"],
        "load": max(run["load"]),
        "fit": float(np.median(fits)),
        "began": start,
        "measured": run["makespan"],
        "predicted": predicted.makespan + run["return_seconds"],
        "throughput": run["hypotheses"] / (run["makespan"] - start),
        "efficiency": float(fits.sum()) / (run["workers"] * (run["makespan"] - start)),
    }


def _comparison(compared: list[dict[str, float]]) -> str:
    lines = [
        "| workers | load | a fit | first fit after | fits | efficiency | makespan | predicted |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['workers']} | {one['load']:.0f} | {one['fit']:.2f} s | {one['began']:.1f} s "
        f"| {one['throughput']:.2f}/s | {one['efficiency']:.2f} | {one['measured']:.1f} s "
        f"| {one['predicted']:.1f} s |"
        for one in compared
    ]
    return "\n".join(lines)


def _draw(found: dict[tuple[str, str], list[Estimate]]) -> None:
    mpl.use("Agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    colours = dict(zip((batch.name for batch in BATCHES), plt.cm.viridis((0.0, 0.3, 0.6, 0.85)),
                       strict=True))  # fmt: skip
    for (name, way), estimates in found.items():
        style = "-" if way == "direct" else "--"
        times = [one.makespan for one in estimates]
        left.plot(WORKERS, times, style, color=colours[name], marker="o", ms=4,
                  label=f"{name}, {way}")  # fmt: skip
        fractions = [one.efficiency for one in estimates]
        right.plot(WORKERS, fractions, style, color=colours[name], marker="o", ms=4)
    left.set(xscale="log", yscale="log", xlabel="workers", ylabel="makespan / s",
             title=f"Predicted; {QUEUE_SECONDS:.0f} s in the queue")  # fmt: skip
    left.legend(fontsize=8)
    right.set(xscale="log", ylim=(0, 1.05), xlabel="workers",
              ylabel="fits / workers, waiting included", title="Efficiency")  # fmt: skip
    for axes in (left, right):
        axes.grid(alpha=0.3)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    main()
