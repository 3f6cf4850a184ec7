"""Limits, fits and rankings of a published analysis by the kernel, held against pyhf's."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# Of staus: an excluded hypothesis, and one that has only some of its limits within the bounds.
EXCLUDED, WEAK = "DS_200_1_Staus", "DS_280_200_Staus"
ENDS = ("postfit_up", "postfit_down", "prefit_up", "prefit_down")

pytestmark = [pytest.mark.published, pytest.mark.timeout(3600)]


def _both(shared: Path, directory: Path, *options: str) -> list[tuple[dict, dict]]:
    """Return the answers of the kernel and of pyhf to what the options ask for."""
    answers = []
    for engine in ("kernel", "pyhf"):
        output = directory / engine
        done = subprocess.run(
            [
                *(sys.executable, "-m", "fitserve", "run", shared / "pallets" / "staus.tar.xz"),
                *("--output", output, "--engine", engine, "--optimizer", "minuit", *options),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads((output / "results.json").read_text())
        answers.append(list(found.values()))
    pairs = list(zip(*answers, strict=True))
    for ours, theirs in pairs:
        assert (ours["status"], ours["engine"]) == ("ok", "kernel"), ours["reason"]
        assert theirs["status"] == "ok", theirs["reason"]
        assert ours["twice_nll"] <= theirs["twice_nll"] + 1e-4
    return pairs


def test_limits(shared: Path, tmp_path: Path) -> None:
    pairs = _both(shared, tmp_path, "--limit", "--patch", EXCLUDED, "--patch", WEAK)
    assert len(pairs) == 2
    for ours, theirs in ((one["limit"], other["limit"]) for one, other in pairs):
        assert ours["reasons"].keys() == theirs["reasons"].keys()
        for one, other in zip(
            (ours["observed"], *ours["expected"]),
            (theirs["observed"], *theirs["expected"]),
            strict=True,
        ):
            assert one == (None if other is None else pytest.approx(other, rel=1e-3))


def test_a_fit(shared: Path, tmp_path: Path) -> None:
    ((ours, theirs),) = _both(shared, tmp_path, "--fit", "--patch", EXCLUDED)
    for one, other in zip(ours["fit"]["parameters"], theirs["fit"]["parameters"], strict=True):
        assert (one["name"], one["at_bound"]) == (other["name"], other["at_bound"])
        sigma = other["uncertainty"] or 0.1
        assert one["bestfit"] == pytest.approx(other["bestfit"], abs=2e-2 * sigma)
        if other["uncertainty"] is not None:
            assert one["uncertainty"] == pytest.approx(sigma, rel=1e-2), one["name"]


def test_a_ranking(shared: Path, tmp_path: Path) -> None:
    ((ours, theirs),) = _both(shared, tmp_path, "--ranking", "--patch", EXCLUDED)
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
