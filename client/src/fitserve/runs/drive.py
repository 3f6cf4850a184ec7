"""Drive a plan through a backend into a run store, losing nothing on the way.

The types of `fitserve_contract` say which fields an answer has. Here their values are checked too:
an endpoint that is broken, or not what it seems, cannot put an impossible number into a run.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from fitserve.endpoints.base import Accepted, Resumable
from fitserve.errors import ContractError, InterruptedRunError
from fitserve.kinds import KINDS, kind
from fitserve.kinds.base import fractions
from fitserve.runs.plan import Verify, encode_planned
from fitserve.runs.records import StoredResult
from fitserve.runs.verification import VERIFIABLE, with_verdict
from fitserve_contract import TaskResult, ToyRange, decode_result, hypothesis_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from fitserve.endpoints.base import Backend, BackendStatus, Outcome
    from fitserve.runs.plan import PlannedTask
    from fitserve.runs.records import Event, Inputs
    from fitserve.runs.store import RunStore
    from fitserve_contract import Hypothesis, HypothesisResult, Request, Timing

__all__ = [
    "Claims",
    "Observer",
    "PendingTask",
    "check_answer",
    "check_timing",
    "drive",
    "interrupts_wait",
    "pending_tasks",
]

# A century in seconds: no fit takes longer.
_LONGEST = 3.2e9
# Which part of a result belongs to which kind of request.
_REQUIRED = {one.answer: one.request for one in KINDS.values() if one.answer}
_PARTS: dict[str, tuple[type[Any], ...]] = {
    **{part: (request,) for part, request in _REQUIRED.items()},
    "verification": VERIFIABLE,
    # The client itself adds these.
    "toys": (),
    "neighbours": (),
}

# A task whose worker is lost is cut in half and tried again, so that a hypothesis that
# kills its worker costs no other; one alone is given up after this many losses.
_ATTEMPTS = 3
# One that was lost on its way is sent again as it is, this many times before it is suspected.
_REPEATS = 5
_POLL_SECONDS = 0.5
# Events after which a task is not pending any more.
_ENDS = ("finished", "lost", "refused", "given up")
# Tasks that are submitted before what has ended meanwhile is written.
_AT_ONCE = 16


class Observer(Protocol):
    """Follows a run."""

    def status(self, status: BackendStatus) -> None:
        """Take note of what the backend is doing."""
        ...

    def finished(self, records: Sequence[StoredResult]) -> None:
        """Take note of hypotheses whose results are on disk."""
        ...

    def trouble(self, text: str) -> None:
        """Take note of something that went wrong and was dealt with."""
        ...

    def verifying(self, text: str) -> None:
        """Take note that everything has a result, and that pyhf is asked about some."""
        ...


class Claims(NamedTuple):
    """Records by hypothesis, whose results are to be compared with pyhf.

    After ``seconds``, if given, tasks that have not ended are left to whoever resumes the run.
    """

    records: Mapping[str, StoredResult]
    seconds: float | None = None


class _Piece(NamedTuple):
    """Hypotheses to be submitted together, and how often such a task was lost.

    ``repeats`` counts losses that were not the task's own. ``toys`` is the range of toys to make,
    in a run for toys.
    """

    hypotheses: tuple[Hypothesis, ...]
    losses: int = 0
    repeats: int = 0
    toys: ToyRange | None = None


class _Sent(NamedTuple):
    piece: _Piece
    submitted: float
    bytes: int
    accepted: float | None = None


class PendingTask(NamedTuple):
    """A task without an end.

    ``hypotheses`` are the names of those in it, in order; ``submitted`` is in seconds since
    the epoch. ``handle`` is what a service knows the task by, empty where none took it. ``toys`` is
    the range of toys that it makes, in a run for toys. ``verify`` says that it compares results
    with pyhf.
    """

    ticket: str
    hypotheses: tuple[str, ...]
    submitted: float
    bytes: int
    handle: dict[str, str]
    toys: ToyRange | None = None
    verify: bool = False


def pending_tasks(events: Iterable[Event]) -> list[PendingTask]:
    """Return the tasks that were submitted and have not ended, in order.

    Examples
    --------
    >>> from fitserve.runs.records import Event
    >>> sent = {"task": "task-1", "hypotheses": ["S_100"], "bytes": 7}
    >>> taken = {"task": "task-1", "group": "g", "service_task": "t"}
    >>> events = [Event(time=1.0, event="submitted", details=sent),
    ...           Event(time=2.0, event="accepted", details=taken)]
    >>> pending_tasks(events)[0].handle["service_task"]
    't'
    >>> ended = Event(time=3.0, event="finished", details={"task": "task-1"})
    >>> pending_tasks([*events, ended])
    []
    """
    tasks: dict[str, PendingTask] = {}
    for event in events:
        details = event.details
        ticket = details.get("task", "")
        if event.event == "submitted":
            names = tuple(details["hypotheses"])
            first, count = details.get("toys") or (0, 0)
            toys = ToyRange(first=first, count=count) if count else None
            verify = details.get("verify", False)
            tasks[ticket] = PendingTask(
                ticket, names, event.time, details["bytes"], {}, toys, verify
            )
        elif event.event == "accepted" and ticket in tasks:
            handle = {name: value for name, value in details.items() if name != "task"}
            tasks[ticket] = tasks[ticket]._replace(handle=handle)
        elif event.event in _ENDS:
            tasks.pop(ticket, None)
        elif event.event == "set aside" and details.get("hypotheses") is None:
            tasks.clear()
    return list(tasks.values())


def drive(
    store: RunStore,
    inputs: Inputs,
    tasks: Sequence[PlannedTask],
    backend: Backend,
    *,
    staged: bool,
    observer: Observer,
    pending: Sequence[PendingTask] = (),
    claims: Claims | None = None,
) -> None:
    """Do all tasks; each result is on disk before the next is looked at.

    With ``claims`` tasks compare these with pyhf.

    Tasks ``pending`` from an earlier process are collected from the service that took them,
    or sent again as they were.

    Hypotheses whose tasks are lost again and again are left without a result, with an
    event that says why. It ends early only by an exception (also KeyboardInterrupt), and keeps
    everything that had arrived.

    Raises
    ------
    BackendError
        The backend takes no more tasks, or its workers refuse them.
    InterruptedRunError
        Somebody asked to stop.
    StoreError
        Results cannot be written.
    """
    _Drive(store, inputs, backend, observer, staged=staged, claims=claims).run(tasks, pending)


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let a Ctrl-C wait for the end of this, which writes what has arrived."""
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        for number in came[:1]:
            signal.raise_signal(number)


