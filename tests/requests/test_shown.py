"""Every number says of which signal strength, level and kind of interval it is."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import fitserve as package
from fitserve.cli import cli
from fitserve.draw.curves import contour_lines
from fitserve.draw.grid import ContourOptions, mass_grid
from fitserve.kinds.base import confidence_level, shown_strength
from fitserve.report import render_report
from fitserve.report.content import headline, rows
from fitserve.runs.store import read_run
from fitserve_contract import (
    FitRequest,
    HypotestRequest,
    LimitRequest,
    ModelOptions,
    MuPoint,
    ScanRequest,
    ToysRequest,
    request_digest,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fitserve.api import Run
    from fitserve_contract import Request

    Ran = Callable[..., tuple[Run, str]]


@pytest.fixture
def ran(pallet_directory: Path, tmp_path: Path) -> Ran:
    """Return a function that runs the pallet and returns the run and what was printed."""

    def run(*words: str, name: str = "r") -> tuple[Run, str]:
        path = str(tmp_path / name)
        done = CliRunner().invoke(
            cli, ["run", str(pallet_directory), "-e", "inline", "-o", path, *words]
        )
        assert done.exit_code == 0, done.output
        return package.open_run(path), done.output

    return run


def _csv(run: Run) -> list[dict[str, str]]:
    done = CliRunner().invoke(cli, ["export", str(run.path), "--format", "csv", "-o", "-"])
    return list(csv.DictReader(io.StringIO(done.stdout)))


@pytest.mark.parametrize(
    ("request_", "mu", "level"),
    [
        (HypotestRequest(), 1.0, 0.95),
        (HypotestRequest(mu=(0.5, 2.0, 1.0)), 1.0, 0.95),
        (HypotestRequest(mu=(3.0, 0.4)), 0.4, 0.95),
        (ScanRequest(mu=(0.0, 0.8, 1.6)), 0.8, 0.95),
        (LimitRequest(level=0.9), 1.0, 0.9),
        (ToysRequest(toys=10, mu=2.0), 2.0, 0.95),
        (FitRequest(), None, 0.95),
    ],
)
def test_what_is_shown_is_the_nearest_to_one(
    request_: Request, mu: float | None, level: float
) -> None:
    assert (shown_strength(request_), confidence_level(request_)) == (mu, level)


def test_several_strengths_show_the_same_one_everywhere_and_say_so(ran: Ran) -> None:
    run, printed = ran("--mu", "0.25", "--mu", "1", "--mu", "2")
    at_one = {
        name: next(point for point in found.points if point.mu == 1)
        for name, found in run.results.items()
    }
    first = sum(found.CLs_obs < 0.05 for found in run.results.values())
    shown = sum(point.CLs_obs < 0.05 for point in at_one.values())
    assert first != shown, "the test tells nothing where all strengths exclude the same"
    assert "CLs obs (mu = 1)" in printed
    assert f"{at_one['S_300'].CLs_obs:.4g}" in printed
    assert "the table is at mu = 1" in printed
    assert f"excluded:    {shown} observed" in printed
    assert "at 95% CL, mu = 1\n" in printed
    summary = json.loads(CliRunner().invoke(cli, ["show", str(run.path), "--json"]).stdout)
    assert summary["excluded"]["observed"] == shown
    assert summary["exclusion"] == {"level": 0.95, "mu": 1.0}
    grid = mass_grid(run.manifest, run.results, ContourOptions(at={}))
    assert grid.mu == 1
    assert int(grid.excluded.sum()) == shown
    assert f"{at_one['S_300'].CLs_obs:.4g}" in run._repr_html_()
    saved = read_run(run.path)
    assert sum(row.excluded == "excluded" for row in rows(saved)) == shown
    page = render_report(saved)
    assert "CLs are at mu = 1, the nearest to 1 that was asked for" in page
    assert "CLs obs. (mu = 1)" in page
    assert headline(saved)[1].name == "excluded at 95% CL, mu = 1"
    # results.json keeps the first.
    assert run.results["S_300"].CLs_obs == run.results["S_300"].points[0].CLs_obs


def test_a_frame_has_a_row_for_each_hypothesis_and_strength(ran: Ran) -> None:
    run, _ = ran("--mu", "0.25", "--mu", "1")
    frame = run.to_dataframe()
    assert len(frame) == 2 * len(run.results)
    wide = frame.pivot(columns="mu", values="CLs_obs")
    assert list(wide.columns) == [0.25, 1.0]
    for name, found in run.results.items():
        assert wide.loc[name].tolist() == [point.CLs_obs for point in found.points]
    told = [(row["name"], float(row["mu"]), float(row["CLs_obs"])) for row in _csv(run)]
    assert told == list(zip(frame.index, frame["mu"], frame["CLs_obs"], strict=True))


def test_the_frame_of_a_scan_is_the_scan(ran: Ran) -> None:
    run, _ = ran("--scan", "0:1:0.5", "--patch", "S_300")
    frame = run.to_dataframe()
    assert frame["mu"].tolist() == [0.0, 0.5, 1.0]
    found = run.results["S_300"].points
    assert frame["CLs_obs"].tolist() == [point.CLs_obs for point in found]
    assert frame["twice_delta_nll"].tolist() == [point.twice_delta_nll for point in found]
    # A report does not judge it by its first strength, where every CLs is 1.
    (row,) = rows(read_run(run.path))
    assert row.excluded == ("excluded" if found[2].CLs_obs < 0.05 else "not excluded")


def test_a_level_is_that_of_counts_curves_and_reports(ran: Ran) -> None:
    run, printed = ran("--limit", "--level", "0.9", "--mu-max", "100")
    at_one = [found.CLs_obs for found in run.results.values()]
    counts = {level: sum(cls < 1 - level for cls in at_one) for level in (0.9, 0.95)}
    assert counts[0.9] != counts[0.95], "the test tells nothing where both exclude the same"
    assert f"excluded:    {counts[0.9]} observed" in printed
    assert "at 90% CL, mu = 1\n" in printed
    contours = contour_lines(run.manifest, run.results)
    assert contours.to_dict()["confidence_level"] == 0.9
    assert int(contours.grid.excluded.sum()) == counts[0.9]
    # Where the limit is 1 is where the curve is: both are at the level that was asked for.
    by_mass = sorted((one.mass_hypotheses[0], one.limit.observed) for one in run.results.values())
    below = max(mass for mass, limit in by_mass if limit < 1)
    above = min(mass for mass, limit in by_mass if limit > 1)
    ((crossing,),) = contours.observed[0].tolist()[:1]
    assert below <= crossing <= above
    other = contour_lines(run.manifest, run.results, ContourOptions(level=0.95))
    assert int(other.grid.excluded.sum()) == counts[0.95]
    saved = read_run(run.path)
    assert sum(row.excluded == "excluded" for row in rows(saved)) == counts[0.9]
    page = render_report(saved)
    assert "CLs below 0.1 is excluded at 90% CL" in page
    assert "95%" not in page
    frame = run.to_dataframe()
    assert set(frame["limit_level"]) == {0.9}
    assert frame["limit_exp"].tolist() == frame["limit_exp_0"].tolist()
    submission = run.path.parent / "submission"
    words = ["export", str(run.path), "--format", "hepdata", "-o", str(submission)]
    assert CliRunner().invoke(cli, words).exit_code == 0
    told = "".join(path.read_text() for path in submission.glob("*.yaml"))
    assert "90% CL" in told
    assert "95%" not in told


def test_a_limit_above_the_bound_is_said_and_the_hint_finds_it(ran: Ran) -> None:
    run, printed = ran("--limit", "--mu-max", "10")
    beyond = [
        name
        for name, found in run.results.items()
        if None in (found.limit.observed, *found.limit.expected)
    ]
    assert beyond == ["S_500"]
    assert "> 10" in printed
    assert "1 hypothesis has limits above 10" in printed
    assert "<td>&gt; 10</td>" in run._repr_html_()
    page = render_report(read_run(run.path))
    assert "&gt; 10" in page
    (suggested,) = re.findall(r"--limit --mu-max (\S+)", printed)
    assert suggested in page
    row = next(row for row in _csv(run) if row["name"] == beyond[0])
    assert "above the POI's bound of 10" in row["limit_reasons"]
    further, printed = ran("--limit", "--mu-max", suggested, name="further")
    assert "> " not in printed
    for found in further.results.values():
        assert None not in (found.limit.observed, *found.limit.expected)
        assert (found.status, found.limit.reasons) == ("ok", {})


def test_a_signal_that_was_rescaled_is_said(ran: Ran) -> None:
    run, printed = ran("--limit")
    further, _ = ran("--limit", "--mu-max", "2000", name="further")
    weak, limit = run.results["S_500"], run.results["S_500"].limit
    assert (weak.status, limit.reasons) == ("ok", {})
    expected = [further.results["S_500"].limit.observed, *further.results["S_500"].limit.expected]
    assert [limit.observed, *limit.expected] == pytest.approx(expected, rel=1e-3)
    assert "> 10" not in printed
    assert "the signal of 1 hypothesis was rescaled for the fits" in printed
    assert "the signal of 1 hypothesis was rescaled" in render_report(read_run(run.path))
    told = {row["name"]: float(row["limit_rescaled"]) for row in _csv(run)}
    assert told.pop("S_500") == limit.rescaled > 1
    assert set(told.values()) == {1.0}


def test_a_wider_bound_is_another_question(ran: Ran) -> None:
    wider = HypotestRequest(model=ModelOptions(mu_max=20.0))
    assert request_digest(wider) != request_digest(HypotestRequest())
    run, _ = ran("--mu", "15", "--mu-max", "20", "--patch", "S_500")
    (point,) = run.results["S_500"].points
    assert isinstance(point, MuPoint)
    assert point.mu == 15
    assert 0 < point.CLs_obs < 1


def test_a_fit_says_which_uncertainty_it_shows(ran: Ran) -> None:
    _, printed = ran("--fit", "--patch", "S_300")
    assert "Hessian +-" in printed
    assert "interval from" not in printed
    run, printed = ran("--fit", "--intervals", "--patch", "S_300", name="intervals")
    poi = next(one for one in run.results["S_300"].fit.parameters if one.name == "mu")
    assert "interval from" in printed
    assert f"{poi.upper:.4g}" in printed
