"""What a run directory records about itself and its results, and CLs as files have them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from fitserve.errors import InputError
from fitserve_contract import (
    Hypothesis,
    HypothesisResult,
    MuPoint,
    Request,
    Signals,
    Status,
    WorkerInfo,
    excess,
    split_signals,
    with_signals,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "MANIFEST_VERSION",
    "CLsEntry",
    "Event",
    "Inputs",
    "Manifest",
    "PalletRecord",
    "StoredResult",
    "encoded_results",
    "entries_of",
    "read_json",
]

MANIFEST_VERSION = 1


class PalletRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The pallet of a run: where it came from, what it is, how to label it.

    ``labels`` are the patchset's names of the mass values, ``axes`` their titles in LaTeX
    where the catalogue knows the analysis (else empty). ``forced`` lists the checks that
    failed and that the user chose to ignore, ``notes`` what else was noticed. ``parts`` are the
    pallets of a combination, by their names in it.
    """

    source: str
    name: str
    region: str | None
    workspace_digest: str
    patchset_digests: dict[str, str]
    digest_verified: bool
    labels: list[str]
    description: str
    references: dict[str, str]
    analysis: str | None = None
    title: str | None = None
    axes: list[str] = []
    forced: list[str] = []
    notes: list[str] = []
    parts: dict[str, PalletRecord] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was asked to do, by what and where; ``created`` is ISO 8601 in UTC.

    ``hypotheses`` are the names asked for, in the patchset's order, and ``values`` the mass
    values of each by name, so that those without a result yet have a place in a picture.
    ``endpoint`` has several names with commas between them where a run is shared, ``options``
    what the user set of the sites. ``verify`` are the names of the hypotheses that pyhf verifies,
    ``doubted`` those of them whose CLs jump against their neighbours, and ``sample`` those of the
    default sample.
    """

    pallet: PalletRecord
    request: Request
    request_digest: str
    endpoint: str
    hypotheses: list[str]
    created: str
    host: str
    python: str
    versions: dict[str, str]
    values: dict[str, tuple[float | str, ...]] = {}
    options: dict[str, str] = {}
    verify: list[str] = []
    doubted: list[str] = []
    sample: list[str] = []
    manifest_version: int = MANIFEST_VERSION


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """What a run fits: with it and the manifest a run can be resumed without its pallet.

    ``signals`` is on disk only: hypotheses that share a template, as in `fitserve_contract.Task`.
    """

    workspace: dict[str, Any]
    hypotheses: list[Hypothesis]
    signals: list[Signals] = []

    def encoded(self) -> bytes:
        """Return the inputs as JSON."""
        hypotheses, signals = split_signals(self.hypotheses)
        return msgspec.json.encode(
            msgspec.structs.replace(self, hypotheses=hypotheses, signals=signals)
        )

    @classmethod
    def decoded(cls, raw: bytes) -> Inputs:
        """Return the inputs that JSON has, in the order of ``hypotheses`` and then ``signals``.

        Raises
        ------
        msgspec.MsgspecError, ValueError
            It is not that of inputs.
        """
        inputs = msgspec.json.decode(raw, type=cls)
        hypotheses = with_signals(inputs.hypotheses, inputs.signals)
        return msgspec.structs.replace(inputs, hypotheses=hypotheses, signals=[])


class StoredResult(msgspec.Struct, frozen=True, kw_only=True):
    """A finished hypothesis, and how its task went.

    Times are in seconds since the epoch: ``submitted``, ``accepted`` (by a service, if one
    is on the way) and ``arrived`` by the client's clock, ``started`` by the worker's.
    ``task_seconds`` is the time that the worker spent on the whole task, ``task_size`` the
    number of hypotheses in it, ``task_bytes`` its encoded size. ``kept`` says that the worker
    had fitted it for an earlier sending. ``reused_from`` is the run that a result was taken
    from, if it was.
    """

    result: HypothesisResult
    worker: WorkerInfo
    task: str
    submitted: float
    started: float
    arrived: float
    task_seconds: float
    task_size: int
    task_bytes: int = 0
    accepted: float | None = None
    kept: bool = False
    reused_from: str | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened in a run; ``time`` in seconds since the epoch."""

    time: float
    event: str
    details: dict[str, Any]


class CLsEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The part of one hypothesis' result that can be compared or drawn.

    Files of other programs have CLs only; what they do not have is None or empty.
    """

    CLs_obs: float | None = None
    CLs_exp: list[float | None] = []
    status: Status | None = None
    reason: str | None = None
    mass_hypotheses: tuple[float | str, ...] | None = None
    points: list[MuPoint] = []


def read_json(source: Path) -> Any:
    """Read a JSON file; the NaN and Infinity that Python writes become None.

    Raises
    ------
    InputError
        It cannot be read or is not JSON.
    """
    try:
        raw = source.read_bytes()
        if too_much := excess(raw):
            raise InputError("the file is too large", evidence=f"{source}: {too_much}")
        return json.loads(raw, parse_constant=lambda _: None)
    except OSError as error:
        raise InputError(
            "the file cannot be read", evidence=f"{source}: {error.strerror or error}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError("the file is not JSON", evidence=f"{source}: {error}") from error


def encoded_results(results: Mapping[str, HypothesisResult]) -> bytes:
    """Return results by name as JSON, one on each line: of 10^5 there is no second copy."""
    made = bytearray(b"{")
    for name, result in results.items():
        made += b"\n" if len(made) == 1 else b",\n"
        made += msgspec.json.encode(name) + b": " + msgspec.json.encode(result)
    return bytes(made + b"\n}\n")


def entries_of(content: Any, source: Path) -> dict[str, CLsEntry]:
    """Return the CLs in decoded JSON; ``source`` is for the error message.

    Raises
    ------
    InputError
        The content is not a mapping of hypothesis names to CLs.
    """
    if isinstance(content, dict) and isinstance(content.get("hypotheses"), dict):
        content = content["hypotheses"]
    try:
        entries = msgspec.convert(content, dict[str, CLsEntry])
    except msgspec.ValidationError as error:
        raise _not_results(source, str(error)) from error
    without = [name for name, value in content.items() if "CLs_obs" not in value]
    if without or not entries:
        evidence = f"no CLs_obs for {without[0]}" if without else "it is empty"
        raise _not_results(source, evidence)
    return entries


def _not_results(source: Path, evidence: str) -> InputError:
    return InputError(
        "the file does not hold results by hypothesis name",
        evidence=f"{source}: {evidence}",
        hint="give a run directory or a results.json (docs/results.md)",
    )
