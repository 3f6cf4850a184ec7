"""p-values from test statistics of toys, and the merging of their parts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pyhf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitserve.errors import ContractError
from fitserve.kinds.toys import fraction_error, merged, missing_toys, p_values
from fitserve_contract import (
    AsymptoticCLs,
    HypothesisResult,
    ToyRange,
    ToysRequest,
    ToyValues,
)

ASYMPTOTIC = AsymptoticCLs(CLs_obs=0.1, CLs_exp=[0.01, 0.04, 0.1, 0.3, 0.6])
N = 400


def _q(seed: int, toys: int, shift: float) -> np.ndarray:
    """Return test statistics as they are for a normal estimator: half of them zero at zero."""
    root = np.random.default_rng(seed).normal(shift, 1, toys)
    return np.where(root > 0, root**2, 0.0).astype("<f4")


SIGNAL, BACKGROUND = _q(1, N, 0.0), _q(2, N, 2.0)


def _part(first: int, stop: int, **changes: Any) -> HypothesisResult:
    fields = {"status": "ok", "reason": None} | changes
    return HypothesisResult(
        name="S",
        key="k",
        mass_hypotheses=(1.0,),
        CLs_obs=None,
        CLs_exp=[None] * 5,
        fit_time=1.0,
        setup_time=0.5,
        engine="kernel",
        points=[],
        muhat=0.2,
        toy_values=ToyValues(
            toys=ToyRange(first=first, count=stop - first),
            observed=3.0,
            asymptotic=ASYMPTOTIC,
            signal=SIGNAL[first:stop].tobytes(),
            background=BACKGROUND[first:stop].tobytes(),
            positive=0,
            fits=4 * (stop - first),
        ),
        **fields,
    )


def _request(toys: int = N) -> ToysRequest:
    return ToysRequest(toys=toys, seed=5)


def _percentile(_: Any, values: Any, at: Any, axis: Any = None, interpolation: Any = None) -> Any:
    return np.percentile(values, at, axis=axis, method=interpolation or "linear")


def test_p_values_are_those_of_pyhf(monkeypatch: pytest.MonkeyPatch) -> None:
    pyhf.set_backend("numpy")
    # pyhf 0.7.6 calls it with an argument that numpy 2.4 has no more.
    monkeypatch.setattr(type(pyhf.tensorlib), "percentile", _percentile)
    of = pyhf.infer.calculators.EmpiricalDistribution
    signal, background = of(SIGNAL.astype(float)), of(BACKGROUND.astype(float))
    # Of the calculator nothing but its arithmetic is used: it needs no model for that.
    calculator = pyhf.infer.calculators.ToyCalculator.__new__(pyhf.infer.calculators.ToyCalculator)
    clsb, clb, cls = calculator.pvalues(3.0, signal, background)
    bands = calculator.expected_pvalues(signal, background)
    found = p_values(SIGNAL, BACKGROUND, 3.0)
    assert (found.CLsb_obs, found.CLb_obs, found.CLs_obs) == pytest.approx(
        (float(clsb), float(clb), float(cls)), abs=1e-12
    )
    for ours, theirs in zip((found.CLsb_exp, found.CLb_exp, found.CLs_exp), bands, strict=True):
        assert ours == pytest.approx([float(one) for one in theirs], abs=1e-12)


def test_errors_are_the_scatter_of_repetitions() -> None:
    toys, repetitions = 2000, 300
    found = [
        p_values(_q(10 + i, toys, 0.0), _q(10_000 + i, toys, 2.0), 3.0) for i in range(repetitions)
    ]
    for value, error in (("CLsb_obs", "CLsb_obs_error"), ("CLs_obs", "CLs_obs_error")):
        scatter = np.std([getattr(one, value) for one in found])
        claimed = np.median([getattr(one, error) for one in found])
        assert claimed == pytest.approx(scatter, rel=0.15)
    scatter = np.std([one.CLs_exp for one in found], axis=0)
    claimed = np.median([one.CLs_exp_error for one in found], axis=0)
    assert claimed[2:] == pytest.approx(scatter[2:], rel=0.2)
    # Of toys with signal there are a handful beyond the second lowest, and mostly none beyond the
    # lowest: its error is that of nothing seen.
    assert 0.8 < claimed[1] / scatter[1] < 1.5
    assert claimed[0] > scatter[0]


def test_no_toys_beyond_have_an_error_too() -> None:
    assert fraction_error(0.0, 1000) == pytest.approx(1e-3, rel=0.01)
    assert fraction_error(1.0, 1000) == pytest.approx(1e-3, rel=0.01)
    found = p_values(np.zeros(100), np.full(100, 5.0), 4.0)
    assert found.CLs_obs == 0
    assert found.CLs_obs_error == pytest.approx(0.0098, rel=0.01)


@given(
    cuts=st.lists(st.integers(1, N - 1), unique=True, max_size=9),
    order=st.randoms(use_true_random=False),
)
def test_the_parts_have_no_effect_on_the_result(cuts: list[int], order: Any) -> None:
    edges = [0, *sorted(cuts), N]
    parts = [_part(first, stop) for first, stop in pairwise(edges)]
    order.shuffle(parts)
    whole, ours = merged(_request(), [_part(0, N)]), merged(_request(), parts)
    assert ours.fit_time == len(parts)
    assert msgspec.structs.replace(ours, fit_time=1.0, setup_time=0.5) == whole
    assert whole.status == "ok"
    assert whole.toys.done == whole.toys.asked == N
    assert whole.toys.fits == 4 * N
    assert whole.points[0].CLs_obs == whole.CLs_obs
    for of in (whole.toys.signal, whole.toys.background):
        assert of.zero + sum(of.counts) + of.beyond == N


def test_a_part_that_came_twice_counts_once() -> None:
    twice = merged(_request(), [_part(0, 300), _part(200, N), _part(0, 300)])
    assert twice.toys.done == N
    assert twice.CLs_obs == merged(_request(), [_part(0, N)]).CLs_obs


def test_what_is_missing_is_told() -> None:
    found = merged(_request(), [_part(300, N), _part(0, 50)])
    assert found.status == "suspect"
    assert found.reason == "150 of 400 toys are done"
    assert found.toys.done == 150
    there = np.r_[0:50, 300:N]
    assert found.CLs_obs == p_values(SIGNAL[there], BACKGROUND[there], 3.0).CLs_obs


@pytest.mark.parametrize(("failed", "status"), [(8, "ok"), (9, "suspect")])
def test_toys_that_failed_are_counted_and_left_out(failed: int, status: str) -> None:
    signal = SIGNAL.copy()
    signal[:failed] = np.nan
    part = _part(0, N)
    values = msgspec.structs.replace(part.toy_values, signal=signal.tobytes())
    found = merged(_request(), [msgspec.structs.replace(part, toy_values=values)])
    assert (found.status, found.toys.failed) == (status, failed)
    assert (found.toys.signal.failed, found.toys.background.failed) == (failed, 0)
    if status == "suspect":
        assert found.reason == "9 of 800 toys have no valid fit"
    assert found.CLs_obs == p_values(SIGNAL[failed:], BACKGROUND, 3.0).CLs_obs


def test_a_doubt_of_one_part_is_one_of_the_whole() -> None:
    parts = [_part(0, 100), _part(100, N, status="suspect", reason="did not converge")]
    found = merged(_request(), parts)
    assert (found.status, found.reason) == ("suspect", "did not converge")


def test_cls_is_not_defined_where_no_background_is_beyond() -> None:
    part = _part(0, N)
    values = msgspec.structs.replace(part.toy_values, observed=1e6)
    found = merged(_request(), [msgspec.structs.replace(part, toy_values=values)])
    assert found.CLs_obs is None
    assert found.status == "suspect"
    assert "CLs is not defined" in found.reason


def test_a_toy_of_the_observed_value_is_beyond_it() -> None:
    """The observed value is a 64-bit number, and the toys are not."""
    value = 0.1 + 0.2
    part = _part(0, N)
    signal = np.full(N, value, dtype="<f4")
    values = msgspec.structs.replace(part.toy_values, observed=value, signal=signal.tobytes())
    found = merged(_request(), [msgspec.structs.replace(part, toy_values=values)])
    assert found.toys.CLsb_obs == 1


def test_toys_that_are_not_there_are_refused() -> None:
    part = _part(0, N)
    values = msgspec.structs.replace(part.toy_values, signal=SIGNAL[:10].tobytes())
    with pytest.raises(ContractError, match="answered with other toys"):
        merged(_request(), [msgspec.structs.replace(part, toy_values=values)])
    with pytest.raises(ContractError, match="answered with other toys"):
        merged(_request(N - 1), [part])
    with pytest.raises(ContractError, match="no test statistics"):
        merged(_request(), [msgspec.structs.replace(part, toy_values=None)])


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=6))
def test_missing_toys_are_those_in_no_part(pieces: list[tuple[int, int]]) -> None:
    there = [ToyRange(first=first, count=count) for first, count in pieces]
    known = {number for one in there for number in range(one.first, one.stop)}
    missing = missing_toys(80, there)
    found = [number for one in missing for number in range(one.first, one.stop)]
    assert found == [number for number in range(80) if number not in known]
