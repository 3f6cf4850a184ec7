"""A run with everything that a report has to show, and a browser to look at it."""

from __future__ import annotations

import os
import shutil

import msgspec
import pytest
from scipy.special import ndtr

from fitserve.report import write_report
from fitserve_contract import Attempt

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="session")
def run(build_run, save_run, tmp_path_factory):
    """Return a saved run of 20 hypotheses, one of each state among them."""
    points = {}
    for x in (100.0, 200.0, 300.0, 400.0, 1000.0):
        for y in (0.0, 50.0, 100.0, 150.0):
            cls = float(ndtr(-(1.645 + (250 - x) / 100)))
            points[f"S_{x:g}_{y:g}"] = ((x, y), cls, [cls / 4, cls / 2, cls, cls, cls])
    points["S_400_100"] = ((400.0, 100.0), None, [None] * 5)
    late = points.pop("S_1000_150")
    manifest, results = build_run(
        points,
        unfinished={"S_1000_150": late[0]},
        title=f"Search for {HOSTILE}",
        references={"hepdata": "ins1234567", HOSTILE: "javascript:alert(1)"},
        forced=["the digest does not match"],
    )
    results["S_200_50"] = msgspec.structs.replace(
        results["S_200_50"], status="suspect", reason="scipy and minuit disagree"
    )
    results["S_400_100"] = msgspec.structs.replace(
        results["S_400_100"],
        reason=f"every fit ended with NaN {HOSTILE}",
        attempts=[Attempt(engine="pyhf", start="suggested", seconds=1.5, problems=["NaN"])],
    )
    return save_run(tmp_path_factory.mktemp("report") / "run", manifest, results)


@pytest.fixture(scope="session")
def report(run, tmp_path_factory):
    """Return the report of the run, as a file."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(run, path)
    return path


def _chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        message = "there is no Chromium on the PATH: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture(scope="module")
def browser():
    """Return a headless Chromium."""
    executable = _chromium()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip("playwright is not installed")
    # The network is not there, and Chromium must not look for it. Root has no sandbox.
    flags = [
        *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    ]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=executable, args=flags)
        yield browser
        browser.close()
