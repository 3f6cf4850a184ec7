"""Results held against their neighbours: what is found, and what is left in peace."""

from __future__ import annotations

import re
from statistics import NormalDist
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from fitserve.runs import neighbours
from fitserve.runs.neighbours import find_jumps, judged
from fitserve_contract import (
    FitRequest,
    HypotestRequest,
    HypothesisResult,
    LimitRequest,
    MuPoint,
    Verification,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NORMAL = NormalDist()
REQUEST = HypotestRequest()


def _result(
    name: str, place: tuple, observed: float, expected: float, mu: float = 1.0
) -> HypothesisResult:
    """Return a result with CLs of given significances."""
    cls = NORMAL.cdf(-observed)
    exp = [NORMAL.cdf(-(expected - shift)) for shift in (-1.5, -0.8, 0.0, 0.8, 1.5)]
    return HypothesisResult(
        name=name,
        key="k",
        mass_hypotheses=place,
        status="ok",
        reason=None,
        CLs_obs=cls,
        CLs_exp=exp,
        fit_time=0.1,
        setup_time=0.1,
        engine="kernel",
        points=[MuPoint(mu=mu, CLs_obs=cls, CLs_exp=exp)],
    )


def _grid(seed: int = 0, scatter: float = 0.05, **place: object) -> dict[str, HypothesisResult]:
    """Return a plane of results that falls with both masses, with a little scatter."""
    generator = np.random.default_rng(seed)
    found = {}
    for heavy in range(200, 1001, 100):
        for light in range(0, min(heavy - 100, 500), 100):
            level = 4.5 - heavy / 200 + 0.004 * (200 - light)
            expected = level + scatter * generator.normal()
            observed = expected + 0.4 * np.sin(heavy / 250) + scatter * generator.normal()
            name = f"S_{heavy}_{light}"
            found[name] = _result(name, (float(heavy), float(light)), observed, expected)
    return found


def _planted(result: HypothesisResult, sigma: float, *, expected: bool = False) -> HypothesisResult:
    """Return a result that is wrong by so much: observed CLs, or the expected ones with them."""

    def moved(cls: float) -> float:
        return NORMAL.cdf(NORMAL.inv_cdf(cls) - sigma)

    point = result.points[0]
    exp = [moved(cls) for cls in point.CLs_exp] if expected else point.CLs_exp
    wrong = msgspec.structs.replace(point, CLs_obs=moved(point.CLs_obs), CLs_exp=exp)
    return msgspec.structs.replace(
        result, CLs_obs=wrong.CLs_obs, CLs_exp=exp, points=[wrong, *result.points[1:]]
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_smooth_plane_has_no_jumps(seed: int) -> None:
    assert find_jumps(REQUEST, _grid(seed)) == {}


@pytest.mark.parametrize("sigma", [-1.5, 1.5])
@pytest.mark.parametrize("name", ["S_500_200", "S_300_0", "S_1000_400", "S_600_0"])
def test_a_wrong_observed_cls_is_found_and_nothing_else(name: str, sigma: float) -> None:
    grid = _grid()
    grid[name] = _planted(grid[name], sigma)
    jumps = find_jumps(REQUEST, grid)
    assert list(jumps) == [name]
    jump = jumps[name]
    assert (jump.mu, jump.what) == (1.0, "observed")
    assert jump.cls == pytest.approx(grid[name].CLs_obs)
    right = NORMAL.inv_cdf(1 - _grid()[name].CLs_obs)
    assert NORMAL.inv_cdf(1 - jump.neighbours) == pytest.approx(right, abs=0.5)
    assert f"{jump.cls:.3g}" in str(jump)
    assert "neighbours" in str(jump)


def test_a_signal_that_is_too_large_is_found_in_the_expected_cls() -> None:
    grid = _grid()
    grid["S_700_200"] = _planted(grid["S_700_200"], 3.0, expected=True)
    jumps = find_jumps(REQUEST, grid)
    assert {name: jump.what for name, jump in jumps.items()} == {"S_700_200": "expected"}


def test_one_wrong_value_does_not_hide_another() -> None:
    grid = _grid()
    for name, sigma in (("S_500_200", 2.0), ("S_500_100", -2.0), ("S_900_300", 1.5)):
        grid[name] = _planted(grid[name], sigma)
    assert set(find_jumps(REQUEST, grid)) == {"S_500_200", "S_500_100", "S_900_300"}


def test_scatter_that_is_usual_is_no_jump() -> None:
    grid = _grid(scatter=0.4)
    assert find_jumps(REQUEST, grid) == {}


def test_what_is_excluded_or_allowed_beyond_doubt_does_not_jump() -> None:
    grid = {}
    for i in range(6):
        for j in range(6):
            name = f"S_{i}_{j}"
            # From 1e-20 to 1e-60, and to exactly 0 and 1.
            level = 9 + i + (j % 3) if i < 3 else -9
            grid[name] = _result(name, (i, j), level, level)
    grid["S_0_0"] = _planted_zero(grid["S_0_0"], 0.0)
    grid["S_5_5"] = _planted_zero(grid["S_5_5"], 1.0)
    assert find_jumps(REQUEST, grid) == {}


def _planted_zero(result: HypothesisResult, value: float) -> HypothesisResult:
    exact = msgspec.structs.replace(result.points[0], CLs_obs=value)
    return msgspec.structs.replace(result, CLs_obs=value, points=[exact])


def test_along_one_mass_too() -> None:
    line = {
        f"S_{m}": _result(f"S_{m}", (float(m), 1.0), 4 - m / 200, 3.9 - m / 200)
        for m in range(100, 1300, 100)
    }
    assert find_jumps(REQUEST, line) == {}
    line["S_700"] = _planted(line["S_700"], -1.0)
    assert list(find_jumps(REQUEST, line)) == ["S_700"]


def test_with_three_masses_and_with_words() -> None:
    found = {}
    for word, shift in (("up", 0.0), ("down", 3.0)):
        for i in range(4):
            for j in range(3):
                name = f"{word}_{i}_{j}"
                level = 2 - 0.5 * i - 0.3 * j + shift
                # Numbers may be spelled as words.
                found[name] = _result(name, (str(100.0 * i), float(j), word, 7.0), level, level)
    assert find_jumps(REQUEST, found) == {}
    found["up_1_1"] = _planted(found["up_1_1"], 1.5)
    assert list(find_jumps(REQUEST, found)) == ["up_1_1"]


def test_too_few_hypotheses_say_nothing() -> None:
    grid = dict(list(_grid().items())[:9])
    name = next(iter(grid))
    grid[name] = _planted(grid[name], 3.0)
    assert find_jumps(REQUEST, grid) == {}
    same_place = {f"S_{i}": _result(f"S_{i}", (1.0,), i / 4, 1.0) for i in range(12)}
    assert find_jumps(REQUEST, same_place) == {}


def test_failed_hypotheses_and_requests_without_cls_take_no_part() -> None:
    grid = _grid()
    for name in ("S_500_100", "S_400_100"):
        empty = msgspec.structs.replace(grid[name].points[0], CLs_obs=None, CLs_exp=[None] * 5)
        grid[name] = msgspec.structs.replace(grid[name], status="failed", points=[empty])
    grid["S_600_200"] = msgspec.structs.replace(grid["S_600_200"], points=[])
    assert find_jumps(REQUEST, grid) == {}
    assert find_jumps(FitRequest(), grid) == {}
    assert find_jumps(HypotestRequest(mu=(0.0,)), grid) == {}
    grid["S_700_200"] = _planted(grid["S_700_200"], 2.0)
    assert list(find_jumps(LimitRequest(), grid)) == ["S_700_200"]


def test_every_signal_strength_is_looked_at() -> None:
    grid = _grid()
    both = {}
    for name, one in grid.items():
        second = msgspec.structs.replace(one.points[0], mu=0.5)
        both[name] = msgspec.structs.replace(one, points=[one.points[0], second])
    wrong = _planted(grid["S_800_300"], 2.0).points[0]
    points = [both["S_800_300"].points[0], msgspec.structs.replace(wrong, mu=0.5)]
    both["S_800_300"] = msgspec.structs.replace(both["S_800_300"], points=points)
    request = HypotestRequest(mu=(1.0, 0.5))
    jumps = find_jumps(request, both)
    assert {name: jump.mu for name, jump in jumps.items()} == {"S_800_300": 0.5}
    told = judged(both["S_800_300"], jumps["S_800_300"])
    assert told.neighbours.startswith("at mu = 0.5 ")
    assert told.points == both["S_800_300"].points


@pytest.mark.parametrize("status", ["ok", "suspect"])
def test_judging_reports_and_changes_neither_a_status_nor_a_number(status: str) -> None:
    grid = _grid()
    reason = None if status == "ok" else "not converged"
    wrong = msgspec.structs.replace(_planted(grid["S_500_200"], 2.0), status=status, reason=reason)
    jump = find_jumps(REQUEST, {**grid, "S_500_200": wrong})["S_500_200"]
    told = judged(wrong, jump)
    assert told.neighbours == str(jump)
    assert msgspec.structs.replace(told, neighbours=None) == wrong
    assert judged(told, jump) == told
    assert judged(told, None) == wrong


@pytest.mark.parametrize(("largest", "same"), [(2e-5, True), (0.2, False), (None, False)])
def test_it_says_whether_pyhf_finds_the_same(largest: float | None, same: bool) -> None:
    grid = _grid()
    second = Verification(
        engine="pyhf/numpy/scipy",
        largest=largest,
        wrong_by=largest,
        tolerance=1e-4,
        points=[],
        seconds=1.0,
    )
    wrong = msgspec.structs.replace(_planted(grid["S_500_200"], 2.0), verification=second)
    jump = find_jumps(REQUEST, {**grid, "S_500_200": wrong})["S_500_200"]
    assert ("pyhf finds the same" in judged(wrong, jump).neighbours) is same


def _published(reference: Mapping[str, dict]) -> dict[str, HypothesisResult]:
    found = {}
    for name, one in reference.items():
        place = tuple(float(mass) for mass in re.findall(r"_(\d+)", name)[:2])
        point = MuPoint(mu=1.0, CLs_obs=one["CLs_obs"], CLs_exp=one["CLs_exp"])
        found[name] = msgspec.structs.replace(
            _result(name, place, 0.0, 0.0),
            CLs_obs=one["CLs_obs"],
            CLs_exp=one["CLs_exp"],
            points=[point],
        )
    return found


@pytest.mark.published
@pytest.mark.parametrize("analysis", ["1Lbb", "staus"])
def test_published_grids_have_no_jumps_and_planted_ones_are_found(
    references: dict[str, dict], analysis: str
) -> None:
    grid = _published(references[analysis])
    assert find_jumps(REQUEST, grid) == {}
    # Where the line is drawn: one and a half sigma, at hypotheses near enough to it to matter.
    near = [name for name, one in grid.items() if 1e-3 < one.CLs_obs < 0.3]
    assert len(near) > 15
    for name in near[::3]:
        for sigma in (-1.5, 1.5):
            assert name in find_jumps(REQUEST, {**grid, name: _planted(grid[name], sigma)}), name


def test_the_number_of_distances_is_proportional_to_that_of_hypotheses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[int] = []

    def counting(original: Callable) -> Callable:
        def counted(*words: np.ndarray) -> np.ndarray:
            found = original(*words)
            taken.append(np.size(found))
            return found

        return counted

    for place, name in ((np, "sqrt"), (neighbours, "_squares")):
        monkeypatch.setattr(place, name, counting(getattr(place, name)))
    numbers = []
    for side in (24, 48):
        grid = {
            f"S_{x}_{y}": _result(f"S_{x}_{y}", (float(x), float(y)), 0.1 * x, 0.1 * x + 0.05 * y)
            for x in range(side)
            for y in range(side)
        }
        taken.clear()
        find_jumps(REQUEST, grid)
        numbers.append(sum(taken))
    assert 0 < numbers[1] <= 5 * numbers[0]


def _planes(random: np.random.Generator) -> dict[str, np.ndarray]:
    grid = np.stack(np.meshgrid(*[np.arange(15.0)] * 2), -1).reshape(-1, 2)
    return {
        "few": random.random((11, 2)),
        "one mass": random.random((500, 1)),
        "two masses": random.random((1000, 2)),
        "four masses": random.random((500, 4)),
        "a grid": random.permutation(grid * [25, 50]),
        "two clusters": np.concatenate([random.normal(0, 0.01, (300, 2)), random.random((300, 2))]),
        "two lines": np.stack([np.repeat([0.0, 1.0], 300), np.tile(np.arange(300.0), 2)], axis=1),
        "several at each place": np.repeat(random.random((100, 2)), 5, axis=0),
    }


@pytest.mark.parametrize("plane", list(_planes(np.random.default_rng(0))))
def test_the_nearest_are_found(plane: str) -> None:
    random = np.random.default_rng(7)
    points = _planes(random)[plane]
    everything = np.arange(len(points))
    for among in (everything, np.sort(random.permutation(everything)[: len(points) // 2])):
        found = neighbours._nearest(points, among, everything)
        distance = np.sqrt(((points[among] - points[:, None]) ** 2).sum(axis=2))
        distance[everything[:, None] == among] = np.inf
        # Of those at the same distance, that with the lower number.
        expected = among[np.argsort(distance, axis=1, kind="stable")[:, : found.shape[1]]]
        np.testing.assert_array_equal(found, expected)
