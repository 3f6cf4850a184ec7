"""The report without a browser: it is complete, self-contained and escapes what it quotes."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import sys
from html.parser import HTMLParser

import msgspec
import pytest
from click.testing import CliRunner

from fitserve.cli import cli
from fitserve.errors import MissingExtraError, StoreError
from fitserve.report import render_report, write_report
from fitserve.report.content import histogram, rows


class _Page(HTMLParser):
    """Collect tags, and the text and attributes in them."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_everything_is_in_it(run, report):
    page = _Page(report.read_text())
    for text in (
        *run.manifest.hypotheses,
        "scipy and minuit disagree",
        "every fit ended with NaN",
        "pyhf, from suggested, 1.5 s: NaN",
        "Not finished (1): S_1000_150",
        run.manifest.pallet.workspace_digest,
        run.manifest.request_digest,
        "the digest does not match",
        "q-tilde",
        "node: cpu",
        "pyhf 0.7.6",
        run.manifest.created,
    ):
        assert text in page.text, text
    body_rows = [a for a in page.all("tr") if "data-status" in a]
    assert len(body_rows) == 20
    assert {row["data-status"] for row in body_rows} == {"ok", "suspect", "failed", "unfinished"}


def test_nothing_comes_from_elsewhere(report):
    text = report.read_text()
    page = _Page(text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            if value is not None:
                outward = tag == "a" and value.startswith("https://")
                assert outward or value.startswith(("data:", "#")), (tag, value)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_script_and_style_are_the_ones_allowed(report):
    text = report.read_text()
    policy = next(
        a["content"] for a in _Page(text).all("meta") if "Content-Security-Policy" in a.values()
    )
    assert "default-src 'none'" in policy
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_what_a_pallet_says_is_text(report):
    page = _Page(report.read_text())
    assert len(page.all("img")) == 1
    assert "onerror" not in page.all("img")[0]
    assert all(not a["href"].startswith("javascript:") for a in page.all("a"))
    assert page.text.count("<img src=x onerror=alert(1)>") >= 3


def test_table_is_in_the_patchset_order_and_keeps_full_numbers(run):
    found = rows(run)
    assert [row.name for row in found] == run.manifest.hypotheses
    first = found[0]
    assert [cell.key for cell in first.masses] == [100.0, 0.0]
    assert first.cells[0].key == run.results[first.name].CLs_obs
    assert (found[-1].status, found[-1].excluded) == ("unfinished", "")


def test_no_list_is_longer_than_a_browser_shows(run, monkeypatch):
    most = 1
    monkeypatch.setattr("fitserve.report.content.MOST_ROWS", most)
    text = render_report(run)
    table = text[text.index('<table id="results">') : text.index('<section id="timing"')]
    assert table.count("<tr data-status=") == most
    assert f"These are the first 1 of {len(run.manifest.hypotheses)}; all are in" in table
    assert f"fitserve export {run.path} --format csv" in table
    doubts = text[text.index('<section id="doubts"') : text.index('<section id="table"')]
    assert doubts.count('<th scope="row">') == most
    assert "These are the first 1 of 2; all are in" in doubts
    times = text[text.index('<section id="timing"') : text.index('<section id="provenance"')]
    assert times.count('<th scope="row">') == most
    assert "every number" not in text


def test_a_short_list_is_whole(report):
    assert "These are the first" not in report.read_text()


def test_histogram_counts_every_hypothesis(run):
    bars = histogram(run)
    assert sum(bar.hypotheses for bar in bars) == len(run.results)
    assert bars[0].low == pytest.approx(0.5)
    assert bars[-1].high == pytest.approx(max(r.fit_time for r in run.results.values()))
    assert all(a.high == pytest.approx(b.low) for a, b in itertools.pairwise(bars))


def test_run_without_any_result(run, tmp_path, save_run):
    empty = save_run(tmp_path / "empty", run.manifest, {})
    page = _Page(render_report(empty))
    assert "There is no picture." in page.text
    assert "no hypothesis of the run has a valid CLs" in page.text
    assert "Nothing was fitted in this run yet." in page.text


def test_fit_times_that_are_all_the_same(run, tmp_path, save_run):
    results = {n: msgspec.structs.replace(r, fit_time=1.0) for n, r in run.results.items()}
    same = save_run(tmp_path / "same", run.manifest, results)
    assert histogram(same) == []
    assert "<svg" not in render_report(same)


def test_title_with_formulae_gives_way(run, tmp_path, save_run):
    pallet = msgspec.structs.replace(run.manifest.pallet, title=r"$\tilde{\tau}$ pairs")
    manifest = msgspec.structs.replace(run.manifest, pallet=pallet)
    page = render_report(save_run(tmp_path / "formula", manifest, run.results))
    assert "<h1>toy signals</h1>" in page


def test_written_whole(run, tmp_path):
    path = tmp_path / "report.html"
    write_report(run, path)
    assert path.read_text() == render_report(run)
    with pytest.raises(StoreError, match="cannot be written"):
        write_report(run, tmp_path / "none" / "report.html")


def test_missing_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError):
        render_report(run)


def test_command(run, tmp_path):
    path = tmp_path / "report.html"
    found = CliRunner().invoke(cli, ["report", str(run.path), "-o", str(path)])
    assert found.exit_code == 0, found.output
    assert "19 of 20 hypotheses" in found.stderr
    assert path.read_text().startswith("<!doctype html>")
    missing = CliRunner().invoke(cli, ["report", str(tmp_path / "no"), "-o", str(path)])
    assert missing.exit_code == 6
