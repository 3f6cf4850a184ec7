"""Time runs of thousands of own signals on a published background, beside pyhf.

Usage: .venv/bin/python benchmarks/signals.py PALLET [--counts 1000 10000] [--pyhf 2] [--output F]

The signals are mixtures of the published ones, scaled at random, always the same for a number. Each
run is `fitserve run` as a process of its own on every core, with a cache of its own that holds the
compiled programs; its client's memory is that of this process alone, not of the workers.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from machine import cores, describe

from fitserve.pallet.load import load_pallet
from fitserve.pallet.template import added_yields
from fitserve_contract import HypotestRequest, Task, encode_task

_SEED = 20210317
_POLL = 0.2


def main() -> None:
    """Measure, and print a table; with ``--output`` keep the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pallet", help="a path, or the name of an analysis")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--pyhf", type=int, default=2, help="signals that pyhf fits too")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found = {"machine": describe(), "pallet": options.pallet, "wire": wire(options.pallet)}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        found["runs"] = [measure(options.pallet, count, place) for count in [64, *options.counts]][
            1:
        ]
        found["pyhf"] = reference(options.pallet, place, options.pyhf)
    if options.output:
        options.output.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    print(table(found))


def write_signals(pallet: str, count: int, path: Path) -> None:
    """Write a table of mixtures of two published signals each."""
    loaded = load_pallet(pallet)
    bins = [f"{name}[{index}]" for name, size in loaded.bins.items() for index in range(size)]
    published = np.array(
        [
            [added_yields(loaded.workspace, one).get(name, 0.0) for name in bins]
            for one in loaded.hypotheses
        ]
    )
    generator = np.random.default_rng(_SEED)
    first, second = generator.integers(0, len(published), (2, count))
    part = generator.random(count)[:, None]
    scale = np.exp(generator.normal(0, 0.5, count))[:, None]
    yields = scale * (part * published[first] + (1 - part) * published[second])
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", "first", "second", *bins])
        for index, row in enumerate(yields):
            cells = [f"{value:.6g}" for value in row]
            writer.writerow([f"signal_{index}", first[index], second[index], *cells])


def measure(pallet: str, count: int, place: Path) -> dict[str, Any]:
    """Run signals and return seconds of the process, its memory and its directory in MiB."""
    signals, run = place / f"{count}.csv", place / f"run-{count}"
    write_signals(pallet, count, signals)
    command = [sys.executable, "-m", "fitserve", "run", pallet, "--signals", str(signals)]
    begin = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--output", str(run), "--refit", "--quiet"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    memory = 0
    while process.poll() is None:
        memory = max(memory, _peak(process.pid))
        time.sleep(_POLL)
    seconds = time.perf_counter() - begin
    if process.returncode:
        raise SystemExit(process.stderr.read().decode() if process.stderr else "the run failed")
    results = json.loads((run / "results.json").read_bytes())
    return {
        "signals": count,
        "seconds": seconds,
        "client MiB": memory / 2**20,
        "directory MiB": sum(one.stat().st_size for one in run.iterdir()) / 2**20,
        "doubtful": sum(one["status"] != "ok" for one in results.values()),
    }


def _peak(process: int) -> int:
    """Return the most memory that a process has had, in bytes."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(one.split()[1]) * 1024 for one in lines if one.startswith("VmHWM")), 0)


def wire(pallet: str) -> dict[str, float]:
    """Return the bytes that a signal takes in a task of 64: published patches, and own yields."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "signals.csv"
        write_signals(pallet, 64, path)
        from fitserve import OwnSignals
        from fitserve.api import asked_signals
        from fitserve_contract import ModelOptions

        own = load_pallet(pallet, signals=asked_signals(OwnSignals(table=path), ModelOptions()))
    sizes = {}
    for what, hypotheses in (
        ("patches", load_pallet(pallet).hypotheses[:64]),
        ("arrays", own.hypotheses),
    ):
        task = Task(
            workspace_digest="0" * 64,
            workspace=None,
            hypotheses=list(hypotheses),
            request=HypotestRequest(),
        )
        sizes[what] = len(encode_task(task)) / len(hypotheses)
    return sizes


def reference(pallet: str, place: Path, count: int) -> dict[str, float]:
    """Return the seconds that pyhf takes for a signal, and the largest difference in CLs."""
    import pyhf

    from fitserve import OwnSignals
    from fitserve.api import asked_signals
    from fitserve_contract import ModelOptions, apply_patch

    path = place / "64.csv"
    results = json.loads((place / "run-64" / "results.json").read_bytes())
    own = load_pallet(pallet, signals=asked_signals(OwnSignals(table=path), ModelOptions()))
    settings = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}
    seconds, differences = [], []
    for one in own.hypotheses[:count]:
        copied = msgspec.json.decode(msgspec.json.encode(own.workspace))
        begin = time.perf_counter()
        workspace = pyhf.Workspace(apply_patch(copied, one.patch))
        model = workspace.model(modifier_settings=settings)
        observed, expected = pyhf.infer.hypotest(
            1.0, workspace.data(model), model, return_expected_set=True
        )
        seconds.append(time.perf_counter() - begin)
        ours = results[one.name]
        theirs = [float(observed), *map(float, expected)]
        pairs = zip([ours["CLs_obs"], *ours["CLs_exp"]], theirs, strict=True)
        differences.append(max(abs(a - b) for a, b in pairs))
    return {"seconds": float(np.median(seconds)), "difference": max(differences)} if seconds else {}


def table(found: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    wire_, pyhf = found["wire"], found["pyhf"]
    lines = [
        (
            f"{found['pallet']}, {len(cores())} cores; bytes on the wire for a signal: "
            f"{wire_['patches']:.0f} as published patches, {wire_['arrays']:.0f} as arrays "
            f"({100 * wire_['arrays'] / wire_['patches']:.1f} %)"
        ),
        "",
        "| signals | whole process / s | ms a signal | client / MiB | directory / MiB | doubtful |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in found["runs"]:
        each = 1000 * one["seconds"] / one["signals"]
        lines.append(
            f"| {one['signals']} | {one['seconds']:.1f} | {each:.2f} | {one['client MiB']:.0f} | "
            f"{one['directory MiB']:.0f} | {one['doubtful']} |"
        )
    if pyhf:
        last = found["runs"][-1]
        times = pyhf["seconds"] / (last["seconds"] / last["signals"])
        lines += [
            "",
            (
                f"pyhf numpy+scipy: {pyhf['seconds']:.1f} s a signal on one core, "
                f"{times:.0f} times as long; largest difference in CLs {pyhf['difference']:.1e}"
            ),
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
