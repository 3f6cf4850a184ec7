"""What a run directory records about itself, besides the results."""

from __future__ import annotations

from typing import Any

import msgspec

from fitserve.contract import Hypothesis, HypothesisResult, Request, WorkerInfo

__all__ = ["MANIFEST_VERSION", "Event", "Inputs", "Manifest", "PalletRecord", "StoredResult"]

MANIFEST_VERSION = 1


class PalletRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The pallet of a run: where it came from, what it is, how to label it.

    ``labels`` are the patchset's names of the mass values, ``axes`` their titles in LaTeX
    where the catalogue knows the analysis (else empty). ``forced`` lists the checks that
    failed and that the user chose to ignore, ``notes`` what else was noticed.
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


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was asked to do, by what and where; ``created`` is ISO 8601 in UTC.

    ``hypotheses`` are the names asked for, in the patchset's order, and ``values`` the mass
    values of each by name, so that those without a result yet have a place in a picture.
    ``endpoint`` has several names with commas between them where a run is shared, ``options``
    what the user set of the sites. ``verify`` are the names of the hypotheses that pyhf is asked
    about too, ``doubted`` those of them whose CLs jump against their neighbours, and ``sample``
    those that it is asked about where nobody wants more.
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
    """What a run fits: with it and the manifest a run goes on without its pallet."""

    workspace: dict[str, Any]
    hypotheses: list[Hypothesis]


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
