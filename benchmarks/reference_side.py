"""pyhf and cabinetry measured: one hypothesis at a time, each in a process of its own."""

from __future__ import annotations

import logging
import multiprocessing
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from data import Problem

__all__ = ["ENGINES", "ReferenceTiming", "measure"]

ENGINES = {
    "pyhf numpy+scipy": ("numpy", "scipy"),
    "pyhf numpy+minuit": ("numpy", "minuit"),
    "pyhf jax+scipy": ("jax", "scipy"),
    "cabinetry (one fit)": ("jax", "minuit"),
}
"""Backend and optimizer of each; cabinetry fits with its own settings of Minuit."""


class ReferenceTiming(NamedTuple):
    """Seconds for one hypothesis, its model built; None, with ``why_not``, if it did not end.

    ``results`` are CLs: observed, then expected; for cabinetry the best-fit signal strength.
    ``at_least`` are the seconds after which it was stopped.
    """

    engine: str
    hypothesis: str
    seconds: float | None
    results: list[float]
    why_not: str | None = None
    at_least: float | None = None


def measure(problem: Problem, engine: str, index: int, limit: float) -> ReferenceTiming:
    """Measure an engine of `ENGINES` on a hypothesis, for at most ``limit`` seconds."""
    hypothesis = problem.hypotheses[index]
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_measure, args=(problem.workspace, hypothesis.patch, engine, sender)
    )
    process.start()
    sender.close()
    # Importing is not counted, but takes time too.
    told = None
    if receiver.poll(limit + 30):
        try:
            told = receiver.recv()
        except EOFError:  # it was killed, for its memory say
            told = "it ended without a word"
    if told is None:
        process.kill()
    process.join()
    if told is None:
        reason = f"more than {limit:.0f} s"
        return ReferenceTiming(engine, hypothesis.name, None, [], reason, limit)
    if isinstance(told, str):
        return ReferenceTiming(engine, hypothesis.name, None, [], told)
    return ReferenceTiming(engine, hypothesis.name, *told)


def _measure(workspace: dict[str, Any], patch: list[Any], engine: str, sender: Any) -> None:
    import jsonpatch
    import pyhf

    logging.disable(logging.CRITICAL)
    backend, optimizer = ENGINES[engine]
    pyhf.set_backend(backend, optimizer)
    if engine.startswith("cabinetry"):
        import cabinetry
    begin = time.perf_counter()
    patched = pyhf.Workspace(jsonpatch.JsonPatch(patch).apply(workspace), validate=False)
    model = patched.model(
        validate=False,
        modifier_settings={
            "normsys": {"interpcode": "code4"},
            "histosys": {"interpcode": "code4p"},
        },
    )
    data = patched.data(model)
    try:
        if engine.startswith("cabinetry"):
            fit = cabinetry.fit.fit(model, data)
            found = [float(fit.bestfit[model.config.poi_index])]
        else:
            observed, expected = pyhf.infer.hypotest(1.0, data, model, return_expected_set=True)
            found = [float(observed), *(float(value) for value in expected)]
    except Exception as error:  # noqa: BLE001 - whatever stops it is the result
        sender.send(repr(error))
        return
    sender.send((time.perf_counter() - begin, found))
