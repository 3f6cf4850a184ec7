"""Where the kernel's time goes, and how far it is from what the core can do.

A program that is compiled as a whole cannot be timed in parts. Its parts are therefore compiled
alone, timed over many rounds in which each needs the one before, and multiplied with how often
the fits needed them. Times are those that the core spent on it. Operations are XLA's own count
for these parts; of Cholesky factors and triangular systems, which XLA leaves to LAPACK, they are
n^3 / 3 and 2 n^2.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

import kernel_side
import machine
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from data import Problem

__all__ = ["measure"]

_ROUNDS = 300
_REPEATS = 5


class _Counts(NamedTuple):
    """What the fits of all hypotheses took."""

    fits: int
    gradients: int
    hessians: int


def measure(problem: Problem) -> dict[str, Any]:
    """Measure the parts in a process of its own, on one core.

    Returns
    -------
    dict
        ``milliseconds`` of a hypothesis by part, ``counts`` of a hypothesis, ``operations`` of
        a hypothesis, and ``operations per second`` reached while fits run.
    """
    found: dict[str, Any] = machine.in_process(_measure, problem)
    return found


def _measure(problem: Problem) -> dict[str, Any]:
    from fitserve_worker.kernel.batch import compile_hypotheses
    from fitserve_worker.kernel.fits import load
    from fitserve_worker.kernel.hypotest import hypotest
    from fitserve_worker.kernel.patches import Background
    from fitserve_worker.kernel.runtime import runtime

    setting = runtime()
    options = kernel_side.work(problem).request.model
    background = Background(problem.workspace, options)
    count = len(problem.hypotheses)

    def once() -> tuple[dict[str, float], _Counts]:
        spent = dict.fromkeys(("reading patches", "arrays", "fits"), 0.0)
        clock = _Clock()
        compilation = compile_hypotheses(background, problem.hypotheses, options)
        spent["reading patches"] = clock.lap()
        fits = gradients = hessians = 0
        for batch in compilation.batches:
            size = batch.capacity(setting.capacity)
            members = range(len(batch.members))
            start = None
            for first in range(0, len(members), size):
                clock.lap()
                loaded = load(batch, members[first : first + size], setting)
                spent["arrays"] += clock.lap()
                tests = hypotest(loaded, (1.0,), "qtilde", start)
                spent["fits"] += clock.lap()
                start = tests.null.x[0]
                for each in (tests.null, tests.free, *tests.fixed, *tests.asimov):
                    fits += len(each.steps)
                    gradients += int(each.steps.sum())
                    hessians += int(each.hessians.sum())
        return spent, _Counts(fits, gradients, hessians)

    once()  # compiled
    told = [once() for _ in range(_REPEATS)]
    spent, counts = min(told, key=lambda one: sum(one[0].values()))
    program = min(_in_program(once) for _ in range(_REPEATS))
    compilation = compile_hypotheses(background, problem.hypotheses[:1], options)
    loaded = load(compilation.batches[0], range(1), setting)
    parts, flops, columns = _parts(loaded)
    milliseconds = {
        "reading patches": spent["reading patches"],
        "arrays, and to the device": spent["arrays"],
        "likelihood": counts.gradients * parts["value"],
        "gradient": counts.gradients * max(0.0, parts["gradient"] - parts["value"]),
        "Hessian": counts.hessians * max(0.0, parts["hessian"] - parts["gradient"]),
        "Cholesky": counts.hessians * parts["cholesky"],
        "Newton steps": counts.gradients * parts["solve"],
    }
    known = sum(list(milliseconds.values())[2:])
    milliseconds["the rest of the program"] = max(0.0, program - known)
    milliseconds["between programs"] = max(0.0, spent["fits"] - program)
    operations = (
        counts.gradients * flops["gradient"]
        + counts.hessians * (flops["hessian"] - flops["gradient"])
        + counts.hessians * columns**3 / 3
        + counts.gradients * 2 * columns**2
    )
    return {
        "hypotheses": count,
        "columns": columns,
        "counts": {name: value / count for name, value in counts._asdict().items()},
        "milliseconds": {name: 1e3 * value / count for name, value in milliseconds.items()},
        "operations": operations / count,
        "operations per second": operations / program,
    }


class _Clock:
    def __init__(self) -> None:
        self._at = time.process_time()

    def lap(self) -> float:
        """Return seconds since the last lap."""
        before, self._at = self._at, time.process_time()
        return self._at - before


def _in_program(once: Callable[[], Any]) -> float:
    """Return the seconds of the core in compiled programs, transfers included."""
    from fitserve_worker.kernel import program

    spent = 0.0
    real = program.run

    def timed(*arguments: Any, **named: Any) -> Any:
        nonlocal spent
        import jax

        begin = time.process_time()
        found = jax.block_until_ready(real(*arguments, **named))
        spent += time.process_time() - begin
        return found

    with patch.object(program, "run", timed):
        once()
    return spent


def _parts(loaded: Any) -> tuple[dict[str, float], dict[str, float], int]:
    """Return seconds and operations of the parts, and the number of columns."""
    import jax
    import jax.numpy as jnp
    from jax.scipy.linalg import cho_solve

    evaluate, point = _evaluation(loaded)
    columns = point.shape[-1]
    generator = np.random.default_rng(1)
    root = generator.normal(size=(columns, columns))
    matrix = jnp.asarray(root @ root.T + columns * np.eye(columns))
    factor = jnp.linalg.cholesky(matrix)
    functions: dict[str, Callable[[Any], Any]] = {
        "value": lambda x: evaluate(x)[0].value,
        "gradient": lambda x: evaluate(x)[0],
        "hessian": evaluate,
        "cholesky": lambda x: jnp.linalg.cholesky(
            matrix + 1e-9 * x.reshape(-1)[0], symmetrize_input=False
        ),
        "solve": lambda x: cho_solve((factor, True), x.reshape(-1)),
    }
    seconds = {name: _seconds(function, point) for name, function in functions.items()}
    flops = {}
    for name in ("gradient", "hessian"):
        cost = jax.jit(functions[name]).lower(point).compile().cost_analysis()
        flops[name] = float(cost["flops"])
    return seconds, flops, columns


def _evaluation(loaded: Any) -> tuple[Callable[[Any], Any], Any]:
    """Return the objective with its derivatives as JAX sees it, and a point."""
    from fitserve_worker.kernel import program

    one = np.zeros(1, dtype=int)
    seen: list[Any] = []
    real = program.evaluate_at

    def record(shape: Any, models: Any, jobs: Any) -> Any:
        seen[:] = [shape, models, jobs]
        return real(shape, models, jobs)

    with patch.object(program, "evaluate_at", record):
        x = loaded.chunk.columns["init"][one]
        loaded.evaluate(one, x, loaded.chunk.local["init"][one], loaded.observed)
    shape, models, jobs = seen
    return (lambda x: real(shape, models, jobs._replace(start=x))), jobs.start


def _seconds(function: Callable[[Any], Any], point: Any) -> float:
    """Return seconds of one of many rounds, none of which XLA can leave out."""
    import jax
    import jax.numpy as jnp

    def round_(_: Any, total: Any) -> Any:
        found = function(point + 1e-12 * jnp.tanh(total))
        return total + sum(leaf.sum() for leaf in jax.tree.leaves(found))

    rounds = jax.jit(lambda: jax.lax.fori_loop(0, _ROUNDS, round_, jnp.zeros(())))
    jax.block_until_ready(rounds())
    best = float("inf")
    for _ in range(_REPEATS):
        begin = time.process_time()
        jax.block_until_ready(rounds())
        best = min(best, time.process_time() - begin)
    return best / _ROUNDS
