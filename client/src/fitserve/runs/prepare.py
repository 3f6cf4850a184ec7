"""From a pallet and a request to what a run directory begins with."""

from __future__ import annotations

import platform
import socket
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fitserve.runs.records import Inputs, Manifest
from fitserve.runs.request import check_request, chosen_hypotheses
from fitserve.runs.verification import affordable_sample, chosen_to_verify
from fitserve_contract import digest, request_digest
from fitserve_contract.codec import no_collection

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fitserve.endpoints.base import Limits
    from fitserve.pallet.model import Pallet
    from fitserve_contract import Request

__all__ = ["default_directory", "prepare"]

_RECORDED = ("fitserve", "fitserve-worker", "pyhf", "numpy", "scipy", "parsl", "globus-compute-sdk")


def prepare(
    pallet: Pallet,
    request: Request,
    patterns: Iterable[str],
    endpoint: str,
    options: Mapping[str, str] | None = None,
    *,
    limits: Limits,
    verify: float | None = None,
) -> tuple[Manifest, Inputs]:
    """Choose the hypotheses, check the request, and say what the run is.

    ``verify`` is the fraction of hypotheses that pyhf verifies; None is a small sample, where pyhf
    needs no more time for it than the run itself on a backend with these ``limits``.

    Raises
    ------
    RequestError
        The request does not fit the pallet.
    """
    hypotheses = chosen_hypotheses(pallet.hypotheses, patterns, request)
    check_request(pallet, hypotheses, request)
    record = pallet.record()
    manifest = Manifest(
        pallet=record,
        request=request,
        request_digest=request_digest(request),
        endpoint=endpoint,
        hypotheses=[one.name for one in hypotheses],
        values={one.name: one.values for one in hypotheses},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        host=socket.gethostname(),
        python=platform.python_version(),
        versions=_versions(),
        options=dict(options or {}),
        verify=chosen_to_verify(record.workspace_digest, hypotheses, verify or 0.0, request),
        sample=affordable_sample(
            pallet.workspace, record.workspace_digest, hypotheses, request, limits
        )
        if verify is None
        else [],
    )
    inputs = Inputs(workspace=pallet.workspace, hypotheses=hypotheses)
    # As a resumed run reads them: the same tasks then have the same digests.
    with no_collection():
        return manifest, msgspec.json.decode(msgspec.json.encode(inputs), type=Inputs)


def default_directory(manifest: Manifest) -> Path:
    """Return the default directory of a run: the same question has the same place."""
    question = digest(
        [manifest.pallet.workspace_digest, manifest.request_digest, manifest.hypotheses]
    )
    return Path("fitserve-runs") / f"{manifest.pallet.name}-{question[:8]}"


def _versions() -> dict[str, str]:
    found = {}
    for name in _RECORDED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
