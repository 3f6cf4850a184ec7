"""The one codec of tasks and results, and the function that an endpoint runs.

A task is compact JSON, compressed with zstd, in base64, in a JSON envelope.

An envelope is plain JSON text, so any transport can carry it and no serializer that runs
code is ever needed. Decoding trusts nothing: the size is bounded before and while it is
decompressed, the digest is checked, and the content must fit the types.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import gc
import hashlib
import io
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec
import zstandard

from fitserve_contract.errors import ContractError, FitserveError
from fitserve_contract.memory import excess
from fitserve_contract.messages import (
    CONTRACT_VERSION,
    Task,
    TaskResult,
    split_signals,
    with_signals,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "FUNCTION_DIGEST",
    "FUNCTION_NAME",
    "FUNCTION_SOURCE",
    "MAX_DECODED_BYTES",
    "QUICK",
    "SMALL",
    "STAGE_VARIABLE",
    "compress",
    "decode_result",
    "decode_task",
    "decompress",
    "encode_refusal",
    "encode_result",
    "encode_task",
    "envelope_digest",
    "no_collection",
]

MAX_DECODED_BYTES = 256 * 1024**2
"""No task or result may be larger than this once decompressed."""

SMALL = 12
"""The level of zstd for what crosses a network: on 1Lbb within 15 % of level 19's size at a
thirtieth of its time."""

QUICK = 3
"""The level for what stays on this machine: 14 % more bytes than `SMALL` at a twentieth of its
time."""

# Frames that ask for more memory than this to decompress are refused.
_MAX_WINDOW = 128 * 1024**2

_T = TypeVar("_T", Task, TaskResult)


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    fitserve: Literal["task", "result"]
    contract: int
    digest: str
    encoding: str
    body: str


class _Refusal(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    tag_field="fitserve",
    tag="refusal",
):
    """The answer of a worker that cannot even read its task, in any contract version."""

    contract: int
    cause: str
    evidence: str
    hint: str


_ENCODING = "json+zstd+base64"
_json = msgspec.json.Encoder()


def compress(raw: bytes, level: int = SMALL) -> bytes:
    """Compress ``raw`` with zstd."""
    return zstandard.ZstdCompressor(level=level).compress(raw)


def decompress(packed: bytes, limit: int = MAX_DECODED_BYTES) -> bytes:
    """Decompress at most ``limit`` bytes of zstd data.

    Raises
    ------
    ContractError
        The data are not zstd, are cut short, or are larger than the limit.
    """
    try:
        # The size that a frame declares cannot be trusted: read and count.
        reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(
            io.BytesIO(packed)
        )
        raw = reader.read(limit + 1)
        declared = zstandard.frame_content_size(packed)
    except zstandard.ZstdError as error:
        raise ContractError("the body is not valid zstd data", evidence=str(error)) from error
    if len(raw) > limit:
        raise ContractError(
            "the body is larger than allowed once decompressed",
            evidence=f"more than {limit} bytes from {len(packed)}",
            hint="plan smaller tasks: --max-task-bytes",
        )
    if declared not in (-1, len(raw)):
        raise ContractError(
            "the body is cut short", evidence=f"it has {len(raw)} of {declared} bytes"
        )
    return raw


def envelope_digest(text: str) -> str:
    """Return the digest that an encoded task or result carries, without decoding its body.

    Raises
    ------
    ContractError
        The text is not an envelope.
    """
    return _envelope(text).digest


def encode_task(task: Task, level: int = SMALL) -> str:
    """Encode a task as JSON text, compressed to a ``level`` of zstd.

    Examples
    --------
    >>> from fitserve_contract import HypotestRequest, Task, decode_task, encode_task
    >>> task = Task(workspace_digest="0" * 64, workspace=None, hypotheses=[],
    ...             request=HypotestRequest(mu=(0.5, 1.0)))
    >>> decode_task(encode_task(task)) == task
    True
    """
    hypotheses, signals = split_signals(task.hypotheses)
    split = msgspec.structs.replace(task, hypotheses=hypotheses, signals=signals)
    return _encode("task", split, level)


def encode_result(result: TaskResult) -> str:
    """Encode a task's result as JSON text; a float that is not finite becomes null."""
    return _encode("result", result)


