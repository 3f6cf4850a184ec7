"""However a run ends, and whatever its engine loses: it ends at once and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import pickle
import pty
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from parsl.executors.errors import BadStateException
from parsl.serialize import serialize

import fitserve
from fitserve.endpoints import open_backend
from fitserve.endpoints.parsl import interchange
from fitserve.endpoints.parsl import local as local_backend
from fitserve.endpoints.parsl.engine import Executor
from fitserve.endpoints.parsl.enlist import GROUPS, end_groups
from fitserve.endpoints.parsl.guardian import Guardian
from fitserve.endpoints.shared import SharedBackend
from fitserve.errors import BackendError
from fitserve.runs.store import read_run
from fitserve_contract import encode_task
from sitekit.load import load_site
from sitekit.render import Rendering, render_site, write_files
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fitserve_contract import Task

pytestmark = pytest.mark.timeout(180)

ENDPOINTS = ["local", pytest.param("site", marks=pytest.mark.slow)]

# Some seconds for each hypothesis.
SLOW = ("--workers", "1", "--max-task-hypotheses", "1", "--engine", "pyhf", "--optimizer", "minuit")
MANY_MU = tuple(word for mu in range(1, 11) for word in ("--mu", str(mu / 10)))
# What a terminal does for the program that it runs.
_IN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Client:
    """`fitserve run` in a terminal, on a temporary directory and a home of its own."""

    def __init__(self, place: Path, pallet: Path, endpoint: str, words: tuple[str, ...]) -> None:
        self.temporary, self.home, self._work = place / "tmp", place / "home", place / "work"
        for directory in (self.temporary, self.home, self._work):
            directory.mkdir()
        self.run = self._work / "run"
        self.said = ""
        terminal, its_end = pty.openpty()
        command = [sys.executable, "-m", "fitserve", "run", str(pallet), "-o", str(self.run)]
        self.process = psutil.Popen(
            [sys.executable, "-c", _IN_TERMINAL, *command, "-e", endpoint, *words],
            env=os.environ | {"HOME": str(self.home), "TMPDIR": str(self.temporary)},
            cwd=self._work,
            stdin=its_end,
            stdout=its_end,
            stderr=its_end,
            start_new_session=True,
        )
        os.close(its_end)
        self._terminal = terminal
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while read := os.read(self._terminal, 65536):
                self.said += read.decode(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """Return what it has started and is there; all of it works in the same directory."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd() == str(self._work) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return [one for one in found if one.pid != self.process.pid]

    def interchange(self) -> psutil.Process | None:
        """Return its interchange."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if "interchange" in " ".join(process.cmdline()):
                    return process
        return None

    def done(self) -> int:
        """Return how many hypotheses have results."""
        with contextlib.suppress(OSError):
            return (self.run / "results.jsonl").read_bytes().count(b"\n")
        return 0

    def left(self) -> list[str]:
        """Return what is there of it: processes, and files but for results."""
        # Kept over runs: compiled programs, caches and the list of runs.
        site = self.home / ".local" / "state" / "fitserve" / "local"
        files = [*self.temporary.iterdir(), *site.glob("direct-*"), *site.glob("runs/*/*")]
        return [*map(str, self.processes()), *map(str, files)]

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self._terminal, b"\x03")

    def end(self, seconds: float) -> int:
        """Return the exit code, which must be there in time."""
        status = int(self.process.wait(seconds))
        self._reader.join(10)
        return status

    def close(self) -> None:
        """End what a failed test leaves."""
        for process in (self.process, *self.processes()):
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()
        self._reader.join(10)
        os.close(self._terminal)


# Seconds in which a run ends: two or three, unless other tests have the cores.
ENDS = 20


@pytest.fixture
def site(tmp_path: Path) -> str:
    """Return the endpoint of a site whose blocks are processes of this machine."""
    files, _ = render_site(load_site("local")[0], Rendering("1", tmp_path))
    write_files(files, tmp_path / "site")
    return f"parsl:{tmp_path / 'site'}"


@pytest.fixture
def start(pallet_directory: Path, site: str) -> Iterator[Callable[..., Client]]:
    """Return a function that starts a run on an endpoint, ``local`` or ``site``."""
    started = []
    # A short name: there are sockets below it.
    with tempfile.TemporaryDirectory(prefix="fs") as place:

        def begin(endpoint: str = "local", *words: str) -> Client:
            name = site if endpoint == "site" else endpoint
            client = Client(Path(place), pallet_directory, name, words or (*SLOW, *MANY_MU))
            started.append(client)
            return client

        yield begin
        for client in started:
            client.close()


def _nothing_is_left(client: Client) -> None:
    wait_for(f"the end of {client.left()}", lambda: not client.left(), 10)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_ctrl_c_in_a_terminal_ends_a_run_that_fits(
    start: Callable[..., Client], endpoint: str
) -> None:
    client = start(endpoint)
    wait_for("a result", client.done, 90)
    client.interrupt()
    assert client.end(ENDS) == 130, client.said
    assert f"next: fitserve resume {client.run}" in client.said.replace("\r\n", "\n")
    assert "Traceback" not in client.said
    assert 0 < len(read_run(client.run).results) < 5
    _nothing_is_left(client)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_many_ctrl_c_end_a_run_as_one_does(start: Callable[..., Client], endpoint: str) -> None:
    client = start(endpoint)
    wait_for("a result", client.done, 90)
    for _ in range(20):
        client.interrupt()
        time.sleep(0.05)
    # At the very end the signal itself ends it, for which a shell says 130 as well.
    assert client.end(ENDS) in {130, -signal.SIGINT}, client.said
    assert f"next: fitserve resume {client.run}" in client.said.replace("\r\n", "\n")
    for word in ("Traceback", "ignored", "Aborted"):
        assert word not in client.said
    _nothing_is_left(client)


@pytest.mark.parametrize("endpoint", ["local", "site"])
@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_ctrl_c_in_a_terminal_ends_a_run_that_starts(
    start: Callable[..., Client], endpoint: str, seconds: float
) -> None:
    client = start(endpoint)
    wait_for("the interchange", client.interchange, 60, every=0.02)
    time.sleep(seconds)
    client.interrupt()
    assert client.end(ENDS) == 130, client.said
    assert "Traceback" not in client.said
    _nothing_is_left(client)


@pytest.mark.parametrize("endpoint", ["local", "site"])
def test_the_terminal_is_not_for_what_the_interchange_says(
    start: Callable[..., Client], endpoint: str
) -> None:
    client = start(endpoint)
    wait_for("a result", client.done, 90)
    found = client.interchange()
    assert found is not None
    assert Path(f"/proc/{found.pid}/fd/2").readlink().name == "parsl.log"
    client.interrupt()
    assert client.end(ENDS) == 130, client.said


@pytest.mark.parametrize("endpoint", ["local", "site"])
@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.6])
def test_a_client_that_is_killed_as_its_engine_starts_leaves_nothing(
    start: Callable[..., Client], endpoint: str, seconds: float
) -> None:
    client = start(endpoint)
    wait_for("the interchange", client.interchange, 60, every=0.02)
    time.sleep(seconds)
    client.process.kill()
    _nothing_is_left(client)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_client_that_is_killed_as_it_fits_leaves_nothing(
    start: Callable[..., Client], endpoint: str
) -> None:
    client = start(endpoint)
    wait_for("a result", client.done, 90)
    client.process.kill()
    _nothing_is_left(client)


@pytest.mark.parametrize("when", ["starts", pytest.param("fits", marks=pytest.mark.slow)])
def test_an_interchange_that_is_killed_is_replaced(start: Callable[..., Client], when: str) -> None:
    client = start("local", "--workers", "1", "--max-task-hypotheses", "1", "--engine", "pyhf")
    if when == "fits":
        wait_for("a result", client.done, 60)
    found = wait_for("the interchange", client.interchange, 60)
    assert isinstance(found, psutil.Process)
    found.kill()
    assert client.end(90) == 0, client.said
    saved = read_run(client.run)
    assert len(saved.results) == 5
    reasons = {event.details["reason"] for event in saved.events() if event.event == "lost"}
    assert all("interchange has ended (killed by signal 9)" in reason for reason in reasons)
    _nothing_is_left(client)


@pytest.mark.slow
def test_a_site_whose_interchange_is_killed_ends_the_run(start: Callable[..., Client]) -> None:
    client = start("site")
    wait_for("a result", client.done, 90)
    found = client.interchange()
    assert found is not None
    found.kill()
    assert client.end(15) == 5, client.said
    said = " ".join(client.said.split())
    assert "its interchange has ended (killed by signal 9)" in said
    assert f"fitserve resume {client.run}" in said
    assert (client.run / "logs" / "parsl.log").is_file()
    _nothing_is_left(client)


# A kernel of Jupyter leads its process group, to which the signal for "stop" goes.
_NOTEBOOK = """
import os, sys, threading, time
import fitserve, psutil
from fitserve.errors import InterruptedRunError
from fitserve.runs.plan import Bounds

