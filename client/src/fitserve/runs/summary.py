"""A run in numbers: what came of it, in sum and row by row, who fitted, where time went."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import msgspec

from fitserve.kinds import kind
from fitserve.kinds.base import (
    at_strength,
    beyond_bound,
    confidence_level,
    rescaled_signals,
    shown_strength,
)
from fitserve.runs.verification import verification_summary
from fitserve_contract import KERNEL_DOUBT, NOT_FOR_THE_KERNEL, cls_strengths, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from fitserve.runs.records import Manifest, PalletRecord, StoredResult
    from fitserve.runs.store import SavedRun
    from fitserve_contract import HypothesisResult, Request

__all__ = [
    "Account",
    "EngineCounts",
    "Traffic",
    "account",
    "cautions",
    "columns",
    "counts",
    "data_rows",
    "engine_counts",
    "excluded",
    "failures",
    "jumps",
    "mass_columns",
    "most_common",
    "reference_url",
    "remarks",
    "request_settings",
    "summary",
    "table_rows",
    "times",
    "traffic",
    "verified",
]

# Reasons that are listed one by one.
_MOST = 5


class EngineCounts(NamedTuple):
    """Numbers of hypotheses, each mapping with the largest first.

    ``engines`` by what fitted. ``not_for_the_kernel`` by the reason for which pyhf did, where the
    request left the choice or asked for the kernel; ``kernel_doubts`` by what the kernel doubted
    of its own answer, so that pyhf was asked too.
    """

    engines: dict[str, int]
    not_for_the_kernel: dict[str, int]
    kernel_doubts: dict[str, int]


def engine_counts(results: Iterable[HypothesisResult]) -> EngineCounts:
    """Count the hypotheses of a run by engine and by the reasons for it."""
    listed = list(results)
    return EngineCounts(
        engines=_counted(one.engine for one in listed),
        not_for_the_kernel=_counted(one.diagnostics.get(NOT_FOR_THE_KERNEL) for one in listed),
        kernel_doubts=_counted(one.diagnostics.get(KERNEL_DOUBT) for one in listed),
    )


def most_common(counts: dict[str, int]) -> list[str]:
    """Return counts in words, one line for each of the largest and one for all others.

    Examples
    --------
    >>> most_common({"the fit with mu = 1 did not converge": 3})
    ['3: the fit with mu = 1 did not converge']
    """
    lines = [f"{count}: {reason}" for reason, count in list(counts.items())[:_MOST]]
    others = list(counts.values())[_MOST:]
    return [*lines, f"{sum(others)}: for {len(others)} other reasons"] if others else lines


def _counted(names: Iterable[object]) -> dict[str, int]:
    counter = Counter(str(name) for name in names if name is not None)
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))


def counts(run: SavedRun) -> dict[str, int]:
    """Return how many hypotheses are ok, suspect, failed and unfinished."""
    statuses = [result.status for result in run.results.values()]
    return {
        **{status: statuses.count(status) for status in ("ok", "suspect", "failed")},
        "unfinished": len(run.unfinished),
    }


def request_settings(request: Request) -> list[tuple[str, str]]:
    """Return what a request asks for, besides model and engine, as names and values."""
    return kind(request).settings(request)


def cautions(request: Request) -> list[str]:
    """Return warnings about the model of a request.

    Examples
    --------
    >>> from fitserve_contract import HypotestRequest
    >>> cautions(HypotestRequest())
    []
    """
    jumps = (
        "histosys code2: pyhf's code 2 jumps where a parameter passes +-1, ROOT's does not "
        "(scikit-hep/pyhf#2729), and below -1 it is not the same in all versions of pyhf "
        "(scikit-hep/pyhf#2668): numbers differ from ROOT's; code4p, the default, does not jump"
    )
    return [jumps] if request.model.histosys == "code2" else []


def excluded(run: SavedRun) -> dict[str, int]:
    """Return how many hypotheses are excluded: observed and median expected.

    It is at the level and signal strength of `fitserve.kinds.base.exclusion_words`, and empty
    for a run that does not ask for exclusion.
    """
    request = run.manifest.request
    mu, alpha = shown_strength(request), 1 - confidence_level(request)
    if mu is None or not kind(request).excludes:
        return {}
    points = [at_strength(request, result, mu) for result in run.results.values()]
    good = [point for point in points if point.status == "ok"]
    return {
        "observed": sum(_below(point.CLs_obs, alpha) for point in good),
        "expected": sum(_below(point.CLs_exp[2], alpha) for point in good),
    }


def jumps(run: SavedRun) -> dict[str, str]:
    """Return descriptions of CLs that jump against their neighbours, by hypothesis."""
    return {name: one.neighbours for name, one in run.results.items() if one.neighbours}


def remarks(run: SavedRun) -> list[str]:
    """Return notes for a reader of the table: which mu it is at, and missing limits."""
    notes = []
    request = run.manifest.request
    strengths = cls_strengths(request)
    if len(strengths) > 1 and kind(request).excludes:
        notes.append(
            f"the table is at mu = {shown_strength(request):g}, the nearest to 1; "
            f"all are in: fitserve export {run.path} --format csv -o -"
        )
    beyond, rescaled = beyond_bound(run.results.values()), rescaled_signals(run.results.values())
    return [*notes, *(str(one) for one in (beyond, rescaled) if one is not None)]


def failures(run: SavedRun) -> list[HypothesisResult]:
    """Return the results that are not ok."""
    return [result for result in run.results.values() if result.status != "ok"]


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
    """Yield the name and cells of each hypothesis: masses, then those of `columns`."""
    request = run.manifest.request
    width = len(columns(request)) - 1
    partial = run.partial()
    for name in run.manifest.hypotheses:
        values = [_text(value) for value in run.manifest.values.get(name, ())]
        values += [""] * (len(run.manifest.pallet.labels) - len(values))
        result = run.results.get(name)
        if name in partial:
            yield name, [*values, *kind(request).cells(request, partial[name]), "unfinished"]
        elif result is None:
            yield name, [*values, *[""] * width, "unfinished"]
        else:
            yield name, [*values, *kind(request).cells(request, result), result.status]


def columns(request: Request) -> list[str]:
    """Return the titles of a run's table after the masses."""
    return [*kind(request).titles(request), "status"]


