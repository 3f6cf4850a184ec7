"""Minimisation between bounds: Newton's method with the exact Hessian.

Parameters that the gradient pushes against a bound are left out of a step, and steps are cut at
the bounds (a projected Newton method). Where the Hessian is not positive definite the Fisher
information takes its place: expected instead of observed curvature, positive by construction,
and much better at leaving such a region than a Hessian made positive by damping. A step that
gains much less than predicted is damped in the manner of Levenberg and Marquardt.

A Hessian costs several gradients, and near the minimum it hardly changes: there steps reuse the
Hessian of an earlier point as long as the fit goes on fast enough.

The estimated distance to the minimum (EDM), in units of -log L, decides when a fit ends. It is
half the gradient at the new point times the Newton step with the last Hessian. Once it is small
enough one more step is made, whose end is evaluated. How small depends on the goal: a fit that
only asks which minimum it leads to ends much earlier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from fitserve_worker.kernel.curvature import Curvature, diagonal_of
from fitserve_worker.kernel.likelihood import Evaluation
from fitserve_worker.kernel.runtime import USUAL, Goal

if TYPE_CHECKING:
    from collections.abc import Callable

    from jax import Array

    from fitserve_worker.kernel import DeviceArray
    from fitserve_worker.kernel.likelihood import Parts

__all__ = ["TOLERANCE", "Minimum", "Problem", "minimise", "no_minima"]

TOLERANCE = 1e-9
"""EDM of a converged fit, in units of -log L."""

# The last step is made from no further away than this; steps with an old Hessian from no further
# than this, if the step before reduced the EDM to this fraction.
_LAST_STEP = 1e-5
_OLD_HESSIAN = 1e-2, 0.03
_ROUGH_HESSIAN = 0.5, 0.2
_STALLED = 0.5
_LEAST_EDM = 1e-100
# Damping: its first value, the value below which there is none, and what good, poor and useless
# gains are.
_FIRST_DAMPING, _NO_DAMPING = 3e-2, 1e-2
_GOOD, _POOR, _USELESS = 0.75, 0.25, 1e-4
# Added to the diagonal: this fraction of its value without cancellations, which counts as at least
# this much.
_RIDGE, _LEAST = 1e-12, 1e-2
# Smaller derivatives are those of a parameter that acts on nothing.
_NOTHING = 1e-20
# Smaller slopes, in units of the constraint's standard deviation, do not move a parameter off a
# kink.
_LEVEL = 1e-8
# Smaller gains, as fractions of the objective, are rounding.
_ROUNDING = 1e-13


class Problem(NamedTuple):
    """What to minimise, and the bounds, each (columns,).

    ``function`` takes a point and the side of kinks, ``curvature`` and ``slopes`` the parts of
    an evaluation. ``kinked`` marks parameters whose derivative may jump at zero.
    """

    function: Callable[[Array, Array], tuple[Evaluation, Parts]]
    curvature: Callable[[Parts], Curvature]
    slopes: Callable[[Parts], Array]
    lower: Array
    upper: Array
    kinked: DeviceArray | None


class Minimum(NamedTuple):
    """Where a fit ended.

    ``value`` is the objective there. ``steps`` counts evaluations of the gradient,
    ``hessians`` those of the Hessian. ``positive`` says that the last one was positive
    definite in the parameters off their bounds. ``slopes`` (2, columns) see
    `fitserve_worker.kernel.likelihood.far_slopes`.
    """

    x: Array
    value: Array
    gradient: Array
    local: Array
    yields: Array
    edm: Array
    steps: Array
    hessians: Array
    converged: Array
    positive: Array
    slopes: Array


def no_minima(count: int, columns: int, bins: int) -> Minimum:
    """Return empty arrays for the minima of ``count`` fits, with the fit as first axis."""
    number, truth = jnp.zeros(count), jnp.zeros(count, dtype=bool)
    steps = jnp.zeros(count, dtype=jnp.int32)
    each, local = jnp.zeros((count, columns)), jnp.zeros((count, bins))
    slopes = jnp.zeros((count, 2, columns))
    return Minimum(each, number, each, local, local, number, steps, steps, truth, truth, slopes)


class _State(NamedTuple):
    """Where a fit is.

    ``bend`` is the curvature at ``x`` or a point before it, and ``factor`` a Cholesky factor
    of it, damped, for the ``active`` parameters; ``stale`` says that it must be made anew.
    """

    x: Array
    at: Evaluation
    bend: Curvature
    side: Array
    damping: Array
    factor: Array
    active: Array
    stale: Array
    positive: Array
    edm: Array
    steps: Array
    hessians: Array
    done: Array


def minimise(
    problem: Problem,
    start: Array,
    bins: int,
    model_bins: int,
    goal: Goal = USUAL,
    minimum: Array | float = jnp.nan,
) -> Minimum:
    """Minimise from a start, which is moved between the bounds if it is not there.

    Parameters
    ----------
    problem
        The function and its bounds.
    start
        The first point, of shape (columns,).
    bins, model_bins
        Numbers of bins of the evaluation, and of the curvature.
    goal
        When the fit ends.
    minimum
        A known minimum, (columns,).
    """

    def step(state: _State) -> _State:
        side, low, high, resting = _sides(problem, state)
        flat = _flat(state)
        active = ~(_blocked(state.x, state.at.gradient, low, high) | resting | flat)
        factor, positive = jax.lax.cond(
            state.stale | jnp.any(active != state.active),
            lambda: _factor(state.bend, active, state.damping),
            lambda: (state.factor, state.positive),
        )
        pulled = jnp.where(active, state.at.gradient, 0.0)
        trial = jnp.clip(state.x - cho_solve((factor, True), pulled), low, high)
        move = trial - state.x
        promised = -(pulled @ move + 0.5 * _along(state.bend, move, positive))
        new, parts = problem.function(trial, side)

        first = state.steps == 0
        gain = state.at.value - new.value
        rounding = _ROUNDING * (1 + jnp.abs(new.value))
        ratio = jnp.where(promised > rounding, gain / jnp.maximum(promised, rounding), 1.0)
        useful = (gain >= -rounding) & (promised >= 0) & (ratio > _USELESS)
        good = first | (jnp.isfinite(new.value) & useful)
        at = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state.at)
        x = jnp.where(good, trial, state.x)
        damping = jnp.where(first, 0.0, _damping(state.damping, good, ratio))

        # The EDM at the new point, with the Hessian of an old one.
        left = jnp.where(active & ~_blocked(x, at.gradient, low, high), at.gradient, 0.0)
        ahead = cho_solve((factor, True), left)
        edm = 0.5 * left @ ahead
        in_sight = jax.lax.cond(
            goal.rough > 0,
            lambda: _distance(factor, jnp.where(active, x - ahead - minimum, 0.0)) < goal.rough,
            lambda: jnp.zeros((), dtype=bool),
        )
        freed = ~active & ~resting & ~flat & ~_blocked(x, at.gradient, low, high)
        turning = _sides(problem, state._replace(x=x, at=at, side=side))[0] != side
        same = good & ~first & ~jnp.any(freed | turning | (side != state.side))
        shrinking = edm / jnp.maximum(jnp.maximum(state.edm, edm), _LEAST_EDM)
        near = (edm * shrinking < goal.left) & (edm < _LAST_STEP)
        # Below this there is only rounding, which no further step removes.
        near |= (edm < TOLERANCE) & (shrinking > _STALLED)
        near |= positive & ((edm < goal.rough) | in_sight)
        old, fast = jax.tree.map(
            lambda a, b: jnp.where(goal.rough > 0, a, b), _ROUGH_HESSIAN, _OLD_HESSIAN
        )
        reuse = positive & (damping == 0) & (edm < old) & (shrinking < fast)
        done = same & near
        renew = good & ~done & ~(same & reuse)
        return _State(
            x=x,
            at=at,
            bend=jax.lax.cond(renew, lambda: problem.curvature(parts), lambda: state.bend),
            side=side,
            damping=damping,
            factor=factor,
            active=active,
            stale=renew | (damping != state.damping),
            positive=positive,
            edm=jnp.where(good, edm, state.edm),
            steps=state.steps + 1,
            hessians=state.hessians + renew,
            done=done,
        )

    def unfinished(state: _State) -> Array:
        return ~state.done & (state.steps < goal.most)

    begin = _begin(jnp.clip(start, problem.lower, problem.upper), bins, model_bins)
    return _finish(problem, jax.lax.while_loop(unfinished, step, begin))


def _distance(factor: Array, move: Array) -> Array:
    """Return by how much a move from the minimum raises the quadratic model."""
    along = factor.T @ move
    return 0.5 * along @ along


def _damping(damping: Array, good: Array, ratio: Array) -> Array:
    relaxed = jnp.where(damping < _NO_DAMPING, 0.0, damping / 10)
    raised = jnp.maximum(4 * damping, _NO_DAMPING)
    kept = jnp.where(ratio > _GOOD, relaxed, jnp.where(ratio < _POOR, raised, damping))
    return jnp.where(good, kept, jnp.maximum(10 * damping, _FIRST_DAMPING))


def _begin(x: Array, bins: int, model_bins: int) -> _State:
    """Return a state whose first step only evaluates the objective at ``x``."""
    n = len(x)
    zero, none = jnp.zeros(()), jnp.zeros((), dtype=bool)
    empty = Evaluation(
        value=jnp.full((), jnp.inf),
        gradient=jnp.zeros(n),
        other=jnp.zeros(n),
        yields=jnp.zeros(bins),
        local=jnp.zeros(bins),
    )
    level = Curvature(
        hessian=jnp.eye(n),
        jacobian=jnp.zeros((model_bins, n)),
        information=jnp.zeros(model_bins),
        stiffness=jnp.zeros(n),
        magnitude=jnp.zeros(n),
    )
    return _State(
        x=x,
        at=empty,
        bend=level,
        side=jnp.ones(n),
        damping=zero,
        factor=jnp.eye(n),
        active=jnp.zeros(n, dtype=bool),
        stale=none,
        positive=none,
        edm=jnp.full((), jnp.inf),
        steps=jnp.zeros((), dtype=jnp.int32),
        hessians=jnp.zeros((), dtype=jnp.int32),
        done=none,
    )


def _finish(problem: Problem, state: _State) -> Minimum:
    """Make the last step, with the last Hessian, and evaluate where it ends."""
    _, low, high, _ = _sides(problem, state)

    def left_at(x: Array, gradient: Array) -> tuple[Array, Array]:
        left = jnp.where(state.active & ~_blocked(x, gradient, low, high), gradient, 0.0)
        move = cho_solve((state.factor, True), left)
        return move, 0.5 * left @ move

    move, before = left_at(state.x, state.at.gradient)
    x = jnp.clip(state.x - move, low, high)
    end, parts = problem.function(x, state.side)
    _, after = left_at(x, end.gradient)
    # Where parameters act alike the step may lead far away along them.
    nearer = state.done & (after <= before)
    edm = jnp.where(nearer, after, before)
    return Minimum(
        x=jnp.where(nearer, x, state.x),
        value=jnp.where(nearer, end.value, state.at.value),
        gradient=jnp.where(nearer, end.gradient, state.at.gradient),
        local=jnp.where(nearer, end.local, state.at.local),
        yields=jnp.where(nearer, end.yields, state.at.yields),
        edm=edm,
        steps=state.steps,
        hessians=state.hessians,
        converged=state.done & (edm < TOLERANCE),
        positive=state.positive,
        slopes=problem.slopes(parts),
    )


def _blocked(x: Array, gradient: Array, lower: Array, upper: Array) -> Array:
    return (lower >= upper) | ((x <= lower) & (gradient > 0)) | ((x >= upper) & (gradient < 0))


def _flat(state: _State) -> Array:
    """Tell which parameters the objective does not seem to depend on here."""
    bend = state.bend
    slope, second = jnp.abs(state.at.gradient), jnp.abs(diagonal_of(bend.hessian))
    return (bend.stiffness == 0) & (slope < _NOTHING) & (second < _NOTHING)


def _factor(bend: Curvature, active: Array, damping: Array) -> tuple[Array, Array]:
    """Return a Cholesky factor of the quadratic model's matrix, damped.

    The matrix is the Hessian if this is positive definite (the second value says so), otherwise
    the Fisher information. Parameters that are not active have unit rows.
    """

    def factorise(matrix: Array, diagonal: Array) -> Array:
        scale = jnp.maximum(jnp.maximum(jnp.abs(diagonal), bend.stiffness), _LEAST)
        # Enough to be positive in spite of rounding where parameters act alike.
        ridge = _RIDGE * jnp.maximum(bend.magnitude, _LEAST)
        damped = jnp.where(active, diagonal + damping * scale + ridge, 1.0)
        restricted = jnp.where(active[:, None] & active, matrix, 0.0)
        whole = jnp.where(jnp.eye(len(active), dtype=bool), damped, restricted)
        lower: Array = jnp.linalg.cholesky(whole, symmetrize_input=False)
        return lower

    factor = factorise(bend.hessian, diagonal_of(bend.hessian))
    positive = jnp.isfinite(factor[-1, -1])

    def fisher() -> Array:
        matrix = bend.jacobian.T @ (bend.information[:, None] * bend.jacobian)
        return factorise(matrix, diagonal_of(matrix) + bend.stiffness)

    chosen: Array = jax.lax.cond(positive, lambda: factor, fisher)
    return chosen, positive


def _along(bend: Curvature, move: Array, positive: Array) -> Array:
    """Return the second derivative of the quadratic model along a move."""
    along = bend.jacobian @ move
    fisher = along @ (bend.information * along) + move @ (bend.stiffness * move)
    return jnp.where(positive, move @ (bend.hessian @ move), fisher)


def _sides(problem: Problem, state: _State) -> tuple[Array, Array, Array, Array]:
    """Choose sides of kinks at zero.

    Returns the side of each parameter, bounds that keep steps from crossing a kink, and
    which parameters rest at a kink, where the objective rises to both sides or where the
    side was changed and must be evaluated first.
    """
    low, high, side = problem.lower, problem.upper, state.side
    if problem.kinked is None:
        return side, low, high, jnp.zeros(len(side), dtype=bool)
    x, here, across = state.x, state.at.gradient, state.at.other
    # With such a slope a parameter could gain far less than the tolerance.
    level = _LEVEL * jnp.sqrt(state.bend.stiffness)
    above, below = jnp.where(side > 0, here, across), jnp.where(side > 0, across, here)
    falls_up, falls_down = above < -level, below > level
    up = falls_up & (~falls_down | (-above >= below))
    at_kink = problem.kinked & (x == 0)
    downhill = jnp.where(up, 1.0, jnp.where(falls_down, -1.0, side))
    new = jnp.where(at_kink, downhill, jnp.where(x > 0, 1.0, jnp.where(x < 0, -1.0, side)))
    resting = at_kink & ((new != side) | ~(falls_up | falls_down))
    low = jnp.where(problem.kinked & (new > 0), jnp.maximum(low, 0.0), low)
    high = jnp.where(problem.kinked & (new < 0), jnp.minimum(high, 0.0), high)
    return new, low, high, resting
