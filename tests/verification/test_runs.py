"""Which hypotheses a run has verified, and what its user sees of it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import msgspec
import pytest
from click.testing import CliRunner, Result

from fitserve import api
from fitserve.cli import cli
from fitserve.endpoints.base import Costs, Limits, Outcome
from fitserve.endpoints.inline import InlineBackend
from fitserve.errors import BackendError, RequestError
from fitserve.report import render_report
from fitserve.runs import complete
from fitserve.runs.drive import pending_tasks
from fitserve.runs.estimate import seconds_to_verify
from fitserve.runs.plan import Verify, encode_planned, make_plan, plan_verification
from fitserve.runs.store import RunStore, read_run
from fitserve.runs.verification import (
    affordable_sample,
    chosen_to_verify,
    verification_summary,
    with_verdict,
)
from fitserve_contract import (
    EngineOptions,
    FitRequest,
    HypotestRequest,
    Hypothesis,
    Verification,
    decode_task,
)
from fitserve_worker import entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fitserve.runs.drive import Claims
    from fitserve_contract import HypothesisResult
    from fitserve_worker.engines.base import Work

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


LIMITS = Limits(task_bytes=10**7, outstanding=10, workers=2)


def test_verifying_is_planned_and_takes_longer(workspace: dict, build_run) -> None:
    plan = make_plan(workspace, GRID, HypotestRequest(), limits=LIMITS, staged=True)
    few = [one for one in GRID if one.name in _chosen(0.05)]
    tasks = plan_verification(workspace, few, HypotestRequest(), limits=LIMITS, staged=True)
    assert [one for task in tasks for one in task.hypotheses] == few
    assert sum(task.seconds for task in tasks) > 10 * plan.cpu_seconds
    result = build_run({"S_1": ((1.0,), 0.1, None)})[1]["S_1"]
    verify = Verify([result], ["S_1"])
    task = decode_task(
        encode_planned(GRID[1:2], "0" * 64, workspace, HypotestRequest(), verify=verify)
    )
    assert (task.verify, task.doubted) == ([result], ["S_1"])


def _sample(workspace: dict, count: int, limits: Limits, request: object = None) -> list[str]:
    return affordable_sample(
        workspace, "0" * 64, GRID[:count], request or HypotestRequest(), limits
    )


def test_a_small_sample_is_verified_where_nobody_says_how_many(workspace: dict) -> None:
    for count, expected in ((0, 0), (1, 1), (50, 1), (51, 2), (125, 3)):
        sample = _sample(workspace, count, LIMITS)
        assert len(sample) == expected
        assert sample == _chosen(0.02, GRID[:count])
    # There are no CLs to verify.
    assert _sample(workspace, 125, LIMITS, FitRequest()) == []
    assert _sample(workspace, 125, LIMITS, HypotestRequest(mu=(0.0,))) == []


def test_the_sample_is_what_pyhf_does_in_the_time_of_the_run(workspace: dict) -> None:
    heavy = json.loads(json.dumps(workspace))
    modifiers = heavy["channels"][0]["samples"][0]["modifiers"]
    modifiers += [
        {"name": f"n{i}", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}} for i in range(120)
    ]
    each = seconds_to_verify(heavy, HypotestRequest())
    costs = Costs(client=1.5 * each)
    # As many as each worker does in one and a half times of what one takes.
    assert len(_sample(heavy, 125, LIMITS._replace(costs=costs))) == LIMITS.workers < 3
    assert len(_sample(heavy, 125, LIMITS._replace(costs=costs, workers=3))) == 3
    assert _sample(heavy, 125, LIMITS._replace(costs=costs, workers=1)) == _chosen(1e-6)
    # What takes longer than the run is left out, and waiting in a queue is no part of that.
    quick = Costs(client=0.5 * each)
    for costs in (quick, quick._replace(queue=100 * each)):
        assert _sample(heavy, 125, LIMITS._replace(costs=costs)) == []
    slow = HypotestRequest(engine=EngineOptions(engine="pyhf"))
    assert len(_sample(heavy, 125, LIMITS._replace(costs=quick), slow)) == 3


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
    summary = json.loads(_cli("show", path, "--json").output)["verification"]
    assert (summary["verified"], summary["of"], summary["beyond"]) == (2, 5, [])
    assert summary["largest"] == max(results[name]["verification"]["largest"] for name in verified)
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
    first = api.run(pallet_directory, verify=0, **options)
    before = _fitted(path)
    run = api.run(pallet_directory, verify=0.4, **options)
    assert len(run.manifest.verify) == 2
    # Nothing is fitted again, and every number stays.
    assert _fitted(path) == before
    for name, one in run.results.items():
        plain = msgspec.structs.replace(one, verification=None)
        assert plain == first.results[name]
        assert bool(one.verification) == (name in run.manifest.verify)
    # What is verified is not verified again, and stays so with verify=0.
    lines = (path / "results.jsonl").read_bytes()
    again = api.run(pallet_directory, verify=0, **options)
    assert (path / "results.jsonl").read_bytes() == lines
    assert again.manifest.verify == run.manifest.verify


def test_another_run_takes_over_what_was_verified(pallet_directory: Path, tmp_path: Path) -> None:
    options = {"endpoint": "inline", "progress": False}
    plain = api.run(pallet_directory, output=tmp_path / "plain", verify=0, **options)
    run = api.run(pallet_directory, output=tmp_path / "first", verify=0.4, **options)
    assert {r.reused_from for r in read_run(run.path).records.values()} == {str(plain.path)}
    assert all(run.results[name].verification for name in run.manifest.verify)
    more = api.run(pallet_directory, output=tmp_path / "second", verify=0.2, **options)
    assert more.manifest.verify
    for name in more.manifest.verify:
        assert more.results[name] == run.results[name]
    # No task was sent to a worker.
    assert [event.event for event in read_run(more.path).events()] == ["reused"]


def test_a_resumed_run_verifies_what_was_requested(pallet_directory: Path, tmp_path: Path) -> None:
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


def test_a_run_verifies_a_sample_by_default(pallet_directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    done = _cli("run", pallet_directory, "-e", "inline", "-o", path)
    assert done.exit_code == 0, done.output
    run = read_run(path)
    (name,) = run.manifest.sample
    assert run.manifest.verify == []
    assert [n for n, one in run.results.items() if one.verification] == [name]
    assert "verified:    1 of 5 with pyhf: largest |delta CLs|" in done.output
    assert f"its result in {path / 'results.json'}; pyhf verifies 1" in done.stderr
    again = api.run(pallet_directory, endpoint="inline", output=path, refit=True, progress=False)
    assert again.manifest.sample == [name]
    assert again.results[name].verification
    plan = json.loads(_cli("run", pallet_directory, "-e", "inline", "--plan", "--json").stdout)
    assert [task["hypotheses"] for task in plan["verification"]] == [[name]]
    output = _cli("run", pallet_directory, "-e", "inline", "--plan").output
    assert "after the results pyhf verifies 1 of the hypotheses" in output


def test_verifying_is_left_out_where_it_is_not_wanted(
    pallet_directory: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    done = _cli("run", pallet_directory, "-e", "inline", "-o", path, "--verify", 0)
    assert "verified:" not in done.output
    assert "pyhf verifies" not in done.output
    run = read_run(path)
    assert (run.manifest.sample, run.manifest.verify) == ([], [])
    assert not any(one.verification for one in run.results.values())


class _Broken(InlineBackend):
    """Does the fits, and then something else than to verify."""

    def __init__(self, then: Callable[[], object], path: Path) -> None:
        super().__init__()
        self._then = then
        self._results = path / "results.json"
        self.before: bytes = b""

    def outcomes(self, timeout: float) -> list[Outcome]:
        if self._results.exists():
            self.before = self._results.read_bytes()
            self._then()
            time.sleep(0.01)
            return []
        return super().outcomes(timeout)


def _raise(error: BaseException) -> Callable[[], None]:
    def then() -> None:
        raise error

    return then


@pytest.mark.parametrize(
    ("then", "message"),
    [
        (_raise(KeyboardInterrupt()), "verification ends early: interrupted"),
        (
            _raise(BackendError("the endpoint is gone")),
            "verification ends early: the endpoint is gone",
        ),
        (lambda: None, ""),
    ],
    ids=["interrupted", "broken", "too slow"],
)
def test_a_run_is_complete_before_anything_is_verified(
    pallet_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    then: Callable[[], object],
    message: str,
) -> None:
    """Results, exit code and the end of the command do not wait for pyhf."""
    path = tmp_path / "run"
    backend = _Broken(then, path)
    monkeypatch.setattr(api, "open_backend", lambda *_: backend)
    monkeypatch.setattr(complete, "_PATIENCE", 0.2)
    done = _cli("run", pallet_directory, "-o", path)
    assert done.exit_code == 0, done.output
    assert message in done.stderr
    # On disk before, with everything in it, and the same after.
    before = json.loads(backend.before)
    assert [one["status"] for one in before.values()] == ["ok"] * 5
    assert json.loads((path / "results.json").read_text()) == before
    assert "1 more were to be verified, and are not yet: fitserve resume" in done.output
    assert read_run(path).manifest.sample == verification_summary(read_run(path))["waiting"]
    monkeypatch.undo()
    bounds, real = [], complete.drive

    def drive(*arguments: object, claims: Claims, **options: object) -> None:
        bounds.append(claims.seconds)
        real(*arguments, claims=claims, **options)

    monkeypatch.setattr(complete, "drive", drive)
    resumed = api.resume(path, endpoint="inline", progress=False)
    assert resumed.results[resumed.manifest.sample[0]].verification.largest < 1e-4
    assert bounds == [None]  # who resumes a run waits for it
    assert "are not yet" not in _cli("show", path).output


def test_a_result_that_pyhf_disproves_is_reported_and_does_not_change_the_exit_code(
    pallet_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = entry.answers

    def wrong(work: Work) -> Iterator[HypothesisResult]:
        for result in right(work):
            (point,) = result.points
            off = msgspec.structs.replace(point, CLs_obs=point.CLs_obs + 0.01)
            yield msgspec.structs.replace(result, CLs_obs=off.CLs_obs, points=[off])

    monkeypatch.setattr(entry, "answers", wrong)
    path = tmp_path / "run"
    done = _cli("run", pallet_directory, "-e", "inline", "-o", path)
    (name,) = read_run(path).manifest.sample
    assert done.exit_code == 0
    assert f"{name} is suspect: at mu = 1 CLs is" in done.stderr
    assert f"1 of them are wrong by more than 0.0001 by pyhf: {name}" in done.stderr
    assert json.loads((path / "results.json").read_text())[name]["status"] == "suspect"


def test_a_worker_that_verifies_changes_no_number(build_run) -> None:
    _, results = build_run({"S_1": ((1.0, 1.0), 0.3, None)})
    claim = results["S_1"]
    second = Verification(
        engine="pyhf", largest=0.2, wrong_by=0.2, tolerance=1e-4, points=[], seconds=1.0
    )
    point = msgspec.structs.replace(claim.points[0], CLs_obs=0.9, status="suspect", reason="odd")
    answer = msgspec.structs.replace(
        claim, CLs_obs=0.9, points=[point], status="suspect", reason="odd", verification=second
    )
    verdict = with_verdict(claim, answer)
    assert (verdict.CLs_obs, verdict.points[0].CLs_obs) == (0.3, 0.3)
    assert (verdict.status, verdict.reason, verdict.verification) == ("suspect", "odd", second)
    assert (verdict.points[0].status, verdict.points[0].reason) == ("suspect", "odd")
    # Neither does it take a doubt away, or a result.
    doubted = msgspec.structs.replace(claim, status="suspect", reason="doubted before")
    for status in ("ok", "failed"):
        doubtful = with_verdict(doubted, msgspec.structs.replace(answer, status=status))
        assert (doubtful.status, doubtful.reason) == ("suspect", "doubted before")


def test_a_task_of_verifying_that_a_service_has_is_collected(
    pallet_directory: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    api.run(pallet_directory, endpoint="inline", output=path, verify=0, progress=False)
    with RunStore.open(path) as store:
        name = store.manifest.hypotheses[2]
        store.want_verified([name])
        sent = {"task": "task-9", "bytes": 1, "hypotheses": [name], "verify": True}
        store.note("submitted", **sent)
        pending = pending_tasks(store.saved.events())
    assert [(task.hypotheses, task.verify) for task in pending] == [((name,), True)]
    run = api.resume(path, endpoint="inline", progress=False)
    assert [n for n, one in run.results.items() if one.verification] == [name]
    assert pending_tasks(read_run(path).events()) == []


def test_what_pyhf_disputes_or_cannot_say_is_shown(build_run, save_run, tmp_path: Path) -> None:
    manifest, results = build_run(
        {f"S_{i}": ((float(i), 1.0), 0.1 * i, None) for i in (1, 2, 3, 4, 5)}
    )
    manifest = msgspec.structs.replace(manifest, sample=["S_1", "S_2", "S_3", "S_5"])
    for name, largest, wrong_by, above, reason in (
        ("S_1", 2e-5, 2e-5, None, None),
        ("S_2", 0.3, 0.3, None, None),
        ("S_3", None, None, None, "the optimizer reports that it failed"),
        ("S_4", 0.2, 1e-6, "-2 log L of pyhf ends above our minimum", None),
    ):
        verification = Verification(
            engine="pyhf/numpy/scipy",
            largest=largest,
            wrong_by=wrong_by,
            tolerance=1e-4,
            points=[],
            seconds=1.0,
            above=above,
            reason=reason,
        )
        results[name] = msgspec.structs.replace(results[name], verification=verification)
    run = save_run(tmp_path / "run", manifest, results)
    summary = verification_summary(run)
    assert (summary["verified"], summary["of"]) == (3, 5)
    assert (summary["largest"], summary["hypothesis"], summary["beyond"]) == (0.3, "S_2", ["S_2"])
    assert summary["unverified"] == {"S_3": "the optimizer reports that it failed"}
    assert list(summary["above"]) == ["S_4"]
    assert summary["waiting"] == ["S_5"]
    done = _cli("show", run.path)
    assert "verified:    3 of 5 with pyhf: largest |delta CLs| 0.3 (S_2)" in done.output
    assert "1 of them are wrong by more than 0.0001 by pyhf: S_2" in done.output
    assert "S_4: pyhf finds another CLs, which does not count: -2 log L of pyhf" in done.output
    assert "S_3 could not be verified: the optimizer reports that it failed" in done.output
    assert "1 more were to be verified, and are not yet" in done.output
    page = render_report(run)
    assert "wrong by more than 0.0001: S_2" in page
    assert "S_4: -2 log L of pyhf ends above our minimum" in page
    assert "S_3: the optimizer reports that it failed" in page
    assert "S_5: not done yet" in page
    plain = save_run(tmp_path / "plain", *build_run({"S_4": ((1.0, 1.0), 0.1, None)}))
    assert verification_summary(plain) == {}
