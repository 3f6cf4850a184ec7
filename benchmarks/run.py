"""Measure the kernel beside pyhf and cabinetry, all in one run on this machine.

    python benchmarks/run.py                      # everything, a quarter of an hour
    python benchmarks/run.py --only kernel run    # parts of it
    python benchmarks/run.py --sample 3 --limit 300 --minutes 90
    python benchmarks/run.py --docs               # and into docs/performance.md

Writes benchmarks.json and benchmarks.png to the output directory (``build/benchmarks``) and
prints a table. Published pallets are used where they are (`FITSERVE_SHARED`, else ../shared),
otherwise only synthetic analyses. What does not fit into the time is left out and said to be; but
of the series of synthetic analyses pyhf is started on each, for a minute at least.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import command_side
import kernel_side
import machine
import profile_side
import reference_side
import toys_side
from data import Problem, pallet_file, published, synthetic
from page import write_into
from table import table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reference_side import ReferenceTiming

__all__ = ["PARTS", "Plan", "main", "measure"]

ROOT = Path(__file__).parent.parent
PARTS = ("kernel", "run", "patches", "profile", "toys", "growth", "engines")
# Bins and nuisance parameters, besides one for each bin.
GROWTH = ((50, 20), (200, 100), (500, 200), (1000, 300), (2500, 600), (5000, 1000))
# Minuit takes several times as long as the others.
_SAMPLED_ONCE = ("pyhf numpy+minuit",)
# With less time than this nothing slow is begun.
_LEAST = 5.0
# Where pyhf is too slow to end it is stopped when it has taken this many times as long as the
# kernel with its compiling.
_AHEAD = 2.0


class Plan(NamedTuple):
    """How much is measured.

    ``sample`` hypotheses for slow engines, each for ``limit`` seconds at most; ``repetitions``
    of the kernel; ``growth`` sizes; ``until`` when (of `time.monotonic`) slow engines are left
    out; ``toys`` with signal and as many without; ``least`` seconds that pyhf has for each of
    ``growth``, whatever the others are.
    """

    sample: int
    limit: float
    repetitions: int
    growth: Sequence[tuple[int, int]]
    until: float
    toys: int = 2000
    least: float = 60.0

    def left(self) -> float:
        """Return how many seconds a slow engine may still take."""
        return min(self.limit, self.until - time.monotonic())


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--sample", type=int, default=2, help="hypotheses for slow engines")
    parser.add_argument("--limit", type=float, default=90.0, help="seconds for each of them")
    parser.add_argument("--minutes", type=float, default=14.0, help="for all of it, about")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    parser.add_argument(
        "--docs", action="store_true", help="put figures and picture into docs/performance.md"
    )
    arguments = parser.parse_args()
    problems = [problem for name in ("1Lbb", "staus") if (problem := published(name))]
    plan = Plan(
        sample=arguments.sample,
        limit=arguments.limit,
        repetitions=arguments.repetitions,
        growth=GROWTH,
        until=time.monotonic() + 60 * arguments.minutes,
    )
    found = measure(
        problems or [synthetic(200, 100, hypotheses=50)], plan, arguments.only, arguments.output
    )
    print(table(found))
    if arguments.docs:
        picture = arguments.output / "benchmarks.png"
        write_into(ROOT / "docs" / "performance.md", found, picture if picture.exists() else None)
    print(f"\nwritten to {arguments.output}")


def measure(
    problems: Sequence[Problem], plan: Plan, only: Sequence[str], output: Path
) -> dict[str, Any]:
    """Measure the parts named in ``only``, and write and draw what was found."""
    found: dict[str, Any] = {"machine": machine.describe()}
    parts: dict[str, Callable[[], Any]] = {
        "kernel": lambda: _kernel(problems, plan),
        "run": lambda: _commands(problems, output / "environment"),
        "patches": lambda: _patches(problems[0]),
        "profile": lambda: _profile(problems),
        "toys": lambda: _toys(problems, plan.toys),
        # Slow engines go last: what does not fit into the time are more samples of them.
        "growth": lambda: _growth(plan),
        "engines": lambda: _engines(problems, plan, found.get("kernel", {})),
    }
    output.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        if name not in only:
            continue
        print(f"measuring: {name} (load {os.getloadavg()[0]:.2f})", flush=True)
        found[name] = part()
        (output / "benchmarks.json").write_text(json.dumps(found, indent=1) + "\n")
    from plot import draw

    (output / "benchmarks.png").unlink(missing_ok=True)
    draw(found, output / "benchmarks.png")
    return found


def _kernel(problems: Sequence[Problem], plan: Plan) -> dict[str, Any]:
    found = {}
    for problem in problems:
        timing = kernel_side.measure(problem, plan.repetitions)
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


def _commands(problems: Sequence[Problem], environment: Path) -> dict[str, Any]:
    files = {problem.name: pallet_file(problem.name) for problem in problems}
    there = {name: path for name, path in files.items() if path.exists()}
    fitserve = command_side.install(environment) if there else Path()
    return {name: command_side.measure(fitserve, path) for name, path in there.items()}


def _patches(problem: Problem) -> list[dict[str, float]]:
    """Measure parts of the hypotheses; the programs must be the same for all of them."""
    found = []
    for share in (5, 4, 3, 2, 1):
        part = problem.hypotheses[: -(-len(problem.hypotheses) // share)]
        timing = kernel_side.measure(problem._replace(hypotheses=part), 5)
        found.append(
            {"hypotheses": len(part), "seconds": timing.median, "programs": timing.programs}
        )
    counts = {one["programs"] for one in found}
    if len(counts) > 1:
        raise RuntimeError(f"more patches make more programs: {found}")
    return found


def _profile(problems: Sequence[Problem]) -> dict[str, Any]:
    peak = machine.dgemm_peak()
    return {"peak": peak} | {problem.name: profile_side.measure(problem) for problem in problems}


def _toys(problems: Sequence[Problem], toys: int) -> dict[str, Any]:
    return {problem.name: toys_side.measure(problem, toys) for problem in problems}


def _engines(problems: Sequence[Problem], plan: Plan, measured: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for problem in problems:
        count = len(problem.hypotheses)
        kernel = measured.get(problem.name)
        if kernel is None:
            timing = kernel_side.measure(problem, plan.repetitions)
            kernel = {**timing._asdict(), "median": timing.median}
            kernel["core seconds per hypothesis"] = timing.core_seconds
        rows: dict[str, Any] = {}
        for engine in reference_side.ENGINES:
            sample = 1 if engine in _SAMPLED_ONCE else plan.sample
            timings = [
                reference_side.measure(problem, engine, at, plan.left())
                for at in _spread(count, sample)
                if plan.left() >= _LEAST
            ]
            done = [one.seconds for one in timings if one.seconds is not None]
            rows[engine] = {
                "hypotheses": [one.hypothesis for one in timings],
                "seconds": done,
                "why not": _why_not(timings),
                "median": statistics.median(done) if done else None,
                "largest difference in CLs": _difference(timings, kernel["results"]),
            }
            print(f"  {problem.name}, {engine}: {rows[engine]}", flush=True)
        found[problem.name] = {
            "kernel": {
                "seconds per hypothesis": kernel["median"] / count,
                "core seconds per hypothesis": kernel["core seconds per hypothesis"],
            },
            "engines": rows,
        }
    return found


def _why_not(timings: Sequence[ReferenceTiming]) -> str | None:
    """Return why there is no time of an engine, if there is none."""
    if any(one.seconds is not None for one in timings):
        return None
    return timings[0].why_not if timings else "not tried"


def _spread(count: int, sample: int) -> list[int]:
    """Return places from all over ``count`` hypotheses, none at an end."""
    return sorted({round((i + 0.5) * count / sample - 0.5) for i in range(sample)})


def _difference(timings: Sequence[ReferenceTiming], kernel: dict[str, list[float]]) -> float | None:
    differences = [
        abs(ours - theirs)
        for one in timings
        if len(one.results) > 1
        for ours, theirs in zip(kernel[one.hypothesis], one.results, strict=True)
    ]
    return max(differences, default=None)


def _growth(plan: Plan) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    too_slow = False
    for bins, nuisance in plan.growth:
        problem = synthetic(bins, nuisance, hypotheses=2)
        timing = kernel_side.measure(problem, 1, workers=1)
        least = max(plan.least, _AHEAD * timing.first)
        # What takes too long here takes longer for everything larger: that it is behind the
        # kernel there too is all that is left to see.
        limit = least if too_slow else max(plan.left(), least)
        theirs = reference_side.measure(problem, "pyhf jax+scipy", 0, limit)
        too_slow |= theirs.seconds is None
        one: dict[str, Any] = {
            "bins": bins,
            "nuisance": nuisance,
            "parameters": nuisance + bins,
            "kernel": timing.core_seconds,
            "kernel, compiling": timing.first,
            "kernel, MiB": timing.peak,
            "pyhf jax+scipy": theirs.seconds,
            "pyhf jax+scipy, at least": theirs.at_least,
            "difference in CLs": _difference([theirs], timing.results),
            "why not": _why_not([theirs]),
        }
        print(f"  {one}", flush=True)
        found.append(one)
    return found


if __name__ == "__main__":
    main()
