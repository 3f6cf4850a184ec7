"""Limits, fits and rankings of a published analysis by the kernel, held against pyhf's."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# Of 1Lbb: an excluded hypothesis, and one that has only some of its limits within the bounds. Of
# staus: one whose free fit pyhf ends at the lowest minimum, which it seldom does there.
EXCLUDED, WEAK = "C1N2_Wh_hbb_300_75", "C1N2_Wh_hbb_1000_0"
LOWEST = "DS_280_200_Staus"
ENDS = ("postfit_up", "postfit_down", "prefit_up", "prefit_down")

pytestmark = [pytest.mark.published, pytest.mark.timeout(3600)]


def _run(shared: Path, output: Path, *options: str, analysis: str = "staus") -> list[dict]:
    """Return the answers of hypotheses of an analysis to what the options ask for."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fitserve", "run", shared / "pallets" / f"{analysis}.tar.xz"),
            *("--output", output, *options),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = list(json.loads((output / "results.json").read_text()).values())
    assert [one["status"] for one in found] == ["ok"] * len(found)
    return found


def _both(shared: Path, directory: Path, *options: str) -> tuple[dict, dict]:
    """Return the answers of the kernel and of pyhf for one hypothesis."""
    (ours,) = _run(shared, directory / "kernel", "--engine", "kernel", *options)
    engine = ("--engine", "pyhf", "--optimizer", "minuit")
    (theirs,) = _run(shared, directory / "pyhf", *engine, *options)
    assert ours["engine"] == "kernel"
    assert ours["twice_nll"] <= theirs["twice_nll"] + 1e-4
    return ours, theirs


def test_limits(shared: Path, tmp_path: Path) -> None:
    """See that pyhf's CLs is 0.05 at the kernel's limits, observed and median expected."""
    patches = ("--patch", EXCLUDED, "--patch", WEAK)
    limit = ("--engine", "kernel", "--limit")
    found = _run(shared, tmp_path / "limits", *limit, *patches, analysis="1Lbb")
    assert [one["engine"] for one in found] == ["kernel", "kernel"]
    reasons = {one["name"]: set(one["limit"]["reasons"]) for one in found}
    assert reasons == {EXCLUDED: set(), WEAK: set()}
    # One of them is beyond the upper bound of mu in the workspace, 5: its signal was rescaled.
    limits = {one["name"]: one["limit"] for one in found}
    assert limits[WEAK]["expected"][4] > 5
    assert limits[WEAK]["rescaled"] > 1
    assert limits[EXCLUDED]["rescaled"] == 1
    for one in found:
        observed, expected = one["limit"]["observed"], one["limit"]["expected"][2]
        mus = ("--mu", repr(observed), "--mu", repr(expected))
        patch = ("--patch", one["name"], "--engine", "pyhf")
        (other,) = _run(shared, tmp_path / one["name"], *patch, *mus, analysis="1Lbb")
        first, second = other["points"]
        assert first["CLs_obs"] == pytest.approx(0.05, abs=1e-4)
        assert second["CLs_exp"][2] == pytest.approx(0.05, abs=1e-4)


def test_a_fit(shared: Path, tmp_path: Path) -> None:
    ours, theirs = _both(shared, tmp_path, "--fit", "--patch", LOWEST)
    for one, other in zip(ours["fit"]["parameters"], theirs["fit"]["parameters"], strict=True):
        assert (one["name"], one["at_bound"]) == (other["name"], other["at_bound"])
        sigma = other["uncertainty"] or 0.1
        assert one["bestfit"] == pytest.approx(other["bestfit"], abs=2e-2 * sigma)
        if other["uncertainty"] is not None:
            assert one["uncertainty"] == pytest.approx(sigma, rel=1e-2), one["name"]


def test_toys_agree_with_the_asymptotic_formulae_where_these_hold(
    shared: Path, tmp_path: Path
) -> None:
    """At signals of several events; 2000 toys of each.

    Where a signal adds hardly any, the formulae do not hold. There toys are held against pyhf's, on
    models whose toys pyhf can fit (tests/requests/test_toys.py).
    """
    patches = ("--patch", "DS_300_1_Staus", "--patch", "DS_400_1_Staus")
    toys = ("--toys", "2000", "--seed", "1", "--engine", "kernel")
    for one in _run(shared, tmp_path / "toys", *toys, *patches):
        made = one["toys"]
        assert made["done"] == 2000
        assert made["failed"] < 40
        difference = one["CLs_obs"] - made["asymptotic"]["CLs_obs"]
        assert abs(difference) < 3 * made["CLs_obs_error"], one["name"]


@pytest.mark.slow  # pyhf fits for many minutes
def test_a_ranking(shared: Path, tmp_path: Path) -> None:
    ours, theirs = _both(shared, tmp_path, "--ranking", "--patch", LOWEST)
    ours, theirs = ours["ranking"], theirs["ranking"]
    impacts = {one["parameter"]["name"]: one for one in ours["impacts"]}
    tolerance = 1e-2 * (ours["poi"]["uncertainty"] or 1.0)
    assert len(impacts) == len(theirs["impacts"])
    for other in theirs["impacts"]:
        one = impacts[other["parameter"]["name"]]
        for end in ENDS:
            expected = other[end]
            assert one[end] == (
                None if expected is None else pytest.approx(expected, abs=tolerance)
            )
