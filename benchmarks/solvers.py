"""Compare the kernel's own minimiser with those of optimistix, on the same objective.

    pip install optimistix
    python benchmarks/solvers.py [ANALYSIS] [HYPOTHESES]

Every hypothesis is fitted at a signal strength of 1 to its observed data, from where pyhf would
start. optimistix' minimisers get the kernel's own value and gradient (and, for Newton's method
on the gradient, its Hessian), in programs that are compiled before they are timed. It has no
bounds, so that its minima may be lower than is allowed; a gap is how far a solver ends above
the kernel's minimum in units of -log L.
"""

from __future__ import annotations

import functools
import sys
import time
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import kernel_side
import numpy as np
from data import published

if TYPE_CHECKING:
    from collections.abc import Callable

_STEPS = 400


def main() -> None:
    """Print a table."""
    name = sys.argv[1] if len(sys.argv) > 1 else "staus"
    problem = published(name)
    if problem is None:
        raise SystemExit(f"there is no {name} in FITSERVE_SHARED")
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 12
    every = len(problem.hypotheses)
    chosen = [problem.hypotheses[at * every // count] for at in range(count)]
    shape, models, jobs = _jobs(problem._replace(hypotheses=chosen))
    own = _timed(functools.partial(_own, shape, models), jobs)
    least = np.asarray(own[1].value)
    print(f"{name}, {count} hypotheses      ms for a fit   evaluations   largest gap   failed")
    _tell("kernel", own[0], own[1].steps, least, least)
    for solver, run in _optimistix(shape, models).items():
        seconds, (values, steps) = _timed(run, jobs)
        _tell(solver, seconds, steps, values, least)


def _tell(solver: str, seconds: float, steps: Any, values: Any, least: Any) -> None:
    gap = np.asarray(values) - least
    failed = ~(gap < 1e-3)
    largest = gap[~failed].max(initial=-np.inf)
    print(
        f"{solver:26s} {1e3 * seconds / len(least):12.2f} {np.mean(steps):13.1f} "
        f"{largest:13.1e} {failed.sum():8d}"
    )


def _timed(run: Callable[[Any], Any], jobs: Any) -> tuple[float, Any]:
    jax.block_until_ready(run(jobs))
    begin = time.process_time()
    found = jax.block_until_ready(run(jobs))
    return time.process_time() - begin, found


def _jobs(problem: Any) -> tuple[Any, Any, Any]:
    from fitserve_worker.kernel.compilation import compile_hypotheses
    from fitserve_worker.kernel.fits import load
    from fitserve_worker.kernel.likelihood import Target
    from fitserve_worker.kernel.patches import Background
    from fitserve_worker.kernel.program import Jobs
    from fitserve_worker.kernel.runtime import runtime

    options = kernel_side.work(problem).request.model
    background = Background(problem.workspace, options)
    (batch,) = compile_hypotheses(background, problem.hypotheses, options).batches
    loaded = load(batch, range(len(problem.hypotheses)), runtime())
    every = np.arange(len(problem.hypotheses))
    bounds = loaded.bounds(every, np.ones(len(every)))
    start = np.clip(loaded.chunk.columns["init"][every], bounds.lower, bounds.upper)
    jobs = Jobs(every, start, bounds, Target(*loaded.observed))
    return loaded._shape, *jax.tree.map(jnp.asarray, (loaded._models, jobs))


def _own(shape: Any, models: Any, jobs: Any) -> Any:
    from fitserve_worker.kernel.program import run

    return run(shape, models, jobs, len(jobs.start), in_turn=True)


def _optimistix(shape: Any, models: Any) -> dict[str, Callable[[Any], Any]]:
    import optimistix

    from fitserve_worker.kernel.curvature import curvature
    from fitserve_worker.kernel.likelihood import evaluate
    from fitserve_worker.kernel.program import local_bounds

    def pieces(job: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any], Any]:
        added, terms = jax.tree.map(lambda leaf: leaf[job.hypothesis], (models.added, models.terms))
        free = job.bounds.upper > job.bounds.lower

        def at(x: Any) -> Any:
            x = jnp.where(free, x, job.bounds.lower)
            samples, side = (models.background, added), jnp.ones(shape.columns)
            return evaluate(shape, samples, terms, job.target, local_bounds(job), x, side)

        @jax.custom_jvp
        def value(x: Any) -> Any:
            return at(x)[0].value

        @value.defjvp
        def _(primals: Any, tangents: Any) -> Any:
            found = at(*primals)[0]
            return found.value, jnp.where(free, found.gradient, 0.0) @ tangents[0]

        @jax.custom_jvp
        def gradient(x: Any) -> Any:
            # What is held has the gradient of a parabola, so that no row is empty.
            return jnp.where(free, at(x)[0].gradient, x - job.bounds.lower)

        @gradient.defjvp
        def _(primals: Any, tangents: Any) -> Any:
            found, parts = at(*primals)
            hessian = curvature(shape, terms, job.target, models.slots, parts).hessian
            both = jnp.where(free[:, None] & free[None, :], hessian, jnp.eye(len(free)))
            here = jnp.where(free, found.gradient, primals[0] - job.bounds.lower)
            return here, both @ tangents[0]

        return value, gradient, at

    def minimised(solver: Any) -> Callable[[Any], Any]:
        def one(job: Any) -> Any:
            value, _, _ = pieces(job)
            found = optimistix.minimise(
                lambda x, _: value(x), solver, job.start, max_steps=_STEPS, throw=False
            )
            return value(found.value), found.stats["num_steps"]

        return jax.jit(lambda jobs: jax.lax.map(one, jobs))

    def rooted(solver: Any) -> Callable[[Any], Any]:
        def one(job: Any) -> Any:
            value, gradient, _ = pieces(job)
            found = optimistix.root_find(
                lambda x, _: gradient(x), solver, job.start, max_steps=_STEPS, throw=False
            )
            return value(found.value), found.stats["num_steps"]

        return jax.jit(lambda jobs: jax.lax.map(one, jobs))

    tolerances = {"rtol": 1e-8, "atol": 1e-8}
    return {
        "optimistix BFGS": minimised(optimistix.BFGS(**tolerances)),
        "optimistix DFP": minimised(optimistix.DFP(**tolerances)),
        "optimistix NonlinearCG": minimised(optimistix.NonlinearCG(**tolerances)),
        "optimistix Newton, gradient": rooted(optimistix.Newton(**tolerances)),
        "optimistix Dogleg, gradient": rooted(optimistix.Dogleg(**tolerances)),
    }


if __name__ == "__main__":
    main()
