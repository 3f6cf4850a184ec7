"""Upper limits of one new signal after the other, beside pyhf, SModelS and Spey, in one process.

Usage: .cache/reinterpretation-venv/bin/python benchmarks/reinterpretation.py [SIGNALS]

Needs `make reinterpretation-venv`, and the worker in it, so that Spey finds its backend:
.cache/reinterpretation-venv/bin/pip install --no-deps -e contract -e worker. The workspace is
one as SModelS' simplified ones are: a few signal regions, each with one uncertainty. Every signal
is asked of all of them in turn, so that the machine's other work is shared, and what comes first
is not counted. Prints JSON: the median seconds of a limit by each, and the ratios to fitserve's.
"""

import json
import statistics
import sys
import time
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pyhf
import spey
from smodels.statistics.pyhfInterface import PyhfData
from smodels.statistics.pyhfInterface import PyhfUpperLimitComputer as Theirs

from fitserve_worker.adaptors.smodels import PyhfUpperLimitComputer as Ours
from fitserve_worker.inprocess import Likelihood

if TYPE_CHECKING:
    from collections.abc import Callable

REGIONS = 6
LUMI = {"name": "lumi", "auxdata": [1.0], "bounds": [[0.5, 1.5]], "inits": [1.0], "sigmas": [0.02]}
MODIFIERS = [
    {"name": "mu_SIG", "type": "normfactor", "data": None},
    {"name": "lumi", "type": "lumi", "data": None},
]


def made(random: np.random.Generator) -> dict:
    """Return a workspace, without a signal."""
    events = random.uniform(3, 60, REGIONS)
    channels = [
        {
            "name": f"SR{at}",
            "samples": [
                {
                    "name": "Bkg",
                    "data": [one],
                    "modifiers": [
                        {"name": f"total{at}", "type": "normsys", "data": {"hi": 1.15, "lo": 0.85}}
                    ],
                }
            ],
        }
        for at, one in enumerate(events.tolist())
    ]
    seen = [{"name": f"SR{at}", "data": [float(random.poisson(n))]} for at, n in enumerate(events)]
    measurement = {"name": "m", "config": {"poi": "mu_SIG", "parameters": [LUMI]}}
    return {
        "channels": channels,
        "observations": seen,
        "measurements": [measurement],
        "version": "1.0.0",
    }


def main(count: int) -> None:
    """Time all of them on the same signals."""
    random = np.random.default_rng(1)
    workspace = made(random)
    likelihood = Likelihood(workspace, modifiers=MODIFIERS[1:])
    regions = [{"smodels": f"SR{at}", "type": "SR", "pyhf": f"SR{at}"} for at in range(REGIONS)]

    def smodels(kind: type, signal: dict[str, float]) -> float:
        data = PyhfData(dict(signal), workspace, regions, jsonFileName="x.json")
        return kind(data).getUpperLimitOnMu()

    def patch(signal: dict[str, float]) -> list:
        return likelihood.signal({name: [events] for name, events in signal.items()}).patch

    def by_spey(backend: str, signal: dict[str, float]) -> float:
        model = spey.get_backend(backend)(
            analysis="x", background_only_model=workspace, signal_patch=patch(signal)
        )
        return float(model.poi_upper_limit())

    def by_pyhf(signal: dict[str, float]) -> float:
        pyhf.set_backend("numpy", "scipy")
        whole = pyhf.Workspace(workspace)
        model = whole.model(patches=[patch(signal)])
        limit, _ = pyhf.infer.intervals.upper_limits.upper_limit(
            whole.data(model), model, scan=None
        )
        return float(limit)

    ways: dict[str, Callable[[dict[str, float]], float | None]] = {
        "fitserve": lambda signal: likelihood.upper_limit(patch(signal)).limit.observed,
        "fitserve as SModelS": lambda signal: smodels(Ours, signal),
        "SModelS": lambda signal: smodels(Theirs, signal),
        "pyhf": by_pyhf,
        "fitserve as Spey": lambda signal: by_spey("fitserve.full", signal),
        "Spey": lambda signal: by_spey("pyhf", signal),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    furthest = 0.0
    for turn in range(count + 1):
        events = 10 ** random.uniform(-1, 1, REGIONS)
        signal = {f"SR{at}": float(one) for at, one in enumerate(events)}
        found = {}
        for name, way in ways.items():
            begin = time.perf_counter()
            found[name] = way(signal)
            if turn:
                seconds[name].append(time.perf_counter() - begin)
        numbers = [one for one in found.values() if one is not None]
        furthest = max(furthest, max(numbers) / min(numbers) - 1)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    report = {
        "signals": count,
        "median seconds": {name: round(one, 4) for name, one in median.items()},
        "ratio to fitserve": {
            name: round(one / median["fitserve"], 1) for name, one in median.items()
        },
        "largest relative difference of a limit": furthest,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
