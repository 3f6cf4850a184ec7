"""The kernel's parts by themselves: local parameters, minimisation, CLs, layout."""

from __future__ import annotations

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyhf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from fitserve_worker.kernel.arrays import Layout, choose_width
from fitserve_worker.kernel.asymptotics import asymptotic_cls
from fitserve_worker.kernel.curvature import Curvature
from fitserve_worker.kernel.likelihood import Evaluation, LocalTerms, minimum
from fitserve_worker.kernel.newton import Problem, minimise
from fitserve_worker.kernel.runtime import runtime


@pytest.fixture(scope="module", autouse=True)
def _float64() -> None:
    runtime()


def _objective(g: float, rest: float, scaled: float, data: float, terms: LocalTerms) -> float:
    y = rest + g * scaled
    value = y + 0.5 * float(terms.precision[0]) * (g - float(terms.mean[0])) ** 2
    if data:
        if y <= 0:
            return np.inf
        value -= data * np.log(y)
    value += float(terms.rate[0]) * g
    if terms.counted[0]:
        value -= float(terms.counted[0]) * np.log(g)
    return value


positive = st.floats(1e-2, 1e3)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rest=st.just(0.0) | positive,
    scaled=st.just(0.0) | positive,
    data=st.just(0.0) | st.floats(0.5, 1e3),
    kind=st.sampled_from(["normal", "poisson", "none"]),
    width=st.floats(0.01, 0.8),
    aux=st.floats(0.5, 1.5),
)
def test_local_parameters_are_at_their_minimum(
    rest: float, scaled: float, data: float, kind: str, width: float, aux: float
) -> None:
    zero = jnp.zeros(1)
    precision = 1 / width**2
    terms = LocalTerms(
        lower=jnp.full(1, 1e-10),
        upper=jnp.full(1, 10.0),
        precision=zero + precision if kind == "normal" else zero,
        mean=zero + aux if kind == "normal" else zero,
        rate=zero + precision if kind == "poisson" else zero,
        counted=zero + precision * aux if kind == "poisson" else zero,
    )
    local, free = minimum(jnp.array([rest]), jnp.array([scaled]), jnp.array([data]), terms)
    here = float(local[0])
    assert 1e-10 <= here <= 10
    assert bool(free[0]) == (1e-10 < here < 10)
    if rest == 0 and scaled == 0 and data > 0:
        return  # nothing is expected whatever the parameter is
    best = minimize_scalar(
        _objective,
        bounds=(1e-10, 10),
        args=(rest, scaled, data, terms),
        method="bounded",
        options={"xatol": 1e-10},
    )
    value = _objective(here, rest, scaled, data, terms)
    assert value <= best.fun + 1e-9 * (1 + abs(best.fun))


@pytest.mark.parametrize("kind", ["normal", "poisson"])
def test_a_local_parameter_that_is_fixed_stays(kind: str) -> None:
    one, zero = jnp.ones(1), jnp.zeros(1)
    terms = LocalTerms(
        lower=0.7 * one,
        upper=0.7 * one,
        precision=4.0 * one if kind == "normal" else zero,
        mean=one if kind == "normal" else zero,
        rate=4.0 * one if kind == "poisson" else zero,
        counted=4.0 * one if kind == "poisson" else zero,
    )
    best, free = minimum(one, one, 5.0 * one, terms)
    assert float(best[0]) == pytest.approx(0.7)
    assert not bool(free[0])


def _quadratic(matrix: np.ndarray, centre: np.ndarray) -> tuple[Any, Any]:
    """Return (x - c)^T A (x - c) / 2 as the minimiser wants it."""

    def function(x: Any, _side: Any) -> tuple[Evaluation, Any]:
        away = x - centre
        gradient = matrix @ away
        return (
            Evaluation(
                value=0.5 * away @ gradient,
                gradient=gradient,
                other=gradient,
                yields=jnp.zeros(1),
                local=jnp.zeros(1),
            ),
            None,
        )

    return function, lambda _: _curvature(jnp.asarray(matrix))


def _curvature(hessian: Any) -> Curvature:
    n = len(hessian)
    return Curvature(
        hessian=hessian,
        jacobian=jnp.zeros((1, n)),
        information=jnp.zeros(1),
        stiffness=jnp.ones(n),
        magnitude=jnp.abs(jnp.diagonal(hessian)),
    )


def _slopes(_: Any) -> Any:
    return jnp.zeros((2, 1))


def test_bounds_are_kept_and_found_by_the_projected_method() -> None:
    """Against all 3^4 combinations of active bounds."""
    generator = np.random.default_rng(5)
    for _ in range(6):
        root = generator.normal(size=(4, 4))
        matrix = root @ root.T + 0.3 * np.eye(4)
        centre = generator.normal(size=4) * 2
        low, high = -np.ones(4), np.array([1.0, 0.5, 2.0, 1.0])
        function, bend = _quadratic(matrix, centre)
        end = minimise(Problem(function, bend, _slopes, low, high, None), jnp.zeros(4), 1, 1)
        assert bool(end.converged)
        best = np.inf
        for fixed in itertools.product((None, "low", "high"), repeat=4):
            x = np.array(
                [{"low": low[i], "high": high[i]}.get(f, 0.0) for i, f in enumerate(fixed)]
            )
            free = [i for i, f in enumerate(fixed) if f is None]
            held = [i for i, f in enumerate(fixed) if f is not None]
            if free:
                right = matrix[np.ix_(free, held)] @ (x[held] - centre[held])
                x[free] = centre[free] - np.linalg.solve(matrix[np.ix_(free, free)], right)
            if (x >= low - 1e-12).all() and (x <= high + 1e-12).all():
                best = min(best, 0.5 * (x - centre) @ matrix @ (x - centre))
        assert float(end.value) == pytest.approx(best, abs=1e-10)


