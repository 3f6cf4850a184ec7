"""Whether this worker can fit: versions, driver, device, float64, and one known CLs.

It tests an image. An endpoint's pod runs it before the endpoint starts, `helm test` in a pod like a
worker's. It is no probe, since it takes long under load, and no smoke test of a site, which is a
fit through the endpoint.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import time
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fitserve_contract import (
    OLDEST_DRIVERS,
    EngineOptions,
    HypotestRequest,
    Hypothesis,
    HypothesisResult,
    Task,
    decode_task,
    digest,
    encode_task,
    request_digest,
)
from fitserve_contract.errors import BackendError, FitserveError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["KNOWN", "TOLERANCE", "Selftest", "check_driver", "check_versions", "selftest"]

KNOWN = (
    0.0525155255,
    *(0.0026064046, 0.0138206403, 0.0644551567, 0.2352609044, 0.5730416579),
)
"""Observed CLs, and expected ones for -2 to +2 sigma, of the model tested here.

From pyhf 0.7.6 with its numpy backend, q-tilde and a tolerance of 1e-12, where SLSQP and Minuit
agree within 2e-8.
"""
TOLERANCE = 1e-6
"""Largest difference from `KNOWN`."""

IMAGE_VERSION = "FITSERVE_IMAGE_VERSION"
"""Environment variable of an image: the version that it was built for."""

_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_DRIVERS = {f"jax-{release}-plugin": oldest for release, oldest in OLDEST_DRIVERS.items()}
_RECORDED = ("fitserve-contract", "fitserve-worker", "pyhf", "numpy", "scipy", "jax", "jaxlib")
_RUNTIMES = ("parsl", "globus-compute-endpoint")

_WORKSPACE = {
    "channels": [
        {
            "name": "SR",
            "samples": [
                {
                    "name": "background",
                    "data": [50.0, 52.0],
                    "modifiers": [{"name": "bkg", "type": "shapesys", "data": [3.0, 7.0]}],
                }
            ],
        }
    ],
    "observations": [{"name": "SR", "data": [51.0, 48.0]}],
    "measurements": [{"name": "main", "config": {"poi": "mu", "parameters": []}}],
    "version": "1.0.0",
}
_SIGNAL = {
    "op": "add",
    "path": "/channels/0/samples/1",
    "value": {
        "name": "signal",
        "data": [12.0, 11.0],
        "modifiers": [{"name": "mu", "type": "normfactor", "data": None}],
    },
}


class Selftest(msgspec.Struct, kw_only=True):
    """The report of a test; fields that it did not reach are None.

    Attributes
    ----------
    passed
        Whether this worker can fit.
    problem, evidence, hint
        What is wrong, what shows it, and what to do; empty where all is well.
    versions
        Versions of fitserve, of the packages that decide its numbers, and of those that run
        workers where they are installed.
    python, machine
        Version of Python and kind of processor.
    image
        Version that the image was built for; None outside fitserve's images.
    device, float64
        What JAX computes on, as ``platform: kind``, and whether in double precision.
    CLs_obs, CLs_exp
        CLs fitted here for the model whose values are `KNOWN`.
    difference
        Largest absolute difference from `KNOWN`.
    device_seconds, fit_seconds, seconds
        Time to import JAX and find the device, to fit, and of everything from the start of
        the test.
    """

    passed: bool = False
    problem: str = ""
    evidence: str = ""
    hint: str = ""
    versions: dict[str, str]
    python: str
    machine: str
    image: str | None = None
    device: str | None = None
    float64: bool | None = None
    CLs_obs: float | None = None
    CLs_exp: list[float | None] = []
    difference: float | None = None
    device_seconds: float | None = None
    fit_seconds: float | None = None
    seconds: float = 0.0


def selftest(device: str = "any") -> tuple[Selftest, FitserveError | None]:
    """Test this worker.

    Parameters
    ----------
    device
        Platform that JAX must compute on, as JAX calls it (``cpu``, ``gpu``), or ``any`` for
        the one that ``JAX_PLATFORMS`` allows.

    Returns
    -------
    tuple
        The report, and the error, None if nothing is wrong.
    """
    begin = time.perf_counter()
    report = Selftest(
        versions=_versions((*_RECORDED, *_DRIVERS, *_RUNTIMES)),
        python=platform.python_version(),
        machine=platform.machine(),
        image=os.environ.get(IMAGE_VERSION),
    )
    problem: FitserveError | None = None
    try:
        check_versions(report.versions, report.image)
        check_driver(report.versions)
        _find_device(report, device)
        _fit(report)
    except FitserveError as error:
        problem = error
        report.problem, report.evidence, report.hint = error.cause, error.evidence, error.hint
    report.passed = problem is None
    report.seconds = time.perf_counter() - begin
    return report, problem


def check_versions(versions: dict[str, str], image: str | None) -> None:
    """Check that worker, wire contract and image are of one release.

    Raises
    ------
    BackendError
        If one is missing or of another release.
    """
    worker, contract = versions.get("fitserve-worker"), versions.get("fitserve-contract")
    if worker is None or contract != worker:
        raise BackendError(
            "the worker and its wire contract are not of one release",
            evidence=f"fitserve-worker {worker or 'not installed'}, "
            f"fitserve-contract {contract or 'not installed'}",
            hint="install both in one step, at one version",
        )
    if image and image != worker:
        raise BackendError(
            "the image has another version of the worker than it was built for",
            evidence=f"image {image}, fitserve-worker {worker}",
            hint="build or pull the image anew, without installing into it",
        )


def check_driver(versions: dict[str, str], file: Path = _DRIVER_FILE) -> None:
    """Check that the node's NVIDIA driver is new enough for the CUDA that JAX brings.

    Nothing is checked where JAX has no CUDA, or there is no driver: that is an error only where a
    GPU is required.

    Raises
    ------
    BackendError
        If the driver is too old; JAX itself would only report that it finds no device.
    """
    required = max((_DRIVERS[name] for name in _DRIVERS if name in versions), default=0)
    try:
        text = file.read_text(encoding="ascii", errors="replace") if required else ""
    except OSError:
        return
    seen = re.search(r"\s(\d+)\.\d[\d.]*\s", text)
    if seen and int(seen[1]) < required:
        older = required > min(_DRIVERS.values())
        raise BackendError(
            "the node's NVIDIA driver is too old for this worker",
            evidence=f"driver {seen[0].strip()}, {required} or newer is needed",
            hint="use the image for CUDA 12, or a newer driver" if older else "update the driver",
        )


def _find_device(report: Selftest, device: str) -> None:
    begin = time.perf_counter()
    from fitserve_worker.kernel.runtime import runtime

    with _errors_of_jax() as messages:
        try:
            runs_on = runtime()
        except FitserveError as error:
            evidence = "\n        ".join([error.evidence or "", *messages]).strip()
            raise BackendError(error.cause, evidence=evidence, hint=error.hint) from error
    import jax.numpy as jnp

    report.device = f"{runs_on.platform}: {runs_on.device}"
    report.float64 = str(jnp.ones(1).dtype) == "float64"
    report.device_seconds = time.perf_counter() - begin
    if device not in {"any", runs_on.platform}:
        raise BackendError(
            f"the worker would not fit on a {device}",
            evidence=f"JAX computes on {report.device}",
            hint="see JAX_PLATFORMS, and whether the container was given the device",
        )
    if not report.float64:
        raise BackendError(
            "JAX computes in single precision", evidence=f"on {report.device}", hint="report it"
        )


@contextmanager
def _errors_of_jax() -> Iterator[list[str]]:
    """Collect why JAX finds no device: it logs the reason, with a traceback, and tries the next."""
    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            failure = record.exc_info[1] if record.exc_info else None
            messages.append(str(failure or record.getMessage()))

    logger, handler = logging.getLogger("jax._src.xla_bridge"), Collect(logging.ERROR)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def _fit(report: Selftest) -> None:
    begin = time.perf_counter()
    result = _answer()
    report.fit_seconds = time.perf_counter() - begin
    report.CLs_obs, report.CLs_exp = result.CLs_obs, result.CLs_exp
    values = [result.CLs_obs, *result.CLs_exp]
    if result.status != "ok" or result.engine != "kernel" or None in values:
        raise BackendError(
            "the fit of a simple model is in doubt",
            evidence=f"{result.engine}: {result.status}, "
            f"{result.reason or result.diagnostics.get('kernel doubt')}",
            hint="compare the versions with those of a worker that passes",
        )
    report.difference = max(
        abs(value - reference)
        for value, reference in zip(values, KNOWN, strict=True)
        if value is not None
    )
    if report.difference > TOLERANCE:
        raise BackendError(
            "the worker does not reproduce the known CLs",
            evidence=f"{result.CLs_obs:.10f}, known {KNOWN[0]:.10f}; the largest difference of "
            f"observed and expected ones is {report.difference:.2g}",
            hint="compare the versions with those of a worker that passes",
        )


def _answer() -> HypothesisResult:
    """Fit like a task from a client, but without the outbox, which keeps answers."""
    from fitserve_worker.engines.base import Work
    from fitserve_worker.entry import perform

    request = HypotestRequest(engine=EngineOptions(engine="kernel"))
    sent = Task(
        workspace_digest=digest(_WORKSPACE),
        workspace=_WORKSPACE,
        hypotheses=[Hypothesis(name="signal", values=(), patch=[_SIGNAL])],
        request=request,
    )
    task = decode_task(encode_task(sent))
    work = Work(
        workspace_digest=task.workspace_digest,
        workspace=task.workspace or {},
        hypotheses=task.hypotheses,
        request=task.request,
        request_digest=request_digest(task.request),
    )
    # To the end: only then are compiled programs moved into the shared cache.
    [result] = perform(work)
    return result


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
