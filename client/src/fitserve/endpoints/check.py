"""Check step by step whether an endpoint works, down to a real small fit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fitserve import __version__
from fitserve.endpoints.globus.backend import GlobusBackend
from fitserve.endpoints.globus.service import Service
from fitserve.errors import BackendError, Check, FitserveError
from fitserve_contract import (
    FUNCTION_NAME,
    HypotestRequest,
    Hypothesis,
    Task,
    decode_result,
    digest,
    encode_task,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve.endpoints.base import Backend
    from fitserve.endpoints.cards import Profile
    from fitserve_contract import TaskResult

__all__ = ["check_endpoint", "small_fit", "small_task"]

_POLL_SECONDS = 0.5


def check_endpoint(profile: Profile, options: dict[str, str], timeout: float) -> Iterator[Check]:
    """Yield what is seen, step by step; ends after the first that stops everything.

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
        yield Check("identity", "ok", f"{identity.username}, by {identity.login}")
        yield Check("service", "ok", service.client.web_service_address)
        yield _online(service, profile)
        yield _function(service, profile)
    except FitserveError as error:
        yield Check.failed("service", error)
        return
    yield from _fit(profile, options, timeout)


def _online(service: Service, profile: Profile) -> Check:
    online, _ = service.endpoint_status(profile.card.endpoint_id)
    if online:
        return Check("endpoint", "ok", f"{profile.card.endpoint_id} is online")
    raise BackendError(
        f"the endpoint {profile.card.endpoint_id} is offline",
        hint=f"ask {profile.card.contact or 'its administrator'} to start it",
    )


def _function(service: Service, profile: Profile) -> Check:
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
        return Check("function", "failure", f"{function} is not fitserve's function")
    return Check("function", "ok", f"{function} is shared with you and allowed")


def _fit(profile: Profile, options: dict[str, str], timeout: float) -> Iterator[Check]:
    try:
        backend = GlobusBackend(profile, options)
        backend.start()
    except FitserveError as error:
        yield Check.failed("fit", error)
        return
    try:
        yield from small_fit(backend, timeout)
    except FitserveError as error:
        yield Check.failed("fit", error)
    finally:
        backend.stop()


def small_fit(backend: Backend, timeout: float) -> Iterator[Check]:
    """Have one small fit done: yields what is seen of the workers, of the worker and of the fit.

    Parameters
    ----------
    backend
        It was started.
    timeout
        Seconds to wait for the fit.
    """
    begin = time.monotonic()
    task, sent, up = encode_task(small_task()), 1, False
    backend.submit("check 1", task)
    while time.monotonic() < begin + timeout:
        status = backend.status()
        if status.state == "running" and not up:
            up = True
            yield Check("workers", "ok", status.detail)
        for outcome in backend.outcomes(_POLL_SECONDS):
            if outcome.result is None and outcome.again:
                # It was lost on its way, as with a child that was idle for too long: as in a run.
                sent += 1
                backend.submit(f"check {sent}", task)
                continue
            if outcome.result is None:
                yield Check("fit", "failure", "the small fit was lost", outcome.error or "")
                return
            if not up:
                yield Check("workers", "ok", "workers answer")
            yield from _of_result(decode_result(outcome.result), time.monotonic() - begin)
            return
    yield Check(
        "fit",
        "failure",
        f"the small fit did not come back within {timeout:g} s",
        backend.status().detail,
        "wait longer (--timeout, or ARGS='--smoke-seconds N' of make), "
        "or ask the site's administrator",
    )


def _of_result(result: TaskResult, took: float) -> Iterator[Check]:
    version = result.worker.versions.get("fitserve-worker", "unknown")
    same = version == __version__
    yield Check(
        "worker",
        "ok" if same else "failure",
        f"fitserve-worker {version}, Python {result.worker.python}, {result.worker.device}, "
        f"on {result.worker.host}",
        hint="" if same else f'pip install "fitserve=={version}"',
    )
    [fit] = result.results
    yield Check(
        "fit",
        "ok" if fit.status == "ok" else "failure",
        f"a fit took {fit.fit_time:.2g} s, the whole round trip {took:.1f} s"
        + (f"; {fit.reason}" if fit.reason else ""),
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