pallet, run = sys.argv[1:]
def stop():
    while not os.path.exists(f"{run}/results.jsonl") or not os.path.getsize(f"{run}/results.jsonl"):
        time.sleep(0.05)
    os.killpg(0, 2)
threading.Thread(target=stop).start()
mu = [number / 10 for number in range(1, 11)]
request = fitserve.make_request(engine="pyhf", optimizer="minuit", mu=mu)
bounds = Bounds(hypotheses=1)
try:
    fitserve.run(pallet, request=request, output=run, workers=1, bounds=bounds, progress=False)
except InterruptedRunError as error:
    print(error.hint)
print(len(psutil.Process().children()))
print(len(fitserve.resume(run, workers=2, progress=False).results))
"""


@pytest.mark.slow
def test_a_notebook_that_is_stopped_can_go_on(pallet_directory: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", _NOTEBOOK, pallet_directory, run],
        start_new_session=True,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.stdout.splitlines() == [f"fitserve resume {run}", "0", "5"], done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_question_to_an_interchange_that_is_silent_ends(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fitserve.endpoints.parsl import engine as parsl_engine

    monkeypatch.setattr(parsl_engine, "_ANSWER_SECONDS", 1.0)
    backend = open_backend("local", 1)
    backend.start()
    try:
        backend.submit("t", encode_task(task))
        wait_for("an answer", lambda: backend.outcomes(1.0), 60)
        engine = backend._engine
        engine.executor.interchange_proc.send_signal(signal.SIGSTOP)
        wait_for("the end of waiting", lambda: backend.status() and engine.broken(), 10)
        assert str(engine.broken()) == "its interchange does not answer"
        backend.outcomes(0)
        assert backend._engine is not engine
        backend.submit("again", encode_task(task))
        [outcome] = wait_for("an answer", lambda: backend.outcomes(1.0), 60)
        assert outcome.result is not None
    finally:
        began = time.monotonic()
        backend.stop()
    assert time.monotonic() - began < 5


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_workers_that_are_gone_or_silent_are_replaced(
    task: Task, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    """All of a block may be ended at once, or stopped, of which Parsl makes nothing."""
    backend = open_backend("local", 1)
    backend.start()
    try:
        backend.submit("t", encode_task(task))
        wait_for("an answer", lambda: backend.outcomes(1.0), 60)
        engine = backend._engine
        assert backend.status().workers == 1
        [block] = engine.executor.provider.resources.values()
        os.killpg(os.getpgid(block["remote_pid"]), how)
        if how == signal.SIGSTOP:
            # As the interchange would after so many seconds without a heartbeat.
            monkeypatch.setattr(engine, "managers", list)
            monkeypatch.setattr(local_backend, "_PATIENCE_SECONDS", 1.0)
        backend.submit("again", encode_task(task))
        [outcome] = wait_for("the loss", lambda: backend.outcomes(1.0), 60)
        assert outcome.again
        assert outcome.error in {
            "the local engine broke: its workers have ended",
            "the local engine broke: its workers are silent",
        }
        monkeypatch.undo()
        backend.submit("once more", encode_task(task))
        [outcome] = wait_for("an answer", lambda: backend.outcomes(1.0), 60)
        assert outcome.result is not None
    finally:
        backend.stop()


def test_an_engine_that_breaks_too_often_ends_the_run_and_its_logs_are_kept(
    pallet_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []

    def breaks(guardian: Guardian, *_: object) -> Any:
        places.append(guardian.directory)
        (guardian.directory / "parsl.log").write_text("what it said")
        raise RuntimeError("there is\nno engine")

    monkeypatch.setattr(local_backend, "_engine", breaks)
    run = tmp_path / "run"
    with pytest.raises(BackendError, match="the local engine does not start") as caught:
        fitserve.run(pallet_directory, output=run, progress=False)
    assert caught.value.evidence == "no engine"
    assert caught.value.hint.endswith(f"(logs: {run / 'logs'}); then fitserve resume {run}")
    assert (run / "logs" / "parsl.log").read_text() == "what it said"
    assert len(places) == 4
    assert not places[0].exists()


def test_a_group_enlists_or_ends(tmp_path: Path) -> None:
    """It is found by who ends it, or finds out itself that it came too late."""
    groups = tmp_path / GROUPS
    groups.mkdir()
    command = [sys.executable, "-m", "fitserve.endpoints.parsl.enlist", str(groups), "sleep", "60"]
    sleeper = subprocess.Popen(command, start_new_session=True)
    wait_for("the group", lambda: list(groups.iterdir()), 20)
    assert [path.name for path in groups.iterdir()] == [str(sleeper.pid)]
    # As somebody leaves it who is killed before the groups are.
    groups.rename(tmp_path / f"{GROUPS}-taken")
    end_groups(groups)
    assert sleeper.wait(10) == -signal.SIGKILL
    assert not list(tmp_path.glob("*/*"))
    late = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert (late.returncode, late.stderr) == (1, "fitserve: the client is gone\n")


def test_an_interchange_that_comes_too_late_says_nothing(tmp_path: Path) -> None:
    """The terminal is the client's."""
    gone = [str(tmp_path / "gone" / name) for name in (GROUPS, "parsl.log")]
    late = subprocess.run(
        [sys.executable, *interchange.COMMAND, *gone], capture_output=True, check=False, timeout=20
    )
    assert (late.returncode, late.stdout, late.stderr) == (1, b"", b"")


