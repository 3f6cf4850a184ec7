"""Tasks and their results, as they go over the wire, and digests of their contents.

Their JSON schema is derived from the types. A change that an older worker would misread raises
`CONTRACT_VERSION`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from fitserve_contract.requests import Request, ToysRequest
from fitserve_contract.results import HypothesisResult, ToyRange
from fitserve_contract.signals import SignalPatch, Signals

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "CONTRACT_VERSION",
    "Hypothesis",
    "Task",
    "TaskResult",
    "Timing",
    "WorkerInfo",
    "digest",
    "hypothesis_key",
    "patch_content",
    "request_digest",
    "split_signals",
    "with_signals",
]

CONTRACT_VERSION = 2


class Hypothesis(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One signal hypothesis: a JSON Patch (RFC 6902) for the background-only workspace.

    ``patch`` is a list, or a `SignalPatch` where many hypotheses differ in their numbers alone.
    """

    name: str
    values: tuple[float | str, ...]
    patch: Sequence[dict[str, Any]]


def split_signals(
    hypotheses: Iterable[Hypothesis],
) -> tuple[list[Hypothesis], list[Signals]]:
    """Return hypotheses as they go over the wire: those that share templates apart, as arrays.

    Examples
    --------
    >>> from fitserve_contract import Hypothesis, SignalPatch, Template, split_signals, with_signals
    >>> patch = [{"op": "add", "path": "/a", "value": 2.0}]
    >>> signal = SignalPatch(Template(patch), bytes(8))
    >>> both = [Hypothesis(name="one", values=(), patch=patch),
    ...         Hypothesis(name="two", values=(), patch=signal)]
    >>> others, signals = split_signals(both)
    >>> [one.name for one in others], [one.names for one in signals]
    (['one'], [['two']])
    >>> with_signals(others, signals) == both
    True
    """
    others = []
    groups: dict[str, list[tuple[Hypothesis, SignalPatch]]] = {}
    for one in hypotheses:
        if isinstance(one.patch, SignalPatch):
            groups.setdefault(one.patch.template.digest, []).append((one, one.patch))
        else:
            others.append(one)
    return others, [
        Signals(
            names=[one.name for one, _ in group],
            values=[one.values for one, _ in group],
            template=group[0][1].template.operations,
            numbers=b"".join(patch.numbers for _, patch in group),
        )
        for group in groups.values()
    ]


def with_signals(hypotheses: Iterable[Hypothesis], signals: Iterable[Signals]) -> list[Hypothesis]:
    """Return all hypotheses of a message: those with patches, then those of arrays.

    Raises
    ------
    ValueError
        An array does not fit its template.
    """
    made = list(hypotheses)
    for several in signals:
        patches = several.patches()
        made += [
            Hypothesis(name=name, values=values, patch=patch)
            for name, values, patch in zip(several.names, several.values, patches, strict=True)
        ]
    return made


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A self-contained piece of work.

    ``workspace`` is None where the backend has staged the workspace, compressed, in a
    directory of the worker under its digest. Tasks that differ in ``nonce`` alone are each fitted;
    one with the same nonce may be answered from the worker's outbox. ``verify`` has results of the
    hypotheses: then the task is only to compare these with pyhf, with Minuit for those named in
    ``doubted``. ``toys`` says which toys of a request for toys the task is to make (None: all).
    These belong to the task and not to the request: the question stays the same, and so does the
    key of every result. ``signals`` is on the wire only: `fitserve_contract.codec` puts hypotheses
    that share a template there, and takes them out again.
    """

    workspace_digest: str
    workspace: dict[str, Any] | None
    hypotheses: list[Hypothesis]
    request: Request
    nonce: str = ""
    verify: list[HypothesisResult] = []
    doubted: list[str] = []
    toys: ToyRange | None = None
    signals: list[Signals] = []
    contract: int = CONTRACT_VERSION

    def __post_init__(self) -> None:
        """Refuse toys that are not among those of the request."""
        if self.toys is None:
            return
        count = self.request.toys if isinstance(self.request, ToysRequest) else 0
        if self.toys.stop > count:
            raise ValueError(f"toy {self.toys.stop - 1} is not among the request's {count}")


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where and with what a task was done."""

    host: str
    pid: int
    python: str
    device: str
    versions: dict[str, str]


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Start of the task on the worker (seconds since the epoch) and its parts in seconds."""

    started: float
    decode: float
    total: float


class TaskResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one task: a result for every hypothesis in it, in any order.

    ``kept`` says that it was fitted when the same task was sent before.
    """

    task: str
    results: list[HypothesisResult]
    worker: WorkerInfo
    timing: Timing
    kept: bool = False
    contract: int = CONTRACT_VERSION


# Raised where the numbers of an engine change by more than rounding, so that older results, of
# earlier runs or of workers of another version, are not taken for present ones.
_NUMBERS = 5

_canonical = msgspec.json.Encoder(order="sorted")


def digest(content: Any) -> str:
    """Return the SHA-256 (64 hexadecimal digits) of a JSON-like object.

    Examples
    --------
    >>> from fitserve_contract import digest
    >>> digest({"b": 1, "a": [2.0]}) == digest({"a": [2.0], "b": 1})
    True
    """
    return hashlib.sha256(_canonical.encode(content)).hexdigest()


def request_digest(request: Request) -> str:
    """Return the digest of a request, which with the pallet decides a result."""
    return digest(request)


def hypothesis_key(workspace_digest: str, hypothesis: Hypothesis, request: str) -> str:
    """Return the key under which a result is never computed twice.

    It covers workspace, patch, request (with its engine), and the version of the engines' numbers.

    Parameters
    ----------
    workspace_digest
        `digest` of the background-only workspace.
    hypothesis
        The hypothesis; its name and mass values do not enter, its patch does.
    request
        `request_digest` of the request.
    """
    return digest([workspace_digest, patch_content(hypothesis.patch), request, _NUMBERS])


def patch_content(patch: Sequence[dict[str, Any]]) -> Sequence[Any]:
    """Return what stands for a patch in keys: itself, or digests of its template and numbers."""
    return patch.content if isinstance(patch, SignalPatch) else patch
