"""Tasks that outlive their client: accepted, collected, sent again, refused, called off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import fitserve_worker
from fitserve import api
from fitserve.endpoints.base import Accepted, BackendStatus, Limits, Outcome
from fitserve.errors import InterruptedRunError
from fitserve.runs.drive import pending_tasks
from fitserve.runs.store import ask_to_cancel, read_run
from fitserve_contract import ContractError, decode_task, encode_refusal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Cloud:
    """A service: it keeps tasks by its own ids, and answers whoever asks for them."""

    def __init__(self) -> None:
        self.tasks: dict[str, str] = {}
        self.sent = 0

    def take(self, task: str) -> str:
        self.sent += 1
        name = f"id-{self.sent}"
        self.tasks[name] = task
        return name


class CloudBackend:
    """Answers from the cloud, once ``answering``; ``lose`` says of a task how it is lost."""

    name = "cloud"
    limits = Limits(task_bytes=10**7, outstanding=10, workers=2)

    def __init__(self, cloud: Cloud, *, answering: bool = True) -> None:
        self.cloud = cloud
        self.answering = answering
        self.known: dict[str, str] = {}
        self.new: list[Accepted] = []
        self.lost: list[Outcome] = []
        self.drops = 0
        self.polls = 0

    def start(self) -> None:
        """Be ready."""

    def stage(self, digest: str, compressed: bytes) -> bool:
        return False

    def submit(self, ticket: str, task: str) -> None:
        self.known[ticket] = self.cloud.take(task)
        self.new.append(Accepted(ticket, {"service_task": self.known[ticket]}))

    def accepted(self) -> list[Accepted]:
        taken, self.new = self.new, []
        return taken

    def collect(self, tasks: Sequence[Accepted]) -> None:
        for task in tasks:
            if task.handle["service_task"] in self.cloud.tasks:
                self.known[task.ticket] = task.handle["service_task"]
            else:
                self.lost.append(Outcome(task.ticket, None, "dropped", again=True))

    def outcomes(self, timeout: float) -> list[Outcome]:
        self.polls += 1
        if not self.answering and self.polls > 1:
            raise KeyboardInterrupt
        ended, self.lost = self.lost, []
        if not self.answering or not self.known:
            return ended
        ticket = next(iter(self.known))
        task = self.cloud.tasks.pop(self.known.pop(ticket))
        if self.drops:
            self.drops -= 1
            return [*ended, Outcome(ticket, None, "dropped", again=True)]
        return [*ended, Outcome(ticket, self.answer(task), None)]

    def answer(self, task: str) -> str:
        return fitserve_worker.run(task)

    def status(self) -> BackendStatus:
        return BackendStatus("running", 2, "the cloud")

    def stop(self) -> None:
        """Let go."""

    def logs(self) -> None:
        return


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


def _use(monkeypatch: pytest.MonkeyPatch, backend: object) -> None:
    monkeypatch.setattr(api, "open_backend", lambda *_: backend)


@pytest.fixture
def interrupted(
    cloud: Cloud, pallet_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Return a run that was interrupted with all its tasks at the service."""
    _use(monkeypatch, CloudBackend(cloud, answering=False))
    with pytest.raises(InterruptedRunError) as caught:
        api.run(pallet_directory, output=tmp_path / "run", progress=False)
    assert "5 more are at the service, which cannot cancel them" in caught.value.evidence
    assert caught.value.hint.endswith("collects them")
    return tmp_path / "run"


def test_what_the_service_has_is_collected_and_not_sent_again(
    interrupted: Path, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = cloud.sent
    assert all(task.handle for task in pending_tasks(read_run(interrupted).events()))
    _use(monkeypatch, CloudBackend(cloud))
    run = api.resume(interrupted, progress=False)
    assert run.unfinished == []
    assert cloud.sent == sent
    assert pending_tasks(read_run(interrupted).events()) == []


def test_what_the_service_has_dropped_is_sent_again_as_it_was(
    interrupted: Path, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dict(cloud.tasks)
    dropped = sorted(before)[:2]
    for name in dropped:
        del cloud.tasks[name]
    backend = CloudBackend(cloud)
    resent = []
    monkeypatch.setattr(backend, "answer", lambda t: resent.append(t) or fitserve_worker.run(t))
    _use(monkeypatch, backend)
    assert api.resume(interrupted, progress=False).unfinished == []
    assert cloud.sent == len(before) + 2
    assert {before[name] for name in dropped} <= set(resent)  # byte by byte


def test_another_kind_of_endpoint_does_them_itself(
    interrupted: Path, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    run = api.resume(interrupted, endpoint="inline", progress=False)
    assert run.unfinished == []
    records = read_run(interrupted).records.values()
    assert len({record.task for record in records}) == len({r.task for r in records})


def test_a_task_lost_on_its_way_is_not_cut(
    cloud: Cloud, pallet_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = CloudBackend(cloud)
    backend.drops = 4
    _use(monkeypatch, backend)
    run = api.run(pallet_directory, output=tmp_path / "run", progress=False)
    assert run.unfinished == []
    submitted = [e for e in read_run(run.path).events() if e.event == "submitted"]
    pieces = {tuple(event.details["hypotheses"]) for event in submitted}
    assert len(submitted) == len(pieces) + 4


def test_a_way_that_loses_everything_ends(
    cloud: Cloud, pallet_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = CloudBackend(cloud)
    backend.drops = 10**6
    _use(monkeypatch, backend)
    run = api.run(pallet_directory, patches=["S_100"], output=tmp_path / "run", progress=False)
    assert run.unfinished == ["S_100"]
    assert cloud.sent == 5 + 3


def test_refused_tasks_are_not_collected_again(
    interrupted: Path, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = CloudBackend(cloud)
    refusal = encode_refusal(ContractError("versions differ"))
    monkeypatch.setattr(backend, "answer", lambda _: refusal)
    _use(monkeypatch, backend)
    with pytest.raises(ContractError, match="versions differ"):
        api.resume(interrupted, progress=False)
    assert pending_tasks(read_run(interrupted).events()) == []
    _use(monkeypatch, CloudBackend(cloud))
    assert api.resume(interrupted, progress=False).unfinished == []


class _Cancelling(CloudBackend):
    """Somebody cancels after the first result."""

    path: Path

    def answer(self, task: str) -> str:
        assert ask_to_cancel(self.path)
        return super().answer(task)


def test_cancelling_stops_sending_and_keeps_what_is_done(
    cloud: Cloud, pallet_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = _Cancelling(cloud)
    backend.path = tmp_path / "run"
    _use(monkeypatch, backend)
    with pytest.raises(InterruptedRunError, match="cancelled; nothing"):
        api.run(pallet_directory, output=tmp_path / "run", progress=False)
    saved = read_run(tmp_path / "run")
    assert 0 < len(saved.records) < 5
    assert not ask_to_cancel(tmp_path / "run")
    _use(monkeypatch, CloudBackend(cloud))
    assert api.resume(tmp_path / "run", progress=False).unfinished == []


def test_a_refit_is_sent_with_another_nonce(
    cloud: Cloud, pallet_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nonces = []

    def answer(task: str) -> str:
        nonces.append(decode_task(task).nonce)
        return fitserve_worker.run(task)

    for refit in (False, True):
        backend = CloudBackend(cloud)
        monkeypatch.setattr(backend, "answer", answer)
        _use(monkeypatch, backend)
        api.run(pallet_directory, output=tmp_path / "run", refit=refit, progress=False)
    assert "" in nonces
    assert len(set(nonces)) == 2
