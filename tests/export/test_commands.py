"""`fitserve export` and `fitserve diff` as typed."""

from __future__ import annotations

import json

import msgspec
import pytest
from click.testing import CliRunner

from fitserve.cli import cli

EXP = [0.001, 0.01, 0.05, 0.2, 0.5]


@pytest.fixture
def runs(build_run, save_run, tmp_path):
    manifest, results = build_run(
        {f"p{i}": ((100.0 * i, 1.0), 0.1 * i, EXP) for i in range(1, 6)},
        unfinished={"late": (700.0, 1.0)},
    )
    save_run(tmp_path / "a", manifest, results)
    results["p2"] = msgspec.structs.replace(results["p2"], CLs_obs=0.2123)
    save_run(tmp_path / "b", manifest, results)
    return tmp_path


def _fitserve(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("format_", "name"),
    [("json", "o.json"), ("csv", "o.csv"), ("parquet", "o.parquet"), ("hepdata", "o.tar.gz")],
)
def test_export(runs, format_, name):
    found = _fitserve("export", runs / "a", "--format", format_, "-o", runs / name)
    assert found.exit_code == 0, found.output
    assert (runs / name).stat().st_size > 100
    assert "1 hypotheses are not finished" in found.stderr


def test_export_to_standard_output(runs):
    found = _fitserve("export", runs / "a", "--format", "json", "-o", "-")
    assert found.exit_code == 0
    assert list(json.loads(found.stdout)) == ["p1", "p2", "p3", "p4", "p5"]


def test_diff(runs):
    same = _fitserve("diff", runs / "a", runs / "a")
    assert same.exit_code == 0
    assert "0 differ by more than 0.001" in same.stdout
    found = _fitserve("diff", runs / "a", runs / "b")
    assert found.exit_code == 7
    assert "p2  CLs_obs  0.2 -> 0.2123  (+0.0123)" in found.stdout
    assert _fitserve("diff", runs / "a", runs / "b", "--tol", "0.02").exit_code == 0


def test_diff_as_json(runs):
    found = _fitserve("diff", runs / "a", runs / "b", "--json")
    assert found.exit_code == 7
    content = json.loads(found.stdout)
    assert content["beyond"][0]["name"] == "p2"
    assert content["only_a"] == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("export", "nowhere", "--format", "csv", "-o", "x.csv"), 6),
        (("export", "a", "--format", "csv", "-o", "none/x.csv"), 6),
        (("export", "a", "--format", "parquet", "-o", "-"), 4),
        (("export", "a", "--format", "root", "-o", "x"), 2),
        (("diff", "a", "nowhere"), 3),
        (("diff", "a", "b", "--tol", "-1"), 2),
    ],
)
def test_errors_have_their_class_and_no_traceback(runs, monkeypatch, arguments, code):
    monkeypatch.chdir(runs)
    found = _fitserve(*arguments)
    assert found.exit_code == code
    assert "Traceback" not in found.output
