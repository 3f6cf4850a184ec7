"""A new site file is made from a few answers, checked, and only then kept."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from fitserve.errors import RequestError, StoreError
from sitekit.cli import commands
from sitekit.load import load_site
from sitekit.new_site import QUESTIONS, SCHEDULERS, answers_for, write_site
from sitekit.problems import SiteError
from sitekit.render import Rendering, render_site
from sitekit.rules import require_valid

if TYPE_CHECKING:
    from pathlib import Path

WHO = {"contact": "mailto:help@example.edu", "url": "https://docs.example.edu"}


def _answers(**given: Any) -> dict[str, Any]:
    return answers_for({"name": "mine", **WHO, **given}, None)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_defaults_make_a_working_site(scheduler: str, tmp_path: Path) -> None:
    path, warnings = write_site(_answers(scheduler=scheduler), tmp_path)
    assert warnings == []
    site, _ = load_site(path)
    assert site.scheduler.type == scheduler
    files, _ = render_site(site, Rendering("1", tmp_path))
    assert "fitserve-mine" in files["config.yaml"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.yaml"]


def test_answers_reach_the_file(tmp_path: Path) -> None:
    answers = _answers(
        scheduler="slurm",
        partition="fast",
        account="hep",
        interface="ib0",
        cores=32,
        memory_gb=64,
        gpus=2,
        walltime="04:00:00",
        longest_minutes=60,
        max_blocks=2,
        venv="~/venv",
        exclusive=True,
    )
    site, _ = load_site(write_site(answers, tmp_path)[0])
    expected = {
        "scheduler.partition": "fast",
        "scheduler.account": "hep",
        "scheduler.exclusive": True,
        "network.interface": "ib0",
        "node.cores": 32,
        "node.memory_gb": 64,
        "node.gpus.count": 2,
        "workers.device": "cuda12",
        "blocks.walltime": "04:00:00",
        "blocks.max": 2,
        "tasks.longest_minutes": 60,
        "environment.venv": "~/venv",
        "environment.container": None,
    }
    assert {field: operator.attrgetter(field)(site) for field in expected} == expected
    assert require_valid(site) == []


def test_gpus_of_a_blueprint_do_not_bring_its_partition(tmp_path: Path) -> None:
    site, _ = load_site(write_site(_answers(scheduler="slurm", gpus=1), tmp_path)[0])
    assert site.scheduler.partition is None


def test_every_line_of_it_is_explained(tmp_path: Path) -> None:
    text = write_site(_answers(scheduler="slurm"), tmp_path)[0].read_text()
    assert text.count("#") >= 15
    assert "make doctor SITE=mine" in text


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"contact": "me"}, "contact"),
        ({"walltime": "00:20:00"}, "blocks.walltime"),
        ({"cores": 0}, "node.cores"),
        ({"interface": "ib0; id"}, "network.interface"),
        ({"image": "~/$(id).sif"}, "environment.container.image"),
        ({"account": 'a"\nscheduler: x'}, "scheduler.account"),
        ({"description": "{{ 7 * 7 }} is a number"}, "description"),
    ],
)
def test_answers_that_make_no_site_leave_nothing(
    tmp_path: Path, given: dict[str, Any], field: str
) -> None:
    with pytest.raises(SiteError) as refused:
        write_site(_answers(scheduler="slurm", **given), tmp_path)
    assert field in {problem.field for problem in refused.value.problems}
    assert {problem.file for problem in refused.value.problems} == {"mine.yaml"}
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_a_name_and_is_not_taken(tmp_path: Path) -> None:
    for name in ("../x", "A", "", "a b", "-x"):
        with pytest.raises(RequestError, match="cannot be a site's name"):
            write_site({**_answers(scheduler="local"), "name": name}, tmp_path)
    write_site(_answers(scheduler="local"), tmp_path)
    with pytest.raises(RequestError, match="there already"):
        write_site(_answers(scheduler="local"), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        write_site(_answers(scheduler="local"), tmp_path / "file")
    with pytest.raises(RequestError, match="no time limit"):
        write_site({**_answers(scheduler="slurm", walltime="2 hours"), "name": "other"}, tmp_path)


def test_it_goes_to_the_users_own_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FITSERVE_SITE_PATH", str(tmp_path / "own"))
    path, _ = write_site(_answers(scheduler="local"), None)
    assert path == tmp_path / "own" / "mine.yaml"
    assert load_site("mine")[0].name == "mine"


def test_without_somebody_to_ask_it_says_which_flags_are_missing() -> None:
    with pytest.raises(RequestError, match="--contact, --url"):
        answers_for({"name": "mine", "scheduler": "slurm"}, None)


def test_with_somebody_there_it_asks_what_is_not_given() -> None:
    asked = []

    def ask(question: Any, default: Any) -> Any:
        asked.append(question.name)
        return default if default is not None else WHO[question.name]

    answers = answers_for({"name": "mine", "scheduler": "pbspro", "cores": 4}, ask)
    assert asked == [
        question.name
        for question in QUESTIONS
        if "pbspro" in question.schedulers and question.name != "cores"
    ]
    assert answers["queue"] == "workq"
    assert answers["memory_gb"] == 8


def test_the_command_takes_flags(tmp_path: Path) -> None:
    runner = CliRunner()
    flags = [word for name, value in WHO.items() for word in (f"--{name}", value)]
    arguments = ["new-site", "mine", "--scheduler", "torque", "--out", str(tmp_path), *flags]
    done = runner.invoke(commands, [*arguments, "--cores", "4"], catch_exceptions=False)
    assert "is in order" in done.output
    assert load_site(tmp_path / "mine.yaml")[0].node.cores == 4
    done = runner.invoke(commands, ["new-site", "other", "--out", str(tmp_path)])
    assert isinstance(done.exception, RequestError)
