"""Check and time the kernel on the device that JAX has here, whatever it is.

    python benchmarks/gpu_check.py
    JAX_PLATFORMS=cuda python benchmarks/gpu_check.py    # a GPU or nothing

Hypotheses of the bundled example are fitted on the device and by pyhf on the CPU, and those of
the published analyses, where their pallets and reference results are, are compared with these.
Then several workers share the device, and toys are made of one hypothesis of each analysis.
Ends with exit code 5 where the device is not there, or where a CLs differs by more than 1e-4.
Writes gpu-check.json to the output directory (``build/benchmarks``).
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import kernel_side
import toys_side
from data import Problem, example, pallet_file, published

from fitserve.errors import BackendError, FitserveError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["check", "main"]

ROOT = Path(__file__).parent.parent
TOLERANCE = 1e-4


class Plan(NamedTuple):
    """How much is done.

    pyhf fits ``sample`` hypotheses; all are fitted ``repetitions`` times, by one worker and by
    ``workers`` that share the device; ``toys`` are made with signal and as many without.
    """

    sample: int
    repetitions: int
    workers: int
    toys: int


def main() -> None:
    """Check, time, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=12, help="hypotheses that pyhf fits too")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--workers", type=int, default=4, help="that share the device")
    parser.add_argument("--toys", type=int, default=4000, help="with signal, and as many without")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    arguments = parser.parse_args()
    problems = [problem for name in ("1Lbb", "staus") if (problem := published(name))]
    try:
        plan = Plan(arguments.sample, arguments.repetitions, arguments.workers, arguments.toys)
        found = check(example(), problems, plan)
        arguments.output.mkdir(parents=True, exist_ok=True)
        target = arguments.output / "gpu-check.json"
        target.write_text(json.dumps(found, indent=1) + "\n")
        _show(found)
        print(f"written to {target}")
        _require_agreement(found)
    except FitserveError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def check(first: Problem, problems: Sequence[Problem], plan: Plan) -> dict[str, Any]:
    """Fit on the device, compare and time.

    Parameters
    ----------
    first
        A problem of which pyhf fits a sample of hypotheses too.
    problems
        Published analyses, compared with their reference results.
    plan
        How much is done.

    Raises
    ------
    BackendError
        JAX does not have the device that it is told to use.
    """
    found: dict[str, Any] = {"device": _device(), "analyses": {}}
    for problem in (first, *problems):
        task = kernel_side.work(problem)
        begin = time.perf_counter()
        kernel_side.fit_all(task)
        compiling = time.perf_counter() - begin
        seconds = []
        results: dict[str, list[float]] = {}
        for _ in range(plan.repetitions):
            begin = time.perf_counter()
            results = kernel_side.fit_all(task)
            seconds.append(time.perf_counter() - begin)
        reference = (
            _by_pyhf(problem, plan.sample) if problem is first else _references(problem.name)
        )
        workers = kernel_side.measure(problem, plan.repetitions, plan.workers)
        found["analyses"][problem.name] = {
            "hypotheses": len(problem.hypotheses),
            "first, compiling": compiling,
            "seconds": seconds,
            "median": statistics.median(seconds),
            "memory": _memory(),
            "workers": workers.workers,
            "median of the workers": workers.median,
            "toys": toys_side.measure(problem, plan.toys),
            "compared": len(reference),
            "compared with": "pyhf numpy+scipy" if problem is first else "reference results",
            "largest difference in CLs": _largest(results, reference),
        }
    return found


def _memory() -> int | None:
    """Return the most bytes of the device that were in use so far, None where it does not tell."""
    import jax

    peak: int | None = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return peak


def _device() -> dict[str, Any]:
    from fitserve_worker.kernel.runtime import runtime

    setting = runtime()
    import jax

    memory = jax.devices()[0].memory_stats() or {}
    return {
        "name": setting.device,
        "platform": setting.platform,
        "bytes": memory.get("bytes_limit"),
        "fits at once": 1 if setting.in_turn else setting.calls(1)[-1],
        "jax": jax.__version__,
    }


def _by_pyhf(problem: Problem, sample: int) -> dict[str, list[float]]:
    """Return CLs by pyhf, with a tolerance well below the one of the comparison."""
    from fitserve_contract import EngineOptions
    from fitserve_worker.engines.pyhf_engine import PyhfEngine

    logging.disable(logging.WARNING)
    step = max(1, len(problem.hypotheses) // sample)
    task = kernel_side.work(problem, problem.hypotheses[::step][:sample])
    engine = PyhfEngine(EngineOptions(engine="pyhf"), tight=True)
    return {one.name: [one.CLs_obs, *one.CLs_exp] for one in engine.answers(task)}


def _references(name: str) -> dict[str, list[float]]:
    """Return CLs by pyhf, or by a search of the lowest minima where pyhf's are above these."""
    path = pallet_file(name).parent.parent / "references" / f"{name}.json"
    if not path.exists():
        return {}
    lowest = Path(__file__).with_name(f"{name}.json")
    path = lowest if lowest.exists() else path
    told = json.loads(path.read_text())["hypotheses"]
    return {which: [one["CLs_obs"], *one["CLs_exp"]] for which, one in told.items()}


def _largest(
    results: Mapping[str, list[float]], reference: Mapping[str, list[float]]
) -> float | None:
    """Return the largest difference; a hypothesis or a number that is missing is an error."""
    differences = [
        abs(ours - theirs)
        for name, values in reference.items()
        for ours, theirs in zip(results[name], values, strict=True)
    ]
    return max(differences, default=None)


def _show(found: dict[str, Any]) -> None:
    device = found["device"]
    print(f"device: {device['name']} ({device['platform']}), {device['fits at once']} fits at once")
    for name, one in found["analyses"].items():
        told = "nothing to compare with"
        if one["compared"]:
            told = (
                f"|delta CLs| <= {one['largest difference in CLs']:.1e} for {one['compared']} "
                f"beside {one['compared with']}"
            )
        print(
            f"{name}: {one['hypotheses']} hypotheses in {one['median']:.3f} s (the first time, "
            f"compiling, {one['first, compiling']:.1f} s); {told}"
        )
        toys = one["toys"]
        memory = f", {one['memory'] / 2**20:.0f} MiB of the device" if one["memory"] else ""
        print(
            f"  {one['workers']} workers share the device: {one['median of the workers']:.3f} s; "
            f"{toys['fits']} fits to toys in {toys['seconds']:.2f} s{memory}"
        )


def _require_agreement(found: dict[str, Any]) -> None:
    for name, one in found["analyses"].items():
        largest = one["largest difference in CLs"]
        if largest is not None and not largest <= TOLERANCE:
            raise BackendError(
                f"the kernel on {found['device']['name']} does not agree",
                evidence=f"{name}: a CLs differs by {largest:.2g} from {one['compared with']}",
            )


if __name__ == "__main__":
    main()
