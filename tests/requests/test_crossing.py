"""The search for upper limits, on curves whose crossings are known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from scipy.optimize import brentq
from scipy.special import ndtr

from fitserve_worker.engines.limits import FLUCTUATIONS, Crossing, upper_limits

if TYPE_CHECKING:
    from collections.abc import Callable


def _asymptotic(sigma: float, bend: float = 0.0) -> Callable[[float], list[float]]:
    """Return expected CLs of arXiv:1007.1727 whose sqrt(q) bends away from a straight line."""

    def cls(mu: float) -> list[float]:
        x = mu / sigma
        root = x * (1 + bend * x) if bend >= 0 else x / (1 - bend * x)
        return [float(ndtr(n - root) / ndtr(n)) for n in FLUCTUATIONS]

    return cls


def _watched(cls: Callable[[float], list[float]]) -> tuple[Callable[[float], list[float]], list]:
    asked: list[float] = []

    def watched(mu: float) -> list[float]:
        asked.append(mu)
        return cls(mu)

    return watched, asked


@pytest.mark.parametrize("bend", [0.0, 0.3, -0.05])
@pytest.mark.parametrize("sigma", [1e-4, 0.02, 0.5, 1.5])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_limits_are_the_roots(sigma: float, bend: float, level: float) -> None:
    cls = _asymptotic(sigma, bend)
    watched, asked = _watched(cls)
    found = upper_limits(watched, (0, 10), level)
    for curve, crossing in enumerate(found):
        exact = brentq(lambda mu, i=curve: cls(mu)[i] - (1 - level), 0, 5 * sigma, xtol=1e-12)
        assert crossing.mu == pytest.approx(exact, rel=1e-4)
        below, above = crossing.ends
        assert below <= crossing.mu <= above
    assert len(asked) <= 30


def test_what_is_evaluated_is_evaluated_once_and_begins_at_one() -> None:
    cls, asked = _watched(_asymptotic(0.3))
    upper_limits(cls, (0, 10))
    assert asked[0] == 1.0
    assert len(asked) == len(set(asked)) <= 25


def test_a_limit_above_the_bound_is_no_crossing_but_a_result() -> None:
    found = upper_limits(_asymptotic(7.0), (0, 10))
    assert found[1].mu == pytest.approx(7 * 1.0518, rel=1e-3)
    assert found[0] == Crossing(
        None, "above the POI's bound of 10: CLs is 0.153 there (--mu-max looks further)"
    )
    assert not found[0].doubtful


def test_a_limit_below_the_lower_bound_is_no_crossing() -> None:
    found = upper_limits(_asymptotic(0.1), (3, 10))
    assert {one.mu for one in found} == {None}
    assert all(one.reason.startswith("below the POI's bound of 3: CLs is ") for one in found)


def test_a_flat_curve_has_no_limit() -> None:
    found = upper_limits(lambda _: [1.0] * 6, (0, 10))
    assert {(one.mu, one.reason) for one in found} == {
        (None, "above the POI's bound of 10: CLs is 1 there (--mu-max looks further)")
    }


def test_bounds_below_zero_are_not_searched() -> None:
    cls, asked = _watched(_asymptotic(0.3))
    found = upper_limits(cls, (-5, 5))
    assert found[0].mu == pytest.approx(0.3 * 1.95996, rel=1e-4)
    assert min(asked) > 0


def test_bounds_below_one_begin_at_the_upper_one() -> None:
    cls, asked = _watched(_asymptotic(0.02))
    assert upper_limits(cls, (0, 0.5))[0].mu == pytest.approx(0.02 * 1.95996, rel=1e-4)
    assert asked[0] == 0.5


def test_a_step_is_found_by_halving() -> None:
    found = upper_limits(lambda mu: [1.0 if mu < 2.37 else 0.0] * 6, (0, 10))
    for one in found:
        assert one.ends[0] < 2.37 <= one.ends[1]
        assert one.mu == pytest.approx(2.37, rel=0.02)


def test_a_hole_beside_the_limit_is_gone_around() -> None:
    cls = _asymptotic(0.5)

    def holed(mu: float) -> list[float]:
        return [math.nan] * 6 if abs(mu - 1.05) < 0.03 else cls(mu)

    found = upper_limits(holed, (0, 10))
    assert found[0].mu == pytest.approx(0.5 * 1.95996, rel=1e-3)


def test_a_hole_at_the_limit_leaves_a_doubt_and_not_a_number() -> None:
    cls = _asymptotic(0.5)

    def holed(mu: float) -> list[float]:
        return [math.nan] * 6 if 0.7 < mu < 1.2 else cls(mu)

    found = upper_limits(holed, (0, 10))
    assert found[0].mu is None
    assert found[0].doubtful
    assert "could not be computed near" in found[0].reason
    assert found[5].mu == pytest.approx(1.828, rel=1e-3)


def test_nothing_but_holes_ends() -> None:
    cls, asked = _watched(lambda _: [math.nan] * 6)
    found = upper_limits(cls, (0, 10))
    assert all(one.mu is None and one.doubtful for one in found)
    assert len(asked) < 60
