"""A small model with every kind of constraint, and its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyhf
import pytest

import fitserve_worker
from fitserve_contract import (
    Hypothesis,
    HypothesisResult,
    Request,
    Task,
    decode_result,
    digest,
    encode_task,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def _norm(low: float, high: float, name: str = "norm") -> dict[str, Any]:
    return {"name": name, "type": "normsys", "data": {"lo": low, "hi": high}}


@pytest.fixture(scope="session")
def spec() -> dict[str, Any]:
    """Return a workspace of a signal and a control region, without a signal."""
    shape = {"hi_data": [52.0, 51.0, 31.0], "lo_data": [48.0, 53.0, 29.0]}
    signal_region = {
        "name": "background",
        "data": [50.0, 52.0, 30.0],
        "modifiers": [
            {"name": "uncorr", "type": "shapesys", "data": [3.0, 7.0, 2.0]},
            {"name": "shape", "type": "histosys", "data": shape},
            _norm(0.95, 1.05),
        ],
    }
    control_region = {
        "name": "background",
        "data": [200.0],
        "modifiers": [_norm(0.95, 1.05), {"name": "stat", "type": "staterror", "data": [5.0]}],
    }
    return {
        "channels": [
            {"name": "SR", "samples": [signal_region]},
            {"name": "CR", "samples": [control_region]},
        ],
        "observations": [
            {"name": "SR", "data": [58.0, 56.0, 33.0]},
            {"name": "CR", "data": [190.0]},
        ],
        "measurements": [{"name": "main", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }


@pytest.fixture(scope="session")
def make_signal() -> Callable[..., Hypothesis]:
    """Return a function that makes a signal of a given size."""

    def make(scale: float = 1.0, name: str = "S") -> Hypothesis:
        sample = {
            "name": "signal",
            "data": [6.0 * scale, 12.0 * scale, 2.0 * scale],
            "modifiers": [
                {"name": "mu", "type": "normfactor", "data": None},
                _norm(0.9, 1.1, "signal_norm"),
            ],
        }
        patch = [{"op": "add", "path": "/channels/0/samples/1", "value": sample}]
        return Hypothesis(name=name, values=(1.0,), patch=patch)

    return make


@pytest.fixture(scope="session")
def ask(
    spec: dict[str, Any], make_signal: Callable[..., Hypothesis]
) -> Callable[..., HypothesisResult]:
    """Return a function that has the worker answer a request of one hypothesis."""

    def answer(
        request: Request, hypothesis: Hypothesis | None = None, workspace: dict | None = None
    ) -> HypothesisResult:
        content = workspace or spec
        task = Task(
            workspace_digest=digest(content),
            workspace=content,
            hypotheses=[hypothesis or make_signal()],
            request=request,
        )
        return decode_result(fitserve_worker.run(encode_task(task))).results[0]

    return answer


@pytest.fixture(scope="session")
def model(
    spec: dict[str, Any], make_signal: Callable[..., Hypothesis]
) -> tuple[pyhf.Model, list[float]]:
    """Return pyhf's model of the signal of size 1, and its data."""
    pyhf.set_backend("numpy", "scipy")
    workspace = pyhf.Workspace(spec)
    codes = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}
    made = workspace.model(patches=[make_signal().patch], modifier_settings=codes)
    return made, workspace.data(made)
