"""A real fit on the site, timed stage by stage, and a function that must be refused."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fitserve.endpoints import open_backend
from fitserve.endpoints.cards import Profile, read_card
from fitserve.endpoints.check import check_endpoint, small_fit
from fitserve.endpoints.globus.service import Service
from fitserve.errors import Check, FitserveError
from sitekit.documents import TRIAL_OPTION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from sitekit.site import Site

__all__ = ["Served", "direct", "through_the_service"]

_LAST_WITHOUT_FIT = "function"
_REFUSAL_SECONDS = 120.0
_NOT_OURS = "def fitserve_must_not_run():\n    return 'it ran'\n"


class Served(NamedTuple):
    """An endpoint that is tested through the service, and the release that serves.

    With several users, fits run under their accounts.
    """

    site: Site
    endpoint_id: str | None
    serving: str | None
    multi_user: bool = False


def direct(endpoint: str, timeout: float) -> Iterator[Check]:
    """Do a fit without the service: by ``local``, or by a job through ``parsl:SITE``.

    Parameters
    ----------
    endpoint
        As for `fitserve run --endpoint`.
    timeout
        Seconds to wait, queue included.
    """
    return _timed(_direct(endpoint, timeout))


def _direct(endpoint: str, timeout: float) -> Iterator[Check]:
    try:
        backend = open_backend(endpoint, 1)
        backend.start()
    except FitserveError as error:
        yield Check.failed("start", error)
        return
    try:
        yield from small_fit(backend, timeout)
    except FitserveError as error:
        yield Check.failed("fit", error)
    finally:
        backend.stop()
    yield Check("stop", "ok", "workers and jobs are gone")


def _timed(checks: Iterable[Check]) -> Iterator[Check]:
    """Yield checks with the time since the one before."""
    last = time.monotonic()
    for one in checks:
        now = time.monotonic()
        yield one._replace(seconds=now - last)
        last = time.monotonic()


def through_the_service(
    served: Served, card: Path, timeout: float, function_id: str | None
) -> tuple[list[Check], str | None]:
    """Do a fit through Globus Compute, then try a function that is not fitserve's.

    The endpoint's own credentials must be in the environment.

    Parameters
    ----------
    served
        The endpoint.
    card
        Its site card.
    timeout
        Seconds to wait for the fit, queue included.
    function_id
        Id of such a function from an earlier test.

    Returns
    -------
    list of Check, str
        The checks; and the function's id, if there is one.
    """
    stages = list(_checked(served, card, timeout))
    if all(stage.ok for stage in stages):
        stage, function_id = _refusal(served, function_id)
        stages.append(stage)
    return stages, function_id


def _checked(served: Served, card: Path, timeout: float) -> Iterator[Check]:
    port = served.site.endpoint.amqp_port
    # Users do not set this option: the site accepts it, but its card does not list it.
    content = msgspec.structs.replace(read_card(str(card)), options=None)
    profile = Profile(name=served.site.name, card=content, amqp_port=port)
    options = {TRIAL_OPTION: served.serving or "none"}
    for one in _timed(check_endpoint(profile, options, timeout)):
        yield one
        if one.what == _LAST_WITHOUT_FIT and served.multi_user:
            # The endpoint's own identity has no account to fit under.
            reason = "not tried: a fit is done under the account of the user who asks for it"
            hint = f"as a user: fitserve endpoints check {served.site.name}"
            yield Check("fit", "skipped", reason, hint=hint, seconds=0.0)
            return


def _refusal(served: Served, function_id: str | None) -> tuple[Check, str | None]:
    """Try to run a function that the endpoint does not allow, and must refuse."""
    from globus_compute_sdk import Executor

    began = time.monotonic()
    port = served.site.endpoint.amqp_port
    try:
        client = Service().client
        function = function_id or str(
            client.register_source_code(_NOT_OURS, "fitserve_must_not_run")
        )
    except Exception as error:  # noqa: BLE001 -- the SDK raises what it likes
        took = time.monotonic() - began
        return Check("refusal", "failure", f"not tried: {error}", seconds=took), function_id
    executor = Executor(endpoint_id=served.endpoint_id, client=client, amqp_port=port)
    try:
        future = executor.submit_to_registered_function(function)
        outcome = f"another function was run, and gave {future.result(_REFUSAL_SECONDS)!r}"
        refused = False
    except Exception as error:  # noqa: BLE001 -- whatever it is, it was not run
        message = " ".join(str(getattr(error, "raw_json", None) or error).split())
        refused = "permitted" in message or "not allowed" in message.lower()
        outcome = (
            "another function is refused" if refused else f"another function failed: {message}"
        )
    finally:
        stop: Any = executor.shutdown  # has no types
        with contextlib.suppress(Exception):
            stop(wait=False, cancel_futures=True)
    level: Any = "ok" if refused else "failure"
    return Check("refusal", level, outcome, seconds=time.monotonic() - began), function
