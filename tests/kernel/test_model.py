"""Expected yields, likelihoods, derivatives and parameters: those of pyhf."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyhf
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from fitserve_worker.kernel.batch import compile_hypotheses
from fitserve_worker.kernel.fits import load
from fitserve_worker.kernel.runtime import runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fitserve_contract import ModelOptions

    Case = Any

PRECISION = 1e-10
# Parameters of zero are 1e-60 in the kernel, so that a yield of zero is not quite that.
ZERO = 1e-50


class Checked(NamedTuple):
    """A hypothesis in the kernel and in pyhf; functions of a vector in pyhf's order."""

    names: list[str]
    model: Any
    data: list[float]
    idle: np.ndarray
    yields: Callable[[np.ndarray], np.ndarray]
    twice_nll: Callable[[np.ndarray], float]
    gradient: Callable[[np.ndarray], np.ndarray]
    hessian: Callable[[np.ndarray], np.ndarray]


def _both(case: Case, options: ModelOptions, pyhf_model: Callable) -> Iterator[Checked]:
    compilation = compile_hypotheses(case.workspace, case.hypotheses, options)
    names = [hypothesis.name for hypothesis in case.hypotheses]
    for batch in compilation.batches:
        loaded = load(batch, range(len(batch.members)), runtime())
        for member, hypothesis in enumerate(batch.members):
            model, data = pyhf_model(case, names.index(hypothesis.name), options)
            yield _checked(loaded, batch, member, model, data)
    for name in compilation.unsupported:
        _refused(case, names.index(name), options, pyhf_model)


def _refused(case: Case, index: int, options: ModelOptions, pyhf_model: Callable) -> None:
    """See that the kernel refuses what pyhf refuses, or one of the known exceptions."""
    try:
        pyhf_model(case, index, options)
    except (AssertionError, pyhf.exceptions.InvalidModel, pyhf.exceptions.InvalidNameReuse):
        return
    reasons = compile_hypotheses(case.workspace, case.hypotheses, options).unsupported
    assert "shapefactor" in reasons[case.hypotheses[index].name]


def _checked(loaded: Any, batch: Any, member: int, model: Any, data: list[float]) -> Checked:
    parameters = batch.parameters(member)
    which = np.array([member])
    events = loaded.observed.take(which)

    def at(vector: np.ndarray) -> Any:
        x, local = parameters.split(vector, batch.shape.columns, batch.shape.bins)
        return loaded.evaluate(which, x[None], local[None], events)

    def column_of(values: np.ndarray) -> np.ndarray:
        """Return columns in pyhf's order, NaN for parameters that are not columns."""
        return parameters.join(values, np.full(batch.shape.bins, np.nan))

    def matrix_of(values: np.ndarray) -> np.ndarray:
        """Return a matrix of columns in pyhf's order, NaN for parameters that are not columns."""
        place = column_of(np.arange(batch.shape.columns, dtype=float))
        fitted = np.isfinite(place) & ~parameters.idle
        columns = place[fitted].astype(int)
        matrix = np.full((len(place), len(place)), np.nan)
        matrix[np.ix_(fitted, fitted)] = values[np.ix_(columns, columns)]
        return matrix

    return Checked(
        names=parameters.names,
        model=model,
        data=data,
        idle=parameters.idle,
        yields=lambda vector: at(vector)[0].yields[0, batch.slots],
        twice_nll=lambda vector: 2 * float(at(vector)[0].value[0] + loaded.chunk.constant[member]),
        gradient=lambda vector: 2 * column_of(at(vector)[0].gradient[0]),
        hessian=lambda vector: 2 * matrix_of(at(vector)[1].hessian[0]),
    )


def _points(model: Any, seed: int, count: int = 3) -> Iterator[np.ndarray]:
    """Yield parameter values, some far from the initial ones."""
    generator = np.random.default_rng(seed)
    initial = np.array(model.config.suggested_init())
    low, high = np.array(model.config.suggested_bounds()).T
    for width in np.geomspace(0.05, 2.5, count):
        moved = initial + width * generator.normal(size=len(initial))
        yield np.clip(moved, np.maximum(low, -4.9), np.minimum(high, 8.0))


