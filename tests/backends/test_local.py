"""The embedded endpoint, for real: Parsl, worker processes, and what kills them."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psutil
import pytest

import fitserve
from fitserve.endpoints import open_backend
from fitserve.endpoints.parsl import local as local_backend
from fitserve.endpoints.parsl.guardian import Guardian, Tended
from fitserve.errors import BackendError
from fitserve.runs.store import read_run
from fitserve_contract import encode_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fitserve_contract import Task

pytestmark = pytest.mark.timeout(180)


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fitserve", *map(str, arguments)]


def _processes_of(mark: str) -> list[psutil.Process]:
    """Return processes that carry the client's mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("FITSERVE_TEST") == mark and process.is_running():
                found.append(process)
    return [one for one in found if one.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def client(pallet_directory: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Return a function that starts `fitserve run` on the toy pallet in a process."""
    started = []

    def start(*options: object) -> subprocess.Popen:
        mark = str(time.time_ns())
        environment = os.environ | {"FITSERVE_TEST": mark}
        process = subprocess.Popen(
            _command("run", pallet_directory, "--output", tmp_path / "run", *options),
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        process.mark = mark
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
        for one in _processes_of(process.mark):
            one.kill()


def _wait(condition: Callable[[], object], seconds: float = 120.0) -> object:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    pytest.fail("it did not happen in time")


def _finished(run: Path) -> list[str]:
    with contextlib.suppress(Exception):
        return list(read_run(run).results)
    return []


def test_a_run_through_parsl_is_that_of_the_inline_backend(
    pallet_directory: Path, tmp_path: Path
) -> None:
    local = fitserve.run(pallet_directory, output=tmp_path / "local", progress=False, workers=2)
    inline = fitserve.run(
        pallet_directory, output=tmp_path / "inline", endpoint="inline", refit=True, progress=False
    )
    for name, found in local.results.items():
        # BLAS with one thread and with several does not round alike.
        assert found.CLs_obs == pytest.approx(inline.results[name].CLs_obs, rel=1e-6)
    saved = read_run(local.path)
    pids = {record.worker.pid for record in saved.records.values()}
    assert os.getpid() not in pids


def test_a_backend_leaves_nothing_behind(task: Task) -> None:
    backend = open_backend("local", 1)
    backend.start()
    backend.submit("t", encode_task(task))
    outcomes = _wait(lambda: backend.outcomes(1.0))
    assert outcomes[0].result is not None
    scratch = backend.logs()
    mine = psutil.Process().children(recursive=True)
    assert mine
    backend.stop()
    backend.stop()
    assert not scratch.exists()
    # The guardian ends what takes longer, and a busy machine takes its time.
    _gone, alive = psutil.wait_procs(mine, timeout=30)
    assert alive == []


def test_workers_listen_on_the_loopback_interface_only(task: Task) -> None:
    backend = open_backend("local", 1)
    try:
        backend.start()
        backend.submit("t", encode_task(task))
        _wait(lambda: backend.outcomes(1.0))
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = [
            connection.laddr.ip
            for process in family
            for connection in process.net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        ]
    finally:
        backend.stop()
    assert listening
    addresses = [ipaddress.ip_address(found.removeprefix("::ffff:")) for found in listening]
    assert all(address.is_loopback for address in addresses), listening


def test_an_unknown_endpoint_names_the_known_ones() -> None:
    with pytest.raises(BackendError, match="no endpoint 'moon'") as caught:
        open_backend("moon")
    assert "local, inline" in caught.value.evidence


SLOW = (
    *("--max-task-hypotheses", "1", "--workers", "1", "--mu", "0.5"),
    *("--engine", "pyhf", "--optimizer", "minuit", "--verify", "0"),
)
MANY_MU = tuple(word for mu in range(1, 11) for word in ("--mu", str(mu / 10)))


@pytest.mark.slow
def test_a_killed_client_leaves_no_process_and_loses_no_finished_hypothesis(
    client: Callable[..., subprocess.Popen], tmp_path: Path
) -> None:
    process = client(*SLOW, *MANY_MU)
    run = tmp_path / "run"
    _wait(lambda: _finished(run))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = (run / "results.jsonl").read_bytes()
    done = _finished(run)
    assert done
    _wait(lambda: not _processes_of(process.mark), seconds=20)
    resumed = subprocess.run(
        _command("resume", run, "--workers", 2), capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert (run / "results.jsonl").read_bytes().startswith(kept)
    lines = (run / "results.jsonl").read_text().splitlines()
    names = [json.loads(line)["result"]["name"] for line in lines]
    assert sorted(names) == ["S_100", "S_200", "S_300", "S_400", "S_500"]
    assert set(json.loads((run / "results.json").read_text())) == set(names)


@pytest.mark.slow
def test_a_killed_worker_costs_nothing(
    client: Callable[..., subprocess.Popen], tmp_path: Path
) -> None:
    process = client(*SLOW, *MANY_MU)
    _wait(lambda: _finished(tmp_path / "run"))
    record = next(iter(read_run(tmp_path / "run").records.values()))
    os.kill(record.worker.pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert len(_finished(tmp_path / "run")) == 5
    assert any(event.event == "lost" for event in read_run(tmp_path / "run").events())


@pytest.mark.slow
def test_a_killed_pool_is_started_again(
    client: Callable[..., subprocess.Popen], tmp_path: Path
) -> None:
    process = client(*SLOW, *MANY_MU)
    _wait(lambda: _finished(tmp_path / "run"))
    for one in _processes_of(process.mark):
        if "process_worker_pool" in " ".join(one.cmdline()):
            with contextlib.suppress(psutil.Error):
                one.kill()
    _, errors = process.communicate(timeout=150)
    assert process.returncode == 0, errors
    assert len(_finished(tmp_path / "run")) == 5


@pytest.mark.slow
def test_ctrl_c_ends_in_order_and_prints_the_resume_command(
    client: Callable[..., subprocess.Popen], tmp_path: Path
) -> None:
    process = client(*SLOW, *MANY_MU)
    _wait(lambda: _finished(tmp_path / "run"))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"fitserve resume {tmp_path / 'run'}" in errors
    assert "Traceback" not in errors
    _wait(lambda: not _processes_of(process.mark), seconds=20)


def test_the_guardian_spares_what_was_ended_in_order(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    guardian = Guardian()
    guardian.watch("directory", kept)
    guardian.dismiss()
    assert not guardian.directory.exists()
    time.sleep(0.2)
    assert kept.is_dir()


def test_parsl_starts_the_block_at_once_and_then_leaves_it_alone(tmp_path: Path) -> None:
    """With Parsl's own strategy the first result comes seconds later."""
    place = SimpleNamespace(directory=tmp_path, temporary=tmp_path / "tmp")
    config = local_backend._config(place, tmp_path / "stage", 2)
    [executor] = config.executors
    assert (config.strategy, config.strategy_period) == ("none", 1)
    assert executor.provider.init_blocks == executor.provider.max_blocks == 1


def test_an_engine_that_is_set_up_too_late_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fitserve.endpoints.parsl.guardian._START_SECONDS", 0.1)
    go_on, stopped = threading.Event(), threading.Event()

    class Late:
        def stop(self) -> bool:
            stopped.set()
            return True

    def make() -> Late:
        assert go_on.wait(20)
        return Late()

    tended: Tended[Late] = Tended()
    tended.set_up(make)
    tended.end()
    assert not stopped.is_set()
    go_on.set()
    assert stopped.wait(20)
    tended.guardian.dismiss()
