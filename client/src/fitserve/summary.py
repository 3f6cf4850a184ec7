"""A run in few numbers: for the terminal, for notebooks and as JSON."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fitserve.contract import HypothesisResult
    from fitserve.store import SavedRun, StoredResult

__all__ = ["counts", "excluded", "failures", "summary", "table_rows", "times"]

_LEVEL = 0.05


def counts(run: SavedRun) -> dict[str, int]:
    """Return how many hypotheses are ok, suspect, failed and unfinished."""
    statuses = [found.status for found in run.results.values()]
    return {
        **{status: statuses.count(status) for status in ("ok", "suspect", "failed")},
        "unfinished": len(run.unfinished),
    }


def excluded(run: SavedRun) -> dict[str, int]:
    """Return how many hypotheses are excluded at 95 % CL: observed and median expected."""
    good = [found for found in run.results.values() if found.status == "ok"]
    return {
        "observed": sum(_below(found.CLs_obs) for found in good),
        "expected": sum(_below(found.CLs_exp[2]) for found in good),
    }


def failures(run: SavedRun) -> list[HypothesisResult]:
    """Return the results that are not ok."""
    return [found for found in run.results.values() if found.status != "ok"]


def times(run: SavedRun) -> dict[str, float]:
    """Return where the time went, in seconds.

    ``wall`` is from the first submission to the last arrival of this run's own tasks;
    ``queue`` the median time from a task's submission to its start (by two clocks, if the
    worker is on another host); ``setup`` and ``fit`` sums over hypotheses; ``fit_median``
    and ``fit_max`` of one hypothesis. Reused results do not count.
    """
    own = [record for record in run.records.values() if record.reused_from is None]
    if not own:
        return {}
    fits = [record.result.fit_time for record in own]
    return {
        "wall": max(r.arrived for r in own) - min(r.submitted for r in own),
        "queue": statistics.median(_queues(own)),
        "setup": sum(record.result.setup_time for record in own),
        "fit": sum(fits),
        "fit_median": statistics.median(fits),
        "fit_max": max(fits),
    }


def table_rows(run: SavedRun) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and cells of each hypothesis: masses, CLs obs and exp, status."""
    for name in run.manifest.hypotheses:
        values = [_text(value) for value in run.manifest.values.get(name, ())]
        found = run.results.get(name)
        if found is None:
            yield name, [*values, "", "", "unfinished"]
        else:
            yield name, [*values, _cls(found.CLs_obs), _cls(found.CLs_exp[2]), found.status]


def summary(run: SavedRun) -> dict[str, Any]:
    """Return all of the above as JSON-like data, with provenance."""
    engines = [found.engine for found in run.results.values()]
    manifest: dict[str, Any] = msgspec.to_builtins(run.manifest)
    del manifest["values"], manifest["hypotheses"]
    return {
        "run": str(run.path),
        "hypotheses": counts(run),
        "excluded": excluded(run),
        "reused": sum(record.reused_from is not None for record in run.records.values()),
        "engines": {name: engines.count(name) for name in sorted(set(engines))},
        "hosts": sorted({record.worker.host for record in run.records.values()}),
        "devices": sorted({record.worker.device for record in run.records.values()}),
        "times": times(run),
        "failures": [
            {"name": found.name, "status": found.status, "reason": found.reason}
            for found in failures(run)
        ],
        "unfinished": run.unfinished,
        "manifest": manifest,
    }


def _queues(records: Sequence[StoredResult]) -> list[float]:
    tasks = {record.task: max(0.0, record.started - record.submitted) for record in records}
    return list(tasks.values())


def _below(cls: float | None) -> bool:
    return cls is not None and cls < _LEVEL


def _cls(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
