"""Toys: by both engines, in any parts, interrupted and resumed, against the asymptotics."""

from __future__ import annotations

import copy
import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyhf
import pytest
from click.testing import CliRunner

import fitserve as package
import fitserve_worker
from fitserve import api
from fitserve.cli import cli
from fitserve.endpoints.inline import InlineBackend
from fitserve.errors import ContractError, InterruptedRunError, RequestError
from fitserve.kinds.toys import COLUMNS as TOY_COLUMNS
from fitserve.kinds.toys import merged, missing_toys
from fitserve.report.content import columns, rows
from fitserve.runs.estimate import seconds_per_hypothesis
from fitserve.runs.plan import Bounds
from fitserve.runs.store import read_run
from fitserve_contract import (
    EngineOptions,
    Task,
    ToyRange,
    ToysRequest,
    cls_strengths,
    decode_result,
    digest,
    encode_task,
    kind_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fitserve.endpoints.base import Outcome
    from fitserve_contract import Hypothesis, HypothesisResult

    Ask = Callable[..., HypothesisResult]
    Toys = Callable[..., HypothesisResult]

KERNEL, PYHF = EngineOptions(engine="kernel"), EngineOptions(engine="pyhf")


@pytest.fixture(scope="session")
def make_toys(spec: dict[str, Any], make_signal: Callable[..., Hypothesis]) -> Toys:
    """Return a function that has the worker make a part of the toys of a request."""

    def make(
        request: ToysRequest,
        toys: ToyRange | None = None,
        workspace: dict[str, Any] | None = None,
        others: int = 0,
        hypothesis: Hypothesis | None = None,
    ) -> HypothesisResult:
        content = workspace or spec
        hypotheses = [make_signal(0.5 + i, name=f"other{i}") for i in range(others)]
        task = Task(
            workspace_digest=digest(content),
            workspace=content,
            hypotheses=[*hypotheses, hypothesis or make_signal()],
            request=request,
            toys=toys,
        )
        results = decode_result(fitserve_worker.run(encode_task(task))).results
        return next(one for one in results if one.name == "S")

    return make


def _q(result: HypothesisResult) -> tuple[np.ndarray, np.ndarray]:
    values = result.toy_values
    signal, background = (np.frombuffer(v, "<f4") for v in (values.signal, values.background))
    return signal, background


@pytest.fixture(scope="session")
def large() -> dict[str, Any]:
    """Return a workspace with thousands of events in each bin."""
    uncorrelated = {"name": "uncorr", "type": "shapesys", "data": [30.0, 40.0, 30.0]}
    norm = {"name": "norm", "type": "normsys", "data": {"hi": 1.05, "lo": 0.95}}
    stat = {"name": "stat", "type": "staterror", "data": [50.0]}
    region = {"name": "b", "data": [5000.0, 5200.0, 3000.0], "modifiers": [uncorrelated, norm]}
    control = {"name": "b", "data": [20000.0], "modifiers": [norm, stat]}
    return {
        "channels": [{"name": "SR", "samples": [region]}, {"name": "CR", "samples": [control]}],
        "observations": [
            {"name": "SR", "data": [5020.0, 5260.0, 3010.0]},
            {"name": "CR", "data": [20050.0]},
        ],
        "measurements": [{"name": "main", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }


def test_toys_agree_with_the_asymptotics_where_counts_are_large(
    large: dict[str, Any], make_signal: Callable[..., Hypothesis], make_toys: Toys
) -> None:
    request = ToysRequest(toys=3000, seed=4, engine=KERNEL)
    strong = make_signal(12.0)
    found = merged(request, [make_toys(request, workspace=large, hypothesis=strong)])
    toys = found.toys
    assert found.status == "ok"
    assert 0.01 < toys.asymptotic.CLs_obs < 0.9
    assert found.CLs_obs == pytest.approx(toys.asymptotic.CLs_obs, abs=3 * toys.CLs_obs_error)
    # At +2 sigma the best fit is above the tested signal strength: CLs by toys is one.
    assert found.CLs_exp[4] == 1
    for at in range(1, 4):
        error = 3 * toys.CLs_exp_error[at]
        assert found.CLs_exp[at] == pytest.approx(toys.asymptotic.CLs_exp[at], abs=error)
    # An error that is as large as the value would agree with anything.
    assert toys.CLs_obs_error < 0.15 * found.CLs_obs


def test_toys_agree_with_pyhf_s_own(make_toys: Toys, model: tuple) -> None:
    made, data = model
    request = ToysRequest(toys=3000, seed=4, engine=KERNEL)
    found = merged(request, [make_toys(request)])
    pyhf.set_backend("numpy", "scipy")
    np.random.seed(12)  # noqa: NPY002 - what pyhf samples with
    calculator = pyhf.infer.calculators.ToyCalculator(data, made, ntoys=100, track_progress=False)
    signal, background = calculator.distributions(1.0)
    observed = float(calculator.teststatistic(1.0))
    assert found.toys.observed == pytest.approx(observed, abs=1e-3)
    clsb, clb, _ = calculator.pvalues(observed, signal, background)
    for ours, theirs, error in (
        (found.toys.CLsb_obs, float(clsb), found.toys.CLsb_obs_error),
        (found.toys.CLb_obs, float(clb), found.toys.CLb_obs_error),
    ):
        both = np.hypot(error, np.sqrt(max(theirs, 1e-2) * (1 - theirs) / 100))
        assert ours == pytest.approx(theirs, abs=3 * both)
    for mine, reference in zip(
        (found.toys.signal, found.toys.background), (signal, background), strict=True
    ):
        zero = float((np.asarray(reference.samples) <= 0).mean())
        both = np.sqrt(max(zero * (1 - zero), 1e-2) * (1 / 100 + 1 / 3000))
        assert mine.zero / 3000 == pytest.approx(zero, abs=3 * both)


def test_both_engines_make_and_fit_the_same_toys(make_toys: Toys) -> None:
    part = ToyRange(first=7, count=8)
    by_kernel = make_toys(ToysRequest(toys=20, seed=2, engine=KERNEL), part)
    by_pyhf = make_toys(ToysRequest(toys=20, seed=2, engine=PYHF), part)
    assert (by_kernel.engine, by_pyhf.engine) == ("kernel", "pyhf/numpy/scipy")
    for ours, theirs in zip(_q(by_kernel), _q(by_pyhf), strict=True):
        assert len(ours) == part.count
        assert (ours > 0).any()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
    first, second = by_kernel.toy_values, by_pyhf.toy_values
    assert first.observed == pytest.approx(second.observed, abs=1e-3)
    assert first.asymptotic.CLs_obs == pytest.approx(second.asymptotic.CLs_obs, abs=1e-4)


@pytest.mark.parametrize("engine", [KERNEL, PYHF], ids=["kernel", "pyhf"])
def test_toys_are_the_same_to_the_bit_in_any_part(make_toys: Toys, engine: EngineOptions) -> None:
    toys = 90 if engine is KERNEL else 3
    request = ToysRequest(toys=toys, seed=2, engine=engine)
    whole = _q(make_toys(request))
    cuts = [0, toys // 7, toys // 2, toys]
    ranges = [ToyRange(first=a, count=b - a) for a, b in pairwise(cuts) if b > a]
    # Later ones first, and with other hypotheses in the task.
    parts = [_q(make_toys(request, one, others=2 * (engine is KERNEL))) for one in ranges[::-1]]
    for side in (0, 1):
        joined = np.concatenate([part[side] for part in parts[::-1]])
        np.testing.assert_array_equal(joined, whole[side])
    other = _q(make_toys(msgspec.structs.replace(request, seed=3)))
    assert not np.array_equal(other[0], whole[0])


def test_a_hypothesis_that_the_kernel_does_not_fit_is_pyhf_s(
    spec: dict[str, Any], make_toys: Toys
) -> None:
    strange = copy.deepcopy(spec)
    strange["measurements"][0]["config"]["parameters"] = [
        {"name": "uncorr", "bounds": [[-1.0, 5.0]] * 3}
    ]
    found = make_toys(ToysRequest(toys=2, engine=KERNEL), workspace=strange)
    assert "reaches below zero" in found.diagnostics["not for the kernel"]
    assert found.engine.startswith("pyhf")


def test_a_patch_that_does_not_apply_is_a_failure_with_its_reason(
    spec: dict[str, Any], make_signal: Callable[..., Hypothesis]
) -> None:
    wrong = msgspec.structs.replace(make_signal(), patch=[{"op": "remove", "path": "/channels/9"}])
    for engine in (KERNEL, PYHF):
        task = Task(
            workspace_digest=digest(spec),
            workspace=spec,
            hypotheses=[wrong, make_signal(name="good")],
            request=ToysRequest(toys=2, engine=engine),
        )
        results = decode_result(fitserve_worker.run(encode_task(task))).results
        by_name = {one.name: one for one in results}
        assert by_name["S"].status == "failed"
        assert by_name["S"].toy_values is None
        assert by_name["good"].toy_values is not None


class Interrupted(InlineBackend):
    """An inline backend that is interrupted after so many tasks, and counts them."""

    limits = InlineBackend.limits._replace(outstanding=1)

    def __init__(self, after: int | None = None) -> None:
        super().__init__()
        self.left = after
        self.done = 0

    def outcomes(self, timeout: float) -> list[Outcome]:
        if self.left is not None and self.done >= self.left:
            raise KeyboardInterrupt
        found = super().outcomes(timeout)
        self.done += len(found)
        return found


@pytest.fixture
def runs(
    pallet_directory: Path,
    workspace: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., api.Run]:
    """Return a function that runs 40 toys of two hypotheses, so many in each task."""
    request = api.make_request(kind="toys", toys=40, seed=9, engine="kernel")
    each = seconds_per_hypothesis(workspace, request) / 40

    def run(name: str, part: int, *, after: int | None = None) -> api.Run:
        monkeypatch.setattr(api, "open_backend", lambda *_: Interrupted(after))
        return api.run(
            pallet_directory,
            patches=["S_300", "S_400"],
            request=request,
            output=tmp_path / name,
            bounds=Bounds(seconds=(part + 0.5) * each),
            refit=True,
            progress=False,
        )

    return run


def test_how_a_run_is_cut_has_no_effect_on_its_results(runs: Callable[..., api.Run]) -> None:
    whole, cut = runs("whole", 1000), runs("cut", 7)
    submitted = [e.details for e in read_run(cut.path).events() if e.event == "submitted"]
    assert len(submitted) == 12
    assert all(details["toys"][1] <= 7 for details in submitted)
    for name in ("S_300", "S_400"):
        ours, theirs = cut.results[name], whole.results[name]
        # But for times, all numbers are the same.
        assert ours.toys == theirs.toys
        assert (ours.CLs_obs, ours.CLs_exp) == (theirs.CLs_obs, theirs.CLs_exp)
        assert (ours.key, ours.muhat, ours.status) == (theirs.key, theirs.muhat, theirs.status)
        assert ours.toys.done == 40
    assert cut.results["S_300"].toys.signal != cut.results["S_400"].toys.signal


def test_a_run_goes_on_with_the_toys_that_are_missing(
    runs: Callable[..., api.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = runs("whole", 1000)
    with pytest.raises(InterruptedRunError):
        runs("half", 7, after=3)
    half = read_run(tmp_path / "half")
    assert half.unfinished == ["S_300", "S_400"]
    partial = half.partial()["S_300"]
    done = partial.toys.done
    assert 0 < done < 40
    assert partial.status == "suspect"
    assert partial.reason.startswith(f"{done} of 40 toys are done")

    shown = CliRunner().invoke(cli, ["show", str(half.path)])
    assert f"{done} of 40" in shown.output
    assert "unfinished" in shown.output
    as_json = json.loads(CliRunner().invoke(cli, ["show", str(half.path), "--json"]).stdout)
    assert as_json["partial"] == {"S_300": partial.reason}
    assert [row.status for row in rows(half)] == ["unfinished", "unfinished"]

    backend = Interrupted()
    monkeypatch.setattr(api, "open_backend", lambda *_: backend)
    resumed = api.resume(half.path, bounds=Bounds(seconds=1e6), progress=False)
    # What had been sent, the rest of that hypothesis, and the other as a whole.
    assert backend.done == 3
    assert resumed.unfinished == []
    for name, found in whole.results.items():
        assert resumed.results[name].toys == found.toys
        assert resumed.results[name].CLs_exp == found.CLs_exp
    assert read_run(half.path).partial() == {}


def test_a_refit_begins_without_the_old_parts(runs: Callable[..., api.Run], tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        runs("run", 7, after=3)
    finished = runs("run", 1000)
    assert finished.unfinished == []
    parts = [
        json.loads(line) for line in (tmp_path / "run" / "toys.jsonl").read_text().splitlines()
    ]
    assert sorted(part["result"]["toy_values"]["toys"]["count"] for part in parts) == [40, 40]
    assert len(list((tmp_path / "run").glob("toys-until-*.jsonl"))) == 1


def test_an_answer_of_other_toys_is_refused(
    runs: Callable[..., api.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Confused(InlineBackend):
        def submit(self, ticket: str, task: str) -> None:
            from fitserve_contract import decode_task

            asked = decode_task(task)
            other = ToyRange(first=asked.toys.first, count=asked.toys.count - 1)
            super().submit(ticket, encode_task(msgspec.structs.replace(asked, toys=other)))

    monkeypatch.setattr(f"{__name__}.Interrupted", lambda _: Confused())
    with pytest.raises(ContractError, match="does not fit its task"):
        runs("run", 1000)


@pytest.fixture
def fitserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FITSERVE_ENDPOINT", raising=False)

    def run(*words: object) -> Any:
        result = CliRunner().invoke(cli, [str(word) for word in words])
        assert "Traceback" not in result.output
        return result

    return run


def test_toys_from_the_command_line_to_picture_table_and_report(
    fitserve: Callable[..., Any], pallet_directory: Path, tmp_path: Path
) -> None:
    made = fitserve(
        "run", pallet_directory, "-e", "inline", "--patch", "S_300", "--toys", 30, "--seed", 5,
        "--mu", 1.5, "--engine", "kernel", "-o", "r",
    )  # fmt: skip
    assert made.exit_code == 0
    assert "toys 30 with and 30 without signal, signal strength 1.5, seed 5" in made.output
    assert "toy CLs obs" in made.output
    assert "asymptotic obs" in made.output
    result = json.loads((tmp_path / "r" / "results.json").read_text())["S_300"]
    assert result["toys"]["done"] == 30
    assert result["toys"]["mu"] == result["points"][0]["mu"] == 1.5
    assert result["toy_values"] is None
    assert 0 <= result["CLs_obs"] <= 1

    fitserve("export", "r", "--format", "csv", "-o", "table.csv")
    header, row, *rest = (tmp_path / "table.csv").read_text().splitlines()
    assert rest == []
    cells = dict(zip(header.split(","), row.split(","), strict=True))
    assert set(TOY_COLUMNS) < set(cells)
    assert float(cells["CLs_obs"]) == pytest.approx(result["CLs_obs"])
    assert float(cells["CLs_obs_error"]) == pytest.approx(result["toys"]["CLs_obs_error"])

    drawn = fitserve("plot", "toys", "r", "-o", "toys.png")
    assert drawn.exit_code == 0
    assert (tmp_path / "toys.png").stat().st_size > 10_000
    assert fitserve("report", "r", "-o", "r.html").exit_code == 0
    page = (tmp_path / "r.html").read_text()
    assert "30 with and 30 without signal" in page
    titles = [title for title, _ in columns(read_run(tmp_path / "r"))]
    assert titles[:2] == ["toys", "failed"]
    assert len(rows(read_run(tmp_path / "r"))[0].cells) == len(titles)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seed", 3], "--seed goes with --toys"),
        (["--toys", 5, "--limit"], "--limit and --toys are two requests"),
        (["--toys", 5, "--mu", 1, "--mu", 2], "toys are made at one --mu"),
        (["--toys", 0], "0 is not in the range"),
        (["--toys", 5, "--level", 0.9], "--level does not go with --toys"),
        (["--toys", 5, "--mu", 11], "outside the bounds"),
        (["--toys", 5, "--verify", 0.5], "no asymptotic CLs to verify"),
    ],
)
def test_what_does_not_fit_together_is_told(
    words: list[object], told: str, fitserve: Callable[..., Any], pallet_directory: Path
) -> None:
    result = fitserve("run", pallet_directory, "-e", "inline", "-o", "r", *words)
    assert result.exit_code in (2, 4)
    assert told in result.output


def test_a_request_for_toys_is_one_of_the_contract() -> None:
    request = package.make_request(kind="toys", toys=7, seed=3, mu=0.5)
    assert request == ToysRequest(toys=7, seed=3, mu=0.5)
    assert kind_of(request) == "toys"
    assert cls_strengths(request) == (0.5,)
    for wrong in ({"toys": 0}, {"seed": -1}, {"seed": 2**60}, {"mu": [1.0, 2.0]}):
        with pytest.raises(RequestError, match="not understood"):
            package.make_request(**{"kind": "toys", **wrong})
    assert missing_toys(7, []) == [ToyRange(first=0, count=7)]
