"""Complete a run: fit what has no result yet, and reuse results of earlier runs."""

from __future__ import annotations

import contextlib
import shutil
import time
from typing import TYPE_CHECKING

import msgspec

from fitserve import __version__
from fitserve.errors import BackendError, FitserveError, InterruptedRunError, StoreError
from fitserve.kinds.toys import missing_toys, ranges
from fitserve.runs.drive import Claims, drive, interrupts_wait, pending_tasks
from fitserve.runs.neighbours import find_jumps, judged
from fitserve.runs.plan import make_plan, plan_verification
from fitserve.runs.store import RunStore, known_runs, read_manifest, read_run, register
from fitserve.runs.verification import VERIFIABLE, lacks_verification, to_verify
from fitserve_contract import ToysRequest, compress, hypothesis_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fitserve.endpoints.base import Backend
    from fitserve.runs.drive import Observer, PendingTask
    from fitserve.runs.neighbours import Jump
    from fitserve.runs.plan import Bounds
    from fitserve.runs.records import Inputs, Manifest, StoredResult
    from fitserve.runs.store import SavedRun
    from fitserve_contract import Hypothesis, ToyRange

__all__ = ["complete", "keep_logs", "open_store", "reusable"]


def reusable(manifest: Manifest, hypotheses: Sequence[Hypothesis]) -> list[StoredResult]:
    """Return results of this user's other runs for these hypotheses.

    A result is reused when the workspace, the patch and the request are the same and it was
    made by the same version of fitserve, whatever the hypothesis was called. Where a hypothesis is
    to be verified, a result that was verified is preferred.
    """
    wanted = {
        hypothesis_key(manifest.pallet.workspace_digest, one, manifest.request_digest): one
        for one in hypotheses
    }
    records: dict[str, StoredResult] = {}
    to_verify = {*manifest.verify, *manifest.sample}
    for path in known_runs():
        if len(records) == len(wanted) and not any(
            name in to_verify and lacks_verification(one.result) for name, one in records.items()
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
            if one.name not in records or (
                verified and lacks_verification(records[one.name].result)
            ):
                records[one.name] = _renamed(record, one, run)
    return list(records.values())


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
        # Its neighbours depend on the run.
        neighbours=None,
    )
    return msgspec.structs.replace(
        record, result=result, reused_from=record.reused_from or str(run.path)
    )


# At most this many hypotheses that jump against their neighbours are fitted by pyhf.
_MOST_AGAIN = 5
# The default sample may take as long as the run took, and at least this long.
_PATIENCE = 10.0


def open_store(path: Path, manifest: Manifest, inputs: Inputs, *, refit: bool) -> RunStore:
    """Make the run directory, or open the one of the same question.

    With ``refit`` its results are set aside, and results of other runs are not reused.

    Raises
    ------
    StoreError
        The directory is in use, cannot be written, or has another question.
    InterruptedRunError
        The user stopped it.
    """
    if not (path / "manifest.json").exists():
        store = RunStore.create(path, manifest, inputs)
        register(path)
    else:
        _require_same(path, manifest)
        store = RunStore.open(path)
    try:
        store.want_verified(manifest.verify, sample=manifest.sample)
        if refit:
            store.set_aside()
        else:
            _reuse(store, inputs)
    except KeyboardInterrupt as error:
        store.close()
        raise InterruptedRunError("interrupted", hint=f"fitserve resume {path}") from error
    except BaseException:
        store.close()
        raise
    return store


def complete(
    store: RunStore,
    inputs: Inputs,
    backend: Backend,
    observer: Observer,
    bounds: Bounds,
    *,
    patient: bool = False,
) -> SavedRun:
    """Fit what has no result yet, and write results.json; then ask pyhf for second answers.

    Second answers are written as they arrive; the run is complete without them. The default sample
    is given up where it takes longer than the run did, unless the user is ``patient``.

    Raises
    ------
    InterruptedRunError
        The user stopped it; what had arrived is kept.
    BackendError, StoreError
        It cannot go on; what had arrived is kept.
    """
    try:
        return _completed(store, inputs, backend, observer, bounds, patient=patient)
    except (KeyboardInterrupt, InterruptedRunError) as error:
        with interrupts_wait():
            raise _interrupted(store, error, f"fitserve resume {store.path}") from error


