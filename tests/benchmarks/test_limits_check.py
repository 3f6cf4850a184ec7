"""Limits on own signals beside pyhf's root scan, on a background that is made here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

LUMI = {"name": "lumi", "auxdata": [1.0], "sigmas": [0.02], "inits": [1.0], "bounds": [[0.5, 1.5]]}


@pytest.fixture
def background(tmp_path: Path) -> Path:
    """Write a workspace without a signal: two bins of a signal region, and a control region."""

    def channel(name: str, events: list[float]) -> dict[str, Any]:
        modifiers = [
            {"name": "norm", "type": "normfactor", "data": None},
            {"name": "JES", "type": "normsys", "data": {"lo": 0.9, "hi": 1.15}},
        ]
        sample = {"name": "background", "data": events, "modifiers": modifiers}
        return {"name": name, "samples": [sample]}

    workspace = {
        "channels": [channel("SR", [6.0, 2.0]), channel("CR", [80.0])],
        "observations": [{"name": "SR", "data": [7, 1]}, {"name": "CR", "data": [90]}],
        "measurements": [{"name": "m", "config": {"poi": "mu_SIG", "parameters": [LUMI]}}],
        "version": "1.0.0",
    }
    path = tmp_path / "background.json"
    path.write_text(json.dumps(workspace))
    return path


def test_signals_are_in_the_signal_regions_and_of_their_size(
    benchmark_module: Callable[[str], ModuleType], background: Path
) -> None:
    module = benchmark_module("limits_check")
    made = module.signals(str(background), [0.5, 2.0])
    for size, yields in zip([0.5, 2.0], made.values(), strict=True):
        assert set(yields) == {"SR"}
        first, second = yields["SR"]
        assert first**2 / 7 + second**2 / 3 == pytest.approx(size**2)


@pytest.mark.slow
def test_limits_agree_with_pyhf_for_weak_and_strong_signals(
    benchmark_module: Callable[[str], ModuleType], background: Path
) -> None:
    module = benchmark_module("limits_check")
    rows = module.check(str(background), [0.05, 2.0, 50.0], 300)
    assert [row["status"] for row in rows] == ["ok"] * 3
    # The weakest signal's limit is beyond the bounds, and it is rescaled.
    assert rows[0]["fitserve"][0] > 10
    assert rows[0]["rescaled"] > 1
    for row in rows:
        # Both have a limit to 1e-5 of itself where the curve is smooth; pyhf's fits are looser.
        assert row["differences"] == pytest.approx([0] * 6, abs=2e-4)
        assert max(map(abs, row["above"].values())) < 1e-4
        assert "**" not in module.line(row)