class _Drive:
    def __init__(
        self,
        store: RunStore,
        inputs: Inputs,
        backend: Backend,
        observer: Observer,
        *,
        staged: bool,
        claims: Claims | None,
    ) -> None:
        self._store = store
        self._pallet = store.manifest.pallet
        self._request = store.manifest.request
        self._inputs = inputs
        self._workspace = None if staged else inputs.workspace
        self._backend = backend
        self._observer = observer
        self._waiting: deque[_Piece] = deque()
        self._sent: dict[str, _Sent] = {}
        self._nonce = store.nonce()
        self._claims = claims
        self._doubted = frozenset(store.manifest.doubted)
        # Tickets are never used twice in a run directory.
        self._tickets = sum(event.event == "submitted" for event in store.events())

    def run(self, tasks: Sequence[PlannedTask], pending: Sequence[PendingTask]) -> None:
        seconds = self._claims.seconds if self._claims else None
        end = math.inf if seconds is None else time.monotonic() + seconds
        self._take_up(pending)
        self._waiting.extend(_Piece(task.hypotheses, toys=task.toys) for task in tasks)
        while (self._waiting or self._sent) and time.monotonic() < end:
            if self._store.cancelled():
                raise InterruptedRunError("cancelled; nothing that was finished is lost")
            for _ in range(min(_AT_ONCE, self._room())):
                self._submit(self._waiting.popleft())
            outcomes = self._backend.outcomes(0.0 if self._room() else _POLL_SECONDS)
            with interrupts_wait():
                self._note_accepted()
                for outcome in outcomes:
                    self._take(outcome)
            self._observer.status(self._backend.status())

    def _room(self) -> int:
        """Return how many tasks can be submitted now."""
        most = self._backend.limits.outstanding
        return max(0, min(len(self._waiting), most - len(self._sent)))

    def _take_up(self, pending: Sequence[PendingTask]) -> None:
        hypotheses = {one.name: one for one in self._inputs.hypotheses}
        collected = []
        for task in pending:
            piece = _Piece(tuple(hypotheses[name] for name in task.hypotheses), toys=task.toys)
            if task.handle and isinstance(self._backend, Resumable):
                self._sent[task.ticket] = _Sent(piece, task.submitted, task.bytes)
                collected.append(Accepted(task.ticket, task.handle))
            else:
                self._store.note("lost", task=task.ticket, reason="its process ended")
                self._waiting.append(piece)
        if collected and isinstance(self._backend, Resumable):
            self._backend.collect(collected)

    def _note_accepted(self) -> None:
        if not isinstance(self._backend, Resumable):
            return
        accepted = list(self._backend.accepted())
        if accepted:
            handles = ({"task": task.ticket, **task.handle} for task in accepted)
            self._store.note_all("accepted", handles)
        for task in accepted:
            sent = self._sent.get(task.ticket)
            if sent is not None:
                self._sent[task.ticket] = sent._replace(accepted=time.time())

    def _submit(self, piece: _Piece) -> None:
        encoded = encode_planned(
            piece.hypotheses,
            self._pallet.workspace_digest,
            self._workspace,
            self._request,
            nonce=self._nonce,
            toys=piece.toys,
            verify=self._to_verify(piece),
            compression=self._backend.limits.compression,
        )
        self._tickets += 1
        ticket = f"task-{self._tickets}"
        submitted = time.time()
        self._backend.submit(ticket, encoded)
        self._sent[ticket] = _Sent(piece, submitted, len(encoded))
        which: dict[str, Any] = {}
        if piece.toys:
            which = {"toys": [piece.toys.first, piece.toys.count]}
        elif self._claims is not None:
            which = {"verify": True}
        self._store.note(
            "submitted",
            task=ticket,
            bytes=len(encoded),
            hypotheses=[one.name for one in piece.hypotheses],
            **which,
        )

    def _to_verify(self, piece: _Piece) -> Verify | None:
        if self._claims is None:
            return None
        names = [one.name for one in piece.hypotheses]
        return Verify(
            # The client itself compares neighbours; no answer has this.
            [
                msgspec.structs.replace(self._claims.records[name].result, neighbours=None)
                for name in names
            ],
            [name for name in names if name in self._doubted],
        )

    def _take(self, outcome: Outcome) -> None:
        sent = self._sent.pop(outcome.ticket, None)
        if sent is None:
            return
        if outcome.result is None:
            reason = outcome.error or "no reason is known"
            if outcome.again and sent.piece.repeats < _REPEATS:
                self._repeat(outcome.ticket, sent.piece, reason)
            else:
                self._lost(outcome.ticket, sent.piece, reason)
            return
        records = self._checked(outcome.ticket, sent, outcome.result)
        if self._claims is not None:
            self._append_verdicts(self._claims, records)
        elif sent.piece.toys is None:
            self._store.append(records)
            self._observer.finished(records)
        else:
            self._observer.finished(self._store.append_toys(records))
        self._store.note("finished", task=outcome.ticket, bytes=len(outcome.result))
        answered = {record.result.name for record in records}
        rest = tuple(one for one in sent.piece.hypotheses if one.name not in answered)
        if rest:
            self._lost(
                outcome.ticket,
                sent.piece._replace(hypotheses=rest),
                "the worker left it unanswered",
            )

    def _append_verdicts(self, claims: Claims, answers: Sequence[StoredResult]) -> None:
        """Add the verdicts of verification to records, which keep their worker and times."""
        pairs = [(claims.records[one.result.name], one.result) for one in answers]
        self._store.append(
            msgspec.structs.replace(claim, result=with_verdict(claim.result, answer))
            for claim, answer in pairs
            if answer.verification is not None
        )

    def _checked(self, ticket: str, sent: _Sent, answer: str) -> list[StoredResult]:
        try:
            return self._records(ticket, sent, decode_result(answer))
        except ContractError:
            # Tasks at the same workers will fare no better: they are not collected.
            for one in (ticket, *self._sent):
                self._store.note("refused", task=one)
            raise

    def _records(self, ticket: str, sent: _Sent, result: TaskResult) -> list[StoredResult]:
        hypotheses = {one.name: one for one in sent.piece.hypotheses}
        for answer in result.results:
            # Each is answered once.
            hypothesis = hypotheses.pop(answer.name, None)
            if hypothesis is None or answer.key != self._key(hypothesis):
                raise ContractError(
                    "a worker answered a question of another task",
                    evidence=f"task {ticket}, hypothesis '{answer.name}'",
                    hint="fitserve resume, and look at the worker's version",
                )
            check_answer(answer, hypothesis, self._request, sent.piece.toys)
        check_timing(result.timing)
        arrived = time.time()
        return [
            StoredResult(
                result=answer,
                worker=result.worker,
                task=ticket,
                submitted=sent.submitted,
                started=result.timing.started,
                arrived=arrived,
                task_seconds=result.timing.total,
                task_size=len(result.results),
                task_bytes=sent.bytes,
                accepted=sent.accepted,
                kept=result.kept,
            )
            for answer in result.results
        ]

    def _key(self, hypothesis: Hypothesis) -> str:
        digest = self._store.manifest.request_digest
        return hypothesis_key(self._pallet.workspace_digest, hypothesis, digest)

    def _repeat(self, ticket: str, piece: _Piece, reason: str) -> None:
        """Send a task again that was lost on its way."""
        names = [one.name for one in piece.hypotheses]
        self._store.note("lost", task=ticket, hypotheses=names, reason=reason)
        self._observer.trouble(f"{_few(names)}: {reason} (sending it again)")
        self._waiting.append(piece._replace(repeats=piece.repeats + 1))

    def _lost(self, ticket: str, piece: _Piece, reason: str) -> None:
        losses = piece.losses + 1
        names = [one.name for one in piece.hypotheses]
        given_up = len(names) == 1 and losses >= _ATTEMPTS
        self._store.note(
            "given up" if given_up else "lost", task=ticket, hypotheses=names, reason=reason
        )
        self._observer.trouble(
            f"{_few(names)}: {reason} ({'given up' if given_up else 'trying again'})"
        )
        if given_up:
            return
        middle = (len(names) + 1) // 2
        for half in (piece.hypotheses[:middle], piece.hypotheses[middle:]):
            if half:
                # Losses count against a hypothesis only where it was alone in its task.
                again = losses if len(names) == 1 else 0
                self._waiting.append(_Piece(half, again, piece.repeats, piece.toys))


