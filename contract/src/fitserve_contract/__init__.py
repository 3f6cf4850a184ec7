"""The wire contract between client and worker: the only thing that both sides import.

Tasks, results and their digests (`messages`, `requests`, `results`), the one codec and the
function that an endpoint runs (`codec`), and the errors of both sides (`errors`); and bounds on
input from outside: JSON that fits into memory (`memory`) and patches that end (`patching`).
Importing this package imports neither pyhf nor JAX.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fitserve_contract._version import OLDEST_DRIVERS, __version__

if TYPE_CHECKING:
    from fitserve_contract.codec import (
        FUNCTION_DIGEST,
        FUNCTION_NAME,
        FUNCTION_SOURCE,
        MAX_DECODED_BYTES,
        QUICK,
        SMALL,
        STAGE_VARIABLE,
        compress,
        decode_result,
        decode_task,
        decompress,
        encode_refusal,
        encode_result,
        encode_task,
        envelope_digest,
    )
    from fitserve_contract.errors import ContractError
    from fitserve_contract.memory import (
        decoded_bytes,
        excess,
        memory_of_machine,
        memory_there,
    )
    from fitserve_contract.messages import (
        CONTRACT_VERSION,
        Hypothesis,
        Task,
        TaskResult,
        Timing,
        WorkerInfo,
        digest,
        hypothesis_key,
        patch_content,
        request_digest,
        split_signals,
        with_signals,
    )
    from fitserve_contract.patching import PatchError, apply_patch
    from fitserve_contract.requests import (
        MAX_STRENGTHS,
        MAX_TOYS,
        NORMFACTOR_BOUNDS,
        EngineOptions,
        FitRequest,
        HypotestRequest,
        LimitRequest,
        ModelOptions,
        RankingRequest,
        Request,
        ScanRequest,
        ToysRequest,
        allowed,
        cls_strengths,
        kind_of,
        poi_bounds,
        refusal,
        widened,
    )
    from fitserve_contract.results import (
        ABOVE_BOUND,
        KERNEL_DOUBT,
        NOT_FOR_THE_KERNEL,
        AsymptoticCLs,
        Attempt,
        ChannelYields,
        Correlations,
        FitAnswer,
        FittedParameter,
        HypothesisResult,
        Impact,
        MuPoint,
        RankingAnswer,
        SampleYields,
        Status,
        ToyDistribution,
        ToyRange,
        ToysAnswer,
        ToyValues,
        UpperLimits,
        Verification,
        Yields,
    )
    from fitserve_contract.signals import SIGNALS_VERSION, SignalPatch, Signals, Template

__all__ = [
    "ABOVE_BOUND",
    "CONTRACT_VERSION",
    "FUNCTION_DIGEST",
    "FUNCTION_NAME",
    "FUNCTION_SOURCE",
    "KERNEL_DOUBT",
    "MAX_DECODED_BYTES",
    "MAX_STRENGTHS",
    "MAX_TOYS",
    "NORMFACTOR_BOUNDS",
    "NOT_FOR_THE_KERNEL",
    "OLDEST_DRIVERS",
    "QUICK",
    "SIGNALS_VERSION",
    "SMALL",
    "STAGE_VARIABLE",
    "AsymptoticCLs",
    "Attempt",
    "ChannelYields",
    "ContractError",
    "Correlations",
    "EngineOptions",
    "FitAnswer",
    "FitRequest",
    "FittedParameter",
    "HypotestRequest",
    "Hypothesis",
    "HypothesisResult",
    "Impact",
    "LimitRequest",
    "ModelOptions",
    "MuPoint",
    "PatchError",
    "RankingAnswer",
    "RankingRequest",
    "Request",
    "SampleYields",
    "ScanRequest",
    "SignalPatch",
    "Signals",
    "Status",
    "Task",
    "TaskResult",
    "Template",
    "Timing",
    "ToyDistribution",
    "ToyRange",
    "ToyValues",
    "ToysAnswer",
    "ToysRequest",
    "UpperLimits",
    "Verification",
    "WorkerInfo",
    "Yields",
    "__version__",
    "allowed",
    "apply_patch",
    "cls_strengths",
    "compress",
    "decode_result",
    "decode_task",
    "decoded_bytes",
    "decompress",
    "digest",
    "encode_refusal",
    "encode_result",
    "encode_task",
    "envelope_digest",
    "excess",
    "hypothesis_key",
    "kind_of",
    "memory_of_machine",
    "memory_there",
    "patch_content",
    "poi_bounds",
    "refusal",
    "request_digest",
    "split_signals",
    "widened",
    "with_signals",
]


_PARTS = ["messages", "requests", "results", "codec", "memory", "patching", "signals", "errors"]


def __getattr__(name: str) -> Any:
    # Imports of the errors or the version alone are fast, and need no other package.
    if name in __all__:
        for part in _PARTS:
            module = import_module(f"fitserve_contract.{part}")
            if name in module.__all__:
                return globals().setdefault(name, getattr(module, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
