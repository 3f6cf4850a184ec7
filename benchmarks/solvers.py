"""Compare the kernel's own minimiser with those of optimistix, on the same objective.

    pip install optimistix
    python benchmarks/solvers.py [ANALYSIS] [HYPOTHESES]

Every hypothesis is fitted at a signal strength of 1 to its observed data: from where pyhf would
start, and from the minimum at 0, as the kernel does. optimistix' minimisers get the kernel's own
value and gradient (and, where they look for a root of the gradient, its Hessian), in programs
that are compiled before they are timed. They know no bounds, so that their minima may be lower
than is allowed. A gap is how far a solver ends above the kernel's minimum in units of -log L.
"""

from __future__ import annotations

import argparse
import functools
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
# Units of -log L above the minimum that are none of rounding.
_FAR = 1e-3


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("analysis", nargs="?", default="staus")
    parser.add_argument("hypotheses", nargs="?", type=int, default=12)
    arguments = parser.parse_args()
    name, count = arguments.analysis, arguments.hypotheses
    problem = published(name)
    if problem is None:
        raise SystemExit(f"there is no {name} in FITSERVE_SHARED")
    every = len(problem.hypotheses)
    chosen = [problem.hypotheses[at * every // count] for at in range(count)]
    shape, models, none, jobs = _jobs(problem._replace(hypotheses=chosen))
    own = functools.partial(_own, shape, models)
    solvers = _optimistix(shape, models)
    for start, from_there in {
        "from pyhf's start": jobs,
        "from the fit at 0": jobs._replace(start=jnp.clip(own(none).x, *jobs.bounds[:2])),
    }.items():
        print(f"\n{name}, {count} hypotheses, {start}")
        print(f"{'':26s} ms for a fit   evaluations   largest gap   failed")
        seconds, found = _timed(own, from_there)
        least = np.asarray(found.value)
        _tell("kernel", seconds, found.steps, least, least)
        for solver, run in solvers.items():
            seconds, (values, steps) = _timed(run, from_there)
            _tell(solver, seconds, steps, values, least)


def _tell(solver: str, seconds: float, steps: Any, values: Any, least: Any) -> None:
    gap = np.asarray(values) - least
    failed = ~(gap < _FAR)
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


def _jobs(problem: Any) -> tuple[Any, Any, Any, Any]:
    """Return the program's shape and models, and the fits at 0 and at 1."""
    from fitserve_worker.kernel.batch import compile_hypotheses
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
    initial = loaded.chunk.columns["init"][every]

    def at(mu: float) -> Jobs:
        bounds = loaded.bounds(every, np.full(len(every), mu))
        start = np.clip(initial, bounds.lower, bounds.upper)
        none = np.full(start.shape, np.nan)
        return Jobs(every, start, none, bounds, Target(*loaded.observed))

    shape, models = loaded._shape, loaded._models  # noqa: SLF001 - as its own fits have them
    return shape, *jax.tree.map(jnp.asarray, (models, at(0.0), at(1.0)))


def _own(shape: Any, models: Any, jobs: Any) -> Any:
    from fitserve_worker.kernel.program import run
    from fitserve_worker.kernel.runtime import USUAL

    return run(shape, models, jobs, len(jobs.start), USUAL, in_turn=True)


def _objective(
    shape: Any, models: Any, job: Any
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return value and gradient as functions of a point, which JAX can differentiate."""
    from fitserve_worker.kernel.curvature import curvature
    from fitserve_worker.kernel.likelihood import evaluate
    from fitserve_worker.kernel.program import local_bounds

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

    return value, gradient


def _optimistix(shape: Any, models: Any) -> dict[str, Callable[[Any], Any]]:
    import optimistix

    def program(find: Any, solver: Any, which: int) -> Callable[[Any], Any]:
        def one(job: Any) -> Any:
            functions = _objective(shape, models, job)
            found = find(
                lambda x, _: functions[which](x), solver, job.start, max_steps=_STEPS, throw=False
            )
            return functions[0](found.value), found.stats["num_steps"]

        return jax.jit(lambda jobs: jax.lax.map(one, jobs))

    least = functools.partial(program, optimistix.minimise, which=0)
    root = functools.partial(program, optimistix.root_find, which=1)
    tolerances = {"rtol": 1e-8, "atol": 1e-8}
    return {
        "optimistix BFGS": least(solver=optimistix.BFGS(**tolerances)),
        "optimistix DFP": least(solver=optimistix.DFP(**tolerances)),
        "optimistix NonlinearCG": least(solver=optimistix.NonlinearCG(**tolerances)),
        "optimistix Newton, gradient": root(solver=optimistix.Newton(**tolerances)),
        "optimistix Dogleg, gradient": root(solver=optimistix.Dogleg(**tolerances)),
    }


if __name__ == "__main__":
    main()
