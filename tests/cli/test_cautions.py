"""What whoever chooses an interpolation that jumps is told, wherever they look."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from fitserve import api
from fitserve.cli import cli
from fitserve.errors import ModelWarning
from fitserve.report import render_report
from fitserve.runs.store import read_run

if TYPE_CHECKING:
    from pathlib import Path

TOLD = "pyhf's code 2 jumps where a parameter passes +-1, ROOT's does not"


def _cli(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_code2_is_warned_of_before_and_after(pallet_directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    command = ("run", pallet_directory, "-e", "inline", "--histosys", "code2")
    assert f"! histosys code2: {TOLD}" in _cli(*command, "--plan").stderr
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelWarning)  # a command has words of its own
        done = _cli(*command, "-o", path)
    assert done.exit_code == 0, done.output
    assert f"! histosys code2: {TOLD}" in done.stderr.splitlines()[0]
    assert TOLD in _cli("show", path).stderr
    assert TOLD in json.loads(_cli("show", path, "--json").stdout)["cautions"][0]
    assert "jumps where a parameter passes" in render_report(read_run(path))


def test_code2_is_warned_of_in_python(pallet_directory: Path, tmp_path: Path) -> None:
    options = {"endpoint": "inline", "progress": False}
    with pytest.warns(ModelWarning, match="code 2 jumps"):
        api.run(
            pallet_directory,
            request=api.make_request(histosys="code2"),
            output=tmp_path / "run",
            **options,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelWarning)
        api.run(pallet_directory, output=tmp_path / "plain", **options)
    shown = _cli("show", tmp_path / "plain")
    assert TOLD not in shown.output
    assert json.loads(_cli("show", tmp_path / "plain", "--json").stdout)["cautions"] == []
