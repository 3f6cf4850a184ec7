"""Commands whose output nobody reads to its end, as with `| head`."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from fitserve.cli import cli
from fitserve.errors import StoreError
from fitserve.runs.store import read_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_CLOSED_PIPE = 141


def _start(words: list[str], **streams: int) -> subprocess.Popen[bytes]:
    # Its output is in a buffer until the end, as a user's is.
    buffered = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.Popen([sys.executable, "-m", "fitserve", *words], env=buffered, **streams)


def _with_closed(number: int, words: list[str]) -> tuple[int, bytes]:
    """Run a command with one of its outputs closed from the start; return status and the other."""
    ours, theirs = os.pipe()
    os.close(ours)
    closed, other = ("stdout", "stderr") if number == 1 else ("stderr", "stdout")
    process = _start(words, **{closed: theirs, other: subprocess.PIPE})
    os.close(theirs)
    told = b"".join(filter(None, process.communicate(timeout=60)))
    return process.returncode, told


@pytest.mark.parametrize(
    "words",
    [
        # What a library prints for us, what is in a buffer until the end, a table, and help.
        ["analyses", "list", "--json"],
        ["analyses", "show", "staus"],
        ["analyses", "list"],
        ["--help"],
        ["runs", "list", "--help"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_a_closed_standard_output_ends_a_command_quietly(words: list[str]) -> None:
    assert _with_closed(1, words) == (_CLOSED_PIPE, b"")


@pytest.mark.parametrize(
    "words", [["show", "nowhere"], ["nonsense"], ["analyses", "fetch"]], ids=" ".join
)
def test_a_closed_standard_error_ends_a_command_quietly(words: list[str]) -> None:
    assert _with_closed(2, words) == (_CLOSED_PIPE, b"")


def test_a_reader_that_has_enough_ends_a_long_output_quietly(
    build_run: Callable[..., Any], save_run: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    # More than a pipe holds.
    save_run(run, *build_run({f"S_{i}": ((float(i), 1.0), 0.1, None) for i in range(3000)}))
    for words in (["show", str(run), "--json"], ["export", str(run), "--format", "csv", "-o", "-"]):
        process = _start(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait(60) == _CLOSED_PIPE


def test_progress_that_nobody_reads_ends_a_run_that_can_be_resumed(
    pallet_directory: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ["run", str(pallet_directory), "-e", "inline", "-o", str(run)]
    assert _with_closed(2, words) == (_CLOSED_PIPE, b"")
    assert CliRunner().invoke(cli, ["resume", str(run)]).exit_code == 0


def test_what_is_started_without_outputs_writes_them_nowhere(tmp_path: Path) -> None:
    """Else a file of the run has the number of one, and everything writes into it."""
    run = tmp_path / "run"
    words = ["run", "example", "--patch", "X_200_0", "-e", "inline", "-o", str(run)]
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "fitserve"]
    assert subprocess.run([*closed, *words], check=False, timeout=120).returncode == 0
    assert list(read_run(run).results) == ["X_200_0"]


def test_another_pipe_that_breaks_is_not_taken_for_this(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def breaks(_path: str) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("fitserve.runs.store.read_run", breaks)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = CliRunner().invoke(cli, ["show", str(tmp_path)])
    assert result.exit_code == 1
    assert "BrokenPipeError" in result.stderr


@pytest.mark.parametrize(
    "words", [["analyses", "show", "staus"], ["analyses", "list"]], ids=" ".join
)
def test_a_full_disk_is_told(words: list[str]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    process = _start(words, stdout=full, stderr=subprocess.PIPE)
    os.close(full)
    _, told = process.communicate(timeout=60)
    assert process.returncode == StoreError.exit_code
    assert told.startswith(b"error: the output cannot be written\n  seen: [Errno 28]")
    assert told.count(b"\n") == 3