def summary(run: SavedRun) -> dict[str, Any]:
    """Return all of the above as JSON-like data, with provenance."""
    manifest: dict[str, Any] = msgspec.to_builtins(run.manifest)
    del manifest["values"], manifest["hypotheses"]
    return {
        "run": str(run.path),
        "request": kind_of(run.manifest.request),
        "cautions": cautions(run.manifest.request),
        "hypotheses": counts(run),
        "excluded": excluded(run),
        "exclusion": {
            "level": confidence_level(run.manifest.request),
            "mu": shown_strength(run.manifest.request),
        },
        "neighbours": jumps(run),
        "remarks": remarks(run),
        "verification": verification_summary(run),
        "reused": sum(record.reused_from is not None for record in run.records.values()),
        **engine_counts(run.results.values())._asdict(),
        "hosts": sorted({record.worker.host for record in run.records.values()}),
        "devices": sorted({record.worker.device for record in run.records.values()}),
        "times": times(run),
        "failures": [
            {"name": result.name, "status": result.status, "reason": result.reason}
            for result in failures(run)
        ],
        "unfinished": run.unfinished,
        "partial": {name: result.reason for name, result in run.partial().items()},
        "manifest": manifest,
    }


def _queues(records: Sequence[StoredResult]) -> list[float]:
    tasks = {record.task: max(0.0, record.started - record.submitted) for record in records}
    return list(tasks.values())


def _below(cls: float | None, alpha: float) -> bool:
    return cls is not None and cls < alpha


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


class Account(NamedTuple):
    """The time between sending a hypothesis and having its result, in parts in seconds.

    Attributes
    ----------
    client
        Until a service took its task; 0 where there is no service on the way.
    queue
        Until a worker began with the task.
    setup, fit
        Building its model, and its fits.
    others
        The other hypotheses in its task, and reading and writing the task.
    service
        Return of the result.
    """

    client: float
    queue: float
    setup: float
    fit: float
    others: float
    service: float

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return sum(self)


