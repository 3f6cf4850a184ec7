"""What every fit reports of itself, whatever was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fitserve_contract import (
    EngineOptions,
    FitRequest,
    HypotestRequest,
    LimitRequest,
    RankingRequest,
    Request,
    ScanRequest,
    ToysRequest,
    kind_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

REQUESTS: list[Callable[[EngineOptions], Request]] = [
    lambda engine: HypotestRequest(mu=(1.0, 2.0), engine=engine),
    lambda engine: LimitRequest(engine=engine),
    lambda engine: ScanRequest(mu=(0.0, 0.7, 3.0), engine=engine),
    lambda engine: FitRequest(engine=engine),
    lambda engine: RankingRequest(engine=engine),
    lambda engine: ToysRequest(toys=3, engine=engine),
]
KINDS = [kind_of(make(EngineOptions())) for make in REQUESTS]


def test_every_kind_of_request_is_here() -> None:
    assert set(KINDS) == {kind.__struct_config__.tag for kind in Request.__args__}


@pytest.mark.parametrize("make", REQUESTS, ids=KINDS)
def test_the_kernel_says_how_its_fits_went(make: Callable, ask: Callable) -> None:
    found = ask(make(EngineOptions(engine="kernel")))
    assert (found.status, found.engine) == ("ok", "kernel")
    told = found.diagnostics
    assert (told["converged"], told["positive_definite"]) == (True, True)
    assert told["iterations"] > 0
    assert 0 <= told["edm"] < 1e-6
    assert told["at_bounds"] == 0


@pytest.mark.parametrize("make", REQUESTS, ids=KINDS)
def test_pyhf_says_whether_its_optimizer_is_content(make: Callable, ask: Callable) -> None:
    found = ask(make(EngineOptions(engine="pyhf")))
    told = found.diagnostics
    assert told["converged"] is True
    if kind_of(make(EngineOptions())) in ("fit", "ranking"):
        assert told["positive_definite"] is True
        assert told["iterations"] > 0
        assert 0 <= told["edm"] < 1e-2
        assert told["at_bounds"] == 0
    else:
        assert told["shift"] < 1e-3


def test_a_parameter_at_a_bound_is_named_by_both(ask: Callable, spec: dict) -> None:
    bounded = {
        **spec,
        "measurements": [
            {
                "name": "main",
                "config": {
                    "poi": "mu",
                    "parameters": [{"name": "mu", "bounds": [[0.0, 0.1]], "inits": [0.05]}],
                },
            }
        ],
    }
    for engine in ("kernel", "pyhf"):
        found = ask(FitRequest(engine=EngineOptions(engine=engine)), workspace=bounded)
        assert found.diagnostics["at_bounds"] == 1, engine
        assert found.diagnostics["parameters_at_bounds"] == "mu"
