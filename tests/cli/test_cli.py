"""The command line as its user meets it: what it prints where, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from fitserve import __version__
from fitserve.cli import cli
from fitserve.runs.store import read_run, register

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result


@pytest.fixture
def fitserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs a command in an empty directory."""
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.delenv("FITSERVE_ENDPOINT", raising=False)

    def run(*words: object) -> Result:
        result = CliRunner().invoke(cli, [str(word) for word in words])
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def run_directory(fitserve: Callable[..., Result], pallet_directory: Path) -> Path:
    """Return a finished run of the toy pallet."""
    result = fitserve("run", pallet_directory, "-e", "inline", "-o", "done", "--quiet")
    assert result.exit_code == 0, result.stderr
    return Path("done").resolve()


def test_run_shows_its_table_on_standard_output_and_its_progress_on_standard_error(
    fitserve: Callable[..., Result], pallet_directory: Path
) -> None:
    result = fitserve("run", pallet_directory, "--endpoint", "inline")
    assert result.exit_code == 0
    for text in ("S_100", "CLs obs", "5 ok", "excluded:", "results:", "results.json"):
        assert text in result.stdout
        assert text not in result.stderr
    assert "5 of 5 hypotheses are done" in result.stderr
    runs = list(Path("fitserve-runs").iterdir())
    assert [run.name.startswith("toy-") for run in runs] == [True]


def test_results_json_is_what_scripts_of_the_original_study_read(run_directory: Path) -> None:
    results = json.loads((run_directory / "results.json").read_text())
    assert list(results) == ["S_100", "S_200", "S_300", "S_400", "S_500"]
    for one in results.values():
        assert len(one["CLs_exp"]) == 5
        assert one["CLs_exp"] == sorted(one["CLs_exp"])
        assert 0 < one["CLs_obs"] <= 1
        assert one["fit_time"] > 0
    assert results["S_300"]["mass_hypotheses"] == [300.0, 1.0]


def test_json_is_on_standard_output_alone(
    fitserve: Callable[..., Result], run_directory: Path
) -> None:
    shown = json.loads(fitserve("show", run_directory, "--json").stdout)
    assert shown["hypotheses"] == {"ok": 5, "suspect": 0, "failed": 0, "unfinished": 0}
    assert shown["excluded"]["observed"] == 2
    assert shown["manifest"]["request"]["test_stat"] == "qtilde"
    assert shown["results"] == json.loads((run_directory / "results.json").read_text())
    listed = json.loads(fitserve("runs", "list", "--json").stdout)
    assert [entry["run"] for entry in listed] == [str(run_directory)]


def test_results_of_a_run_without_any_are_an_empty_object(
    fitserve: Callable[..., Result], run_directory: Path
) -> None:
    (run_directory / "results.jsonl").write_text("")
    shown = json.loads(fitserve("show", run_directory, "--json").stdout)
    assert (shown["results"], shown["hypotheses"]["unfinished"]) == ({}, 5)


def test_lists_and_tables_are_on_standard_output(
    fitserve: Callable[..., Result], run_directory: Path, pallet_directory: Path
) -> None:
    for words, told in (
        (
            ("show", run_directory),
            ("S_300", "CLs obs", "5 ok", "endpoint:    inline"),
        ),
        (("runs", "list"), (f"{run_directory}", "5 ok", "created")),
        (("analyses", "list"), ("staus", "hypotheses")),
        (("analyses", "show", "staus"), ("name:          staus",)),
        (
            ("pallets", "check", pallet_directory, "--hypotheses"),
            ("S_300       300", "mass values:"),
        ),
        (
            ("run", pallet_directory, "--plan", "--workers", "2"),
            ("S_500", "bytes to send"),
        ),
        (("diff", run_directory, run_directory), ("5 hypotheses in both",)),
    ):
        result = fitserve(*words)
        assert result.exit_code == 0, result.stderr
        assert result.stderr == "", words
        for text in told:
            assert text in result.stdout, words


def test_a_damaged_run_is_in_the_list_of_runs(
    fitserve: Callable[..., Result], run_directory: Path
) -> None:
    (run_directory / "manifest.json").write_text("{")
    [entry] = json.loads(fitserve("runs", "list", "--json").stdout)
    assert entry["run"] == str(run_directory)
    assert "is damaged" in entry["error"]
    assert "is damaged" in fitserve("runs", "list").stdout


def test_a_row_of_a_table_is_one_line_of_a_pipe(
    fitserve: Callable[..., Result], run_directory: Path
) -> None:
    far = run_directory.parent / "/".join(["d" * 100] * 4) / "run"
    far.parent.mkdir(parents=True)
    run_directory.rename(far)
    register(far)
    lines = fitserve("runs", "list").stdout.splitlines()
    assert [line.rstrip().endswith(str(far)) for line in lines[1:]] == [True]


def test_the_same_command_again_reuses_everything(
    fitserve: Callable[..., Result], pallet_directory: Path, run_directory: Path
) -> None:
    result = fitserve("run", pallet_directory, "-e", "inline")
    assert result.exit_code == 0
    assert "5 reused from earlier runs" in result.stdout


def test_options_of_the_request_reach_the_result(
    fitserve: Callable[..., Result], pallet_directory: Path
) -> None:
    words = ("--mu", "0.5", "--mu", "2", "--test-stat", "q", "--normsys", "code1")
    result = fitserve(
        "run", pallet_directory, "-e", "inline", "-o", "r", "--patch", "S_[12]*", *words
    )
    assert result.exit_code == 0, result.stderr
    saved = read_run("r")
    assert list(saved.results) == ["S_100", "S_200"]
    assert [point.mu for point in saved.results["S_100"].points] == [0.5, 2.0]
    assert saved.manifest.request.test_stat == "q"
    assert saved.manifest.request.model.normsys == "code1"


