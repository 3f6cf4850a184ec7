"""How long a hypothesis takes, roughly, before anything was fitted.

The estimate serves to cut tasks and to show a first remaining time, which the measured
times replace as they come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fitserve.contract import (
    EngineOptions,
    FitRequest,
    HypotestRequest,
    LimitRequest,
    RankingRequest,
    ScanRequest,
    ToysRequest,
    cls_strengths,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve.contract import Request

__all__ = ["free_parameters", "seconds_per_hypothesis", "seconds_to_verify"]

# pyhf with numpy and scipy on one core of a current server: SLSQP takes finite differences,
# so that a fit needs a number of likelihoods proportional to that of the parameters, each
# with a fixed part and one for every modifier of every sample. The two constants are
# those of staus (118 parameters, 2391 modifiers, 4.6 s) and 1Lbb (121, 9499, 14.5 s).
_SECONDS_FIXED = 1.2e-2
_SECONDS_MODIFIER = 1.1e-5

# The kernel takes a 500th of that on the published pallets (7 ms staus, 27 ms 1Lbb).
_KERNEL_SPEED = 500

# In units of the kernel's CLs at one signal strength, on the published pallets: each further
# signal strength, the six limits (4.6 staus, 3.6 1Lbb), a fit with Hessian and yields, and
# the interval and the impact of one parameter.
_KERNEL_STRENGTH = 0.4
_KERNEL_LIMIT = 4.5
_KERNEL_FIT = 7.0
_KERNEL_INTERVAL = 0.45
_KERNEL_IMPACT = 0.35

# In units of CLs at one signal strength: a toy with signal and one without (on staus), the six
# limits of a hypothesis (on the bundled example), a fit by Minuit with its Hessian (on staus),
# and the interval and the impact of one parameter (on the example).
_TESTS_OF_TOY = 1.0
_TESTS_OF_LIMIT = 16
_TESTS_OF_FIT = 4.0
_TESTS_OF_INTERVAL = 0.4
_TESTS_OF_IMPACT = 0.2
# pyhf verifies with a tighter tolerance (on staus), from four starts, and limits at three signal
# strengths.
_TIGHT = 1.5
_STARTS_TO_VERIFY = 4
_TESTS_TO_VERIFY_LIMIT = 3

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
        return _tests(request, parameters) * one_test
    return _kernel_tests(request, parameters) * one_test / _KERNEL_SPEED


def seconds_to_verify(workspace: dict[str, Any], request: Request) -> float:
    """Return the estimated time of verifying one hypothesis with pyhf, in seconds."""
    tests = (
        _TESTS_TO_VERIFY_LIMIT
        if isinstance(request, LimitRequest)
        else sum(mu > 0 for mu in cls_strengths(request))
    )
    by_pyhf = HypotestRequest(engine=EngineOptions(engine="pyhf"))
    return _TIGHT * _STARTS_TO_VERIFY * tests * seconds_per_hypothesis(workspace, by_pyhf)


def _tests(request: Request, parameters: int) -> float:
    """Return the cost of a request in that of CLs at one signal strength."""
    match request:
        case HypotestRequest() | ScanRequest():
            return len(request.mu)
        case ToysRequest():
            return _TESTS_OF_TOY * request.toys
        case LimitRequest():
            return _TESTS_OF_LIMIT
        case FitRequest():
            return _TESTS_OF_FIT + request.intervals * _TESTS_OF_INTERVAL * parameters
        case RankingRequest():
            return _TESTS_OF_FIT + _TESTS_OF_IMPACT * parameters


def _kernel_tests(request: Request, parameters: int) -> float:
    """Return the kernel's cost of a request in that of its CLs at one signal strength."""
    match request:
        case HypotestRequest() | ScanRequest():
            return 1 + _KERNEL_STRENGTH * (len(request.mu) - 1)
        case LimitRequest():
            return _KERNEL_LIMIT
        case FitRequest():
            return _KERNEL_FIT + request.intervals * _KERNEL_INTERVAL * parameters
        case RankingRequest():
            return _KERNEL_FIT + _KERNEL_IMPACT * parameters
        case ToysRequest():
            return _tests(request, parameters)


def _modifiers(workspace: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for channel in workspace["channels"]:
        for sample in channel["samples"]:
            for modifier in sample["modifiers"]:
                yield sample, modifier
