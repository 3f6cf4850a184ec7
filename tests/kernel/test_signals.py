"""Signals that arrive as arrays: the same fits, bit for bit, as of their patches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fitserve_contract import HypotestRequest, Hypothesis, SignalPatch, Template, digest
from fitserve_worker.engines import answers
from fitserve_worker.engines.base import Work
from fitserve_worker.engines.pyhf_engine import PyhfEngine

_MODIFIERS: dict[str, list[dict[str, Any]]] = {
    "yields": [],
    "normsys": [{"name": "norm", "type": "normsys", "data": {"lo": 0.9, "hi": 1.2}}],
    "histosys": [
        {
            "name": "own",
            "type": "histosys",
            "data": {"lo_data": [8.0, 12.0], "hi_data": [13.0, 9.0]},
        }
    ],
    "staterror": [{"name": "stat_SR", "type": "staterror", "data": [1.5, 0.7]}],
}


def _patches(modifiers: list[dict[str, Any]], count: int = 6) -> list[list[dict[str, Any]]]:
    generator = np.random.default_rng(3)
    patches = []
    for _ in range(count):
        scale = float(generator.uniform(0.1, 3))
        sample = {
            # Numbers before the yields too: the order of keys is anybody's.
            "modifiers": [
                {"name": "mu", "type": "normfactor", "data": None},
                *(_scaled(one, scale) for one in modifiers),
            ],
            "name": "signal",
            "data": [11.0 * scale, 10.0 * scale],
        }
        patches.append([{"op": "add", "path": "/channels/0/samples/-", "value": sample}])
    return patches


def _scaled(modifier: dict[str, Any], scale: float) -> dict[str, Any]:
    data = modifier["data"]
    if modifier["type"] == "normsys":
        return modifier | {"data": {end: 1 + (one - 1) * scale / 4 for end, one in data.items()}}
    if modifier["type"] == "histosys":
        return modifier | {
            "data": {end: [one * scale for one in bins] for end, bins in data.items()}
        }
    return modifier | {"data": [one * scale for one in data]}


def _numbers(value: Any) -> list[float]:
    match value:
        case dict():
            return [number for one in value.values() for number in _numbers(one)]
        case list():
            return [number for one in value for number in _numbers(one)]
        case float():
            return [value]
    return []


def _as_array(hypotheses: list[Hypothesis]) -> list[Hypothesis]:
    template = Template(hypotheses[0].patch)
    return [
        Hypothesis(
            name=one.name,
            values=one.values,
            patch=SignalPatch(template, np.array(_numbers(list(one.patch))).tobytes()),
        )
        for one in hypotheses
    ]


def _cls(workspace: dict, hypotheses: list[Hypothesis], engine: Any = None) -> dict[str, list]:
    request = HypotestRequest(mu=(0.5, 1.0))
    work = Work(digest(workspace), workspace, hypotheses, request, digest(request))
    return {
        one.name: [one.engine, *([p.CLs_obs, *p.CLs_exp] for p in one.points)]
        for one in (answers(work) if engine is None else engine.answers(work))
    }


@pytest.mark.parametrize("kind", _MODIFIERS)
def test_arrays_give_the_results_of_patches_bit_for_bit(workspace: dict, kind: str) -> None:
    as_patches = [
        Hypothesis(name=f"S{at}", values=(), patch=patch)
        for at, patch in enumerate(_patches(_MODIFIERS[kind]))
    ]
    expected = _cls(workspace, as_patches)
    assert {one[0] for one in expected.values()} == {"kernel"}
    assert _cls(workspace, _as_array(as_patches)) == expected


def test_arrays_and_patches_may_be_in_one_task(workspace: dict) -> None:
    some = [
        Hypothesis(name=f"{kind}{at}", values=(), patch=patch)
        for kind, modifiers in _MODIFIERS.items()
        for at, patch in enumerate(_patches(modifiers, 2))
    ]
    mixed = [_as_array([one])[0] if at % 2 else one for at, one in enumerate(some)]
    together, alone = _cls(workspace, mixed), [_cls(workspace, [one]) for one in some]
    for one in alone:
        for name, (engine, *points) in one.items():
            assert together[name][0] == engine
            assert np.array(together[name][1:]) == pytest.approx(np.array(points), abs=1e-9)


def test_pyhf_fits_arrays_too(workspace: dict) -> None:
    [patch] = _patches(_MODIFIERS["normsys"], 1)
    hypothesis = Hypothesis(name="S", values=(), patch=patch)
    options = HypotestRequest().engine
    ours = _cls(workspace, _as_array([hypothesis]), PyhfEngine(options))["S"]
    theirs = _cls(workspace, [hypothesis], PyhfEngine(options))["S"]
    assert ours[1:] == theirs[1:]


@pytest.mark.parametrize(
    ("modifier", "reason"),
    [
        ({"name": "x", "type": "normsys", "data": {"lo": -0.5, "hi": 1.5}}, "is not positive"),
        ({"name": "x", "type": "nothing", "data": [1.0, 2.0]}, "is unknown"),
        ({"name": "norm", "type": "shapesys", "data": [1.0, 2.0]}, "two kinds"),
    ],
)
def test_what_the_kernel_does_not_fit_goes_to_pyhf_with_its_reason(
    workspace: dict, modifier: dict[str, Any], reason: str
) -> None:
    [patch] = _patches([], 1)
    patch[0]["value"]["modifiers"].append(modifier)
    hypothesis = Hypothesis(name="S", values=(), patch=patch)
    request = HypotestRequest()
    results = [
        next(iter(answers(Work(digest(workspace), workspace, each, request, digest(request)))))
        for each in ([hypothesis], _as_array([hypothesis]))
    ]
    assert results[0].status == results[1].status == "failed"
    assert results[0].reason == results[1].reason
    assert results[0].diagnostics == results[1].diagnostics
    assert reason in str(results[0].diagnostics)
