"""A run on the terminal, or the plan of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from fitserve.console import emit_json, say, show_table, tell, warn
from fitserve.errors import IncompleteRunError
from fitserve.kinds.base import exclusion_words
from fitserve.runs.prepare import other_owner
from fitserve.runs.summary import (
    cautions,
    columns,
    counts,
    engine_counts,
    excluded,
    failures,
    jumps,
    most_common,
    remarks,
    request_settings,
    summary,
    table_rows,
    times,
    verified,
)
from fitserve.runs.verification import verification_summary

if TYPE_CHECKING:
    from fitserve.endpoints.base import Limits
    from fitserve.pallet.edit import Edits
    from fitserve.pallet.signals import OwnSignals
    from fitserve.runs.plan import Bounds, Plan, PlannedTask
    from fitserve.runs.store import SavedRun
    from fitserve_contract import Request

__all__ = ["require_complete", "show_plan", "show_run"]


def show_run(run: SavedRun, *, as_json: bool, table: bool = True) -> None:
    """Show a run's table, failures, times and provenance."""
    if as_json:
        there = {**run.partial(), **run.results}
        names = filter(there.__contains__, run.manifest.hypotheses)
        emit_json(summary(run), {name: there[name] for name in names})
        return
    if table:
        show_table(
            ["hypothesis", *run.manifest.pallet.labels, *columns(run.manifest.request)],
            ([name, *row] for name, row in table_rows(run)),
        )
        tell("")
    for result in failures(run):
        warn(f"{result.name} is {result.status}: {result.reason}")
    for name, jump in jumps(run).items():
        say(f"look at:     {name}: {jump}")
    for remark in remarks(run):
        say(f"note:        {remark}")
    for caution in cautions(run.manifest.request):
        warn(caution)
    _show_state(run)
    _show_provenance(run)
    results = run.path / "results.json"
    if results.is_file():
        tell(f"results:     {results}")
    tell(f"run:         {run.path}")


def require_complete(run: SavedRun) -> None:
    """Raise where hypotheses have no valid result.

    Raises
    ------
    IncompleteRunError
        Some failed or are not finished; the results stay as they are.
    """
    count = counts(run)
    if not count["failed"] and not count["unfinished"]:
        return
    hint = f"fitserve resume {run.path}"
    if count["failed"]:
        # The same fit fails again, unless the reason was another's.
        hint = f"see the reasons above; after a fault of the endpoint {hint} --retry-failed"
    raise IncompleteRunError(
        "some hypotheses have no valid result",
        evidence=f"{count['failed']} failed, {count['unfinished']} are not finished",
        hint=hint,
    )


def _show_state(run: SavedRun) -> None:
    total = len(run.manifest.hypotheses)
    states = ", ".join(f"{count} {word}" for word, count in counts(run).items() if count)
    out = excluded(run)
    reused = sum(record.reused_from is not None for record in run.records.values())
    tell(f"hypotheses:  {total}: {states}" + f" ({reused} reused from earlier runs)" * bool(reused))
    if out:
        words = exclusion_words(run.manifest.request)
        tell(f"excluded:    {out['observed']} observed, {out['expected']} expected at {words}")
    _show_verification(run)
    time = times(run)
    if time:
        tell(
            f"time:        {time['wall']:.1f} s; in the queue {time['queue']:.2f} s; sums: "
            f"set-up {time['setup']:.1f} s, fits {time['fit']:.1f} s "
            f"(one: median {time['fit_median']:.2g} s, longest {time['fit_max']:.2g} s)"
        )


def _show_verification(run: SavedRun) -> None:
    outcome = verification_summary(run)
    if not outcome:
        return
    text = f"{outcome['verified']} of {outcome['of']} with pyhf"
    if outcome["hypothesis"] is not None:
        text += f": largest |delta CLs| {outcome['largest']:.1g} ({outcome['hypothesis']})"
    tell(f"verified:    {text}")
    if outcome["beyond"]:
        warn(
            f"{len(outcome['beyond'])} of them are wrong by more than {outcome['tolerance']:g} by "
            f"pyhf: {', '.join(outcome['beyond'])}"
        )
    for name, reason in outcome["above"].items():
        say(f"note:        {name}: pyhf finds another CLs, which does not count: {reason}")
    for name, reason in outcome["unverified"].items():
        warn(f"{name} could not be verified: {reason}")
    if outcome["waiting"]:
        say(
            f"unverified:  {len(outcome['waiting'])} more were to be verified, and are not yet: "
            f"fitserve resume {run.path}"
        )


