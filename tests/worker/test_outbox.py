"""Answers are kept on the site, and are given only for the same task to the same user."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import msgspec
import pytest

import fitserve_worker
from fitserve_contract import decode_result, encode_task, envelope_digest
from fitserve_worker import outbox as module
from fitserve_worker.outbox import Outbox, find_outbox

if TYPE_CHECKING:
    from pathlib import Path

    from fitserve_contract import Task

DIGEST = "a" * 64


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FITSERVE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_same_task_is_not_fitted_twice(cache: Path, task: Task) -> None:
    text = encode_task(task)
    first = decode_result(fitserve_worker.run(text))
    assert not first.kept
    second = decode_result(fitserve_worker.run(text))
    assert second.kept
    assert second.results == first.results
    assert second.timing == first.timing
    [entry] = Outbox(cache / "outbox", "x").entries()
    assert entry.digest == envelope_digest(text)
    again = decode_result(
        fitserve_worker.run(encode_task(msgspec.structs.replace(task, nonce="2")))
    )
    assert not again.kept


def test_failed_fits_are_not_kept(cache: Path, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = msgspec.structs.replace(
        task.hypotheses[0], patch=[{"op": "remove", "path": "/nothing"}]
    )
    text = encode_task(msgspec.structs.replace(task, hypotheses=[broken]))
    assert decode_result(fitserve_worker.run(text)).results[0].status == "failed"
    assert Outbox(cache / "outbox", "x").entries() == []


def test_without_a_place_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, task: Task) -> None:
    monkeypatch.delenv("FITSERVE_CACHE_DIR", raising=False)
    assert find_outbox("1") is None
    text = encode_task(task)
    assert not decode_result(fitserve_worker.run(text)).kept
    assert not decode_result(fitserve_worker.run(text)).kept


def test_another_version_does_not_answer(tmp_path: Path) -> None:
    assert Outbox(tmp_path / "outbox", "1").put(DIGEST, "answer")
    assert Outbox(tmp_path / "outbox", "1").get(DIGEST) == "answer"
    assert Outbox(tmp_path / "outbox", "2").get(DIGEST) is None


def test_a_directory_that_others_can_write_is_not_trusted(tmp_path: Path) -> None:
    place = tmp_path / "outbox"
    place.mkdir(mode=0o700)
    outbox = Outbox(place, "1")
    assert outbox.put(DIGEST, "answer")
    place.chmod(0o777)
    assert outbox.get(DIGEST) is None
    assert not outbox.put(DIGEST, "another")


def test_the_directory_is_private_and_leaves_no_parts(tmp_path: Path) -> None:
    Outbox(tmp_path / "cache" / "outbox", "1").put(DIGEST, "answer")
    place = tmp_path / "cache" / "outbox"
    assert place.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in place.iterdir()] == [f"{DIGEST}-1.json"]


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, DIGEST + "a"])
def test_only_a_digest_names_an_answer(digest: str, tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox", "1")
    assert not outbox.put(digest, "answer")
    assert outbox.get(digest) is None


def test_a_full_or_missing_disk_is_no_failure(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert not Outbox(blocked / "outbox", "1").put(DIGEST, "answer")
    assert Outbox(blocked / "outbox", "1").entries() == []


def test_old_and_many_answers_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "outbox"
    outbox = Outbox(place, "1")
    for number, age in enumerate((30, 20, 1, 0)):
        outbox.put(f"{number}" * 64, "x" * 100)
        written = time.time() - age * 24 * 3600
        os.utime(place / f"{str(number) * 64}-1.json", (written, written))
    fresh = Outbox(place, "1")
    fresh.put("f" * 64, "x" * 100)
    assert [entry.digest[0] for entry in fresh.entries()] == ["2", "3", "f"]
    monkeypatch.setattr(module, "_KEPT_BYTES", 150)
    Outbox(place, "1").put("e" * 64, "x" * 100)
    assert [entry.digest[0] for entry in outbox.entries()] == ["f", "e"]
    assert outbox.clear() == 2
    assert list(place.iterdir()) == []