def encode_refusal(error: FitserveError) -> str:
    """Encode why a task is refused; `decode_result` raises it again on the other side."""
    refusal = _Refusal(
        contract=CONTRACT_VERSION, cause=error.cause, evidence=error.evidence, hint=error.hint
    )
    return _json.encode(refusal).decode("utf-8")


def decode_task(text: str, limit: int = MAX_DECODED_BYTES) -> Task:
    """Decode an encoded task.

    Raises
    ------
    ContractError
        The text is not a task of this contract version, is damaged, or is larger than
        ``limit`` bytes once decompressed.
    """
    task = _decode("task", text, Task, limit)
    try:
        hypotheses = with_signals(task.hypotheses, task.signals)
    except (ValueError, RecursionError) as error:
        raise ContractError("the task does not fit the contract", evidence=str(error)) from error
    return msgspec.structs.replace(task, hypotheses=hypotheses, signals=[])


def decode_result(text: str, limit: int = MAX_DECODED_BYTES) -> TaskResult:
    """Decode an encoded result.

    Raises
    ------
    ContractError
        As `decode_task`, or the worker refused the task: the error has its reason.
    """
    refusal = _refusal(text)
    if refusal is not None:
        raise ContractError(
            f"the worker refuses the task: {refusal.cause}",
            evidence=refusal.evidence,
            hint=refusal.hint,
        )
    return _decode("result", text, TaskResult, limit)


def _encode(kind: Literal["task", "result"], content: Any, level: int = SMALL) -> str:
    raw = _json.encode(content)
    envelope = _Envelope(
        fitserve=kind,
        contract=CONTRACT_VERSION,
        digest=hashlib.sha256(raw).hexdigest(),
        encoding=_ENCODING,
        body=base64.b64encode(compress(raw, level)).decode("ascii"),
    )
    return _json.encode(envelope).decode("ascii")


def _refusal(text: str) -> _Refusal | None:
    try:
        return msgspec.json.decode(text, type=_Refusal)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _envelope(text: str) -> _Envelope:
    try:
        return msgspec.json.decode(text, type=_Envelope)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ContractError("this is not a fitserve message", evidence=str(error)) from error


def _decode(kind: str, text: str, type_: type[_T], limit: int) -> _T:
    envelope = _envelope(text)
    if envelope.contract != CONTRACT_VERSION:
        raise ContractError(
            "client and worker speak different versions of the wire contract",
            evidence=f"the {envelope.fitserve} is of version {envelope.contract}, "
            f"this side speaks version {CONTRACT_VERSION}",
            hint="install the same release of fitserve and fitserve-worker on both sides",
        )
    if envelope.fitserve != kind or envelope.encoding != _ENCODING:
        raise ContractError(
            f"this is not a {kind} in a known encoding",
            evidence=f"it is a {envelope.fitserve} in {envelope.encoding}",
        )
    try:
        packed = base64.b64decode(envelope.body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ContractError("the body is not base64", evidence=str(error)) from error
    raw = decompress(packed, limit)
    if hashlib.sha256(raw).hexdigest() != envelope.digest:
        raise ContractError("the body does not match its digest")
    if too_much := excess(raw):
        raise ContractError(f"the {kind} is too large to be decoded", evidence=too_much)
    try:
        return msgspec.json.decode(raw, type=type_)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ContractError(f"the {kind} does not fit the contract", evidence=str(error)) from error


STAGE_VARIABLE = "FITSERVE_STAGE"
"""Environment variable of a worker: the directory with staged workspaces."""

FUNCTION_NAME = "fitserve_run"

FUNCTION_SOURCE = """\
def fitserve_run(task):
    from fitserve_worker import run
    return run(task)
"""

FUNCTION_DIGEST = hashlib.sha256(FUNCTION_SOURCE.encode()).hexdigest()
"""SHA-256 of the source, by which a registered function is recognised."""


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Switch the collection of reference cycles off meanwhile.

    Decoded JSON has no cycles; but each of its millions of objects counts towards the next
    collection, which looks at all of them: half of the time that reading 1Lbb takes.

    Examples
    --------
    >>> import gc
    >>> from fitserve_contract.codec import no_collection
    >>> with no_collection():
    ...     gc.isenabled()
    False
    >>> gc.isenabled()
    True
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
