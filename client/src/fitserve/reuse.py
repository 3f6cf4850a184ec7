"""Results of earlier runs that answer the same question."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from fitserve._version import __version__
from fitserve.contract import hypothesis_key
from fitserve.errors import StoreError
from fitserve.store import known_runs, read_manifest, read_run
from fitserve.verification import lacks_verification

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve.contract import Hypothesis
    from fitserve.store import Manifest, SavedRun, StoredResult

__all__ = ["reusable"]


def reusable(manifest: Manifest, hypotheses: Sequence[Hypothesis]) -> list[StoredResult]:
    """Return results of this user's other runs for these hypotheses.

    A result is reused when the workspace, the patch and the request are the same and it was
    made by the same version of fitserve, whatever the hypothesis was called. Of one that is to
    be verified a result that was is looked for before another is taken.
    """
    wanted = {
        hypothesis_key(manifest.pallet.workspace_digest, one, manifest.request_digest): one
        for one in hypotheses
    }
    found: dict[str, StoredResult] = {}
    to_verify = {*manifest.verify, *manifest.sample}
    for path in known_runs():
        if len(found) == len(wanted) and not any(
            name in to_verify and lacks_verification(one.result) for name, one in found.items()
        ):
            break
        try:
            if not _comparable(read_manifest(path), manifest):
                continue
            run = read_run(path)
        except StoreError:
            # Another run's trouble is shown by `fitserve show` of that run, not here.
            continue
        for record in run.records.values():
            one = wanted.get(record.result.key)
            if one is None:
                continue
            verified = one.name in to_verify and not lacks_verification(record.result)
            if one.name not in found or (verified and lacks_verification(found[one.name].result)):
                found[one.name] = _renamed(record, one, run)
    return list(found.values())


def _comparable(other: Manifest, manifest: Manifest) -> bool:
    return (
        other.request_digest == manifest.request_digest
        and other.pallet.workspace_digest == manifest.pallet.workspace_digest
        and other.versions.get("fitserve") == __version__
    )


def _renamed(record: StoredResult, hypothesis: Hypothesis, run: SavedRun) -> StoredResult:
    result = msgspec.structs.replace(
        record.result,
        name=hypothesis.name,
        mass_hypotheses=hypothesis.values,
        # Who its neighbours are is a matter of the run.
        neighbours=None,
    )
    return msgspec.structs.replace(
        record, result=result, reused_from=record.reused_from or str(run.path)
    )
