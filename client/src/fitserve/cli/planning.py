"""`fitserve run --plan`: what would be sent, and how long it would take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitserve.console import emit_json, show_table, tell
from fitserve.endpoints import open_backend
from fitserve.pallet.load import load_pallet
from fitserve.runs.plan import make_plan, plan_verification
from fitserve.runs.prepare import prepare

if TYPE_CHECKING:
    from fitserve.endpoints.base import Limits
    from fitserve.runs.plan import Bounds, Plan, PlannedTask
    from fitserve_contract import Request

__all__ = ["show_plan"]


def show_plan(
    source: str,
    request: Request,
    *,
    endpoint: str,
    options: dict[str, str],
    region: str | None,
    patches: tuple[str, ...],
    force: bool,
    verify: float | None,
    workers: int | None,
    bounds: Bounds,
    as_json: bool,
) -> None:
    """Show the tasks that would be submitted; nothing is started or written."""
    backend = open_backend(endpoint, workers, options)
    try:
        pallet = load_pallet(source, region=region, force=force)
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
        verified = {*manifest.verify, *manifest.sample}
        second = plan_verification(
            inputs.workspace,
            [one for one in inputs.hypotheses if one.name in verified],
            request,
            limits=limits,
            staged=False,
            bounds=bounds,
        )
        if as_json:
            emit_json(_as_data(plan, second, manifest.request_digest, limits.workers))
        else:
            _show(plan, second, limits)
    finally:
        backend.stop()


def _as_data(
    plan: Plan, second: list[PlannedTask], request_digest: str, workers: int
) -> dict[str, object]:
    return {
        "request_digest": request_digest,
        "workers": workers,
        "bytes": plan.bytes,
        "cpu_seconds": plan.cpu_seconds,
        "seconds": plan.seconds,
        "begins": plan.begins,
        "tasks": [_task(task) for task in plan.tasks],
        "verification": [_task(task) for task in second],
    }


def _task(task: PlannedTask) -> dict[str, object]:
    return {
        "hypotheses": [one.name for one in task.hypotheses],
        "bytes": task.bytes,
        "seconds": task.seconds,
    }


def _show(plan: Plan, second: list[PlannedTask], limits: Limits) -> None:
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
