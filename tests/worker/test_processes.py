"""What a killed endpoint leaves behind is found and ended, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import pytest

from fitserve_worker.processes import end_orphans, find_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CHILD = str(uuid.uuid4())
_SLEEP = [sys.executable, "-c", "import sys, time; print(flush=True); time.sleep(120)"]


@pytest.fixture
def start() -> Iterator[Callable[..., int]]:
    """Return a function that starts a process which waits, and gives its id."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str, log: Path | None = None, **environment: str) -> int:
        stderr = subprocess.DEVNULL if log is None else log.open("wb")
        process = subprocess.Popen(
            [*_SLEEP, *words], env=environment, stdout=subprocess.PIPE, stderr=stderr
        )
        if log is not None:
            stderr.close()  # type: ignore[union-attr]
        assert process.stdout is not None
        process.stdout.readline()
        started.append(process)
        return process.pid

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_process_is_known_by_its_environment_or_its_log(
    start: Callable[..., int], tmp_path: Path
) -> None:
    endpoint, other = str(uuid.uuid4()), str(uuid.uuid4())
    name = f"uep.{endpoint}.{CHILD}"
    (tmp_path / name).mkdir()
    worker = start(FITSERVE_CHILD=name)
    # Parsl's interchange: its title has taken the place of its environment
    interchange = start(log=tmp_path / name / "endpoint.log")
    start(FITSERVE_CHILD=f"uep.{other}.{CHILD}")

    processes = find_processes(endpoint)
    assert {one.pid for one in processes} == {worker, interchange}
    assert {one.child for one in processes} == {CHILD}
    assert all(one.orphan for one in processes)

    assert end_orphans(endpoint) == 2
    assert find_processes(endpoint) == []
    assert len(find_processes(other)) == 1


def test_a_child_that_lives_keeps_its_processes(start: Callable[..., int]) -> None:
    endpoint = str(uuid.uuid4())
    name = f"uep.{endpoint}.{CHILD}"
    worker = start(FITSERVE_CHILD=name)
    assert [one.orphan for one in find_processes(endpoint)] == [True]
    # What the main process of a child is called while it starts
    manager = start(f"x_start-user-endpoint {name} ")
    assert {one.pid: one.orphan for one in find_processes(endpoint)} == {
        worker: False,
        manager: False,
    }
    assert end_orphans(endpoint) == 0