def _few(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"  # noqa: PLR2004


def check_answer(
    result: HypothesisResult, hypothesis: Hypothesis, request: Request, toys: ToyRange | None
) -> None:
    """Check an endpoint's answer for one hypothesis.

    Parameters
    ----------
    result
        The answer.
    hypothesis, request
        What was asked.
    toys
        Which of the toys of a request for toys were asked for.

    Raises
    ------
    ContractError
        A number is out of its range or there are more or fewer than there can be, the mass values
        are not those asked for, or a part is missing or was not asked for.
    """
    for problem in _problems(result, hypothesis, request, toys):
        raise ContractError(
            "an endpoint's answer does not fit its task",
            evidence=f"hypothesis '{hypothesis.name}': {problem}",
            hint="nothing of this task is kept; look at the version and the site of that worker, "
            "or go on elsewhere with fitserve resume -e",
        )


def check_timing(timing: Timing) -> None:
    """Check a task's times.

    Raises
    ------
    ContractError
        They are impossible.
    """
    if not all(map(_is_time, (timing.started, timing.decode, timing.total))):
        raise ContractError("an endpoint's answer has impossible times", evidence=str(timing))


def _is_time(seconds: float) -> bool:
    return 0 <= seconds <= _LONGEST


def _problems(
    result: HypothesisResult, hypothesis: Hypothesis, request: Request, toys: ToyRange | None
) -> Iterator[str]:
    if result.mass_hypotheses != hypothesis.values:
        yield f"mass values {result.mass_hypotheses} instead of {hypothesis.values}"
    if not _is_time(result.fit_time) or not _is_time(result.setup_time):
        yield "an impossible time"
    if result.status != "ok" and not result.reason:
        yield f"it is {result.status} without a reason"
    yield from _of_parts(result, request)
    yield from _of_cls(result)
    yield from kind(request).problems(request, result, toys)


def _of_parts(result: HypothesisResult, request: Request) -> Iterator[str]:
    for part, kinds in _PARTS.items():
        there = getattr(result, part) is not None
        if there and not isinstance(request, kinds):
            yield f"{part} was not asked for"
        wanted = part in _REQUIRED and isinstance(request, kinds)
        if wanted and not there and result.status != "failed":
            yield f"{part} is missing"


def _of_cls(result: HypothesisResult) -> Iterator[str]:
    yield from fractions("CLs", [result.CLs_obs, *result.CLs_exp])
    points = [*result.points, *(result.verification.points if result.verification else [])]
    for point in points:
        yield from fractions(f"CLs at mu = {point.mu:g}", [point.CLs_obs, *point.CLs_exp])
    if result.status == "failed" and result.CLs_obs is not None:
        yield "it is failed and has CLs"
