"""JAX as the kernel uses it: set up once, when it is first needed.

This is the only place that configures JAX: float64, compiled programs on disk, one thread
for each fit (several fits run side by side instead), memory of a GPU taken as it is needed.
The environment chooses the device (``JAX_PLATFORMS``); JAX raises if there is none of that name.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from fitserve_contract.errors import BackendError
from fitserve_worker.kernel.jit_cache import JitCache, default_location

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    from jax import Device

    from fitserve_worker.kernel import DeviceArray

    _In = TypeVar("_In")
    _Out = TypeVar("_Out")

__all__ = ["MAX_STEPS", "THREADS", "USUAL", "Goal", "Runtime", "runtime"]

MAX_STEPS = 100
"""Evaluations after which a fit is given up."""


class Goal(NamedTuple):
    """When a fit ends, with EDMs in units of -log L.

    It ends after ``most`` evaluations of the gradient, or before its last step if this is expected
    to leave an EDM of ``left``. A fit that only asks which minimum it leads to ends where the EDM
    is ``rough``, or where the predicted end is as close as this to a known minimum.
    """

    most: DeviceArray | int = MAX_STEPS
    left: DeviceArray | float = 1e-11
    rough: DeviceArray | float = 0.0


USUAL = Goal()
"""The goal of fits of which only the minimum counts."""

THREADS = "FITSERVE_THREADS"
"""Names the environment variable with the number of threads to fit with; by default one."""

# Trying variants of a GPU's code takes longer than it saves here: half a minute of 50 s for an
# analysis with 1,000 bins, whose 10 fits then take 0.15 s instead of 0.25 s.
_FLAGS = "--xla_cpu_multi_thread_eigen=false --xla_gpu_autotune_level=0"
# Hypotheses on the device, and fits in one call of the compiled program. On a CPU these run
# one after the other, for the sake of its cache.
_CPU_CAPACITY = 32
# A GPU does all of them at once, as long as they fit into this memory, and in rounds of so many
# evaluations: all of them, those that need more, and the few that are hard.
_GPU_CAPACITY = 128
_GPU_FITS = 512
_GPU_PART = 4
_GPU_BYTES = 2 * 1024**3
_GPU_ROUNDS = (12, 24, MAX_STEPS - 36)

_lock = threading.Lock()


class Runtime(NamedTuple):
    """How fits are run here.

    ``capacity`` is the number of hypotheses on the device. Fits in one call of a program are
    done ``in_turn`` or all at once, in ``rounds`` of so many evaluations; ``threads`` calls are
    made side by side.
    """

    platform: str
    device: str
    capacity: int
    in_turn: bool
    rounds: tuple[int, ...]
    threads: int
    cache: JitCache

    def calls(self, size: int) -> tuple[int, ...]:
        """Return the numbers of fits for which programs are compiled, in rising order.

        ``size`` is that of a fit, in bytes. On a GPU there are two numbers: a few fits should not
        wait for the padding to many.
        """
        if self.in_turn:
            return (self.capacity,)
        most = max(1, min(_GPU_FITS, _GPU_BYTES // size))
        return (most // _GPU_PART, most) if most >= _GPU_PART else (most,)

    def side_by_side(self, function: Callable[[_In], _Out], items: Iterable[_In]) -> list[_Out]:
        """Apply a function that spends its time in compiled programs to several items."""
        items = list(items)
        if self.threads == 1 or len(items) == 1:
            return [function(item) for item in items]
        return list(_pool(self.threads).map(function, items))


def runtime() -> Runtime:
    """Return the runtime, setting JAX up at the first call."""
    with _lock:
        return _set_up()


@functools.cache
def _set_up() -> Runtime:
    if "jax" not in sys.modules:
        # Read when JAX is imported; a later change has no effect.
        os.environ["XLA_FLAGS"] = f"{_FLAGS} {os.environ.get('XLA_FLAGS', '')}".strip()
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # The matrices are too small for more than one thread, but LAPACK would start more.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import jax

    cache = JitCache(default_location())
    jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]  # noqa: FBT003
    if cache.private is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache.private))  # type: ignore[no-untyped-call]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)  # type: ignore[no-untyped-call]
    # XLA's own caches would put this process' private directory into the key of every program.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")  # type: ignore[no-untyped-call]
    device = _device()
    in_turn = device.platform == "cpu"
    return Runtime(
        platform=device.platform,
        device=device.device_kind,
        capacity=_CPU_CAPACITY if in_turn else _GPU_CAPACITY,
        in_turn=in_turn,
        rounds=(MAX_STEPS,) if in_turn else _GPU_ROUNDS,
        threads=_threads() if in_turn else 1,
        cache=cache,
    )


def _device() -> Device:
    import jax

    try:
        return jax.devices()[0]
    except (RuntimeError, AssertionError) as error:
        raise BackendError(
            "JAX finds no device to fit on",
            evidence=f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')} {error}".strip(),
            hint="ask for a device that the node has, or install JAX for this one",
        ) from error


def _threads() -> int:
    chosen = os.environ.get(THREADS, "")
    return int(chosen) if chosen.isdecimal() and int(chosen) > 0 else 1


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="fits")