def _show_provenance(run: SavedRun) -> None:
    manifest = run.manifest
    pallet = manifest.pallet
    by = engine_counts(run.results.values())
    engines = ", ".join(f"{name} ({count})" for name, count in by.engines.items())
    devices = sorted({f"{r.worker.host} ({r.worker.device})" for r in run.records.values()})
    versions = ", ".join(f"{name} {number}" for name, number in manifest.versions.items())
    settings = "; ".join(
        f"{name[:1].lower()}{name[1:]} {value}"
        for name, value in request_settings(manifest.request)
    )
    tell(f"request:     {settings}")
    workspace = f"workspace {pallet.workspace_digest[:12]}, {verified(pallet)}"
    tell(f"pallet:      {pallet.source}, {workspace}")
    for note in pallet.forced:
        warn(f"ignored by --force: {note}")
    for note in pallet.notes:
        say(f"note:        {note}")
    tell(f"fitted by:   {engines or '-'} on {', '.join(devices) or '-'}")
    for reason in most_common(by.not_for_the_kernel):
        tell(f"pyhf for:    {reason}")
    for reason in most_common(by.kernel_doubts):
        tell(f"doubted:     {reason} (the kernel's own doubt; pyhf fitted them too)")
    tell(f"made by:     {versions}; {manifest.created}")
    tell(f"endpoint:    {manifest.endpoint}")
    if (owner := other_owner(run.path)) is not None:
        warn(f"the run directory belongs to {owner}, not to you")


def show_plan(
    source: str,
    request: Request,
    *,
    endpoint: str,
    options: dict[str, str],
    region: str | None,
    masses: str | None,
    signals: OwnSignals | None,
    patches: tuple[str, ...],
    force: bool,
    verify: float | None,
    workers: int | None,
    bounds: Bounds,
    as_json: bool,
    **edits: Unpack[Edits],
) -> None:
    """Show the tasks that would be submitted; nothing is started or written."""
    from fitserve.api import asked_signals
    from fitserve.endpoints import open_backend
    from fitserve.pallet.load import load_pallet
    from fitserve.runs.plan import make_plan, plan_verification
    from fitserve.runs.prepare import prepare

    backend = open_backend(endpoint, workers, options)
    try:
        pallet = load_pallet(
            source,
            region=region,
            masses=masses,
            signals=asked_signals(signals, request.model),
            force=force,
            **edits,
        )
        limits = backend.limits
        manifest, inputs = prepare(pallet, request, patches, endpoint, limits=limits, verify=verify)
        plan = make_plan(
            inputs.workspace,
            inputs.hypotheses,
            request,
            limits=limits,
            # As over a network, where nothing is staged: this is what a user pays there.
            staged=False,
            bounds=bounds,
        )
        to_verify = {*manifest.verify, *manifest.sample}
        second = plan_verification(
            inputs.workspace,
            [one for one in inputs.hypotheses if one.name in to_verify],
            request,
            limits=limits,
            staged=False,
            bounds=bounds,
        )
        if as_json:
            emit_json(_plan_data(plan, second, manifest.request_digest, limits.workers))
        else:
            _show_tasks(plan, second, limits)
    finally:
        backend.stop()


def _plan_data(
    plan: Plan, second: list[PlannedTask], request_digest: str, workers: int
) -> dict[str, object]:
    return {
        "request_digest": request_digest,
        "workers": workers,
        "bytes": plan.bytes,
        "cpu_seconds": plan.cpu_seconds,
        "seconds": plan.seconds,
        "begins": plan.begins,
        "tasks": [_task_data(task) for task in plan.tasks],
        "verification": [_task_data(task) for task in second],
    }


def _task_data(task: PlannedTask) -> dict[str, object]:
    return {
        "hypotheses": [one.name for one in task.hypotheses],
        "bytes": task.bytes,
        "seconds": task.seconds,
    }


def _show_tasks(plan: Plan, second: list[PlannedTask], limits: Limits) -> None:
    show_table(
        ["task", "hypotheses", "from", "to", "bytes", "seconds"],
        (
            [
                str(number),
                str(len(task.hypotheses)),
                task.hypotheses[0].name,
                task.hypotheses[-1].name,
                f"{task.bytes:,}",
                f"{task.seconds:.1f}",
            ]
            for number, task in enumerate(plan.tasks, start=1)
        ),
    )
    number, queue = len(plan.tasks), limits.costs.queue
    waits = f"the queue (blocks are assumed to wait {queue:.0f} s), " if queue else ""
    tell(
        f"{number} task{'' if number == 1 else 's'}, {plan.bytes:,} bytes to send, about "
        f"{plan.cpu_seconds:.0f} s of one core. On {limits.workers} workers about "
        f"{plan.seconds:.0f} s from the command to the last result, including {waits}the start of "
        f"workers and sending tasks to them; the first fit begins after {plan.begins:.0f} s"
    )
    if second:
        count = sum(len(task.hypotheses) for task in second)
        tell(
            f"after the results pyhf verifies {count} of the hypotheses, about "
            f"{sum(task.seconds for task in second):.2g} s of one core (--verify 0 skips this)"
        )
