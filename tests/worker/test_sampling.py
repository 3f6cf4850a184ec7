"""Toys are drawn by their number: from the right distributions, and the same in any part."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fitserve_contract import Hypothesis, ModelOptions, ToyRange
from fitserve_worker.sampling import Law, Sampler, poisson_quantiles, stream_key

LAW = Law(
    rates=np.array([0.0, 0.02, 3.7, 250.0, 4.0e9]),
    centres=np.array([0.3, 1.0, 42.5]),
    widths=np.array([1.0, 0.05, 0.0]),
)
SIGNAL = Hypothesis(name="S", values=(), patch=[{"op": "test", "path": "/x", "value": 1}])


def _drawn(first: int, count: int, key: int = 11) -> np.ndarray:
    events, auxiliary = Sampler(LAW, key).draw(ToyRange(first=first, count=count))
    return np.concatenate([events, auxiliary], axis=1)


@given(cuts=st.lists(st.integers(1, 199), unique=True, max_size=12))
def test_the_parts_in_which_toys_are_made_have_no_effect(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), 200]
    parts = [_drawn(first, stop - first) for first, stop in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts), _drawn(0, 200))


def test_a_toy_far_out_needs_none_of_those_before_it() -> None:
    far = 5_000_000_000
    assert np.array_equal(_drawn(far, 3)[2], _drawn(far + 2, 1)[0])
    assert not np.array_equal(_drawn(far, 1), _drawn(far + 1, 1))


def test_bins_and_auxiliary_data_have_their_distributions() -> None:
    toys = 20_000
    drawn = _drawn(0, toys)
    means = np.concatenate([LAW.rates, LAW.centres])
    widths = np.sqrt(np.concatenate([LAW.rates, np.where(LAW.widths, LAW.widths**2, LAW.centres)]))
    assert (drawn[:, 0] == 0).all()
    pulls = (drawn.mean(axis=0) - means)[1:] / (widths[1:] / np.sqrt(toys))
    assert np.abs(pulls).max() < 4
    # The spread of a spread is 1 / sqrt(2 n), for a Poisson mean of 0.02 more.
    assert drawn[:, 2:].std(axis=0) == pytest.approx(widths[2:], rel=0.03)
    counts = drawn[:, [1, 2, 3, 4, 7]]
    np.testing.assert_array_equal(counts, np.round(counts))
    for column, mean in ((2, 3.7), (3, 250.0), (7, 42.5)):
        at = np.arange(*stats.poisson.ppf([0.05, 0.95], mean))
        seen = np.array([(drawn[:, column] <= value).mean() for value in at])
        assert np.abs(seen - stats.poisson.cdf(at, mean)).max() < 0.015
    normal = stats.kstest((drawn[:, 5] - 0.3), "norm")
    assert normal.pvalue > 1e-3


def test_numbers_of_a_toy_are_independent() -> None:
    drawn = _drawn(0, 20_000)[:, 2:]
    correlations = np.corrcoef(drawn.T) - np.eye(drawn.shape[1])
    assert np.abs(correlations).max() < 0.03
    later = [np.corrcoef(column[1:], column[:-1])[0, 1] for column in drawn.T]
    assert np.abs(later).max() < 0.03


@given(
    mean=st.one_of(st.floats(1e-9, 50), st.floats(50, 1e6)),
    uniform=st.floats(2.0**-54, 1 - 2.0**-53),
)
def test_a_poisson_quantile_is_the_least_count_beyond(mean: float, uniform: float) -> None:
    count = float(poisson_quantiles(mean, np.array([uniform]))[0])
    assert stats.poisson.cdf(count, mean) > uniform * (1 - 1e-12)
    assert count == 0 or stats.poisson.cdf(count - 1, mean) <= uniform * (1 + 1e-12)


@pytest.mark.parametrize("mean", [0.0, -2.0])
def test_nothing_is_drawn_where_nothing_is_expected(mean: float) -> None:
    assert poisson_quantiles(mean, np.array([0.1, 0.999])).tolist() == [0, 0]


def test_streams_differ_by_what_decides_the_toys_and_by_nothing_else() -> None:
    options = ModelOptions()
    key = stream_key(1, "0" * 64, SIGNAL, options, "signal")
    renamed = Hypothesis(name="T", values=(3.0,), patch=SIGNAL.patch)
    assert stream_key(1, "0" * 64, renamed, options, "signal") == key
    other = Hypothesis(name="S", values=(), patch=[])
    others = {
        stream_key(2, "0" * 64, SIGNAL, options, "signal"),
        stream_key(1, "1" * 64, SIGNAL, options, "signal"),
        stream_key(1, "0" * 64, other, options, "signal"),
        stream_key(1, "0" * 64, SIGNAL, ModelOptions(poi="nu"), "signal"),
        stream_key(1, "0" * 64, SIGNAL, options, "background"),
    }
    assert len(others) == 5
    assert key not in others
    assert 0 <= key < 2**128
