"""Typed structures of the wire contract; their JSON schema is derived from them.

A change that an older worker would misread raises `CONTRACT_VERSION`.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, get_type_hints

import msgspec

__all__ = [
    "CONTRACT_VERSION",
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
    "allowed",
]

CONTRACT_VERSION = 1

Status = Literal["ok", "suspect", "failed"]
"""``ok``: the numbers hold. ``suspect``: there are numbers and a reason to doubt them.
``failed``: there is no number, and a reason."""


class ModelOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a workspace becomes a statistical model.

    ``measurement`` and ``poi`` of None mean the workspace's first measurement and its own
    parameter of interest (POI). The interpolation codes are numbered as in
    CERN-OPEN-2012-016 and pyhf.
    """

    measurement: str | None = None
    poi: str | None = None
    normsys: Literal["code1", "code4"] = "code4"
    histosys: Literal["code0", "code2", "code4p"] = "code4p"


class EngineOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which engine fits, and how pyhf is set up where it is the one."""

    engine: Literal["auto", "pyhf"] = "auto"
    backend: Literal["numpy", "jax"] = "numpy"
    optimizer: Literal["scipy", "minuit"] = "scipy"


class HypotestRequest(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="hypotest"
):
    """Observed and expected CLs at each signal strength in ``mu``.

    ``test_stat`` is q-tilde or q of arXiv:1007.1727, equations 16 and 14.
    """

    mu: tuple[float, ...] = (1.0,)
    test_stat: Literal["qtilde", "q"] = "qtilde"
    model: ModelOptions = ModelOptions()
    engine: EngineOptions = EngineOptions()


class Hypothesis(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One signal hypothesis: a JSON Patch (RFC 6902) for the background-only workspace."""

    name: str
    values: tuple[float | str, ...]
    patch: list[dict[str, Any]]


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A self-contained piece of work.

    ``workspace`` is None where the backend has staged the workspace, compressed, in a
    directory of the worker under its digest. Tasks that differ in ``nonce`` alone are fitted
    each; one with the same nonce may be answered from the worker's outbox.
    """

    workspace_digest: str
    workspace: dict[str, Any] | None
    hypotheses: list[Hypothesis]
    request: HypotestRequest
    nonce: str = ""
    contract: int = CONTRACT_VERSION


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try at the fits of one hypothesis; ``problems`` is empty for a good one."""

    engine: str
    start: str
    seconds: float
    problems: list[str] = []


class MuPoint(msgspec.Struct, frozen=True, kw_only=True):
    """CLs at one signal strength; expected values for -2, -1, 0, +1, +2 sigma, as pyhf."""

    mu: float
    CLs_obs: float | None
    CLs_exp: list[float | None]
    status: Status = "ok"
    reason: str | None = None


class HypothesisResult(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of one hypothesis; ``CLs_obs`` and ``CLs_exp`` are at the first mu.

    ``fit_time`` is the wall time of all its fits in seconds, ``setup_time`` that of
    building its model. ``muhat`` and ``twice_nll`` belong to the free fit to the observed
    data. ``key`` is `fitserve.contract.digests.hypothesis_key`. ``host`` and ``device`` say
    where it was fitted.
    """

    name: str
    key: str
    mass_hypotheses: tuple[float | str, ...]
    status: Status
    reason: str | None
    CLs_obs: float | None
    CLs_exp: list[float | None]
    fit_time: float
    setup_time: float
    engine: str
    points: list[MuPoint]
    muhat: float | None = None
    twice_nll: float | None = None
    host: str = ""
    device: str = ""
    attempts: list[Attempt] = []
    diagnostics: dict[str, float | int | bool | str | None] = {}


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

    ``kept`` says that it was fitted for an earlier sending of the same task.
    """

    task: str
    results: list[HypothesisResult]
    worker: WorkerInfo
    timing: Timing
    kept: bool = False
    contract: int = CONTRACT_VERSION


def allowed(struct: type[msgspec.Struct], field: str) -> tuple[str, ...]:
    """Return the texts that a field of a structure may have, in the order declared.

    Examples
    --------
    >>> from fitserve.contract import EngineOptions, allowed
    >>> allowed(EngineOptions, "backend")
    ('numpy', 'jax')
    """
    return get_args(get_type_hints(struct)[field])