def test_a_result_that_comes_as_all_tasks_are_failed_is_no_trouble() -> None:
    executor = Executor(label="e", address="127.0.0.1")
    task: Future[str] = Future()
    executor.tasks[1] = task

    def get(**_: object) -> bytes:
        executor.set_bad_state_and_fail_all(RuntimeError("it is gone"))
        return pickle.dumps({"type": "result", "task_id": 1, "result": serialize("answer")})

    executor.incoming_q = SimpleNamespace(get=get, close=lambda: None)
    executor._result_queue_worker()
    assert isinstance(task.exception(), BadStateException)


def test_a_run_has_one_directory_that_only_its_user_sees() -> None:
    guardian = Guardian()
    try:
        assert guardian.directory.parent == Path(tempfile.gettempdir())
        assert guardian.directory.stat().st_mode & 0o777 == 0o700
        assert guardian.groups.parent == guardian.temporary.parent == guardian.directory
    finally:
        guardian.dismiss()
    assert not guardian.directory.exists()


def test_a_long_name_for_temporary_files_leaves_room_for_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    guardian = Guardian()
    guardian.dismiss()
    assert guardian.directory.parent == Path("/tmp")  # noqa: S108


def test_a_full_temporary_directory_is_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    monkeypatch.setattr("fitserve.endpoints.parsl.guardian._LONGEST_BASE", 1000)
    with pytest.raises(BackendError, match="temporary files cannot be written") as caught:
        open_backend("local").start()
    assert "TMPDIR" in caught.value.hint


def test_one_backend_that_does_not_stop_keeps_no_other_from_it() -> None:
    stopped = []

    def backend(name: str, stop: Callable[[], None]) -> Any:
        limits = local_backend.LocalBackend(1).limits
        return SimpleNamespace(name=name, limits=limits, stop=stop)

    def interrupted() -> None:
        raise KeyboardInterrupt

    shared = SharedBackend([backend("a", lambda: stopped.append("a")), backend("b", interrupted)])
    with pytest.raises(KeyboardInterrupt):
        shared.stop()
    assert stopped == ["a"]


def test_local_needs_no_system_that_binds_processes_to_cores(
    pallet_directory: Path, tmp_path: Path
) -> None:
    """Some systems, such as macOS, have no such functions."""
    code = (
        "import os, sys\n"
        "del os.sched_getaffinity, os.sched_setaffinity\n"
        "import fitserve\n"
        "run = fitserve.run(sys.argv[1], output=sys.argv[2], progress=False)\n"
        "print(len(run.results))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, pallet_directory, tmp_path / "run"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout == "5\n", done.stderr
