"""Measure the kernel beside pyhf and cabinetry, all in one run on this machine.

    python benchmarks/run.py                      # everything, about an hour
    python benchmarks/run.py --only kernel        # the kernel alone, a minute or two
    python benchmarks/run.py --sample 3 --limit 120

Writes benchmarks.json and benchmarks.png to the output directory (``build/benchmarks``) and
prints a table. Published pallets are used where they are (see tests/conftest.py), otherwise
only synthetic analyses.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kernel_side
import reference_side
from data import Problem, published, synthetic

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
PARTS = ("kernel", "run", "patches", "engines", "growth")
# Bins and nuisance parameters, besides one for each bin.
GROWTH = ((50, 20), (200, 100), (500, 200), (1000, 300), (2500, 600), (5000, 1000))


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--sample", type=int, default=3, help="hypotheses for slow engines")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for each of them")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    arguments = parser.parse_args()
    problems = [problem for name in ("1Lbb", "staus") if (problem := published(name))]
    problems = problems or [synthetic(200, 100, hypotheses=50)]
    found: dict[str, Any] = {"machine": _machine()}
    parts: dict[str, Callable[[], Any]] = {
        "kernel": lambda: _kernel(problems, arguments.repetitions),
        "run": lambda: _end_to_end(problems),
        "patches": lambda: _patches(problems[0]),
        "engines": lambda: _engines(problems, arguments.sample, arguments.limit),
        "growth": lambda: _growth(arguments.limit),
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    target = arguments.output / "benchmarks.json"
    for name in arguments.only:
        print(f"measuring: {name} (load {os.getloadavg()[0]:.2f})", flush=True)
        found[name] = parts[name]()
        target.write_text(json.dumps(found, indent=1))
    print(table(found))
    from plot import draw

    draw(found, arguments.output / "benchmarks.png")
    print(f"written to {arguments.output}")


def _machine() -> dict[str, Any]:
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    return {
        "processor": model,
        "cores": len(kernel_side.cores()),
        "load at the start": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: version(name) for name in ("pyhf", "jax", "numpy", "scipy", "cabinetry")},
    }


def _kernel(problems: list[Problem], repetitions: int) -> dict[str, Any]:
    found = {}
    for problem in problems:
        timing = kernel_side.measure(problem, repetitions)
        with tempfile.TemporaryDirectory() as cache:
            cold = kernel_side.first_use(problem, cache)
            warm = min(kernel_side.first_use(problem, cache) for _ in range(2))
        found[problem.name] = {
            **timing._asdict(),
            "median": timing.median,
            "core seconds per hypothesis": timing.core_seconds,
            "first result, nothing compiled": cold,
            "first result, compiled before": warm,
        }
    return found


def _end_to_end(problems: list[Problem]) -> dict[str, Any]:
    """Time `fitserve run` from the start of its process to results.json."""
    found = {}
    for problem in problems:
        path = ROOT.parent / "shared" / "pallets" / f"{problem.name}.tar.xz"
        shared = os.environ.get("FITSERVE_SHARED")
        if shared:
            path = Path(shared) / "pallets" / path.name
        if not path.exists():
            continue
        with tempfile.TemporaryDirectory() as scratch:
            seconds = [_one_run(path, Path(scratch), number) for number in range(4)]
        found[problem.name] = {"cold": seconds[0], "warm": seconds[1:]}
    return found


def _one_run(pallet: Path, scratch: Path, number: int) -> float:
    environment = os.environ | {
        "FITSERVE_JIT_CACHE": str(scratch / "jit"),
        "XDG_STATE_HOME": str(scratch / "state"),
    }
    command = [sys.executable, "-m", "fitserve", "run", str(pallet), "--refit"]
    begin = time.perf_counter()
    subprocess.run(
        [*command, "--output", str(scratch / f"run{number}")],
        check=True,
        capture_output=True,
        env=environment,
    )
    return time.perf_counter() - begin


def _patches(problem: Problem) -> list[dict[str, float]]:
    found = []
    for count in (1, 5, 4, 3, 2):
        part = problem.hypotheses[: -(-len(problem.hypotheses) // count)]
        timing = kernel_side.measure(problem._replace(hypotheses=part), 5)
        found.append({"hypotheses": len(part), "seconds": timing.median})
    return sorted(found, key=lambda one: one["hypotheses"])


def _engines(problems: list[Problem], sample: int, limit: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for problem in problems:
        kernel = kernel_side.measure(problem, 5)
        count = len(problem.hypotheses)
        chosen = sorted({round(i * (count - 1) / max(1, sample - 1)) for i in range(sample)})
        rows = {}
        for engine in reference_side.ENGINES:
            timings = [reference_side.measure(problem, engine, at, limit) for at in chosen]
            done = [one.seconds for one in timings if one.seconds is not None]
            rows[engine] = {
                "seconds": [one.seconds for one in timings],
                "median": statistics.median(done) if done else None,
                "largest difference in CLs": _difference(timings, kernel.results),
            }
            print(f"  {problem.name}, {engine}: {rows[engine]}", flush=True)
        found[problem.name] = {
            "hypotheses": [problem.hypotheses[at].name for at in chosen],
            "limit": limit,
            "kernel": {
                "seconds per hypothesis": kernel.median / count,
                "core seconds per hypothesis": kernel.core_seconds,
            },
            "engines": rows,
        }
    return found


def _difference(timings: list[Any], kernel: dict[str, list[float]]) -> float | None:
    differences = [
        abs(ours - theirs)
        for one in timings
        if len(one.results) > 1
        for ours, theirs in zip(kernel[one.hypothesis], one.results, strict=True)
    ]
    return max(differences, default=None)


def _growth(limit: float) -> list[dict[str, Any]]:
    found = []
    for bins, parameters in GROWTH:
        problem = synthetic(bins, parameters, hypotheses=4)
        one = {"bins": bins, "parameters": parameters + bins}
        timing = kernel_side.measure(problem, 1, workers=1)
        one |= {
            "kernel": timing.core_seconds,
            "kernel, compiling": _first(problem),
            "kernel, MiB": timing.peak,
        }
        last = found[-1] if found else None
        if last is None or last["pyhf jax+scipy"] is not None:
            theirs = reference_side.measure(problem, "pyhf jax+scipy", 0, limit)
            one["pyhf jax+scipy"] = theirs.seconds
            if theirs.results:
                one["difference in CLs"] = _difference([theirs], timing.results)
        else:
            one["pyhf jax+scipy"] = None  # the smaller one took too long already
        print(f"  {one}", flush=True)
        found.append(one)
    return found


def _first(problem: Problem) -> float:
    with tempfile.TemporaryDirectory() as cache:
        return kernel_side.first_use(problem, cache)


def table(found: dict[str, Any]) -> str:
    """Return what was measured as text."""
    lines = [f"on {found['machine']['processor']}, {found['machine']['cores']} cores"]
    for name, one in found.get("kernel", {}).items():
        lines.append(
            f"{name}: {one['hypotheses']} hypotheses, {one['workers']} warm workers: "
            f"median {one['median']:.3f} s, best {min(one['seconds']):.3f} s"
        )
        lines.append(
            f"  {1e3 * one['core seconds per hypothesis']:.2f} ms of a core per hypothesis, "
            f"{one['peak']:.0f} MiB, programs compiled: {one['programs']}"
        )
        lines.append(
            f"  first result in a new process {one['first result, nothing compiled']:.1f} s, "
            f"compiled before {one['first result, compiled before']:.1f} s"
        )
    for name, one in found.get("run", {}).items():
        warm = statistics.median(one["warm"])
        lines.append(f"fitserve run {name}: {one['cold']:.1f} s, compiled before {warm:.1f} s")
    for name, one in found.get("engines", {}).items():
        kernel = one["kernel"]["seconds per hypothesis"]
        core = one["kernel"]["core seconds per hypothesis"]
        lines.append(f"{name}, seconds per hypothesis (kernel: {kernel:.4f}, one core {core:.4f})")
        for engine, row in one["engines"].items():
            median = row["median"]
            lines.append(
                f"  {engine:20s} more than {one['limit']:.0f}"
                if median is None
                else f"  {engine:20s} {median:9.2f}  {median / kernel:8.0f} x, "
                f"one core {median / core:8.0f} x"
            )
    for one in found.get("growth", []):
        theirs = one["pyhf jax+scipy"]
        told = "too long" if theirs is None else f"{theirs:.1f} s"
        lines.append(
            f"{one['bins']} bins, {one['parameters']} parameters: kernel {one['kernel']:.3f} s, "
            f"{one['kernel, MiB']:.0f} MiB, pyhf jax {told}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
