"""The loop from plan to store: what is lost is sent again, what is finished is kept."""

from __future__ import annotations

import signal
from collections import deque
from typing import TYPE_CHECKING

import msgspec
import pytest
from click.testing import CliRunner

import fitserve_worker
from fitserve import api
from fitserve.cli import cli
from fitserve.endpoints.base import BackendStatus, Limits, Outcome
from fitserve.errors import BackendError, IncompleteRunError, InterruptedRunError, StoreError
from fitserve.runs import complete, drive
from fitserve.runs.plan import Bounds
from fitserve.runs.store import RunStore, read_run
from fitserve_contract import (
    ContractError,
    EngineOptions,
    HypotestRequest,
    decode_result,
    decode_task,
    encode_result,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fitserve.runs.records import StoredResult


class FakeBackend:
    """Works inline; ``lose`` says of a task's hypotheses whether its worker is lost."""

    name = "fake"

    def __init__(
        self, lose: Callable[[Sequence[str]], bool] = lambda _names: False, outstanding: int = 3
    ) -> None:
        self.limits = Limits(task_bytes=10**7, outstanding=outstanding, workers=2)
        self.submitted: list[list[str]] = []
        self.most_outstanding = 0
        self._lose = lose
        self._queue: deque[tuple[str, str]] = deque()

    def start(self) -> None:
        """Be ready."""

    def stage(self, digest: str, compressed: bytes) -> bool:
        """Stage nothing."""
        return False

    def submit(self, ticket: str, task: str) -> None:
        """Queue a task."""
        self.submitted.append([one.name for one in decode_task(task).hypotheses])
        self._queue.append((ticket, task))
        self.most_outstanding = max(self.most_outstanding, len(self._queue))

    def outcomes(self, timeout: float) -> list[Outcome]:
        """End one task, the last submitted first."""
        if not self._queue:
            return []
        ticket, task = self._queue.pop()
        if self._lose([one.name for one in decode_task(task).hypotheses]):
            return [Outcome(ticket, None, "WorkerLost: killed")]
        return [Outcome(ticket, fitserve_worker.run(task), None)]

    def status(self) -> BackendStatus:
        """Run."""
        return BackendStatus("running", 2, "2 fakes")

    def stop(self) -> None:
        """Forget everything."""
        self._queue.clear()

    def logs(self) -> None:
        """Return None."""
        return


@pytest.fixture
def fit(
    pallet_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., api.Run]:
    """Return a function that runs the toy pallet on a given backend."""

    def run(backend: object, *, output: str = "run", **options: object) -> api.Run:
        monkeypatch.setattr(api, "open_backend", lambda *_: backend)
        return api.run(pallet_directory, output=tmp_path / output, progress=False, **options)

    return run


def test_all_hypotheses_are_done_within_the_window(fit: Callable[..., api.Run]) -> None:
    backend = FakeBackend(outstanding=2)
    run = fit(backend)
    assert {found.status for found in run.results.values()} == {"ok"}
    assert list(run.results) == ["S_100", "S_200", "S_300", "S_400", "S_500"]
    assert backend.most_outstanding == 2


def test_a_hypothesis_that_kills_its_worker_costs_no_other(fit: Callable[..., api.Run]) -> None:
    backend = FakeBackend(lose=lambda names: "S_300" in names)
    run = fit(backend, bounds=Bounds(hypotheses=64), output="poison")
    assert run.unfinished == ["S_300"]
    assert backend.submitted.count(["S_300"]) == 3
    given_up = [e for e in read_run(run.path).events() if e.event == "given up"]
    assert given_up[0].details["reason"] == "WorkerLost: killed"


def test_a_worker_that_is_lost_once_costs_nothing(fit: Callable[..., api.Run]) -> None:
    lost: list[Sequence[str]] = []

    def lose(names: Sequence[str]) -> bool:
        lost.append(names)
        return len(lost) <= 2

    run = fit(FakeBackend(lose))
    assert run.unfinished == []


def test_the_same_question_is_not_fitted_again(fit: Callable[..., api.Run]) -> None:
    first = fit(FakeBackend(), patches=["S_1*", "S_2*"])
    again = FakeBackend()
    assert fit(again, patches=["S_1*", "S_2*"]).results == first.results
    assert again.submitted == []
    more = FakeBackend()
    run = fit(more, output="other")
    assert sorted(name for names in more.submitted for name in names) == ["S_300", "S_400", "S_500"]
    saved = read_run(run.path)
    assert saved.records["S_100"].reused_from == str(first.path)
    assert run.results["S_100"] == first.results["S_100"]


def test_refit_fits_again_and_keeps_the_old_results(fit: Callable[..., api.Run]) -> None:
    fit(FakeBackend())
    backend = FakeBackend()
    run = fit(backend, refit=True)
    assert sorted(name for names in backend.submitted for name in names) == list(run.results)
    assert len(list(run.path.glob("results-until-*"))) == 1


def test_another_question_does_not_overwrite_a_run(fit: Callable[..., api.Run]) -> None:
    fit(FakeBackend())
    with pytest.raises(StoreError, match="has another request") as caught:
        fit(FakeBackend(), request=api.make_request(mu=2.0))
    assert "--output" in caught.value.hint
    with pytest.raises(StoreError, match="another selection"):
        fit(FakeBackend(), patches=["S_100"])


class _Interrupted(FakeBackend):
    def outcomes(self, timeout: float) -> list[Outcome]:
        if len(self.submitted) > 3:
            raise KeyboardInterrupt
        return super().outcomes(timeout)


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(
    fit: Callable[..., api.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InterruptedRunError) as caught:
        fit(_Interrupted(outstanding=1), bounds=Bounds(hypotheses=1))
    assert caught.value.hint == f"fitserve resume {tmp_path / 'run'}"
    done = set(read_run(tmp_path / "run").results)
    assert 0 < len(done) < 5
    backend = FakeBackend()
    monkeypatch.setattr(api, "open_backend", lambda *_: backend)
    run = api.resume(tmp_path / "run", progress=False)
    assert run.unfinished == []
    assert done.isdisjoint(name for names in backend.submitted for name in names)


def test_ctrl_c_while_results_are_written_keeps_them(
    fit: Callable[..., api.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = RunStore.append

    def interrupted(store: RunStore, records: list[StoredResult]) -> None:
        signal.raise_signal(signal.SIGINT)
        written(store, records)

    backend = FakeBackend(outstanding=1)
    with monkeypatch.context() as patched:
        patched.setattr(RunStore, "append", interrupted)
        with pytest.raises(InterruptedRunError):
            fit(backend, bounds=Bounds(hypotheses=1))
    assert list(read_run(tmp_path / "run").results) == backend.submitted[0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("when", ["note", "close"])
def test_another_ctrl_c_takes_nothing_from_what_is_said_after_the_first(
    pallet_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    usual = getattr(RunStore, when)

    def interrupted(store: RunStore, *words: str, **details: object) -> None:
        if words in {(), ("interrupted",)}:
            signal.raise_signal(signal.SIGINT)
        usual(store, *words, **details)

    monkeypatch.setattr(RunStore, when, interrupted)
    monkeypatch.setattr(api, "open_backend", lambda *_: _Interrupted(outstanding=1))
    words = ["run", str(pallet_directory), "-o", str(tmp_path / "run"), "-q"]
    ended = CliRunner().invoke(cli, [*words, "--max-task-hypotheses", "1"])
    assert ended.exit_code == 130
    assert f"next: fitserve resume {tmp_path / 'run'}\n" in ended.stderr
    assert "interrupted" in {event.event for event in read_run(tmp_path / "run").events()}


def test_ctrl_c_while_tasks_are_sent_keeps_what_has_ended(
    fit: Callable[..., api.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(FakeBackend):
        def submit(self, ticket: str, task: str) -> None:
            if len(self.submitted) == 4:
                raise KeyboardInterrupt
            super().submit(ticket, task)

    monkeypatch.setattr(drive, "_AT_ONCE", 2)
    with pytest.raises(InterruptedRunError):
        fit(Interrupted(outstanding=100), bounds=Bounds(hypotheses=1))
    # A task ends whenever the backend is asked.
    assert len(read_run(tmp_path / "run").results) == 2


def test_ctrl_c_does_not_leave_a_backend_half_stopped(fit: Callable[..., api.Run]) -> None:
    stopped = []

    class Slow(FakeBackend):
        def stop(self) -> None:
            signal.raise_signal(signal.SIGINT)
            stopped.append(self)

    assert fit(Slow()).unfinished == []
    assert len(stopped) == 1


def test_ctrl_c_after_the_fits_says_how_to_go_on(
    fit: Callable[..., api.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(complete, "to_verify", lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(InterruptedRunError, match="interrupted") as caught:
        fit(FakeBackend())
    assert caught.value.hint == f"fitserve resume {tmp_path / 'run'}"


class _Broken(FakeBackend):
    def submit(self, ticket: str, task: str) -> None:
        if self.submitted:
            raise BackendError("the endpoint is gone", hint="look at it")
        super().submit(ticket, task)


def test_a_backend_that_breaks_says_how_to_go_on(
    fit: Callable[..., api.Run], tmp_path: Path
) -> None:
    with pytest.raises(BackendError) as caught:
        fit(_Broken(outstanding=1))
    assert caught.value.hint == f"look at it; then fitserve resume {tmp_path / 'run'}"
    assert len(read_run(tmp_path / "run").results) > 0


class _Confused(FakeBackend):
    def outcomes(self, timeout: float) -> list[Outcome]:
        return [
            ended._replace(result=encode_result(self._wrong(decode_result(ended.result))))
            for ended in super().outcomes(timeout)
        ]

    def _wrong(self, result: object) -> object:
        changed = [msgspec.structs.replace(one, key="0" * 64) for one in result.results]
        return msgspec.structs.replace(result, results=changed)


def test_an_answer_to_another_question_is_not_kept(
    fit: Callable[..., api.Run], tmp_path: Path
) -> None:
    with pytest.raises(ContractError, match="a question of another task"):
        fit(_Confused())
    assert read_run(tmp_path / "run").results == {}


class _Forgetful(FakeBackend):
    def outcomes(self, timeout: float) -> list[Outcome]:
        ended = super().outcomes(timeout)
        if len(self.submitted) > 1 or not ended:
            return ended
        result = decode_result(ended[0].result)
        shorter = msgspec.structs.replace(result, results=result.results[:-1])
        return [ended[0]._replace(result=encode_result(shorter))]


def test_what_a_worker_leaves_unanswered_is_sent_again(fit: Callable[..., api.Run]) -> None:
    backend = _Forgetful(outstanding=1)
    assert fit(backend).unfinished == []


def test_failed_fits_are_results_and_are_retried_only_when_asked_to(
    fit: Callable[..., api.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fitserve.cli.terminal import require_complete
    from fitserve_worker.engines import pyhf_engine

    def breaks(*_: object) -> None:
        raise ValueError("singular")

    with monkeypatch.context() as patched:
        patched.setattr(pyhf_engine, "evaluate", breaks)
        engine = EngineOptions(engine="pyhf")
        run = fit(FakeBackend(), request=HypotestRequest(engine=engine))
    assert {found.status for found in run.results.values()} == {"failed"}
    with pytest.raises(IncompleteRunError, match="no valid result") as caught:
        require_complete(read_run(run.path))
    assert caught.value.hint.endswith("--retry-failed")
    idle = FakeBackend()
    monkeypatch.setattr(api, "open_backend", lambda *_: idle)
    assert len(api.resume(run.path, progress=False).results) == 5
    assert idle.submitted == []
    again = api.resume(run.path, retry_failed=True, progress=False)
    assert {found.status for found in again.results.values()} == {"ok"}
