"""The run directory: what a crash at any moment leaves is readable, and nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from fitserve.errors import StoreError
from fitserve.files import Journal, read_journal, write_atomic
from fitserve.runs.records import Inputs, Manifest, PalletRecord, StoredResult
from fitserve.runs.store import RunStore, known_runs, read_run, register
from fitserve_contract import (
    HypotestRequest,
    HypothesisResult,
    WorkerInfo,
    digest,
    request_digest,
)

if TYPE_CHECKING:
    from pathlib import Path

    from fitserve_contract import Hypothesis


@pytest.fixture
def inputs(workspace: dict, hypotheses: list[Hypothesis]) -> Inputs:
    return Inputs(workspace=workspace, hypotheses=hypotheses)


@pytest.fixture
def manifest(inputs: Inputs) -> Manifest:
    request = HypotestRequest()
    return Manifest(
        pallet=PalletRecord(
            source="toy",
            name="toy",
            region=None,
            workspace_digest=digest(inputs.workspace),
            patchset_digests={},
            digest_verified=True,
            labels=["m1", "m2"],
            description="",
            references={},
        ),
        request=request,
        request_digest=request_digest(request),
        endpoint="inline",
        hypotheses=[one.name for one in inputs.hypotheses],
        values={one.name: one.values for one in inputs.hypotheses},
        created="2026-01-01T00:00:00+00:00",
        host="host",
        python="3.11",
        versions={"fitserve": "0"},
    )


def record(name: str, cls: float | None = 0.5, status: str = "ok") -> StoredResult:
    return StoredResult(
        result=HypothesisResult(
            name=name,
            key="k",
            mass_hypotheses=(1.0, 2.0),
            status=status,
            reason=None if status == "ok" else "why",
            CLs_obs=cls,
            CLs_exp=[0.1, 0.2, 0.3, 0.4, 0.5],
            fit_time=1.0,
            setup_time=0.5,
            engine="e",
            points=[],
        ),
        worker=WorkerInfo(host="h", pid=1, python="3", device="cpu", versions={}),
        task="t",
        submitted=1.0,
        started=2.0,
        arrived=3.0,
        task_seconds=1.0,
        task_size=1,
    )


@pytest.fixture
def store(tmp_path: Path, manifest: Manifest, inputs: Inputs) -> RunStore:
    with RunStore.create(tmp_path / "run", manifest, inputs) as made:
        yield made


def test_what_is_appended_is_read_back_in_the_manifest_s_order(
    store: RunStore, inputs: Inputs
) -> None:
    store.append([record("S_300"), record("S_100")])
    saved = read_run(store.path)
    assert list(saved.results) == ["S_100", "S_300"]
    assert saved.unfinished == ["S_200", "S_400", "S_500"]
    assert saved.inputs() == inputs


def test_a_torn_last_line_is_what_a_crash_leaves_and_costs_only_itself(store: RunStore) -> None:
    store.append([record("S_100")])
    store.close()
    path = store.path / "results.jsonl"
    whole = path.read_bytes()
    for cut in (1, 10, len(whole) - 1):
        path.write_bytes(whole + whole[:cut])
        assert list(read_run(store.path).results) == ["S_100"]
        with RunStore.open(store.path) as again:
            again.append([record("S_200")])
        assert list(read_run(store.path).results) == ["S_100", "S_200"]
        path.write_bytes(whole)


def test_a_damaged_line_in_the_middle_is_told_with_its_number(store: RunStore) -> None:
    store.append([record("S_100"), record("S_200")])
    path = store.path / "results.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"name"', b'"nome"', 1))
    with pytest.raises(StoreError, match="line 1 of") as caught:
        read_run(store.path)
    assert "fitserve resume" in caught.value.hint


def test_a_full_disk_leaves_the_file_as_it_was(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append([record("S_100")])
    before = (store.path / "results.jsonl").read_bytes()
    real = os.pwrite

    def half_then_full(descriptor: int, data: bytes, offset: int) -> int:
        if offset > len(before):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: len(data) // 2], offset)

    monkeypatch.setattr(os, "pwrite", half_then_full)
    with pytest.raises(StoreError, match="full") as caught:
        store.append([record("S_200")])
    assert "fitserve resume" in caught.value.hint
    assert (store.path / "results.jsonl").read_bytes() == before
    monkeypatch.undo()
    store.append([record("S_200")])
    assert list(read_run(store.path).results) == ["S_100", "S_200"]


def test_a_failed_replacement_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "results.json"
    write_atomic(target, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError):
        write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_one_process_at_a_time_writes(store: RunStore) -> None:
    with pytest.raises(StoreError, match="in use") as caught:
        RunStore.open(store.path)
    assert f"process {os.getpid()}" in caught.value.evidence
    store.close()
    RunStore.open(store.path).close()


def test_the_lock_of_a_killed_process_is_free(store: RunStore) -> None:
    store.close()
    script = (
        "import os, sys; from pathlib import Path; from fitserve.runs.store import RunStore; "
        "store = RunStore.open(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, store.path], check=False)
    assert done.returncode == -9
    RunStore.open(store.path).close()


def test_results_json_has_every_hypothesis_by_name(store: RunStore) -> None:
    store.append([record("S_100"), record("S_200", cls=None, status="failed")])
    written = json.loads(store.write_results().read_text())
    assert list(written) == store.manifest.hypotheses
    for name, one in written.items():
        assert one["name"] == name
        assert {"mass_hypotheses", "CLs_obs", "CLs_exp", "fit_time", "status"} <= set(one)
    assert written["S_100"]["CLs_exp"] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert (written["S_200"]["CLs_obs"], written["S_200"]["reason"]) == (None, "why")
    assert written["S_300"]["status"] == "failed"
    assert "not finished" in written["S_300"]["reason"]
    assert written["S_300"]["mass_hypotheses"] == [300.0, 1.0]


def test_results_that_are_set_aside_stay_in_the_directory(store: RunStore) -> None:
    store.append([record("S_100"), record("S_200", status="failed")])
    store.set_aside({"S_200"})
    assert list(read_run(store.path).results) == ["S_100"]
    old = next(store.path.glob("results-until-*.jsonl"))
    assert [one.result.name for one in read_journal(old, StoredResult)] == ["S_100", "S_200"]
    store.set_aside()
    assert read_run(store.path).results == {}


def test_a_directory_with_something_else_in_it_is_not_taken(
    tmp_path: Path, manifest: Manifest, inputs: Inputs
) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match="not a run directory") as caught:
        RunStore.create(tmp_path, manifest, inputs)
    assert "thesis.tex" in caught.value.evidence


def test_what_is_not_a_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a run directory") as caught:
        read_run(tmp_path / "nothing")
    assert caught.value.hint == "fitserve runs list"


def test_a_run_of_another_version_is_told(store: RunStore) -> None:
    path = store.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"manifest_version": 99}))
    with pytest.raises(StoreError, match="another version"):
        read_run(store.path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"manifest_version": 1}'])
def test_a_damaged_manifest_is_told(store: RunStore, content: bytes) -> None:
    (store.path / "manifest.json").write_bytes(content)
    with pytest.raises(StoreError):
        read_run(store.path)


@pytest.mark.parametrize("content", [b"", b"not zstd"])
def test_damaged_inputs_are_told(store: RunStore, content: bytes) -> None:
    (store.path / "inputs.json.zst").write_bytes(content)
    with pytest.raises(StoreError, match="inputs"):
        read_run(store.path).inputs()


def test_an_output_that_cannot_be_made_is_told(
    tmp_path: Path, manifest: Manifest, inputs: Inputs
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as caught:
        RunStore.create(tmp_path / "file" / "run", manifest, inputs)
    assert caught.value.exit_code == 6


def test_runs_are_found_again_until_they_are_removed(store: RunStore) -> None:
    register(store.path)
    register(store.path)
    assert known_runs() == [store.path]
    (store.path / "manifest.json").unlink()
    assert known_runs() == []


def test_a_home_that_cannot_be_written_is_no_reason_to_stop(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    register(store.path)
    assert known_runs() == []


def test_a_journal_keeps_what_is_in_it_when_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    for number in range(3):
        journal: Journal[int] = Journal(path)
        journal.append([number])
        journal.close()
    assert read_journal(path, int) == [0, 1, 2]
    assert msgspec.json.decode(path.read_bytes().splitlines()[2]) == 2


def test_what_was_written_before_it_was_counted_is_kept(tmp_path: Path) -> None:
    """A Ctrl-C may come in between: the next entries stand behind, and no part of a line stays."""
    path = tmp_path / "journal"
    journal: Journal[str] = Journal(path)
    journal.append(["first"])
    with path.open("ab") as stream:
        stream.write(b'"a long second entry"\n"a part of')
    journal.append(["third"])
    journal.close()
    assert read_journal(path, str) == ["first", "a long second entry", "third"]


def test_part_of_a_line_goes_before_the_next_entries_are_written(tmp_path: Path) -> None:
    path = tmp_path / "entries.jsonl"
    journal: Journal[str] = Journal(path)
    journal.append(["one"])
    with path.open("ab") as stream:
        stream.write(b'"a line that is longer than the next')
    journal.append(["two"])
    journal.close()
    assert path.read_text() == '"one"\n"two"\n'
    assert read_journal(path, str) == ["one", "two"]


def test_an_interrupt_while_entries_are_written_leaves_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next ones, which are shorter, would have been followed by the rest of these."""
    path = tmp_path / "events.jsonl"
    journal: Journal[str] = Journal(path)
    journal.append(["first"])

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            journal.append(["a long one", "and another"])
    journal.append(["last"])
    journal.close()
    assert read_journal(path, str) == ["first", "last"]