def _compare(checked: Checked, seed: int) -> int:
    """Compare with pyhf at some points; returns at how many there was something to compare."""
    model, compared = checked.model, 0
    assert checked.names == model.config.par_names
    for vector in _points(model, seed):
        expected = np.asarray(model.expected_actualdata(vector))
        yields = checked.yields(vector)
        np.testing.assert_allclose(yields, expected, rtol=PRECISION, atol=ZERO)
        # The kernel leaves idle parameters at the centres of their constraints.
        resting = np.where(checked.idle, _resting(model), vector)
        theirs = -2 * float(model.logpdf(resting, checked.data)[0])
        if not np.isfinite(theirs):
            assert (expected <= 0).any()
            continue
        ours = checked.twice_nll(resting)
        assert ours == pytest.approx(theirs, rel=PRECISION, abs=1e-9)
        compared += 1
    return compared


def _resting(model: Any) -> np.ndarray:
    low, high = np.array(model.config.suggested_bounds()).T
    values = np.array(model.config.suggested_init())
    for name in model.config.par_order:
        parameters, where = model.config.param_set(name), model.config.par_slice(name)
        if parameters.constrained and not all(parameters.suggested_fixed):
            values[where] = np.clip(parameters.auxdata, low[where], high[where])
    return values


def test_every_modifier_is_that_of_pyhf(
    everything: Case, options: ModelOptions, pyhf_model: Callable
) -> None:
    compared = [
        _compare(checked, seed)
        for seed, checked in enumerate(_both(everything, options, pyhf_model))
    ]
    assert compared == [3, 3]


def test_parameters_are_those_of_pyhf(everything: Case, pyhf_model: Callable) -> None:
    from fitserve_contract import ModelOptions

    (batch,) = compile_hypotheses(
        everything.workspace, everything.hypotheses, ModelOptions()
    ).batches
    for member in range(2):
        model, _ = pyhf_model(everything, member, ModelOptions())
        sets = [made for made, _ in batch.parameters(member).sets]
        assert [made.name for made in sets] == model.config.par_order
        for made in sets:
            theirs = model.config.param_set(made.name)
            assert made.init.tolist() == pytest.approx(theirs.suggested_init)
            bounds = np.stack([made.lower, made.upper], axis=1)
            assert bounds.tolist() == [list(pair) for pair in theirs.suggested_bounds]
            assert made.fixed.tolist() == theirs.suggested_fixed
            if theirs.constrained:
                assert made.aux.tolist() == pytest.approx(theirs.auxdata)
                assert made.constraint == theirs.pdf_type
                widths = made.scale if made.constraint == "normal" else made.scale**-0.5
                assert widths.tolist() == pytest.approx(theirs.width())
            else:
                assert made.constraint == "none"


def test_derivatives_are_those_of_the_likelihood(
    everything: Case, options: ModelOptions, pyhf_model: Callable
) -> None:
    first, second = _both(everything, options, pyhf_model)
    for checked in (first, second):
        vector = next(_points(checked.model, 1, 1))
        gradient, hessian = checked.gradient(vector), checked.hessian(vector)
        columns = np.flatnonzero(np.isfinite(gradient) & ~checked.idle)
        assert len(columns) >= 4
        for index in columns:
            shifted = functools.partial(_shifted, vector, index)
            step = 1e-5
            above, below = shifted(step), shifted(-step)
            slope = (checked.twice_nll(above) - checked.twice_nll(below)) / (2 * step)
            assert gradient[index] == pytest.approx(slope, rel=1e-6, abs=1e-5)
            rise = (checked.gradient(above) - checked.gradient(below))[index] / (2 * step)
            assert hessian[index, index] == pytest.approx(rise, rel=1e-6, abs=1e-5)


def _shifted(vector: np.ndarray, index: int, by: float) -> np.ndarray:
    moved = vector.copy()
    moved[index] += by
    return moved


