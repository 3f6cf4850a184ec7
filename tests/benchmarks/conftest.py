"""The benchmark's modules, which are no package."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Return a function that imports a module of the benchmark by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = {path.stem for path in BENCHMARKS.glob("*.py")}
    assert not names & set(sys.modules)
    yield importlib.import_module
    for name in names & set(sys.modules):
        del sys.modules[name]


MACHINE = {
    "processor": "a processor",
    "cores": 2,
    "load at the start": 0.1,
    "pyhf": "1",
    "jax": "2",
    "numpy": "3",
    "scipy": "4",
    "python": "5",
    "iminuit": "6",
    "cabinetry": "7",
}


def found(**changes: object) -> dict:
    """Return what a benchmark might have found."""
    kernel = {
        "hypotheses": 125,
        "workers": 2,
        "seconds": [1.0, 1.2],
        "median": 1.1,
        "peak": 400.0,
        "core seconds per hypothesis": 0.0176,
        "first result, nothing compiled": 5.0,
        "first result, compiled before": 2.0,
    }
    engine = {"hypotheses": ["S"], "seconds": [30.0], "why not": None, "median": 30.0}
    missing = {"hypotheses": ["S"], "seconds": [], "why not": "more than 90 s", "median": None}
    profile = {
        "milliseconds": {"likelihood": 1.0, "Cholesky": 3.0},
        "counts": {"fits": 4.0, "gradients": 18.0, "hessians": 8.5},
        "operations": 4e7,
        "operations per second": 1e10,
    }
    return {
        "machine": MACHINE,
        "kernel": {"1Lbb": kernel},
        "run": {"1Lbb": {"cold": 16.0, "warm": [8.0, 7.0, 9.0]}},
        "patches": [
            {"hypotheses": 25, "seconds": 0.3, "programs": 1},
            {"hypotheses": 50, "seconds": 0.5, "programs": 1},
            {"hypotheses": 125, "seconds": 1.1, "programs": 1},
        ],
        "engines": {
            "1Lbb": {
                "kernel": {
                    "seconds per hypothesis": 0.0088,
                    "core seconds per hypothesis": 0.0176,
                },
                "engines": {
                    "pyhf numpy+scipy": engine | {"largest difference in CLs": 2e-6},
                    "pyhf jax+scipy": missing | {"largest difference in CLs": None},
                },
            }
        },
        "growth": [
            {
                "bins": 50,
                "nuisance": 20,
                "parameters": 70,
                "kernel": 0.01,
                "kernel, compiling": 4.0,
                "kernel, MiB": 300.0,
                "pyhf jax+scipy": 3.0,
                "why not": None,
            },
            {
                "bins": 5000,
                "nuisance": 1000,
                "parameters": 6000,
                "kernel": 9.0,
                "kernel, compiling": 20.0,
                "kernel, MiB": 3000.0,
                "pyhf jax+scipy": None,
                "pyhf jax+scipy, at least": 60.0,
                "why not": "more than 60 s",
            },
        ],
        "toys": {
            "staus": {
                "toys": 4000,
                "fits": 8001,
                "seconds": 10.0,
                "fits per second and core": 800.1,
            }
        },
        "profile": {"peak": 4e10, "1Lbb": profile},
    } | changes


@pytest.fixture
def found_by_a_benchmark() -> dict:
    """Return what a benchmark might have found."""
    return found()
