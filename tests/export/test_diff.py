"""Comparison of results."""

from __future__ import annotations

import json

import msgspec
import pytest

from fitserve.errors import InputError, RequestError
from fitserve.export import to_json
from fitserve.export.compare import compare, diff, read_cls
from fitserve.runs.records import CLsEntry

EXP = [0.001, 0.01, 0.05, 0.2, 0.5]


@pytest.fixture
def results(build_run):
    _, found = build_run({f"p{i}": ((100.0 * i, 1.0), 0.1 * i, EXP) for i in range(1, 6)})
    return found


def _file(path, results):
    path.write_bytes(to_json(results))
    return path


def test_same_results_agree(results, tmp_path):
    found = diff(_file(tmp_path / "a.json", results), _file(tmp_path / "b.json", results), 0.0)
    assert found.agree
    assert (found.hypotheses, found.numbers) == (5, 30)
    assert found.largest.delta == 0


def test_worst_comes_first_and_tolerance_is_absolute(results, tmp_path):
    changed = dict(results)
    changed["p2"] = msgspec.structs.replace(results["p2"], CLs_obs=0.2 + 0.0005)
    changed["p3"] = msgspec.structs.replace(results["p3"], CLs_exp=[*EXP[:3], 0.19, 0.53])
    a, b = _file(tmp_path / "a.json", results), _file(tmp_path / "b.json", changed)
    found = diff(a, b, 1e-3)
    assert not found.agree
    assert [(d.name, d.field) for d in found.beyond] == [("p3", "CLs_exp[4]"), ("p3", "CLs_exp[3]")]
    assert found.largest == found.beyond[0]
    assert found.beyond[0].delta == pytest.approx(0.03)
    assert diff(a, b, 0.04).agree
    assert len(diff(a, b, 1e-4).beyond) == 3


def test_number_that_is_missing_on_one_side(results, tmp_path):
    changed = dict(results)
    changed["p2"] = msgspec.structs.replace(
        results["p2"], CLs_obs=None, CLs_exp=[None] * 5, status="failed", reason="NaN"
    )
    a, b = _file(tmp_path / "a.json", results), _file(tmp_path / "b.json", changed)
    found = diff(a, b, 1.0)
    assert len(found.beyond) == 6
    assert {d.delta for d in found.beyond} == {None}
    (change,) = found.status_changes
    assert (change.name, change.a, change.b, change.reason) == ("p2", "ok", "failed", "NaN")
    assert diff(b, b).agree


def test_status_alone_is_a_difference(results, tmp_path):
    changed = {**results, "p1": msgspec.structs.replace(results["p1"], status="suspect")}
    found = diff(_file(tmp_path / "a.json", results), _file(tmp_path / "b.json", changed))
    assert not found.beyond
    assert len(found.status_changes) == 1
    assert not found.agree


def test_names_on_one_side(results, tmp_path):
    a = _file(tmp_path / "a.json", {n: r for n, r in results.items() if n != "p1"})
    b = _file(tmp_path / "b.json", {n: r for n, r in results.items() if n != "p2"})
    found = diff(a, b)
    assert (found.only_a, found.only_b) == (["p2"], ["p1"])
    assert not found.agree
    assert diff(a, b, common=True).agree


def test_every_signal_strength_is_compared(build_run, tmp_path):
    _, results = build_run({"p": ((1.0, 2.0), 0.1, EXP)}, mu=(1.0, 2.0))
    points = results["p"].points
    points = [points[0], msgspec.structs.replace(points[1], CLs_obs=0.3)]
    changed = {"p": msgspec.structs.replace(results["p"], points=points)}
    found = diff(_file(tmp_path / "a.json", results), _file(tmp_path / "b.json", changed))
    assert [d.field for d in found.beyond] == ["mu=2 CLs_obs"]
    assert found.numbers == 12


def test_only_the_same_signal_strengths_are_compared(build_run, tmp_path):
    both = build_run({"p": ((1.0, 2.0), 0.1, EXP)}, mu=(0.5, 1.0))[1]
    points = [msgspec.structs.replace(both["p"].points[0], CLs_obs=0.7), both["p"].points[1]]
    both = {"p": msgspec.structs.replace(both["p"], CLs_obs=0.7, points=points)}
    one = build_run({"p": ((1.0, 2.0), 0.1, EXP)})[1]
    a, b = _file(tmp_path / "a.json", both), _file(tmp_path / "b.json", one)
    found = diff(a, b)
    assert found.agree
    assert found.numbers == 6
    # Files without signal strengths are of hypotheses as published.
    plain = {n: {"CLs_obs": r.CLs_obs, "CLs_exp": r.CLs_exp} for n, r in one.items()}
    reference = tmp_path / "reference.json"
    reference.write_text(json.dumps(plain))
    assert diff(a, reference).numbers == 6
    assert diff(a, reference).agree
    other = build_run({"p": ((1.0, 2.0), 0.1, EXP)}, mu=(2.0,))[1]
    with pytest.raises(RequestError, match="no signal strength at which both") as caught:
        diff(a, _file(tmp_path / "c.json", other))
    assert "0.5, 1 and mu = 2" in caught.value.evidence


def test_run_directory_and_reference_file(build_run, save_run, tmp_path):
    manifest, results = build_run({"p": ((1.0, 2.0), 0.1, EXP), "q": ((2.0, 2.0), 0.3, EXP)})
    run = save_run(tmp_path / "run", manifest, results)
    reference = tmp_path / "reference.json"
    reference.write_text(
        json.dumps(
            {
                "pallet": "toy",
                "hypotheses": {
                    n: {"CLs_obs": r.CLs_obs, "CLs_exp": r.CLs_exp, "muhat": 1.0}
                    for n, r in results.items()
                },
            }
        )
    )
    found = diff(run.path, reference, 0.0)
    assert found.agree
    assert found.numbers == 12
    assert not diff(run.path / "results.json", run.path).beyond


def test_output_of_the_original_script(tmp_path):
    """It writes NaN, which is not JSON, and knows no status."""
    path = tmp_path / "results.json"
    path.write_text(
        '{"p": {"mass_hypotheses": [300, 0], "CLs_obs": 0.1, '
        '"CLs_exp": [NaN, 0.01, 0.05, 0.2, 0.5], "fit_time": 3.2}}'
    )
    entry = read_cls(path)["p"]
    assert entry.CLs_exp[0] is None
    assert entry.mass_hypotheses == (300, 0)
    assert compare({"p": entry}, {"p": CLsEntry(CLs_obs=0.1, status="ok")}).agree


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "7", "{}", '{"p": 1}', '{"p": {"other": 1}}', '{"p": {"CLs_obs": "x"}}'],
)
def test_unusable_files(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_cls(path)
    assert str(path) in caught.value.evidence
    with pytest.raises(InputError):
        read_cls(tmp_path / "missing.json")
