"""The wire contract between client and worker: the only thing that both sides import.

Structures (`types`), digests (`digests`), the one codec (`codec`) and the function that an
endpoint runs (`trampoline`). Importing this
package imports neither pyhf nor JAX.
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
from fitserve.contract.trampoline import FUNCTION_DIGEST, FUNCTION_NAME, FUNCTION_SOURCE
from fitserve.contract.types import (
    CONTRACT_VERSION,
    Attempt,
    EngineOptions,
    HypotestRequest,
    Hypothesis,
    HypothesisResult,
    ModelOptions,
    MuPoint,
    Status,
    Task,
    TaskResult,
    Timing,
    WorkerInfo,
    allowed,
)
from fitserve.errors import ContractError

__all__ = [
    "CONTRACT_VERSION",
    "FUNCTION_DIGEST",
    "FUNCTION_NAME",
    "FUNCTION_SOURCE",
    "MAX_DECODED_BYTES",
    "Attempt",
    "ContractError",
    "EngineOptions",
    "HypotestRequest",
    "Hypothesis",
    "HypothesisResult",
    "ModelOptions",
    "MuPoint",
    "Status",
    "Task",
    "TaskResult",
    "Timing",
    "WorkerInfo",
    "allowed",
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
    "request_digest",
]