def _completed(
    store: RunStore,
    inputs: Inputs,
    backend: Backend,
    observer: Observer,
    bounds: Bounds,
    *,
    patient: bool,
) -> SavedRun:
    begin = time.monotonic()
    try:
        store.clear_cancel()
        _fit(store, inputs, backend, observer, bounds)
        saved = store.saved
        if saved.unfinished:
            keep_logs(store.path, backend.logs())
        jumps = _jumps(saved)
        _judge(store, saved, jumps)
        store.write_results()
    except BackendError as error:
        logs = keep_logs(store.path, backend.logs())
        store.note("backend failed", cause=str(error))
        again = f"fitserve resume {store.path}"
        where = f" (logs: {logs})" if logs is not None else ""
        error.hint = f"{error.hint}{where}; then {again}" if error.hint else f"{again}{where}"
        raise
    patience = None if patient else max(_PATIENCE, time.monotonic() - begin)
    doubted = _to_look_at_again(saved, jumps)
    if doubted:
        observer.trouble(
            f"{', '.join(sorted(doubted))}: CLs jumps against all neighbours (asking pyhf too)"
        )
        store.want_verified(doubted, doubted=True)
    waiting = to_verify(store.saved)
    if waiting:
        wanted = set(store.manifest.verify)
        chosen = [name for name in waiting if name in wanted]
        sample = [name for name in waiting if name not in wanted]
        observer.verifying(
            f"every hypothesis has its result in {store.path / 'results.json'}; pyhf verifies "
            f"{len(waiting)} (Ctrl-C skips that)"
        )
        try:
            _verify(store, inputs, backend, observer, bounds, chosen)
            _verify(store, inputs, backend, observer, bounds, sample, patience)
        except (KeyboardInterrupt, FitserveError) as error:
            reason = str(error) or "interrupted"
            store.note("not verified", reason=reason)
            store.clear_cancel()
            observer.trouble(f"verification ends early: {reason}")
        _judge(store, store.saved, jumps)
        store.write_results()
    return store.saved


def _fit(
    store: RunStore, inputs: Inputs, backend: Backend, observer: Observer, bounds: Bounds
) -> None:
    """Fit what has no result."""
    saved = store.saved
    unfinished = set(saved.unfinished)
    if not unfinished:
        return
    pending = [
        task._replace(hypotheses=tuple(name for name in task.hypotheses if name in unfinished))
        for task in pending_tasks(saved.events())
        if unfinished.intersection(task.hypotheses) and not task.verify
    ]
    missing = _missing_toys(saved, pending)
    held = {name for task in pending for name in task.hypotheses if not missing.get(name)}
    free = unfinished - held
    left = [one for one in inputs.hypotheses if one.name in free]
    manifest = store.manifest
    staged = _staged(store, inputs, backend)
    plan = make_plan(
        inputs.workspace,
        left,
        manifest.request,
        limits=backend.limits,
        staged=staged,
        bounds=bounds,
        toys=missing,
    )
    drive(
        store,
        inputs,
        plan.tasks,
        backend,
        staged=staged,
        observer=observer,
        pending=pending,
    )


def _verify(
    store: RunStore,
    inputs: Inputs,
    backend: Backend,
    observer: Observer,
    bounds: Bounds,
    names: Sequence[str],
    seconds: float | None = None,
) -> None:
    """Ask pyhf about hypotheses that have a result, for no longer than some ``seconds``."""
    if not names:
        return
    records = store.saved.records
    wanted = set(names)
    pending = [
        task
        for task in pending_tasks(store.events())
        if task.verify and wanted.issuperset(task.hypotheses)
    ]
    free = wanted.difference(*(task.hypotheses for task in pending))
    staged = _staged(store, inputs, backend)
    tasks = plan_verification(
        inputs.workspace,
        [one for one in inputs.hypotheses if one.name in free],
        store.manifest.request,
        limits=backend.limits,
        staged=staged,
        bounds=bounds,
    )
    drive(
        store,
        inputs,
        tasks,
        backend,
        staged=staged,
        observer=observer,
        pending=pending,
        claims=Claims({name: records[name] for name in names}, seconds),
    )


def _staged(store: RunStore, inputs: Inputs, backend: Backend) -> bool:
    """Put the workspace where workers find it, and return whether tasks may leave it out."""
    packed = compress(msgspec.json.encode(inputs.workspace))
    return backend.stage(store.manifest.pallet.workspace_digest, packed)


