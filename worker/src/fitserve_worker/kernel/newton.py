"""Minimisation between bounds: Newton's method with the exact Hessian.

Parameters at a bound that the gradient pushes against it are left out of a step, and steps
are cut at the bounds (a projected Newton method). Where the Hessian is not positive definite
the Fisher information takes its place: expected instead of observed curvature, positive by
construction, and much better at leaving such a region than a Hessian made positive by
damping. A step that gains too little of what it promised is damped in the manner of
Levenberg and Marquardt.

The fit ends on the estimated distance to the minimum (EDM) in units of -log L, half the
gradient times the Newton step. It is taken with the last Hessian at the new point, and after
it has become small enough one more step with that Hessian is made, whose end is evaluated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from fitserve_worker.kernel.likelihood import Evaluation, diagonal_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from jax import Array

    from fitserve_worker.kernel.arraytypes import DeviceArray

__all__ = ["MAX_STEPS", "TOLERANCE", "Minimum", "Problem", "minimise"]

MAX_STEPS = 100
"""Evaluations after which a fit is given up."""
TOLERANCE = 1e-9
"""EDM of a converged fit, in units of -log L."""

# The last step with an old Hessian is made when it is expected to leave this EDM, and from
# no further away than that.
_LAST_STEP = 1e-11, 1e-5
_LEAST_EDM = 1e-100
# Damping: where it starts, below what it is none, and what is a good and a poor gain.
_FIRST_DAMPING, _NO_DAMPING = 3e-2, 1e-2
_GOOD, _POOR, _USELESS = 0.75, 0.25, 1e-4
_RIDGE, _LEAST = 1e-12, 1e-2
# Derivatives of a parameter that acts on nothing.
_NOTHING = 1e-20
# Slopes, in units of the constraint's standard deviation, that do not draw off a kink.
_LEVEL = 1e-8
# Gains below this fraction of the objective are rounding.
_ROUNDING = 1e-13


class Problem(NamedTuple):
    """What to minimise, between which bounds, each (columns,).

    ``kinked`` marks parameters whose derivative may jump at zero.
    """

    function: Callable[[Array, Array], Evaluation]
    lower: Array
    upper: Array
    stiffness: Array
    kinked: DeviceArray | None


class Minimum(NamedTuple):
    """Where a fit ended.

    ``value`` is the objective there. ``steps`` counts evaluations of the Hessian. ``positive``
    says that the last one was positive definite in the parameters off their bounds.
    """

    x: Array
    value: Array
    gradient: Array
    local: Array
    yields: Array
    edm: Array
    steps: Array
    converged: Array
    positive: Array


class _State(NamedTuple):
    x: Array
    at: Evaluation
    side: Array
    damping: Array
    factor: Array
    active: Array
    edm: Array
    steps: Array
    positive: Array
    done: Array


def minimise(problem: Problem, start: Array, bins: int, model_bins: int) -> Minimum:
    """Minimise from a start, which is moved between the bounds if it is not there.

    Parameters
    ----------
    problem
        The function and its bounds.
    start
        The first point, of shape (columns,).
    bins, model_bins
        Sizes of what `Evaluation` has of bins.
    """
    function, lower, upper, stiffness, _ = problem

    def step(state: _State) -> _State:
        side, low, high, resting = _sides(problem, state)
        gradient = state.at.gradient
        flat = _flat(state.at, stiffness)
        active = ~(_blocked(state.x, gradient, low, high) | resting | flat)
        pulled = jnp.where(active, gradient, 0.0)
        factor, positive = _factor(state, active, stiffness)
        damping = state.damping
        move = -cho_solve((factor, True), pulled)
        trial = jnp.clip(state.x + move, low, high)
        move = trial - state.x
        promised = -(pulled @ move + 0.5 * _curvature(state.at, stiffness, move, positive))
        new = function(trial, side)

        first = state.steps == 0
        gain = state.at.value - new.value
        rounding = _ROUNDING * (1 + jnp.abs(new.value))
        ratio = jnp.where(promised > rounding, gain / jnp.maximum(promised, rounding), 1.0)
        good = first | (
            jnp.isfinite(new.value) & (gain >= -rounding) & (promised >= 0) & (ratio > _USELESS)
        )
        at = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state.at)
        x = jnp.where(good, trial, state.x)
        relaxed = jnp.where(damping < _NO_DAMPING, 0.0, damping / 10)
        raised = jnp.maximum(4 * damping, _NO_DAMPING)
        kept = jnp.where(ratio > _GOOD, relaxed, jnp.where(ratio < _POOR, raised, damping))
        damping = jnp.where(good, kept, jnp.maximum(10 * damping, _FIRST_DAMPING))

        # The EDM at the new point, with the Hessian of the old one.
        left = jnp.where(active, at.gradient, 0.0)
        left = jnp.where(_blocked(x, left, low, high), 0.0, left)
        edm = 0.5 * left @ cho_solve((factor, True), left)
        freed = ~active & ~resting & ~flat & ~_blocked(x, at.gradient, low, high)
        turning = _sides(problem, state._replace(x=x, at=at, side=side))[0] != side
        shrinking = edm / jnp.maximum(jnp.maximum(state.edm, edm), _LEAST_EDM)
        near = (edm * shrinking < _LAST_STEP[0]) & (edm < _LAST_STEP[1])
        settled = good & ~first & near & ~jnp.any(freed | turning | (side != state.side))
        return _State(
            x=x,
            at=at,
            side=side,
            damping=jnp.where(first, 0.0, damping),
            factor=factor,
            active=active,
            edm=jnp.where(good, edm, state.edm),
            steps=state.steps + 1,
            positive=positive,
            done=settled,
        )

    def unfinished(state: _State) -> Array:
        return ~state.done & (state.steps < MAX_STEPS)

    begin = _begin(jnp.clip(start, lower, upper), bins, model_bins)
    return _finish(problem, jax.lax.while_loop(unfinished, step, begin))


def _begin(x: Array, bins: int, model_bins: int) -> _State:
    """Return a state whose first step only evaluates the objective at ``x``."""
    n = len(x)
    zero, none = jnp.zeros(()), jnp.zeros((), dtype=bool)
    empty = Evaluation(
        value=jnp.full((), jnp.inf),
        gradient=jnp.zeros(n),
        other=jnp.zeros(n),
        hessian=jnp.eye(n),
        yields=jnp.zeros(bins),
        local=jnp.zeros(bins),
        jacobian=jnp.zeros((model_bins, n)),
        information=jnp.zeros(model_bins),
        magnitude=jnp.zeros(n),
    )
    return _State(
        x=x,
        at=empty,
        side=jnp.ones(n),
        damping=zero,
        factor=jnp.eye(n),
        active=jnp.zeros(n, dtype=bool),
        edm=jnp.full((), jnp.inf),
        steps=jnp.zeros((), dtype=jnp.int32),
        positive=none,
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
    end = problem.function(x, state.side)
    _, after = left_at(x, end.gradient)
    # Where parameters act alike the step may lead along them and away.
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
        converged=state.done & (edm < TOLERANCE),
        positive=state.positive,
    )


def _blocked(x: Array, gradient: Array, lower: Array, upper: Array) -> Array:
    return (lower >= upper) | ((x <= lower) & (gradient > 0)) | ((x >= upper) & (gradient < 0))


def _flat(at: Evaluation, stiffness: Array) -> Array:
    """Tell which parameters the objective does not depend on, by all that can be seen here."""
    slope, bend = jnp.abs(at.gradient), jnp.abs(diagonal_of(at.hessian))
    return (stiffness == 0) & (slope < _NOTHING) & (bend < _NOTHING)


def _factor(state: _State, active: Array, stiffness: Array) -> tuple[Array, Array]:
    """Return a Cholesky factor of the quadratic model's matrix, damped.

    It is that of the Hessian if this is positive definite (the second value tells), otherwise
    that of the Fisher information. Parameters that are not active have unit rows.
    """
    at, n = state.at, len(active)

    def factorise(matrix: Array, diagonal: Array, damping: Array) -> Array:
        scale = jnp.maximum(jnp.maximum(jnp.abs(diagonal), stiffness), _LEAST)
        # Enough to be positive in spite of rounding where parameters act alike.
        ridge = _RIDGE * jnp.maximum(at.magnitude, _LEAST)
        damped = jnp.where(active, diagonal + damping * scale + ridge, 1.0)
        restricted = jnp.where(active[:, None] & active, matrix, 0.0)
        whole = jnp.where(jnp.eye(n, dtype=bool), damped, restricted)
        lower: Array = jnp.linalg.cholesky(whole, symmetrize_input=False)
        return lower

    factor = factorise(at.hessian, diagonal_of(at.hessian), state.damping)
    positive = jnp.isfinite(factor[-1, -1])

    def fisher() -> Array:
        matrix = at.jacobian.T @ (at.information[:, None] * at.jacobian)
        return factorise(matrix, diagonal_of(matrix) + stiffness, state.damping)

    chosen: Array = jax.lax.cond(positive, lambda: factor, fisher)
    return chosen, positive


def _curvature(at: Evaluation, stiffness: Array, move: Array, positive: Array) -> Array:
    """Return the second derivative of the quadratic model along a move."""
    along = at.jacobian @ move
    fisher = along @ (at.information * along) + move @ (stiffness * move)
    return jnp.where(positive, move @ (at.hessian @ move), fisher)


def _sides(problem: Problem, state: _State) -> tuple[Array, Array, Array, Array]:
    """Choose sides of kinks at zero.

    Returns the side of each parameter, bounds that keep steps from crossing a kink, and
    which parameters rest at a kink, where the objective rises to both sides or where the
    side was changed and must be evaluated first.
    """
    low, high, side = problem.lower, problem.upper, state.side
    if problem.kinked is None:
        return side, low, high, jnp.zeros(len(side), dtype=bool)
    x, here, there = state.x, state.at.gradient, state.at.other
    # What a parameter with such a slope could gain is far below the tolerance.
    level = _LEVEL * jnp.sqrt(problem.stiffness)
    above, below = jnp.where(side > 0, here, there), jnp.where(side > 0, there, here)
    falls_up, falls_down = above < -level, below > level
    up = falls_up & (~falls_down | (-above >= below))
    at_kink = problem.kinked & (x == 0)
    wanted = jnp.where(up, 1.0, jnp.where(falls_down, -1.0, side))
    new = jnp.where(at_kink, wanted, jnp.where(x > 0, 1.0, jnp.where(x < 0, -1.0, side)))
    resting = at_kink & ((new != side) | ~(falls_up | falls_down))
    low = jnp.where(problem.kinked & (new > 0), jnp.maximum(low, 0.0), low)
    high = jnp.where(problem.kinked & (new < 0), jnp.minimum(high, 0.0), high)
    return new, low, high, resting