def test_minimising_over_local_parameters_keeps_the_derivatives(everything: Case) -> None:
    """Gradient and Hessian of the objective that the fits see: local parameters follow."""
    import jax

    from fitserve_contract import ModelOptions
    from fitserve_worker.kernel.curvature import curvature
    from fitserve_worker.kernel.likelihood import Target, evaluate

    (batch,) = compile_hypotheses(
        everything.workspace, everything.hypotheses, ModelOptions()
    ).batches
    loaded = load(batch, range(2), runtime())
    models = loaded._models
    added, terms = jax.tree.map(lambda leaf: leaf[0], (models.added, models.terms))
    target = Target(*(array[0] for array in loaded.observed))
    x = loaded.chunk.columns["init"][0] + 0.1
    side = np.ones_like(x)
    local = loaded.chunk.local["lower"][0], loaded.chunk.local["upper"][0]

    def function(x: Any) -> Any:
        samples = (models.background, added)
        return evaluate(batch.shape, samples, terms, target, local, x, side)

    def with_curvature(x: Any) -> Any:
        evaluation, parts = function(x)
        return evaluation, curvature(batch.shape, terms, target, batch.slots, parts)

    evaluation, bend = jax.jit(with_curvature)(x)
    assert batch.shape.local == "some"
    slope = jax.jit(jax.jacfwd(lambda x: function(x)[0].value))(x)
    np.testing.assert_allclose(evaluation.gradient, slope, rtol=1e-9, atol=1e-9)
    second = jax.jit(jax.jacfwd(lambda x: function(x)[0].gradient))(x)
    np.testing.assert_allclose(bend.hessian, second, rtol=1e-8, atol=1e-7)


def _generated(data: st.DataObject, models: Callable, codes: Any, pyhf_model: Callable) -> None:
    case, options = data.draw(models(wild=True)), data.draw(codes)
    for seed, checked in enumerate(_both(case, options, pyhf_model)):
        _compare(checked, seed)
        event(f"derivatives: {_derivatives(checked, seed)}")


# Of a parameter, for differences that are exact to the fourth order; none is that near a kink.
STEP = 1e-3


def _derivatives(checked: Checked, seed: int) -> str:
    """Compare gradient and Hessian with differences at a point; returns whether there was one.

    The point is inside all bounds and between the kinks of the interpolation, at 0 and +-1.
    """
    model = checked.model
    initial = np.array(model.config.suggested_init())
    low, high = np.array(model.config.suggested_bounds()).T
    generator = np.random.default_rng(seed)
    moved = initial + generator.choice([-1, 1], len(initial)) * generator.uniform(
        0.1, 0.3, len(initial)
    )
    vector = np.clip(moved, low + 0.02 * (high - low), high - 0.02 * (high - low))
    vector = np.where(np.abs(vector) < 3 * STEP, 0.1, vector)
    vector = np.where(np.abs(np.abs(vector) - 1) < 3 * STEP, 0.95, vector)
    gradient, hessian = checked.gradient(vector), checked.hessian(vector)
    columns = np.flatnonzero(np.isfinite(np.diag(hessian)))
    steps = {step: [_shifted(vector, i, step * STEP) for i in columns] for step in (-2, -1, 1, 2)}
    values = {step: [checked.twice_nll(at) for at in points] for step, points in steps.items()}
    yields = checked.yields(vector)
    nearby = [checked.yields(at) for points in (steps[-2], steps[2]) for at in points]
    if not np.isfinite([checked.twice_nll(vector), *itertools.chain(*values.values())]).all():
        return "no likelihood there"
    if not all((np.abs(near - yields) <= 0.01 * np.abs(yields)).all() for near in nearby):
        return "a bin is nearly empty"
    slopes = {step: [checked.gradient(at) for at in points] for step, points in steps.items()}
    # What is lost in the difference of sums as large as these.
    rounding = 1e-11 * (abs(checked.twice_nll(vector)) + 20 * np.sum(checked.data))
    for row, index in enumerate(columns):
        slope = _difference({step: several[row] for step, several in values.items()})
        scale = 1e-6 * np.abs(gradient[columns]).max()
        assert gradient[index] == pytest.approx(slope, rel=1e-6, abs=1e-5 + scale + rounding)
        rises = _difference({step: several[row] for step, several in slopes.items()})
        scale = 1e-6 * np.abs(hessian[np.ix_(columns, columns)]).max()
        np.testing.assert_allclose(
            hessian[index, columns], rises[columns], rtol=1e-6, atol=1e-5 + scale + rounding
        )
    return "compared"


def _difference(at: dict[int, Any]) -> Any:
    return (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * STEP)


RELAXED = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=RELAXED)
@given(data=st.data())
def test_generated_models_are_those_of_pyhf(
    data: st.DataObject, models_strategy: Callable, any_options: Any, pyhf_model: Callable
) -> None:
    _generated(data, models_strategy, any_options, pyhf_model)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=RELAXED)
@given(data=st.data())
def test_many_generated_models_are_those_of_pyhf(
    data: st.DataObject, models_strategy: Callable, any_options: Any, pyhf_model: Callable
) -> None:
    _generated(data, models_strategy, any_options, pyhf_model)
