"""From an encoded task to an encoded result."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from fitserve.contract import (
    ContractError,
    HypothesisResult,
    TaskResult,
    Timing,
    decode_task,
    encode_refusal,
    encode_result,
    envelope_digest,
    request_digest,
)
from fitserve_worker.engines import answers, failed
from fitserve_worker.engines.base import Work
from fitserve_worker.engines.refusals import in_words
from fitserve_worker.environment import limit_memory, worker_info, worker_version
from fitserve_worker.outbox import find_outbox
from fitserve_worker.staging import workspace_of
from fitserve_worker.verification import verified

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve.contract import Task

__all__ = ["answer", "perform"]


def answer(text: str) -> str:
    """Do an encoded task, or answer it from the outbox of an earlier sending.

    A task that cannot be read is answered with a refusal.
    """
    started = time.time()
    clock = time.perf_counter()
    limit_memory()
    try:
        task = decode_task(text)
        work = Work(
            workspace_digest=task.workspace_digest,
            workspace=workspace_of(task),
            hypotheses=task.hypotheses,
            request=task.request,
            request_digest=request_digest(task.request),
            toys=task.toys,
        )
        digest = envelope_digest(text)
    except ContractError as error:
        return encode_refusal(error)
    outbox = find_outbox(worker_version())
    kept = outbox.get(digest) if outbox else None
    if kept is not None:
        return kept
    decoded = time.perf_counter()
    results = list(_verified(work, task) if task.verify else perform(work))
    worker = worker_info()
    result = TaskResult(
        task=digest,
        results=[
            # What is verified was fitted elsewhere.
            result
            if task.verify
            else msgspec.structs.replace(result, host=worker.host, device=worker.device)
            for result in results
        ],
        worker=worker,
        timing=Timing(
            started=started,
            decode=decoded - clock,
            total=time.perf_counter() - clock,
        ),
    )
    if outbox and all(found.status != "failed" for found in results):
        outbox.put(digest, encode_result(msgspec.structs.replace(result, kept=True)))
    return encode_result(result)


def perform(work: Work) -> Iterator[HypothesisResult]:
    """Yield a result for every hypothesis, whatever the engine does.

    An engine that breaks costs the hypotheses that it had not finished, and each of them
    says so.
    """
    open_ = {hypothesis.name: hypothesis for hypothesis in work.hypotheses}
    try:
        for result in answers(work):
            del open_[result.name]
            yield result
    except Exception as error:  # noqa: BLE001 - a worker answers, whatever happens
        for hypothesis in open_.values():
            yield failed(work, hypothesis, in_words(error))


def _verified(work: Work, task: Task) -> Iterator[HypothesisResult]:
    """Yield the results of a task with pyhf's answers beside them."""
    claims = {result.name: result for result in task.verify}
    for hypothesis in work.hypotheses:
        name = hypothesis.name
        if name in claims:
            yield verified(work, hypothesis, claims[name], doubted=name in task.doubted)
