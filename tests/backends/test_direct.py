"""Pieces of direct use that need no scheduler; tests/schedulers has the rest."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from fitserve.endpoints import open_backend
from fitserve.endpoints.base import DIRECT
from fitserve.endpoints.parsl import blocks
from fitserve.endpoints.parsl.backend import Share
from fitserve.endpoints.parsl.blocks import Watch
from fitserve.endpoints.parsl.engine import close_log, log_to
from fitserve.endpoints.parsl.troubles import Troubles
from fitserve.errors import BackendError, RequestError
from fitserve.schedulers import never_runs, refusal
from fitserve.schedulers.base import Job, SilentSchedulerError
from fitserve.schedulers.pbs import TORQUE, read_pbspro
from fitserve.schedulers.slurm import SLURM, read_squeue
from sitekit.golden import GOLDEN

if TYPE_CHECKING:
    from collections.abc import Sequence


def _command(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory that is first on the PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("7|PENDING|None|", Job("queued")),
        ("7|CONFIGURING|None|c1", Job("queued")),
        ("7|COMPLETING|None|c1", Job("running", nodes="c1")),
        ("7|TIMEOUT|TimeLimit|c1", Job("ended", "TIMEOUT, TimeLimit", "walltime", "c1")),
        ("7|NODE_FAIL|0:0|c1", Job("ended", "NODE_FAIL", "node", "c1")),
        ("7|OUT_OF_MEMORY|0:125|c1", Job("ended", "OUT_OF_MEMORY, 0:125", "memory", "c1")),
        ("7|FAILED|NonZeroExitCode|c1", Job("ended", "FAILED, NonZeroExitCode", "failed", "c1")),
        ("7|COMPLETED|0:0|c1", Job("ended", "COMPLETED", "done", "c1")),
    ],
)
def test_slurms_states(line: str, expected: Job) -> None:
    assert read_squeue(line)["7"] == expected


@pytest.mark.parametrize(
    ("status", "used", "ending"),
    [
        (0, "00:00:05", "done"),
        (1, "00:00:05", "failed"),
        (-29, "00:01:01", "walltime"),
        (271, "00:01:01", "walltime"),
        (271, "00:00:05", "cancelled"),
        (-27, "00:00:05", "memory"),
    ],
)
def test_how_a_job_of_pbs_ended(status: int, used: str, ending: str) -> None:
    fields = {
        "job_state": "F",
        "Exit_status": status,
        "resources_used": {"walltime": used},
        "Resource_List": {"walltime": "00:01:00"},
        "exec_host": "n1/0*2",
    }
    found = read_pbspro(json.dumps({"Jobs": {"3.pbs": fields}}), ["3.pbs", "4.pbs"])
    assert {ident: job.ending for ident, job in found.items()} == {"3.pbs": ending}
    assert read_pbspro("qstat: cannot connect", ["3.pbs"]) == {}


def test_a_job_that_left_the_queue_is_looked_up_in_the_accounts(commands: Path) -> None:
    _command(commands, "squeue", "echo '7|RUNNING|None|c1'")
    _command(commands, "sacct", "echo '8|CANCELLED by 1000|0:0|c2'")
    found = SLURM.jobs(["7", "8", "9"], 10)
    assert [found[ident].state for ident in ("7", "8", "9")] == ["running", "ended", "ended"]
    assert [found[ident].ending for ident in ("8", "9")] == ["cancelled", "unknown"]


@pytest.mark.parametrize("script", ["echo 'Unable to contact slurm controller' >&2; exit 1", None])
def test_a_silent_scheduler_ends_no_job(commands: Path, script: str | None) -> None:
    if script is None:
        _command(commands, "squeue", "sleep 5")
    else:
        _command(commands, "squeue", script)
    with pytest.raises(SilentSchedulerError):
        SLURM.jobs(["7"], 0.5)
    watch = Watch(partial(SLURM.jobs, timeout=0.5))
    watch.took("7")
    watch.look()
    assert watch.silent
    assert watch.jobs == {"7": Job("queued")}


def test_torques_columns_and_forgotten_jobs(commands: Path) -> None:
    _command(
        commands,
        "qstat",
        "printf 'Job Id: 7.torque\\n    job_state = Q\\n    comment = No nodes\\n\\n"
        "Job Id: 8.torque\\n    job_state = C\\n    exit_status = 271\\n'; exit 153",
    )
    found = TORQUE.jobs(["7.torque.site.org", "8.torque.site.org", "9.torque.site.org"], 10)
    assert found["7.torque.site.org"] == Job("queued", "No nodes")
    assert found["8.torque.site.org"].ending == "cancelled"
    assert found["9.torque.site.org"].ending == "unknown"


def test_a_refused_block_is_asked_for_later_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(blocks.time, "monotonic", lambda: now)
    watch = Watch(partial(SLURM.jobs, timeout=10))
    waits = []
    for _ in range(7):
        watch.refused("sbatch: error: AssocMaxSubmitJobLimit")
        waits.append(watch.wait)
    assert waits == [5.0, 10.0, 20.0, 40.0, 80.0, 120.0, 120.0]
    watch.took("7")
    assert watch.wait == 0.0
    assert watch.refusal is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((1, "", "qsub: Unauthorized Request"), "qsub: Unauthorized Request"),
        ((1, "", ""), "exit status 1"),
    ],
)
def test_a_provider_that_only_logs_a_refusal_is_refused_too(
    answer: tuple[int, str, str], words: str
) -> None:
    """As Torque's does: it returns no job."""

    class Logging:
        def execute_wait(self, *_: object) -> tuple[int, str, str]:
            return answer

        def submit(self, command: str, _: int) -> None:
            self.execute_wait(command, None)

    watch = Watch(partial(TORQUE.jobs, timeout=10))
    assert blocks.watched(Logging, watch, 1)().submit("command", 1) is None
    assert watch.refusal is not None
    assert watch.refusal.text == words
    assert watch.jobs == {}