def test_a_plan_fits_nothing_and_writes_nothing(
    fitserve: Callable[..., Result], pallet_directory: Path
) -> None:
    result = fitserve("run", pallet_directory, "--plan", "--json", "--workers", "2")
    plan = json.loads(result.stdout)
    assert sum(len(task["hypotheses"]) for task in plan["tasks"]) == 5
    assert plan["bytes"] == sum(task["bytes"] for task in plan["tasks"])
    shown = fitserve("run", pallet_directory, "--plan", "--workers", "2")
    assert f"{len(plan['tasks'])} task" in shown.stdout
    assert f"{plan['seconds']:.0f} s from the command to the last result" in shown.stdout
    assert f"the first fit begins after {plan['begins']:.0f} s" in shown.stdout
    assert shown.stderr == ""
    assert list(Path().iterdir()) == []


def test_an_unfinished_run_ends_with_its_own_exit_code(
    fitserve: Callable[..., Result], run_directory: Path
) -> None:
    lines = (run_directory / "results.jsonl").read_text().splitlines(keepends=True)
    (run_directory / "results.jsonl").write_text("".join(lines[:2]))
    shown = fitserve("show", run_directory)
    assert (shown.exit_code, "3 unfinished" in shown.stdout) == (0, True)
    resumed = fitserve("resume", run_directory)
    assert resumed.exit_code == 0
    assert len(read_run(run_directory).results) == 5


def test_a_failed_hypothesis_is_shown_with_its_reason_and_exit_code_7(
    fitserve: Callable[..., Result], pallet_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fitserve_worker.engines import pyhf_engine

    real = pyhf_engine.build

    def build(work: object, patch: list) -> object:
        if patch[0]["value"]["data"][0] > 20:
            raise ValueError("a singular matrix")
        return real(work, patch)

    monkeypatch.setattr(pyhf_engine, "build", build)
    result = fitserve("run", pallet_directory, "-e", "inline", "-o", "r", "--engine", "pyhf")
    assert result.exit_code == 7
    assert "S_100 is failed: the fit broke off: a singular matrix" in result.stderr
    assert "--retry-failed" in result.stderr
    written = json.loads(Path("r/results.json").read_text())
    assert written["S_100"]["CLs_obs"] is None
    assert written["S_200"]["status"] == "ok"


BAD = {
    "pallet that is not there": (("run", "nowhere", "-e", "inline"), 3),
    "unknown endpoint": (("run", "{pallet}", "-e", "moon"), 5),
    "unknown patch": (("run", "{pallet}", "-e", "inline", "--patch", "X*"), 4),
    "unknown measurement": (("run", "{pallet}", "-e", "inline", "--measurement", "X"), 4),
    "unknown POI": (("run", "{pallet}", "-e", "inline", "--poi", "X"), 4),
    "mu out of bounds": (("run", "{pallet}", "-e", "inline", "--mu", "99"), 4),
    "mu not a number": (("run", "{pallet}", "-e", "inline", "--mu", "nan"), 4),
    "option that does not exist": (("run", "{pallet}", "--fast"), 2),
    "tasks that cannot be so small": (
        ("run", "{pallet}", "-e", "inline", "--max-task-bytes", "10"),
        4,
    ),
    "output below a file": (
        ("run", "{pallet}", "-e", "inline", "-o", "{pallet}/BkgOnly.json/x"),
        6,
    ),
    "output that is something else": (("run", "{pallet}", "-e", "inline", "-o", "{pallet}"), 6),
    "show of no run": (("show", "nowhere"), 6),
    "resume of no run": (("resume", "nowhere"), 6),
    "contour of no run": (("contour", "nowhere", "-o", "x.png"), 6),
    "export of no run": (("export", "nowhere", "--format", "csv", "-o", "x.csv"), 6),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_clear_error_and_its_exit_code(
    fitserve: Callable[..., Result], pallet_directory: Path, case: str
) -> None:
    words, code = BAD[case]
    result = fitserve(*(word.format(pallet=pallet_directory) for word in words))
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    if code != 2:
        assert result.stderr.count("error: ") == 1
        assert "next: " in result.stderr


def test_a_defect_is_told_as_a_defect(
    fitserve: Callable[..., Result], run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_path: str) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("fitserve.runs.store.read_run", breaks)
    result = CliRunner().invoke(cli, ["show", str(run_directory)])
    assert result.exit_code == 1
    assert "defect of fitserve" in result.stderr
    report = Path(result.stderr.split("with the file ")[1].split()[0])
    assert "ZeroDivisionError: oops" in report.read_text()
    report.unlink()
    monkeypatch.setenv("FITSERVE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        CliRunner().invoke(cli, ["show", str(run_directory)], catch_exceptions=False)


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        found.append((*path, name))
        if isinstance(command, click.Group):
            found.extend(_commands(command, (*path, name)))
    return found


@pytest.mark.parametrize("words", _commands(cli), ids=" ".join)
def test_every_command_explains_itself(
    fitserve: Callable[..., Result], words: tuple[str, ...]
) -> None:
    result = fitserve(*words, "--help")
    assert result.exit_code == 0
    assert len(result.stdout.split("Usage:")[1].splitlines()) > 3


def test_the_version_is_that_of_the_distribution(fitserve: Callable[..., Result]) -> None:
    assert fitserve("--version").stdout.strip().endswith(__version__)
