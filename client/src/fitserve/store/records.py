"""What a run directory records about itself, besides the results."""

from __future__ import annotations

import msgspec

from fitserve.contract import HypotestRequest

__all__ = ["MANIFEST_VERSION", "Manifest", "PalletRecord"]

MANIFEST_VERSION = 1


class PalletRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The pallet of a run: where it came from, what it is, how to label it.

    ``labels`` are the patchset's names of the mass values, ``axes`` their titles in LaTeX
    where the catalogue knows the analysis (else empty). ``forced`` lists the checks that
    failed and that the user chose to ignore.
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


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was asked to do, by what and where; ``created`` is ISO 8601 in UTC.

    ``hypotheses`` are the names asked for, in the patchset's order, and ``values`` the mass
    values of each by name, so that those without a result yet have a place in a picture.
    """

    pallet: PalletRecord
    request: HypotestRequest
    request_digest: str
    endpoint: str
    hypotheses: list[str]
    created: str
    host: str
    python: str
    versions: dict[str, str]
    values: dict[str, tuple[float | str, ...]] = {}
    manifest_version: int = MANIFEST_VERSION
