"""The wire contract between client and worker: the only thing that both sides import.

Structures (`types`), digests (`digests`) and the one codec (`codec`). Importing this
package imports neither pyhf nor JAX.
"""

from fitserve.contract.codec import (
    MAX_DECODED_BYTES,
    decode_result,
    decode_task,
    encode_result,
    encode_task,
)
from fitserve.contract.digests import digest, hypothesis_key, request_digest
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
)

__all__ = [
    "CONTRACT_VERSION",
    "MAX_DECODED_BYTES",
    "Attempt",
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
    "decode_result",
    "decode_task",
    "digest",
    "encode_result",
    "encode_task",
    "hypothesis_key",
    "request_digest",
]