class Traffic(NamedTuple):
    """Encoded bytes of all tasks sent and results received, repeated ones included."""

    tasks: int
    sent: int
    received: int


def account(record: StoredResult) -> Account:
    """Return where the time of a hypothesis went.

    Times of worker and client are compared: where their clocks differ, queue and service are
    wrong by as much, one up and one down. A result that the worker had kept from an earlier
    sending took no fit this time.
    """
    result = record.result
    accepted = record.submitted if record.accepted is None else record.accepted
    client = max(0.0, accepted - record.submitted)
    if record.kept:
        return Account(client, 0.0, 0.0, 0.0, 0.0, max(0.0, record.arrived - accepted))
    own = result.setup_time + result.fit_time
    return Account(
        client=client,
        queue=max(0.0, record.started - accepted),
        setup=result.setup_time,
        fit=result.fit_time,
        others=max(0.0, record.task_seconds - own),
        service=max(0.0, record.arrived - record.started - record.task_seconds),
    )


def traffic(run: SavedRun) -> Traffic:
    """Return how much was sent and received, by the run's own events."""
    events = run.events()
    sent = [event.details["bytes"] for event in events if event.event == "submitted"]
    received = [event.details["bytes"] for event in events if event.event == "finished"]
    return Traffic(len(sent), sum(sent), sum(received))


def verified(pallet: PalletRecord) -> str:
    """Return whether the workspace is the one that its patchset was made for."""
    if pallet.parts:
        return "its parts verified" if pallet.digest_verified else "NOT all of its parts verified"
    if not pallet.patchset_digests:
        return "without a digest to verify it by"
    return "verified" if pallet.digest_verified else "NOT verified"


def mass_columns(manifest: Manifest) -> list[str]:
    """Return the columns of the mass values: ``mass_`` and the patchset's label.

    What is not a letter, digit or underscore in a label becomes an underscore.
    """
    columns: list[str] = []
    for label in manifest.pallet.labels:
        name = "mass_" + re.sub(r"\W+", "_", label)
        while name in columns:
            name += "_"
        columns.append(name)
    return columns


def data_rows(
    manifest: Manifest, results: Mapping[str, HypothesisResult]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of exported tables; one is ``unfinished`` for a hypothesis without a result.

    Where there is no number the value is None.
    """
    request = manifest.request
    masses = mass_columns(manifest)
    blank = dict.fromkeys(["name", *masses, *list(kind(request).columns)[1:]])
    strengths = cls_strengths(request)
    for name in manifest.hypotheses:
        result = results.get(name)
        values = manifest.values.get(name, ()) if result is None else result.mass_hypotheses
        begun = {**blank, **dict(zip(masses, values, strict=False)), "name": name}
        if result is None:
            at: list[dict[str, Any]] = [{"mu": mu} for mu in strengths] or [{}]
            for fields in at:
                yield {**begun, **fields, "status": "unfinished"}
            continue
        begun |= {
            "muhat": result.muhat,
            "twice_nll": result.twice_nll,
            "fit_time": result.fit_time,
            "setup_time": result.setup_time,
            "engine": result.engine,
            "key": result.key,
            "neighbours": result.neighbours,
        }
        for row in kind(request).rows(request, result):
            yield begun | row


_STARTS = {
    "arxiv": "https://arxiv.org/abs/",
    "doi": "https://doi.org/",
    "hepdata": "https://www.hepdata.net/record/",
    "inspire": "https://inspirehep.net/literature?q=",
}


def reference_url(key: str, value: str) -> str | None:
    """Return the address of a reference, or None where its kind is not known.

    Parameters
    ----------
    key, value
        An entry of a patchset's ``references``.

    Examples
    --------
    >>> from fitserve.runs.summary import reference_url
    >>> reference_url("hepdata", "ins1755298")
    'https://www.hepdata.net/record/ins1755298'
    """
    if value.startswith("https://"):
        return value
    # In a combination the name of a part may follow: hepdata (staus).
    start = _STARTS.get(key.partition(" (")[0].lower())
    return None if start is None else start + quote(value.removeprefix("arXiv:"), safe="/:.")
