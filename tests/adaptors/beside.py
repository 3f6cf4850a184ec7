"""Run by an environment with SModelS and Spey: the same questions to them and to the adaptors.

Usage: python tests/adaptors/beside.py smodels|spey < WORKSPACE

Prints JSON: for each signal what each of both answers, and the seconds that it took.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import numpy as np

SIGNALS = (
    {"SR0": 3.0, "SR1": 0.0, "SR2": 2.5, "SR3": 0.0, "SR4": 1.0},
    {"SR0": 0.3, "SR1": 6.0, "SR2": 0.1, "SR3": 4.0, "SR4": 0.02},
    {"SR0": 8.0, "SR1": 2.0, "SR2": 9.0, "SR3": 1.0, "SR4": 3.0},
    {"SR0": 2e-3, "SR1": 4e-3, "SR2": 3e-3, "SR3": 1e-3, "SR4": 1e-3},
)
MODIFIERS = (
    {"name": "mu_SIG", "type": "normfactor", "data": None},
    {"name": "lumi", "type": "lumi", "data": None},
)


def smodels(workspace: dict[str, Any]) -> list[Any]:
    """Return the answers of SModelS' computer and of ours."""
    from smodels.statistics import pyhfInterface, statsTools
    from smodels.statistics.basicStats import aposteriori, apriori, observed

    from fitserve_worker.adaptors import smodels as ours

    theirs = pyhfInterface.PyhfUpperLimitComputer
    ours.use()
    assert statsTools.PyhfUpperLimitComputer is ours.PyhfUpperLimitComputer
    ours.use(fitserve=False)
    assert pyhfInterface.PyhfUpperLimitComputer is statsTools.PyhfUpperLimitComputer is theirs
    regions = [{"smodels": name, "type": "SR", "pyhf": name} for name in SIGNALS[0]]
    evaluations = (observed, aposteriori, apriori)

    def asked(kind: Any, signal: dict[str, float]) -> dict[str, Any]:
        data = pyhfInterface.PyhfData(dict(signal), workspace, regions, jsonFileName="x.json")
        computer = kind(data)
        begin = time.perf_counter()
        limits = [computer.getUpperLimitOnMu(one) for one in evaluations]
        limits += [computer.getUpperLimitOnMu(aposteriori, nSigma=at) for at in (-2, 1)]
        seconds = time.perf_counter() - begin
        best = computer.nll_min()
        return {
            "seconds": seconds,
            "limits": limits,
            "cls": [
                computer.CLs(1.0, one, kind) for one in evaluations for kind in ("CLs", "1-CLs")
            ],
            "nll": [computer.nll(mu) for mu in (0.0, 0.5, 1.0)],
            "best": [best["muhat"], best["nll_min"]],
            "asimov": computer.nll(1.0, asimov=0.0) - computer.nll(0.0, asimov=0.0),
        }

    nothing = pyhfInterface.PyhfData(
        dict.fromkeys(SIGNALS[0], 0.0), workspace, regions, jsonFileName="x.json"
    )
    assert ours.PyhfUpperLimitComputer(nothing).getUpperLimitOnMu() is None
    # Yields may be numbers of NumPy.
    asked(ours.PyhfUpperLimitComputer, dict.fromkeys(SIGNALS[0], np.float64(1.0)))
    return [
        [asked(kind, signal) for kind in (theirs, ours.PyhfUpperLimitComputer)]
        for signal in SIGNALS
    ]


def spey(workspace: dict[str, Any]) -> list[Any]:
    """Return the answers of Spey's backend for pyhf and of ours."""
    import spey
    from spey import ExpectationType

    names = [one["name"] for one in workspace["channels"]]
    evaluations = (
        ExpectationType.observed,
        ExpectationType.aposteriori,
        ExpectationType.apriori,
    )

    def asked(backend: str, signal: dict[str, float]) -> dict[str, Any]:
        patch = [
            {
                "op": "add",
                "path": f"/channels/{names.index(name)}/samples/1",
                "value": {"name": "signal", "data": [events], "modifiers": list(MODIFIERS)},
            }
            for name, events in signal.items()
        ]
        model = spey.get_backend(backend)(
            analysis="x", background_only_model=workspace, signal_patch=patch
        )
        begin = time.perf_counter()
        limits = [model.poi_upper_limit(expected=one) for one in evaluations]
        seconds = time.perf_counter() - begin
        best = model.maximize_likelihood(allow_negative_signal=False)
        return {
            "seconds": seconds,
            "limits": [float(one) for one in limits],
            "cls": [
                float(cls)
                for one in evaluations
                for cls in model.exclusion_confidence_level(expected=one)
            ],
            "nll": [float(model.likelihood(mu)) for mu in (0.0, 0.5, 1.0)],
            "best": [float(one) for one in best],
            "asimov": float(model.asimov_likelihood(1.0)) - float(model.asimov_likelihood(0.0)),
        }

    asked("fitserve.full", dict.fromkeys(names, 1.0))
    # Spey's own search takes long where the signal is weak.
    return [
        [asked(backend, signal) for backend in ("pyhf", "fitserve.full")] for signal in SIGNALS[:3]
    ]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.stdout, out = sys.stderr, sys.stdout
    answers = {"smodels": smodels, "spey": spey}[sys.argv[1]](json.load(sys.stdin))
    json.dump(answers, out)
