"""A run that not one engine fitted: how many hypotheses each did, and why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from fitserve.cli import cli
from fitserve.report.content import facts
from fitserve.runs.store import read_run
from fitserve.runs.summary import engine_counts, most_common
from fitserve_contract import KERNEL_DOUBT, NOT_FOR_THE_KERNEL, Hypothesis, HypothesisResult

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def hypotheses(hypotheses: list[Hypothesis]) -> list[Hypothesis]:
    """Return the signals, and one whose Poisson constraint may reach below zero."""
    parameters = [{"name": "uncorr_bkg", "bounds": [[-1.0, 5.0], [-1.0, 5.0]]}]
    path = "/measurements/0/config/parameters"
    odd = [*hypotheses[0].patch, {"op": "replace", "path": path, "value": parameters}]
    return [*hypotheses, Hypothesis(name="odd", values=(600.0, 1.0), patch=odd)]


def test_show_and_report_count_engines_and_reasons(
    pallet_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fitserve_worker.engines import kernel_hypotest

    real = kernel_hypotest.Tested.doubts

    def doubts(tested: kernel_hypotest.Tested) -> list[str]:
        name = tested.piece.batch.members[tested.piece.members[tested.at]].name
        return ["it is odd"] if name == "S_200" else real(tested)

    monkeypatch.setattr(kernel_hypotest.Tested, "doubts", doubts)
    path = tmp_path / "run"
    command = ["run", str(pallet_directory), "-e", "inline", "--engine", "kernel", "-o", str(path)]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    shown = CliRunner().invoke(cli, ["show", str(path)]).output
    assert "fitted by:   kernel (4), pyhf/numpy/minuit (1), pyhf/numpy/scipy (1) on " in shown
    assert "doubted:     1: it is odd (the kernel's own doubt; pyhf fitted them too)" in shown
    told = json.loads(CliRunner().invoke(cli, ["show", str(path), "--json"]).stdout)
    assert told["engines"] == {"kernel": 4, "pyhf/numpy/minuit": 1, "pyhf/numpy/scipy": 1}
    assert told["kernel_doubts"] == {"it is odd": 1}
    ((reason, count),) = told["not_for_the_kernel"].items()
    assert count == 1
    assert f"pyhf for:    1: {reason}" in shown
    execution = dict(facts(read_run(path)))["Execution"]
    told = [(fact.name, fact.value) for fact in execution]
    assert ("Fitted by pyhf", f"1: {reason}") in told
    assert ("Doubted by the kernel", "1: it is odd") in told
    assert any(name == "Engines" and "kernel (4)" in value for name, value in told)


def test_many_reasons_are_not_all_told() -> None:
    results = [
        HypothesisResult(
            name=str(number),
            key="",
            mass_hypotheses=(),
            status="ok",
            reason=None,
            CLs_obs=None,
            CLs_exp=[None] * 5,
            fit_time=0.0,
            setup_time=0.0,
            engine="pyhf/numpy/scipy",
            points=[],
            diagnostics={NOT_FOR_THE_KERNEL: f"reason {number % 7}", KERNEL_DOUBT: None},
        )
        for number in range(8)
    ]
    counts = engine_counts(results)
    assert counts.engines == {"pyhf/numpy/scipy": 8}
    assert counts.kernel_doubts == {}
    lines = most_common(counts.not_for_the_kernel)
    assert lines[0] == "2: reason 0"
    assert lines[-1] == "2: for 2 other reasons"
    assert len(lines) == 6
