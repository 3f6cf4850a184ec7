"""Limits, scans, fits and rankings through the command line, as their users meet them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import fitserve as package
from fitserve.cli import cli
from fitserve.errors import RequestError
from fitserve.kinds import kind
from fitserve.kinds.base import FIT_COLUMNS
from fitserve.kinds.limit import COLUMNS as LIMIT_COLUMNS
from fitserve.kinds.ranking import COLUMNS as RANKING_COLUMNS
from fitserve.report.content import columns, details, left_out, next_commands, rows
from fitserve.runs.estimate import seconds_per_hypothesis
from fitserve.runs.store import read_run
from fitserve_contract import (
    FitRequest,
    HypotestRequest,
    LimitRequest,
    RankingRequest,
    ScanRequest,
    cls_strengths,
    kind_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result


@pytest.fixture
def fitserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
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
def made(fitserve: Callable[..., Result], pallet_directory: Path) -> Callable[..., Result]:
    """Return a function that runs the pallet for something, into the directory ``r``."""

    def run(*words: object) -> Result:
        return fitserve("run", pallet_directory, "-e", "inline", "-o", "r", *words)

    return run


def _rows(fitserve: Callable[..., Result]) -> list[dict[str, str]]:
    done = fitserve("export", "r", "--format", "csv", "-o", "t.csv")
    assert done.exit_code == 0, done.stderr
    return list(csv.DictReader(io.StringIO(Path("t.csv").read_text())))


def test_limits(fitserve: Callable[..., Result], made: Callable[..., Result]) -> None:
    result = made("--limit", "--mu-max", "10", "--patch", "S_[25]00")
    assert result.exit_code == 0, result.stderr
    for text in ("limit obs", "upper limits on the signal strength, at 95% CL", "1 observed"):
        assert text in result.stdout
    written = json.loads(Path("r/results.json").read_text())
    assert 0 < written["S_200"]["limit"]["observed"] < 1
    assert written["S_200"]["CLs_obs"] == written["S_200"]["points"][0]["CLs_obs"] < 0.05
    assert written["S_500"]["limit"]["observed"] is None
    assert "above the POI's bound" in written["S_500"]["limit"]["reasons"]["observed"]
    first, second = _rows(fitserve)
    assert list(first)[-len(LIMIT_COLUMNS) :] == list(LIMIT_COLUMNS)
    assert float(first["limit_obs"]) == written["S_200"]["limit"]["observed"]
    assert (second["limit_obs"], second["status"]) == ("", "ok")
    assert "observed: above" in second["limit_reasons"]
    contour = json.loads(fitserve("contour", "r", "--json").stdout)
    assert contour["mu"] == 1.0
    excluded = {one["name"]: one["CLs_obs"] < 0.05 for one in contour["points"]}
    assert excluded == {"S_200": True, "S_500": False}
    saved = read_run("r")
    first_row = rows(saved)[0]
    titles = [title for title, _ in columns(saved)]
    assert len(titles) == len(first_row.cells)
    limits, scan = next_commands(saved)
    assert limits == "fitserve plot limits r -o limits.png"
    assert scan == "fitserve plot scan r --patch NAME -o scan.png"
    assert first_row.cells[titles.index("limit obs.")].key == float(first["limit_obs"])
    assert fitserve("export", "r", "--format", "hepdata", "-o", "h").exit_code == 0
    table = Path("h/upper_limits_on_the_signal_strength.yaml").read_text()
    assert "95% CL" in table
    text = " ".join(Path("h/submission.yaml").read_text().split())
    assert "A dash: the limit is above 10, where the search ended" in text
    assert "value: '-'" in table
    frame = package.open_run("r").to_dataframe()
    assert frame.loc["S_200", "limit_obs"] == written["S_200"]["limit"]["observed"]
    shown = json.loads(fitserve("show", "r", "--json").stdout)
    assert (shown["request"], shown["excluded"]) == ("limit", {"observed": 1, "expected": 1})


def test_a_scan(fitserve: Callable[..., Result], made: Callable[..., Result]) -> None:
    result = made("--scan", "0:1:0.5", "--patch", "S_300")
    assert result.exit_code == 0, result.stderr
    assert "3 signal strengths from 0 to 1" in result.stdout
    assert "excluded:" not in result.stdout
    rows = _rows(fitserve)
    assert [float(row["mu"]) for row in rows] == [0.0, 0.5, 1.0]
    rises = [float(row["twice_delta_nll"]) for row in rows]
    assert rises == sorted(rises)
    assert float(rows[2]["CLs_obs"]) < float(rows[1]["CLs_obs"])
    assert fitserve("report", "r", "-o", "report.html").exit_code == 0
    page = Path("report.html").read_text()
    assert f'<td class="number">{rises[1]:.4g}</td>' in page
    assert "fitserve plot scan r -o scan.png" in page


def test_fits(
    fitserve: Callable[..., Result],
    made: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = made("--fit", "--patch", "S_[12]00")
    assert result.exit_code == 0, result.stderr
    assert "maximum-likelihood fit of each hypothesis" in result.stdout
    rows = _rows(fitserve)
    assert {row["name"] for row in rows} == {"S_100", "S_200"}
    assert [row["parameter"] for row in rows[:4]].count("norm") == 1
    assert set(FIT_COLUMNS) < set(rows[0])
    assert "CLs_obs" not in rows[0]
    drawn = fitserve("contour", "r", "-o", "c.png")
    assert drawn.exit_code == 4
    assert "the run has no CLs" in drawn.stderr
    sent = fitserve("export", "r", "--format", "hepdata", "-o", "h")
    assert (sent.exit_code, Path("h").exists()) == (4, False)
    assert fitserve("report", "r", "-o", "report.html").exit_code == 0
    page = Path("report.html").read_text()
    fit = read_run("r").results["S_200"].fit
    for parameter in fit.parameters:
        assert f'<th scope="row">{parameter.name}</th>' in page
        assert f'<td class="number">{parameter.bestfit:.4g}</td>' in page
        told = "\N{EN DASH}" if parameter.uncertainty is None else f"{parameter.uncertainty:.4g}"
        assert f'<td class="number">{told}</td>' in page
    for picture in ("pulls", "correlations", "yields"):
        assert f"fitserve plot {picture} r --patch NAME -o {picture}.png" in page
    for absent in ("Exclusion contour", "There is no picture", "observed CLs", "left_out"):
        assert absent not in page
    assert fitserve("export", "r", "--format", "parquet", "-o", "t.parquet").exit_code == 0
    assert left_out(read_run("r")) is None
    monkeypatch.setattr("fitserve.report.content._MOST_DETAILS", 1)
    monkeypatch.setattr("fitserve.report.content._MOST_DETAIL_ROWS", 2)
    assert [len(one.rows) for one in details(read_run("r"))] == [2]
    text = left_out(read_run("r")) or ""
    assert text.startswith("Here are the first 1 hypotheses and 2 rows of each at most; ")
    assert fitserve("report", "r", "-o", "report.html").exit_code == 0
    assert text in Path("report.html").read_text()


def test_the_background_only_fit(
    fitserve: Callable[..., Result], made: Callable[..., Result]
) -> None:
    result = made("--fit", "--background-only")
    assert result.exit_code == 0, result.stderr
    run = read_run("r")
    assert list(run.results) == ["background-only"]
    assert run.results["background-only"].fit.poi is None
    (first, *_) = _rows(fitserve)
    assert (first["name"], first["mass_m1"]) == ("background-only", "")
    assert package.open_run("r").to_dataframe().index.tolist() == ["background-only"]


def test_a_ranking(fitserve: Callable[..., Result], made: Callable[..., Result]) -> None:
    result = made("--ranking", "--patch", "S_300")
    assert result.exit_code == 0, result.stderr
    assert "largest impact" in result.stdout
    rows = _rows(fitserve)
    assert {row["parameter"] for row in rows} == {"norm", "uncorr_bkg[0]", "uncorr_bkg[1]"}
    assert set(RANKING_COLUMNS) < set(rows[0])
    assert fitserve("report", "r", "-o", "report.html").exit_code == 0
    page = Path("report.html").read_text()
    for impact in read_run("r").results["S_300"].ranking.impacts:
        assert f'<th scope="row">{impact.parameter.name}</th>' in page
        assert f'<td class="number">{impact.postfit_up:.4g}</td>' in page
    assert "fitserve plot ranking r -o ranking.png" in page


def test_the_same_pallet_has_a_directory_for_each_question(
    fitserve: Callable[..., Result], pallet_directory: Path
) -> None:
    for words in (("--scan", "1"), ()):
        command = ("run", pallet_directory, "-e", "inline", "--patch", "S_300", *words)
        assert fitserve(*command).exit_code == 0
    assert len(list(Path("fitserve-runs").iterdir())) == 2


BAD = {
    "two requests": (("--limit", "--scan", "0:1:1"), 2, "two requests"),
    "a fit and a ranking": (("--fit", "--ranking"), 2, "two requests"),
    "signal strength of limits": (("--limit", "--mu", "2"), 2, "--mu does not go with --limit"),
    "level of CLs": (("--level", "0.9"), 2, "--level goes with --limit"),
    "intervals of CLs": (("--intervals",), 2, "--intervals goes with --fit"),
    "background of a ranking": (("--ranking", "--background-only"), 2, "does not go with"),
    "test statistic of a fit": (("--fit", "--test-stat", "q"), 2, "does not go with --fit"),
    "words for a scan": (("--scan", "a:b:c"), 2, "neither START:STOP:STEP nor numbers"),
    "a scan backwards": (("--scan", "2:1:0.1"), 2, "needs STOP >= START"),
    "a scan without end": (("--scan", "0:1:0"), 2, "STEP > 0"),
    "a scan to infinity": (("--scan", "0:inf:1"), 2, "needs STOP >= START"),
    "too fine a scan": (("--scan", "0:1:1e-7"), 2, "more than 10000"),
    "a scan out of bounds": (("--scan", "0:20:5"), 4, "outside the bounds of 'mu'"),
    "a level of one": (("--limit", "--level", "1"), 2, "not in the range"),
    "a patch of no signal": (("--fit", "--background-only", "--patch", "S*"), 4, "--patch S*"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_go_together_is_said(made: Callable[..., Result], case: str) -> None:
    words, code, told = BAD[case]
    result = made(*words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert told in result.stderr
    assert not Path("r").exists()


def test_plans_estimate_every_kind(fitserve: Callable[..., Result], pallet_directory: Path) -> None:
    seconds = {}
    for words in ((), ("--limit",), ("--scan", "0:1:0.5"), ("--fit",), ("--ranking",)):
        command = ("run", pallet_directory, "--plan", "--json", "--engine", "pyhf", *words)
        plan = json.loads(fitserve(*command).stdout)
        seconds[words[:1]] = plan["cpu_seconds"]
    assert seconds[("--limit",)] > seconds[("--scan",)] == pytest.approx(3 * seconds[()])
    assert seconds[("--ranking",)] > seconds[("--fit",)] > seconds[()]


def test_intervals_cost_more_than_none(workspace: dict) -> None:
    plain, whole = (seconds_per_hypothesis(workspace, FitRequest(intervals=i)) for i in (0, 1))
    assert whole > plain


def test_every_kind_can_be_made_in_python() -> None:
    made = {name: package.make_request(kind=name) for name in ("hypotest", "limit", "scan", "fit")}
    assert made["scan"] == ScanRequest(mu=(1.0,))
    assert made["limit"] == LimitRequest()
    assert made["hypotest"] == HypotestRequest()
    assert package.make_request(kind="fit", intervals=True) == FitRequest(intervals=True)
    ranking = package.make_request(kind="ranking")
    assert (ranking, kind_of(ranking), cls_strengths(ranking)) == (RankingRequest(), "ranking", ())
    for bad in ({"kind": "guess"}, {"kind": "limit", "level": 2.0}, {"kind": "scan", "mu": ["x"]}):
        with pytest.raises(RequestError):
            package.make_request(**bad)


def test_requests_for_cls_have_the_digest_that_they_always_had() -> None:
    from fitserve_contract import request_digest

    known = "a61f8575"
    assert request_digest(HypotestRequest())[:8] == known


def test_columns_of_every_kind_are_documented(request: pytest.FixtureRequest) -> None:
    text = (request.config.rootpath / "docs" / "results.md").read_text()
    for asked in (LimitRequest(), FitRequest(), RankingRequest()):
        for name in kind(asked).columns:
            assert f"`{name}`" in text, name