def test_a_minimum_at_a_kink_is_found() -> None:
    """|x| + (x - c)^2 / 2 has its minimum at the kink for |c| < 1, and beside it otherwise."""
    for centre, expected in ((0.4, 0.0), (-0.9, 0.0), (2.5, 1.5), (-3.0, -2.0)):

        def function(x: Any, side: Any, centre: float = centre) -> tuple[Evaluation, Any]:
            right = (x > 0) | ((x == 0) & (side > 0))
            slope = jnp.where(right, 1.0, -1.0)
            gradient = x - centre + slope
            other = jnp.where(x == 0, x - centre - slope, gradient)
            value = jnp.sum(jnp.abs(x) + 0.5 * (x - centre) ** 2)
            return Evaluation(value, gradient, other, jnp.zeros(1), jnp.zeros(1)), None

        problem = Problem(
            function,
            lambda _: _curvature(jnp.eye(1)),
            _slopes,
            -5 * jnp.ones(1),
            5 * jnp.ones(1),
            jnp.ones(1, dtype=bool),
        )
        for start in (0.0, 1.0, -1.0):
            end = minimise(problem, jnp.full(1, start), 1, 1)
            assert bool(end.converged)
            assert float(end.x[0]) == pytest.approx(expected, abs=1e-9)


def test_a_region_of_negative_curvature_is_left() -> None:
    """A double well, from near its maximum: with the Hessian alone it would be found."""

    def function(x: Any, _side: Any) -> tuple[Evaluation, Any]:
        gradient = x**3 - x
        value = jnp.sum(x**4 / 4 - x**2 / 2)
        return Evaluation(value, gradient, gradient, jnp.zeros(1), jnp.zeros(1)), x

    problem = Problem(
        function,
        lambda x: _curvature(jnp.diag(3 * x**2 - 1)),
        _slopes,
        -5 * jnp.ones(1),
        5 * jnp.ones(1),
        None,
    )
    end = minimise(problem, jnp.full(1, 0.01), 1, 1)
    assert bool(end.converged)
    assert bool(end.positive)
    assert float(end.x[0]) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("test_stat", ["qtilde", "q"])
@pytest.mark.parametrize("q", [0.0, 1e-6, 0.3, 4.0, 30.0])
@pytest.mark.parametrize("q_asimov", [1e-2, 0.5, 4.0, 25.0])
def test_cls_is_that_of_pyhf(q: float, q_asimov: float, test_stat: str) -> None:
    calculator = pyhf.infer.calculators.AsymptoticTestStatDistribution
    root, width = np.sqrt(q), np.sqrt(q_asimov)
    t = (q - q_asimov) / (2 * width) if test_stat == "qtilde" and root > width else root - width
    signal, background = calculator(-width), calculator(0.0)
    cls = asymptotic_cls(np.array([q]), np.array([q_asimov]), test_stat)
    if background.pvalue(t) == 0:
        # Both tails are zero in pyhf, and CLs is not a number.
        assert 0 <= cls.observed[0] <= 1
    else:
        expected = signal.pvalue(t) / background.pvalue(t)
        assert cls.observed[0] == pytest.approx(float(expected), rel=1e-9)
    for value, n in zip(cls.expected[0], (2, 1, 0, -1, -2), strict=True):
        assert value == pytest.approx(float(signal.pvalue(n) / background.pvalue(n)), rel=1e-9)


def test_tiny_cls_is_not_zero_and_blind_cls_is_one() -> None:
    cls = asymptotic_cls(np.array([1200.0, 0.0, 1e-9]), np.array([1200.0, 0.0, 0.0]), "qtilde")
    assert 0 < cls.observed[0] < 1e-200
    assert cls.observed[1:].tolist() == [1.0, 1.0]
    assert cls.expected[1].tolist() == [1.0] * 5


def test_every_bin_has_its_own_place() -> None:
    channels = (("a", 1), ("b", 7), ("c", 3))
    for width in (1, 2, 3, 8):
        layout = Layout(channels, width)
        assert len(set(layout.slots.tolist())) == layout.bins == 11
        assert layout.slots.max() < layout.blocks * width
        for name, count in channels:
            values = np.arange(count) + 1.0
            folded = np.zeros((layout.blocks, width))
            folded[layout.block_range(name)] = layout.fold(values)
            bins = layout.slots[layout.bin_range(name)]
            np.testing.assert_array_equal(folded.ravel()[bins], values)
            assert folded.sum() == values.sum()


def test_the_width_of_blocks_follows_the_cost() -> None:
    assert choose_width([100] * 20, parameters=300, histosys=100) > 16
    assert choose_width([1] * 20, parameters=300, histosys=100) == 1
