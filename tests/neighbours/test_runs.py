"""A run with a value that jumps: pyhf is asked, the number is kept, and everybody sees it."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import msgspec
import pyhf
import pytest
from click.testing import CliRunner

from fitserve import api
from fitserve.cli import cli
from fitserve.draw.contour import draw_contour
from fitserve.draw.grid import mass_grid
from fitserve.export import to_csv
from fitserve.report import render_report
from fitserve.runs.store import read_run
from fitserve.runs.summary import summary
from fitserve_worker import entry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fitserve_contract import HypothesisResult
    from fitserve_worker.engines.base import Work

PLACES = [(100.0 * i, 50.0 * j) for i in range(1, 5) for j in range(3)]
WRONG = "S_200_50"
ENOUGH = 10


def _pallet(path: Path, workspace: dict, strengths: dict[str, float] | None = None) -> Path:
    """Write a plane of signals that fall with both masses; some may be too strong."""
    patches = []
    for heavy, light in PLACES:
        name = f"S_{heavy:g}_{light:g}"
        scale = 3.2 / (1 + heavy / 200 + light / 300) * (strengths or {}).get(name, 1.0)
        sample = {
            "name": "signal",
            "data": [12.0 * scale, 11.0 * scale],
            "modifiers": [{"name": "mu", "type": "normfactor", "data": None}],
        }
        patch = [{"op": "add", "path": "/channels/0/samples/1", "value": sample}]
        patches.append({"metadata": {"name": name, "values": [heavy, light]}, "patch": patch})
    patchset = {
        "metadata": {
            "references": {"hepdata": "ins1234567"},
            "description": "toy signals",
            "digests": {"sha256": pyhf.utils.digest(workspace, algorithm="sha256")},
            "labels": ["m1", "m2"],
        },
        "patches": patches,
        "version": "1.0.0",
    }
    path.mkdir()
    (path / "BkgOnly.json").write_text(json.dumps(workspace))
    (path / "patchset.json").write_text(json.dumps(patchset))
    return path


@pytest.fixture
def wrong_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the engine wrong at one hypothesis, by two sigma of the observed CLs."""
    right = entry.answers

    def answers(work: Work) -> Iterator[HypothesisResult]:
        for result in right(work):
            if result.name != WRONG:
                yield result
                continue
            point = msgspec.structs.replace(result.points[0], CLs_obs=0.7)
            yield msgspec.structs.replace(result, CLs_obs=0.7, points=[point])

    monkeypatch.setattr(entry, "answers", answers)


@pytest.mark.usefixtures("wrong_engine")
def test_a_wrong_fit_is_kept_and_has_both_reasons(workspace: dict, tmp_path: Path) -> None:
    pallet = _pallet(tmp_path / "pallet", workspace)
    path = tmp_path / "run"
    done = CliRunner().invoke(
        cli, ["run", str(pallet), "-e", "inline", "-o", str(path)], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert f"{WRONG}: CLs jumps against all neighbours (asking pyhf too)" in done.output
    assert f"{WRONG} is suspect:" in done.output
    run = read_run(path)
    assert len(run.results) == len(PLACES) > ENOUGH
    assert [name for name, one in run.results.items() if one.status != "ok"] == [WRONG]
    assert run.manifest.doubted == [WRONG]
    found = run.results[WRONG]
    # The number as the engine gave it, and pyhf's beside it.
    assert found.CLs_obs == 0.7
    assert found.verification.largest == pytest.approx(
        0.7 - found.verification.points[0].CLs_obs, abs=1e-6
    )
    # What makes it suspect is what pyhf finds, not its neighbours.
    assert "by pyhf/numpy/minuit" in found.reason
    assert found.neighbours
    assert found.neighbours not in found.reason
    assert json.loads((path / "results.json").read_text())[WRONG]["neighbours"]
    page = render_report(run)
    assert "jumps against all its neighbours" in page


@pytest.mark.usefixtures("wrong_engine")
def test_the_picture_has_a_hollow_ring_around_it(workspace: dict, tmp_path: Path) -> None:
    pallet = _pallet(tmp_path / "pallet", workspace)
    run = api.run(pallet, endpoint="inline", output=tmp_path / "run", progress=False)
    grid = mass_grid(run.manifest, run.results)
    assert [n for n, jumps in zip(grid.names, grid.jumps, strict=True) if jumps] == [WRONG]
    figure = draw_contour(run.manifest, run.results)
    (axes,) = figure.axes
    rings = [line for line in axes.lines if line.get_fillstyle() == "none"]
    assert [(ring.get_xdata()[0], ring.get_ydata()[0]) for ring in rings] == [(200.0, 50.0)]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "Jumps against its neighbours (1)" in labels


def test_right_numbers_that_jump_are_reported_and_stay_ok(workspace: dict, tmp_path: Path) -> None:
    pallet = _pallet(tmp_path / "pallet", workspace, {WRONG: 0.02})
    path = tmp_path / "run"
    done = CliRunner().invoke(
        cli, ["run", str(pallet), "-e", "inline", "-o", str(path)], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert f"look at:     {WRONG}: at mu = 1 " in done.output
    assert f"{len(PLACES)}: {len(PLACES)} ok" in done.output
    run = read_run(path)
    found = run.results[WRONG]
    assert (found.status, found.reason) == ("ok", None)
    assert all(point.status == "ok" for point in found.points)
    assert "pyhf finds the same: look at the signal itself" in found.neighbours
    assert found.verification.largest <= found.verification.tolerance
    assert list(summary(run)["neighbours"]) == [WRONG]
    assert found.neighbours in render_report(run)
    rows = list(csv.DictReader(to_csv(run.manifest, run.results).decode().splitlines()))
    assert [row["name"] for row in rows if row["neighbours"]] == [WRONG]
    # It is not asked again, and the verdict stays.
    before = run.records[WRONG]
    again = api.run(pallet, endpoint="inline", output=path, progress=False)
    assert read_run(again.path).records[WRONG] == before


def test_a_verdict_is_of_a_run_and_not_of_a_result(workspace: dict, tmp_path: Path) -> None:
    pallet = _pallet(tmp_path / "pallet", workspace, {WRONG: 0.02})
    options = {"endpoint": "inline", "progress": False}
    api.run(pallet, output=tmp_path / "all", **options)
    alone = api.run(pallet, output=tmp_path / "alone", patches=["S_200_*"], **options)
    reused = read_run(alone.path).records[WRONG]
    assert reused.reused_from == str(tmp_path / "all")
    # Three hypotheses are too few to tell what is usual.
    assert (reused.result.status, reused.result.neighbours) == ("ok", None)
    assert reused.result.reason is None


def test_a_sound_run_asks_nothing_and_marks_nothing(workspace: dict, tmp_path: Path) -> None:
    pallet = _pallet(tmp_path / "pallet", workspace)
    run = api.run(pallet, endpoint="inline", output=tmp_path / "run", progress=False)
    assert all(one.status == "ok" for one in run.results.values())
    assert not any(one.verification or one.neighbours for one in run.results.values())
    assert run.manifest.verify == []
