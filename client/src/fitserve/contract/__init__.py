"""The wire contract between client and worker: the only thing that both sides import.

Structures (`requests`, `results`, `types`), digests (`digests`), the one codec (`codec`) and the
function that an endpoint runs (`trampoline`). Importing this package imports neither pyhf nor
JAX.
"""

from fitserve.contract.codec import (
    MAX_DECODED_BYTES,
    compress,
    decode_result,
    decode_task,
    decompress,
    encode_refusal,
    encode_result,
    encode_task,
    envelope_digest,
)
from fitserve.contract.digests import digest, hypothesis_key, request_digest
from fitserve.contract.requests import (
    EngineOptions,
    FitRequest,
    HypotestRequest,
    LimitRequest,
    ModelOptions,
    RankingRequest,
    Request,
    ScanRequest,
    allowed,
    cls_strengths,
    kind_of,
)
from fitserve.contract.results import (
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
    UpperLimits,
    Verification,
    Yields,
)
from fitserve.contract.trampoline import FUNCTION_DIGEST, FUNCTION_NAME, FUNCTION_SOURCE
from fitserve.contract.types import (
    CONTRACT_VERSION,
    Hypothesis,
    Task,
    TaskResult,
    Timing,
    WorkerInfo,
)
from fitserve.errors import ContractError

__all__ = [
    "CONTRACT_VERSION",
    "FUNCTION_DIGEST",
    "FUNCTION_NAME",
    "FUNCTION_SOURCE",
    "MAX_DECODED_BYTES",
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
    "RankingAnswer",
    "RankingRequest",
    "Request",
    "SampleYields",
    "ScanRequest",
    "Status",
    "Task",
    "TaskResult",
    "Timing",
    "UpperLimits",
    "Verification",
    "WorkerInfo",
    "Yields",
    "allowed",
    "cls_strengths",
    "compress",
    "decode_result",
    "decode_task",
    "decompress",
    "digest",
    "encode_refusal",
    "encode_result",
    "encode_task",
    "envelope_digest",
    "hypothesis_key",
    "kind_of",
    "request_digest",
]
