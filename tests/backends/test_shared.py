"""Several backends as one: the faster takes more, a broken one costs nothing."""

from __future__ import annotations

from collections import deque

import pytest

from fitserve.endpoints import shared as module
from fitserve.endpoints.base import DIRECT, Accepted, BackendStatus, Limits, Outcome
from fitserve.endpoints.shared import SharedBackend
from fitserve.errors import BackendError


class Fake:
    """Ends ``speed`` tasks whenever it is asked."""

    def __init__(self, name: str, speed: int, state: str = "running") -> None:
        self.name = name
        self.limits = Limits(task_bytes=100 * len(name), outstanding=10, workers=2)
        self.speed = speed
        self.state = state
        self.broken: BackendError | None = None
        self.done: list[str] = []
        self.queue: deque[str] = deque()
        self.stopped = False

    def start(self) -> None:
        if self.broken:
            raise self.broken

    def stage(self, digest: str, compressed: bytes) -> bool:
        return True

    def submit(self, ticket: str, task: str) -> None:
        if self.broken:
            raise self.broken
        self.queue.append(ticket)

    def outcomes(self, timeout: float) -> list[Outcome]:
        if self.broken:
            raise self.broken
        ended = [self.queue.popleft() for _ in range(min(self.speed, len(self.queue)))]
        self.done += ended
        return [Outcome(ticket, f"by {self.name}", None) for ticket in ended]

    def status(self) -> BackendStatus:
        return BackendStatus(self.state, 2 if self.state == "running" else 0, self.name)

    def stop(self) -> None:
        self.stopped = True

    def logs(self) -> None:
        return


class Service(Fake):
    """A fake whose tasks can be collected."""

    collected: list[Accepted] = []  # noqa: RUF012 - replaced, never changed

    def accepted(self) -> list[Accepted]:
        return [Accepted(ticket, {"service_task": ticket}) for ticket in self.queue]

    def collect(self, tasks: list[Accepted]) -> None:
        self.collected = [*tasks]
        self.queue.extend(task.ticket for task in tasks)


def _run(shared: SharedBackend, tasks: int) -> dict[str, str]:
    waiting = deque(f"t{number}" for number in range(tasks))
    ended: dict[str, str] = {}
    sent = 0
    for _ in range(500):
        while waiting and sent - len(ended) < shared.limits.outstanding:
            shared.submit(waiting.popleft(), "task")
            sent += 1
        for outcome in shared.outcomes(0.0):
            if outcome.result is None:
                assert outcome.again
                sent -= 1
                waiting.append(outcome.ticket)
            else:
                assert outcome.ticket not in ended
                ended[outcome.ticket] = outcome.result
        if len(ended) == tasks:
            return ended
    raise AssertionError(f"only {len(ended)} of {tasks} ended")


def test_limits_are_those_that_all_keep() -> None:
    shared = SharedBackend([Fake("slow", 1), Fake("faster", 4)])
    assert shared.name == "slow,faster"
    assert shared.limits.task_bytes == 400
    assert shared.limits.workers == 4
    assert shared.limits.outstanding == 8
    large = Fake("large", 1)
    large.limits = large.limits._replace(workers=50, costs=DIRECT)
    assert SharedBackend([Fake("small", 1), large]).limits.costs == DIRECT
    assert shared.stage("d", b"") is False


def test_the_faster_takes_more() -> None:
    slow, fast = Fake("slow", 1), Fake("fast", 4)
    _run(SharedBackend([slow, fast]), 60)
    assert len(slow.done) + len(fast.done) == 60
    assert len(fast.done) > 2 * len(slow.done) > 0


def test_one_that_breaks_leaves_its_tasks_to_the_others() -> None:
    first, second = Fake("first", 1), Fake("second", 1)
    shared = SharedBackend([first, second])
    for number in range(6):
        shared.submit(f"t{number}", "task")
    assert first.queue
    first.broken = BackendError("gone")
    lost = [outcome for outcome in shared.outcomes(0.0) if outcome.result is None]
    lost += [outcome for outcome in shared.outcomes(0.0) if outcome.result is None]
    assert {outcome.ticket for outcome in lost} == set(first.queue)
    assert all(outcome.again and outcome.error == "first: gone" for outcome in lost)
    assert shared.status().workers == 2
    second.broken = BackendError("gone too")
    with pytest.raises(BackendError, match="gone too"):
        shared.outcomes(0.0)


def test_one_that_cannot_start_is_left_out() -> None:
    first, second = Fake("first", 1), Fake("second", 1)
    first.broken = BackendError("no")
    shared = SharedBackend([first, second])
    shared.start()
    assert len(_run(shared, 5)) == 5
    shared.stop()
    assert first.stopped
    assert second.stopped


def test_an_endpoint_without_workers_is_woken_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.0)
    asleep, awake = Fake("asleep", 0, state="waiting"), Fake("awake", 1)
    ended = _run(SharedBackend([asleep, awake]), 20)
    assert set(ended.values()) == {"by awake"}
    assert len(asleep.queue) >= 1
    # It wakes up, and its answers come second.
    asleep.speed, asleep.state = 5, "running"
    assert SharedBackend([asleep, awake]).outcomes(0.0) == []


def test_tasks_are_collected_by_those_who_have_them() -> None:
    first, second = Service("first", 1), Service("second", 1)
    shared = SharedBackend([first, second])
    shared.submit("a", "task")
    [accepted] = shared.accepted()
    assert accepted.handle["name"] in {"first", "second"}
    again = SharedBackend([Service("second", 1), Service("first", 1)])
    stranger = Accepted("b", {"service_task": "b", "name": "third"})
    again.collect([accepted, stranger])
    outcomes = again.outcomes(0.0)
    assert {outcome.ticket: outcome.again for outcome in outcomes} == {"a": False, "b": True}