def _jumps(saved: SavedRun) -> Mapping[str, Jump]:
    """Return which results jump against their neighbours.

    Those by toys are left out: they scatter, and have an error that says by how much.
    """
    request = saved.manifest.request
    return {} if isinstance(request, ToysRequest) else find_jumps(request, saved.results)


def _to_look_at_again(saved: SavedRun, jumps: Mapping[str, Jump]) -> set[str]:
    """Return hypotheses whose CLs jump and that pyhf was not asked about.

    Where many jump, single fits are not the reason: they are reported only.
    """
    if not isinstance(saved.manifest.request, VERIFIABLE):
        return set()
    doubted = {name for name in jumps if lacks_verification(saved.records[name].result)}
    return doubted if len(doubted) <= _MOST_AGAIN else set()


def _judge(store: RunStore, saved: SavedRun, jumps: Mapping[str, Jump]) -> None:
    """Record which results jump against their neighbours."""
    store.append(
        msgspec.structs.replace(one, result=fresh)
        for name, one in saved.records.items()
        if (fresh := judged(one.result, jumps.get(name))) != one.result
    )


def _missing_toys(saved: SavedRun, pending: Sequence[PendingTask]) -> dict[str, list[ToyRange]]:
    """Return the toys of each unfinished hypothesis that are neither done nor submitted."""
    request = saved.manifest.request
    if not isinstance(request, ToysRequest):
        return {}
    there = {
        name: ranges(record.result for record in records)
        for name, records in saved.toy_parts().items()
    }
    for task in pending:
        for name in task.hypotheses:
            there.setdefault(name, []).extend([task.toys] if task.toys else [])
    return {name: missing_toys(request.toys, there.get(name, [])) for name in saved.unfinished}


def _interrupted(store: RunStore, error: BaseException, again: str) -> InterruptedRunError:
    """Say what is done, and what goes on without us."""
    cancelled = isinstance(error, InterruptedRunError)
    store.note("cancelled" if cancelled else "interrupted")
    store.clear_cancel()
    saved = store.saved
    evidence = f"{len(saved.records)} of {len(store.manifest.hypotheses)} hypotheses are done"
    elsewhere = [task for task in pending_tasks(saved.events()) if task.handle]
    if elsewhere:
        count = sum(len(task.hypotheses) for task in elsewhere)
        evidence += f"; {count} more are at the service, which cannot cancel them: they go on there"
    return InterruptedRunError(
        f"{'cancelled' if cancelled else 'interrupted'}; nothing that was finished is lost",
        evidence=evidence,
        hint=f"{again} collects them" if elsewhere else again,
    )


def _require_same(path: Path, ours: Manifest) -> None:
    theirs = read_manifest(path)
    for what, new, old in (
        ("workspace", ours.pallet.workspace_digest, theirs.pallet.workspace_digest),
        ("request", ours.request_digest, theirs.request_digest),
        ("selection of hypotheses", ours.hypotheses, theirs.hypotheses),
    ):
        if new != old:
            raise StoreError(
                f"the run directory {path} has another {what}",
                evidence=f"it was made on {theirs.created} from {theirs.pallet.source}",
                hint="choose another --output",
            )


def _reuse(store: RunStore, inputs: Inputs) -> None:
    unfinished = set(store.saved.unfinished)
    reused = reusable(store.manifest, [one for one in inputs.hypotheses if one.name in unfinished])
    if reused:
        store.append(reused)
        store.note("reused", hypotheses=[record.result.name for record in reused])


_LOGS = "logs"
# Output of Parsl, its workers and the scripts of its blocks; nothing else is copied.
_ENDINGS = (".log", ".out", ".err", ".stdout", ".stderr")


def keep_logs(run: Path, source: Path | None) -> Path | None:
    """Copy a backend's logs into a run directory; returns where they are, if there are any.

    Those that were kept before are replaced. What cannot be copied, as on a full disk, is left
    out.
    """
    if source is None:
        return None
    kept = run / _LOGS
    shutil.rmtree(kept, ignore_errors=True)
    for log in sorted(source.rglob("*")):
        if log.suffix not in _ENDINGS or log.is_symlink() or not log.is_file():
            continue
        target = kept / log.relative_to(source)
        with contextlib.suppress(OSError):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, target)
    return kept if kept.is_dir() else None
