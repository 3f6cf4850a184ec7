"""Many hypotheses: what is done for each of them does not grow with their number."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from fitserve import __version__
from fitserve.console import show_table
from fitserve.endpoints.base import BackendStatus, Limits, Outcome
from fitserve.runs import complete
from fitserve.runs import store as run_store
from fitserve.runs.complete import reusable
from fitserve.runs.plan import Bounds
from fitserve.runs.progress import Silent
from fitserve.runs.records import Inputs
from fitserve.runs.store import read_run
from fitserve.runs.summary import table_rows
from fitserve_contract import (
    Hypothesis,
    TaskResult,
    Timing,
    Verification,
    WorkerInfo,
    decode_task,
    digest,
    encode_result,
    hypothesis_key,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from fitserve.runs.records import Manifest
    from fitserve_contract import HypothesisResult

WORKER = WorkerInfo(host="node", pid=1, python="3.11", device="cpu", versions={})
AGREES = Verification(
    engine="pyhf", largest=1e-6, wrong_by=1e-6, tolerance=1e-4, points=[], seconds=0.1
)


class Prompt:
    """Answers at once with results that are known, and verifies what it is asked to."""

    name = "prompt"
    limits = Limits(task_bytes=10**7, outstanding=4, workers=2)

    def __init__(self, manifest: Manifest, known: dict[str, HypothesisResult]) -> None:
        self.tasks = 0
        self._manifest, self._known = manifest, known
        self._queue: deque[tuple[str, str]] = deque()

    def stage(self, digest: str, compressed: bytes) -> bool:
        """Have the workspace."""
        return True

    def submit(self, ticket: str, task: str) -> None:
        """Queue a task."""
        self.tasks += 1
        self._queue.append((ticket, task))

    def outcomes(self, timeout: float) -> list[Outcome]:
        """Answer one task."""
        if not self._queue:
            return []
        ticket, text = self._queue.popleft()
        task = decode_task(text)
        claims = {claim.name: claim for claim in task.verify}
        results = [
            msgspec.structs.replace(claims[one.name], verification=AGREES)
            if one.name in claims
            else msgspec.structs.replace(self._known[one.name], key=self._key(one))
            for one in task.hypotheses
        ]
        answer = TaskResult(
            task="t",
            results=results,
            worker=WORKER,
            timing=Timing(started=1.0, decode=0.0, total=1.0),
        )
        return [Outcome(ticket, encode_result(answer), None)]

    def _key(self, one: Hypothesis) -> str:
        return hypothesis_key(
            self._manifest.pallet.workspace_digest, one, self._manifest.request_digest
        )

    def status(self) -> BackendStatus:
        """Run."""
        return BackendStatus("running", 2, "2 workers")

    def logs(self) -> None:
        """Return None."""


def _complete(build_run: Callable, workspace: dict, path: Path, count: int) -> int:
    """Fit and verify so many hypotheses in tasks of five, and return how many tasks it took."""
    points = {f"S_{i}": ((float(i), float(i % 7)), 0.01 + i * 1e-4, None) for i in range(count)}
    manifest, known = build_run(points, workspace_digest=digest(workspace))
    manifest = msgspec.structs.replace(manifest, verify=list(points))
    inputs = Inputs(
        workspace=workspace,
        hypotheses=[Hypothesis(name=n, values=v, patch=[]) for n, (v, _, _) in points.items()],
    )
    backend = Prompt(manifest, known)
    with complete.open_store(path, manifest, inputs, refit=False) as store:
        saved = complete.complete(store, inputs, backend, Silent(), Bounds(hypotheses=5))
    assert len(saved.results) == count
    assert all(found.verification == AGREES for found in saved.results.values())
    return backend.tasks


def test_a_run_is_read_as_often_whatever_its_size(
    build_run: Callable, workspace: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []

    def counted(path: Path) -> run_store.SavedRun:
        reads.append(path)
        return read_run(path)

    monkeypatch.setattr(run_store, "read_run", counted)
    few = _complete(build_run, workspace, tmp_path / "few", 20)
    of_few = len(reads)
    many = _complete(build_run, workspace, tmp_path / "many", 100)
    assert many > 2 * few
    assert len(reads) - of_few == of_few


def test_results_are_collected_once_for_a_whole_table(
    build_run: Callable, save_run: Callable, tmp_path: Path
) -> None:
    run = save_run(tmp_path / "run", *build_run({"S_1": ((1.0, 2.0), 0.1, None)}))
    rows = list(table_rows(run))
    assert [name for name, _ in rows] == ["S_1"]
    assert run.results is run.results
    assert run.unfinished is run.unfinished


def test_results_of_runs_that_ask_something_else_are_not_read(
    build_run: Callable, workspace: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, _ = build_run({"S_1": ((1.0, 2.0), 0.1, None)}, workspace_digest=digest(workspace))
    one = Hypothesis(name="S_1", values=(1.0, 2.0), patch=[])
    manifest = msgspec.structs.replace(manifest, versions={"fitserve": __version__})
    inputs = Inputs(workspace=workspace, hypotheses=[one])
    complete.open_store(tmp_path / "run", manifest, inputs, refit=False).close()
    read: list[Path] = []
    monkeypatch.setattr(
        "fitserve.runs.complete.read_run", lambda path: read.append(path) or read_run(path)
    )
    other = msgspec.structs.replace(manifest, request_digest="e" * 64)
    reusable(other, [one])
    assert read == []
    reusable(manifest, [one])
    assert read == [tmp_path / "run"]


def test_a_long_table_is_shown_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """What folds a table that is too wide for a terminal takes seconds for it."""
    began = time.process_time()
    show_table(["name", "mass", "CLs"], [[f"S_{i}", f"{i}", "0.05"] for i in range(20000)])
    assert time.process_time() - began < 2
    assert len(capsys.readouterr().out.splitlines()) == 20001