@pytest.mark.parametrize(
    ("told", "times", "seconds"),
    [("sbatch: error: AssocMaxSubmitJobLimit", 6, 155), ("sbatch: error: Invalid account", 1, 0)],
)
def test_a_scheduler_that_refuses_every_block_is_not_asked_for_ever(
    monkeypatch: pytest.MonkeyPatch, told: str, times: int, seconds: int
) -> None:
    """Six times over some minutes where that may help, and once where it cannot."""
    clock = {"now": 1000.0}
    monkeypatch.setattr(blocks.time, "monotonic", lambda: clock["now"])
    asked: list[float] = []

    class Refusing:
        def submit(self, *_: object) -> str:
            asked.append(clock["now"])
            raise OSError(told)

    watch = Watch(partial(SLURM.jobs, timeout=10))
    refusing = blocks.watched(Refusing, watch, 1)()
    engine = SimpleNamespace(
        broken=lambda: None,
        watch=watch,
        workers=lambda: 0,
        failed=list,
    )
    site = SimpleNamespace(site="mine", engine={"provider": {"walltime": "00:10:00"}})
    troubles = Troubles(site, engine)  # type: ignore[arg-type]

    def drive() -> None:
        for _ in range(3600):  # an hour, in which Parsl tries every second
            with contextlib.suppress(OSError, RuntimeError):
                refusing.submit("command", 1)
            troubles.check()
            clock["now"] += 1

    with pytest.raises(BackendError, match="the scheduler of site mine takes no block") as given_up:
        drive()
    assert len(asked) == times
    assert asked[-1] - asked[0] == seconds
    assert given_up.value.evidence == told
    assert given_up.value.hint


@pytest.mark.parametrize(
    ("text", "again", "hint"),
    [
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", True, "wait until jobs"),
        ("qsub: Maximum number of jobs already in queue", True, "wait until jobs"),
        ("Unable to contact slurm controller (connect failure)", True, "answers again"),
        ("qsub: Unknown queue", False, "queue"),
        ("qsub: Job exceeds queue and/or server resource limits", False, "blocks.walltime"),
        ("sbatch: error: Invalid qos specification", False, "qos"),
        ("cannot write: No space left on device", False, "make room"),
        ("something else", True, "make doctor"),
    ],
)
def test_refusals(text: str, again: bool, hint: str) -> None:
    found = refusal(text)
    assert found.again is again
    assert hint in found.hint


@pytest.mark.parametrize("reason", ["Priority", "Resources", "QOSMaxJobsPerUserLimit"])
def test_reasons_that_pass(reason: str) -> None:
    assert never_runs(reason) is None


@pytest.mark.parametrize(
    "reason",
    ["PartitionTimeLimit", "AssocGrpCPUMinutesLimit", "QOSMaxWallDurationPerJobLimit",
     "Can Never Run: Insufficient amount of resource: ncpus (R: 8 A: 4 T: 4)"],
)  # fmt: skip
def test_reasons_that_do_not(reason: str) -> None:
    assert never_runs(reason)


def test_a_log_on_a_full_disk_is_not_for_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    log = log_to(Path("/dev/full"))
    logging.getLogger("parsl").info("a message")
    close_log(log)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_runs_share_blocks(tmp_path: Path, most: int) -> None:
    alone = Share(tmp_path)
    alone.begin()
    assert alone.blocks(most) == most
    shares: Sequence[Share] = [Share(tmp_path), Share(tmp_path)]
    for share in shares:
        share.begin()
    third = Share(tmp_path)
    parts = [share.blocks(most) for share in shares]
    assert all(part >= 1 for part in parts)
    assert sum(parts) <= max(most, 2)
    os.utime(min(tmp_path.iterdir()), (0, 0))  # one that was killed long ago
    third.begin()
    assert third.blocks(30) == 10
    for share in (*shares, third):
        share.end()
    alone.end()
    assert not list(tmp_path.iterdir())


def test_a_site_says_how_much_it_takes(tmp_path: Path) -> None:
    name = f"parsl:{GOLDEN / 'slurm'}"
    whole = open_backend(name)
    assert whole.limits.workers == 4 * 8
    assert whole.limits.task_seconds == 7200 - 5280
    assert whole.limits.costs == DIRECT._replace(workers_per_block=8)
    assert open_backend(name, workers=9).limits.workers == 9
    with pytest.raises(RequestError, match="takes no options") as refused:
        open_backend(name, options={"account": "physics"})
    assert "--option account=physics" in refused.value.hint
    with pytest.raises(BackendError, match="nothing was rendered"):
        open_backend("parsl:nowhere")


def test_a_run_directory_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".fitserve").write_text("in the way")
    backend = open_backend(f"parsl:{GOLDEN / 'slurm'}")
    with pytest.raises(BackendError, match="run directory of site slurm cannot be used") as told:
        backend.start()
    assert "directories.run" in told.value.hint
    backend.stop()
