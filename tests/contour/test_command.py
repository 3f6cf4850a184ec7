"""`fitserve contour` as typed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from scipy.special import ndtr

from fitserve.cli import cli


@pytest.fixture
def runs(build_run, save_run, tmp_path, monkeypatch):
    points = {}
    for x in (100.0, 200.0, 300.0, 400.0):
        for y in (0.0, 50.0, 100.0):
            cls = float(ndtr(-(1.645 + (250 - x) / 100)))
            points[f"S_{x:g}_{y:g}"] = ((x, y, 60.0), cls, [cls] * 5)
    points["S_400_100"] = (points["S_400_100"][0], None, [None] * 5)
    save_run(tmp_path / "run", *build_run(points, unfinished={"late": (500.0, 0.0, 60.0)}))
    (tmp_path / "theirs.csv").write_text("x,y\n100,0\n200,50\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _fitserve(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_picture(runs, suffix):
    found = _fitserve("contour", "run", "-o", f"c.{suffix}")
    assert found.exit_code == 0, found.output
    assert "6 of 13 hypotheses excluded at 95% CL, 1 failed, 1 unfinished" in found.stderr
    assert (runs / f"c.{suffix}").stat().st_size > 5000


def test_all_options(runs):
    found = _fitserve(
        *("contour", "run", "-o", "c.svg", "--json", "--title", "Mine", "--x", "$x$"),
        *("--y", "y", "--plane", "m2,m1", "--at", "m3=60", "--mu", "1", "--drop-suspect"),
        *("--interpolation", "linear", "--reference", "theirs.csv"),
        *("--reference", "Published=theirs.csv"),
    )
    assert found.exit_code == 0, found.output
    content = json.loads(found.stdout)
    assert content["interpolation"] == "linear"
    assert [axis["label"] for axis in content["axes"]] == ["m2", "m1"]
    svg = (runs / "c.svg").read_text()
    for text in ("Mine", "theirs", "Published"):
        assert f"<!-- {text} -->" in svg


def test_a_plane_that_was_chosen_and_what_depends_on_it_are_told(build_run, save_run, tmp_path):
    points = {
        f"S_{x}_{y}": ((float(x), y + 130.0, float(y)), 0.01 if x < 300 else 0.07, None)
        for x in (100, 200, 300)
        for y in (0, 50, 100)
    }
    run = save_run(tmp_path / "run", *build_run(points)).path
    picture = tmp_path / "c.png"
    found = _fitserve("contour", run, "-o", picture)
    assert found.exit_code == 0, found.output
    assert "m1 and m2; 6 of 9 hypotheses excluded at 95% CL" in found.stderr
    assert "note: m3 = m2 \N{MINUS SIGN} 130" in found.stderr
    found = _fitserve("contour", run, "-o", picture, "--plane", "m1,m3", "--level", "0.9")
    assert "m1 and m3; 9 of 9 hypotheses excluded at 90% CL" in found.stderr
    assert "note: m2 = m3 + 130" in found.stderr


def test_json_alone(runs):
    found = _fitserve("contour", "run", "--json")
    assert found.exit_code == 0
    content = json.loads(found.stdout)
    for line in content["observed"]:
        for x, _ in line:
            assert x == pytest.approx(250, abs=2)
    assert sorted(p.name for p in runs.iterdir() if p.is_file()) == ["theirs.csv"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run",), 2, "--json"),
        (("run", "-o", "c.gif"), 4, ".png, .pdf, .svg"),
        (("run", "-o", "none/c.png"), 6, "mkdir"),
        (("nowhere", "-o", "c.png"), 6, "not a run directory"),
        (("run", "-o", "c.png", "--plane", "m1"), 2, "m1,m2"),
        (("run", "-o", "c.png", "--plane", "m1,m9"), 4, "m9"),
        (("run", "-o", "c.png", "--at", "m3"), 2, "LABEL=VALUE"),
        (("run", "-o", "c.png", "--at", "m3=5"), 4, "m3 = 5"),
        (("run", "-o", "c.png", "--mu", "3"), 4, "mu = 3"),
        (("run", "-o", "c.png", "--reference", "missing.csv"), 3, "missing.csv"),
        (("run", "-o", "c.png", "--x", "$broken"), 4, "axis title"),
    ],
)
def test_errors_have_their_class_and_no_traceback(runs, arguments, code, words):
    found = _fitserve("contour", *arguments)
    assert found.exit_code == code
    assert words in found.output
    assert "Traceback" not in found.output
    assert not (runs / "c.png").exists()


def test_missing_extra(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for arguments in (("contour", "run", "--json"), ("report", "run", "-o", "r.html")):
        found = _fitserve(*arguments)
        assert found.exit_code == 5
        assert 'pip install "fitserve[plot]"' in found.output


def test_help_does_not_import_what_draws():
    code = (
        "import sys; from fitserve.cli import cli;"
        "cli(['contour', '--help'], standalone_mode=False);"
        "print([m for m in ('matplotlib', 'mplhep', 'scipy', 'jinja2') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"
