"""The Python interface, as a notebook uses it."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import msgspec
import pandas as pd
import pytest
from rich.console import Console

import fitserve
from fitserve.api import Run
from fitserve.endpoints.base import BackendStatus
from fitserve.export import export_run
from fitserve.runs.progress import LiveProgress
from fitserve.runs.store import read_run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def run(pallet_directory: Path, tmp_path: Path) -> Run:
    return fitserve.run(
        pallet_directory, endpoint="inline", output=tmp_path / "run", progress=False
    )


def test_a_run_has_results_a_table_and_a_short_text(run: Run) -> None:
    assert run.results["S_300"].CLs_obs == pytest.approx(0.0695, abs=1e-3)
    frame = run.to_dataframe()
    assert list(frame.columns[:4]) == ["mass_m1", "mass_m2", "mu", "status"]
    assert frame.loc["S_300", "mass_m1"] == 300
    assert frame.loc["S_300", "CLs_exp_0"] == run.results["S_300"].CLs_exp[2]
    assert repr(run) == f"<Run {run.path}: 5 ok>"
    assert f"<td>{run.results['S_300'].CLs_obs:.4g}</td>" in run._repr_html_()


def test_old_names_of_columns_are_kept_until_version_1(run: Run) -> None:
    frame = run.to_dataframe()
    for old, name in {"m1": "mass_m1", "m2": "mass_m2", "CLs_exp": "CLs_exp_0"}.items():
        assert frame[old].tolist() == frame[name].tolist()
    assert {"twice_delta_nll", "muhat", "reason", "fit_time"} <= set(frame.columns)


def test_the_table_has_the_columns_of_an_export(run: Run, tmp_path: Path) -> None:
    export_run(run.manifest, run.results, "csv", tmp_path / "run.csv")
    exported = pd.read_csv(tmp_path / "run.csv", index_col="name")
    frame = run.to_dataframe()
    assert list(exported.columns) == list(frame.columns[: len(exported.columns)])
    numbers = list(exported.select_dtypes("number").columns)
    pd.testing.assert_frame_equal(exported[numbers], frame[numbers], check_dtype=False, rtol=1e-12)


def test_a_label_that_is_a_column_s_name_is_no_other_name_of_a_mass(run: Run) -> None:
    run.saved.manifest.pallet.labels[:] = ["mu", "m2"]
    frame = run.to_dataframe()
    assert frame.loc["S_300", "mu"] == 1.0
    assert frame.loc["S_300", "mass_mu"] == 300


def test_what_is_not_known_is_not_a_number_in_the_table(run: Run) -> None:
    saved = read_run(run.path)
    record = saved.records["S_100"]
    broken = msgspec.structs.replace(
        record.result, status="failed", reason="<b>", CLs_obs=None, CLs_exp=[None] * 5, points=[]
    )
    saved.records["S_100"] = msgspec.structs.replace(record, result=broken)
    del saved.records["S_500"]
    frame = Run(saved).to_dataframe()
    assert math.isnan(frame.loc["S_100", "CLs_obs"])
    assert "S_500" not in frame.index
    assert "unfinished" in Run(saved)._repr_html_()


def test_names_in_a_notebook_are_text_not_markup(run: Run) -> None:
    saved = read_run(run.path)
    saved.manifest = msgspec.structs.replace(
        saved.manifest, hypotheses=["<script>"], values={"<script>": (1.0,)}
    )
    assert "<script>" not in Run(saved)._repr_html_()


def test_a_contour_is_a_figure_and_a_file(run: Run, tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    figure = run.contour(tmp_path / "contour.svg")
    assert figure.axes
    assert (tmp_path / "contour.svg").read_text().startswith("<?xml")
    plt.close("all")


def test_a_run_is_opened_and_resumed_by_its_path(run: Run) -> None:
    assert fitserve.open_run(run.path).results == run.results
    assert fitserve.resume(run.path, progress=False).results == run.results


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        _ = fitserve.nothing
    assert "run" in dir(fitserve)


def test_progress_tells_starting_from_waiting_and_fitting(run: Run) -> None:
    text = io.StringIO()
    records = list(read_run(run.path).records.values())
    failed = msgspec.structs.replace(
        records[0], result=msgspec.structs.replace(records[0].result, status="failed")
    )
    with LiveProgress(5, 0, Console(file=text, width=120)) as progress:
        progress.status(BackendStatus("starting", 0, "starting the local engine"))
        progress.status(BackendStatus("waiting", 0, "waiting for the first worker"))
        progress.status(BackendStatus("running", 2, "2 workers"))
        progress.trouble("a worker was lost")
        progress.finished([failed, *records[1:]])
    shown = text.getvalue().splitlines()
    assert shown == [
        "starting the local engine",
        "waiting for the first worker",
        "fitting on 2 workers",
        "! a worker was lost",
        "5 of 5 hypotheses are done",
    ]


def test_progress_on_a_terminal_counts_and_estimates(run: Run) -> None:
    text = io.StringIO()
    records = list(read_run(run.path).records.values())
    console = Console(file=text, width=150, force_terminal=True)
    with LiveProgress(10, 0, console) as progress:
        progress.status(BackendStatus("running", 2, "2 workers"))
        progress.finished(records)
        progress.status(BackendStatus("running", 2, "2 workers"))
    assert "5/10" in text.getvalue()
    assert "left" in text.getvalue()
