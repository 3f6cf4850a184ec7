"""The machine that is measured, and what its core can do at most."""

from __future__ import annotations

import multiprocessing
import os
import platform
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["cores", "describe", "dgemm_peak", "in_process"]

_PACKAGES = ("pyhf", "jax", "numpy", "scipy", "iminuit", "cabinetry")
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_PEAK_SIZE = 1024
_PEAK_ROUNDS = 8


def cores() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def describe() -> dict[str, Any]:
    """Return what figures depend on: processor, load, versions."""
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    return {
        "processor": model,
        "cores": len(cores()),
        "load at the start": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def dgemm_peak() -> float:
    """Return the floating-point operations per second of one core in a matrix product.

    It is the best of several products of two square matrices of float64, by the BLAS that NumPy
    has, in a process with one thread on one core.
    """
    return float(in_process(_dgemm))


def _dgemm() -> float:
    import numpy as np

    generator = np.random.default_rng(1)
    left, right = generator.normal(size=(2, _PEAK_SIZE, _PEAK_SIZE))
    best = float("inf")
    for _ in range(_PEAK_ROUNDS):
        begin = time.process_time()
        left @ right
        best = min(best, time.process_time() - begin)
    return 2 * _PEAK_SIZE**3 / best


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in a new process with one thread on one core."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with _one_thread():
        process = context.Process(target=_call, args=(cores()[0], function, arguments, sender))
        process.start()
    sender.close()
    try:
        found = receiver.recv()
    finally:
        process.join()
    return found


def _call(core: int, function: Callable[..., Any], arguments: tuple[Any, ...], sender: Any) -> None:
    os.sched_setaffinity(0, {core})
    sender.send(function(*arguments))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Have what is started keep its libraries to one thread: they look at this at import."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
