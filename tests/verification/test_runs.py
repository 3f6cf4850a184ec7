"""Which hypotheses a run has verified, and what its user sees of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest
from click.testing import CliRunner, Result

from fitserve import api
from fitserve.backends import Limits
from fitserve.cli import cli
from fitserve.contract import FitRequest, HypotestRequest, Hypothesis, Verification, decode_task
from fitserve.errors import RequestError
from fitserve.plan import Verify, encode_planned, make_plan
from fitserve.report import render_report
from fitserve.store import read_run
from fitserve.verification import chosen_to_verify, verification_summary

if TYPE_CHECKING:
    from pathlib import Path

GRID = [
    Hypothesis(name=f"S_{i}", values=(float(i),), patch=[{"op": "test", "path": "", "value": i}])
    for i in range(125)
]


def _chosen(fraction: float, grid: list[Hypothesis] = GRID) -> list[str]:
    return chosen_to_verify("0" * 64, grid, fraction, HypotestRequest())


def _cli(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("fraction", "count"), [(0, 0), (1e-6, 1), (0.05, 7), (0.08, 10), (0.5, 63), (1, 125)]
)
def test_the_fraction_is_rounded_up(fraction: float, count: int) -> None:
    assert len(_chosen(fraction)) == count


def test_the_choice_depends_on_the_patches_alone() -> None:
    mixed = [*GRID[60:], *reversed(GRID[:60])]
    renamed = [msgspec.structs.replace(one, name=f"x{one.name}") for one in GRID]
    assert set(_chosen(0.2, mixed)) == set(_chosen(0.2))
    assert _chosen(0.2, renamed) == [f"x{name}" for name in _chosen(0.2)]
    assert set(_chosen(0.2)) < set(_chosen(0.3))
    # It is neither the first ones nor every n-th.
    assert _chosen(0.2) != [one.name for one in GRID[:25]]


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_is_between_0_and_1(fraction: float) -> None:
    with pytest.raises(RequestError, match="between 0 and 1"):
        _chosen(fraction)


def test_a_request_without_cls_cannot_be_verified(pallet_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no asymptotic CLs to verify"):
        chosen_to_verify("0" * 64, GRID, 0.1, FitRequest())
    done = _cli("run", pallet_directory, "--fit", "--verify", 1, "-o", tmp_path / "run")
    assert done.exit_code == 4
    assert not (tmp_path / "run").exists()


def test_what_is_verified_is_planned_first_and_takes_longer(workspace: dict) -> None:
    limits = Limits(task_bytes=10**7, outstanding=10, workers=2)
    verify = _chosen(0.05)
    plain = make_plan(workspace, GRID, HypotestRequest(), limits=limits, staged=True)
    plan = make_plan(workspace, GRID, HypotestRequest(), limits=limits, staged=True, verify=verify)
    order = [one.name for task in plan.tasks for one in task.hypotheses]
    assert order[: len(verify)] == verify
    assert sorted(order) == sorted(one.name for one in GRID)
    assert plan.cpu_seconds > 10 * plain.cpu_seconds
    text = encode_planned(GRID[:3], "0" * 64, workspace, HypotestRequest(), verify=Verify(["S_1"]))
    assert decode_task(text).verify == ["S_1"]


def test_a_run_verifies_and_tells(pallet_directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    options = ("-e", "inline", "-o", path, "--verify", 0.4)
    done = _cli("run", pallet_directory, *options)
    assert done.exit_code == 0, done.output
    assert "verified:    2 of 5 with pyhf: largest |delta CLs|" in done.output
    results = json.loads((path / "results.json").read_text())
    verified = [name for name, one in results.items() if one["verification"]]
    assert verified == read_run(path).manifest.verify
    assert all(results[name]["verification"]["largest"] < 1e-4 for name in verified)
    told = json.loads(_cli("show", path, "--json").output)["verification"]
    assert (told["verified"], told["of"], told["beyond"]) == (2, 5, [])
    assert told["largest"] == max(results[name]["verification"]["largest"] for name in verified)
    page = render_report(read_run(path))
    assert "Verified with pyhf" in page
    assert "2 of 5 hypotheses" in page


def _fitted(path: Path) -> dict[str, float]:
    return {name: record.arrived for name, record in read_run(path).records.items()}


def test_asking_again_with_verify_fits_the_chosen_ones_only(
    pallet_directory: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    options = {"endpoint": "inline", "output": path, "progress": False}
    first = api.run(pallet_directory, **options)
    before = _fitted(path)
    run = api.run(pallet_directory, verify=0.4, **options)
    after = _fitted(path)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == set(run.manifest.verify)
    assert len(changed) == 2
    for name, one in run.results.items():
        assert one.key == first.results[name].key
        assert one.CLs_obs == first.results[name].CLs_obs
        assert bool(one.verification) == (name in changed)
    # What is verified is not verified again, and stays so without being asked.
    again = api.run(pallet_directory, **options)
    assert _fitted(path) == after
    assert again.manifest.verify == run.manifest.verify


def test_another_run_takes_over_what_was_verified(pallet_directory: Path, tmp_path: Path) -> None:
    options = {"endpoint": "inline", "progress": False}
    plain = api.run(pallet_directory, output=tmp_path / "plain", **options)
    run = api.run(pallet_directory, output=tmp_path / "first", verify=0.4, **options)
    reused = {n: r.reused_from for n, r in read_run(run.path).records.items()}
    assert {n for n, source in reused.items() if source is None} == set(run.manifest.verify)
    assert {source for source in reused.values() if source} == {str(plain.path)}
    more = api.run(pallet_directory, output=tmp_path / "second", verify=0.2, **options)
    assert all(record.reused_from for record in read_run(more.path).records.values())
    assert all(more.results[name].verification for name in more.manifest.verify)


def test_a_resumed_run_verifies_what_was_asked(pallet_directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    run = api.run(pallet_directory, verify=0.6, endpoint="inline", output=path, progress=False)
    journal = path / "results.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[3:]))
    resumed = api.resume(path, progress=False)
    assert [name for name, one in resumed.results.items() if one.verification] == (
        run.manifest.verify
    )
    assert len(run.manifest.verify) == 3


def test_what_pyhf_disputes_or_cannot_say_is_shown(build_run, save_run, tmp_path: Path) -> None:
    manifest, results = build_run(
        {f"S_{i}": ((float(i), 1.0), 0.1 * i, None) for i in (1, 2, 3, 4)}
    )
    for name, largest, reason in (
        ("S_1", 2e-5, None),
        ("S_2", 0.3, None),
        ("S_3", None, "the optimizer reports that it failed"),
    ):
        verification = Verification(
            engine="pyhf/numpy/scipy",
            largest=largest,
            tolerance=1e-4,
            points=[],
            seconds=1.0,
            reason=reason,
        )
        results[name] = msgspec.structs.replace(results[name], verification=verification)
    found = verification_summary(results)
    assert (found["verified"], found["of"]) == (2, 4)
    assert (found["largest"], found["hypothesis"], found["beyond"]) == (0.3, "S_2", ["S_2"])
    assert found["unverified"] == {"S_3": "the optimizer reports that it failed"}
    run = save_run(tmp_path / "run", manifest, results)
    done = _cli("show", run.path)
    assert "verified:    2 of 4 with pyhf: largest |delta CLs| 0.3 (S_2)" in done.output
    assert "1 of them differ from pyhf by more than 0.0001" in done.output
    assert "S_3 could not be verified: the optimizer reports that it failed" in done.output
    page = render_report(run)
    assert "beyond 0.0001: S_2" in page
    assert "S_3: the optimizer reports that it failed" in page
    assert verification_summary({"S_4": results["S_4"]}) == {}
