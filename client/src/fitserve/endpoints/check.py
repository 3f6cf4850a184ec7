"""Whether an endpoint works, one thing after the other, down to a real small fit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from fitserve._version import __version__
from fitserve.contract import (
    FUNCTION_NAME,
    HypotestRequest,
    Hypothesis,
    Task,
    TaskResult,
    decode_result,
    digest,
    encode_task,
)
from fitserve.endpoints.globus.backend import GlobusBackend
from fitserve.endpoints.globus.service import Service
from fitserve.errors import BackendError, FitserveError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve.endpoints.base import Backend
    from fitserve.endpoints.cards import Profile

__all__ = ["Finding", "check_endpoint", "round_trip", "small_task"]

_POLL_SECONDS = 0.5


class Finding(NamedTuple):
    """One line of a check: what was looked at, what was seen, what next, whether it is well."""

    what: str
    told: str
    next: str = ""
    ok: bool = True


def check_endpoint(profile: Profile, options: dict[str, str], timeout: float) -> Iterator[Finding]:
    """Yield findings as they are made; ends after the first that stops everything.

    Parameters
    ----------
    profile
        The endpoint.
    options
        What the user sets of the site.
    timeout
        Seconds to wait for the fit, which may wait in the site's queue.
    """
    try:
        service = Service()
        identity = service.whoami()
        yield Finding("identity", f"{identity.username}, by {identity.login}")
        yield Finding("service", service.client.web_service_address)
        yield _online(service, profile)
        yield _function(service, profile)
    except FitserveError as error:
        yield _stopped("service", error)
        return
    yield from _fit(profile, options, timeout)


def _online(service: Service, profile: Profile) -> Finding:
    online, _ = service.endpoint_status(profile.card.endpoint_id)
    if online:
        return Finding("endpoint", f"{profile.card.endpoint_id} is online")
    raise BackendError(
        f"the endpoint {profile.card.endpoint_id} is offline",
        hint=f"ask {profile.card.contact or 'its administrator'} to start it",
    )


def _function(service: Service, profile: Profile) -> Finding:
    card = profile.card
    allowed = service.allowed_functions(card.endpoint_id)
    function = service.function_for(card.endpoint_id, card.function_id)
    if allowed is not None and function not in allowed:
        raise BackendError(
            f"the endpoint does not allow fitserve's function {function}",
            evidence=f"it allows {', '.join(allowed) or 'none'}",
            hint=f"ask {card.contact or 'its administrator'} for the present site card",
        )
    if FUNCTION_NAME not in service.function_source(function):
        return Finding("function", f"{function} is not fitserve's function", ok=False)
    return Finding("function", f"{function} is shared with you and allowed")


def _fit(profile: Profile, options: dict[str, str], timeout: float) -> Iterator[Finding]:
    try:
        backend = GlobusBackend(profile, options)
        begin = time.monotonic()
        backend.start()
    except FitserveError as error:
        yield _stopped("fit", error)
        return
    try:
        result, workers = round_trip(backend, timeout)
        took = time.monotonic() - begin
    except FitserveError as error:
        yield _stopped("fit", error)
        return
    finally:
        backend.stop()
    yield Finding("workers", workers)
    version = result.worker.versions.get("fitserve-worker", "unknown")
    same = version == __version__
    yield Finding(
        "worker",
        f"fitserve-worker {version}, Python {result.worker.python}, {result.worker.device}, "
        f"on {result.worker.host}",
        "" if same else f'pip install "fitserve=={version}"',
        ok=same,
    )
    found = result.results[0]
    yield Finding(
        "fit",
        f"a fit took {found.fit_time:.2g} s, the whole round trip {took:.1f} s"
        + (f"; {found.reason}" if found.reason else ""),
        ok=found.status == "ok",
    )


def round_trip(backend: Backend, timeout: float) -> tuple[TaskResult, str]:
    """Have one small fit done; returns its result and what is known of the workers.

    Raises
    ------
    BackendError
        It is lost, or does not come back in time.
    """
    task, sent = encode_task(small_task()), 1
    backend.submit("check 1", task)
    end = time.monotonic() + timeout
    seen = ""
    while time.monotonic() < end:
        for outcome in backend.outcomes(_POLL_SECONDS):
            if outcome.result is None and outcome.again:
                # Its way ended, as with a child that was idle for too long: as in a run.
                sent += 1
                backend.submit(f"check {sent}", task)
                continue
            if outcome.result is None:
                raise BackendError("the small fit was lost", evidence=outcome.error or "")
            return decode_result(outcome.result), seen or "workers answer"
        status = backend.status()
        seen = status.detail if status.state == "running" else seen
    status = backend.status()
    raise BackendError(
        f"the small fit did not come back within {timeout:g} s",
        evidence=status.detail,
        hint="wait longer with --timeout, or ask the site's administrator",
    )


def small_task() -> Task:
    """Return a counting experiment in one bin, different each time so that it is really fitted."""
    workspace = {
        "channels": [
            {
                "name": "SR",
                "samples": [
                    {
                        "name": "background",
                        "data": [50.0],
                        "modifiers": [
                            {"name": "norm", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}}
                        ],
                    }
                ],
            }
        ],
        "observations": [{"name": "SR", "data": [51.0]}],
        "measurements": [{"name": "check", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }
    signal = {
        "name": "signal",
        "data": [12.0],
        "modifiers": [{"name": "mu", "type": "normfactor", "data": None}],
    }
    patch = [{"op": "add", "path": "/channels/0/samples/1", "value": signal}]
    return Task(
        workspace_digest=digest(workspace),
        workspace=workspace,
        hypotheses=[Hypothesis(name="check", values=(), patch=patch)],
        request=HypotestRequest(),
        nonce=f"check {time.time_ns()}",
    )


def _stopped(what: str, error: FitserveError) -> Finding:
    told = f"{error.cause} ({error.evidence})" if error.evidence else error.cause
    return Finding(what, told, error.hint, ok=False)
