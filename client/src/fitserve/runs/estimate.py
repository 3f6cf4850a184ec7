"""A rough estimate of the time of a hypothesis, before any fit.

The estimate serves to cut tasks and to show a first remaining time, which the measured
times replace as they come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fitserve.kinds.registry import kind
from fitserve_contract import EngineOptions, HypotestRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve_contract import Request

__all__ = ["free_parameters", "seconds_per_hypothesis", "seconds_to_verify"]

# pyhf with numpy and scipy on one core of a current server: SLSQP takes finite differences,
# so that a fit needs a number of likelihoods proportional to that of the parameters, each
# with a fixed part and one for every modifier of every sample. The two constants are
# those of staus (118 parameters, 2391 modifiers, 4.6 s) and 1Lbb (121, 9499, 14.5 s).
_SECONDS_FIXED = 1.2e-2
_SECONDS_MODIFIER = 1.1e-5

# The kernel takes a 500th of that on the published pallets (7 ms staus, 27 ms 1Lbb).
_KERNEL_SPEED = 500

# pyhf verifies with a tighter tolerance (on staus), from four starts.
_TIGHT = 1.5
_STARTS_TO_VERIFY = 4

_ONE_PER_BIN = ("staterror", "shapesys", "shapefactor")


def free_parameters(workspace: dict[str, Any]) -> int:
    """Return the number of parameters of a workspace's channels, patches not counted."""
    lengths: dict[str, int] = {}
    for sample, modifier in _modifiers(workspace):
        per_bin = modifier["type"] in _ONE_PER_BIN
        lengths[modifier["name"]] = len(sample["data"]) if per_bin else 1
    return sum(lengths.values())


def seconds_per_hypothesis(workspace: dict[str, Any], request: Request) -> float:
    """Return the estimated time of one hypothesis on one core, in seconds."""
    modifiers = sum(1 for _ in _modifiers(workspace))
    likelihood = _SECONDS_FIXED + _SECONDS_MODIFIER * modifiers
    parameters = 1 + free_parameters(workspace)
    one_test = parameters * likelihood
    if request.engine.engine == "pyhf":
        return kind(request).tests(request, parameters) * one_test
    return kind(request).kernel_tests(request, parameters) * one_test / _KERNEL_SPEED


def seconds_to_verify(workspace: dict[str, Any], request: Request) -> float:
    """Return the estimated time of verifying one hypothesis with pyhf, in seconds."""
    tests = kind(request).tests_to_verify(request)
    by_pyhf = HypotestRequest(engine=EngineOptions(engine="pyhf"))
    return _TIGHT * _STARTS_TO_VERIFY * tests * seconds_per_hypothesis(workspace, by_pyhf)


def _modifiers(workspace: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for channel in workspace["channels"]:
        for sample in channel["samples"]:
            for modifier in sample["modifiers"]:
                yield sample, modifier
