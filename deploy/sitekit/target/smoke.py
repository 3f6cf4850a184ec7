"""A real fit on the site, timed stage by stage, and a function that must be refused."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fitserve._version import __version__
from fitserve.contract import decode_result, encode_task
from fitserve.endpoints.backends import open_backend
from fitserve.endpoints.cards import Profile, read_card
from fitserve.endpoints.check import check_endpoint, small_task
from fitserve.endpoints.globus.service import Service
from fitserve.errors import BackendError, FitserveError
from sitekit.documents import TRIAL_OPTION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fitserve.endpoints.base import Backend
    from sitekit.site import Site

__all__ = ["Served", "Stage", "direct", "through_the_service"]

_POLL = 0.5
_LAST_WITHOUT_FIT = "function"
_REFUSAL_SECONDS = 120.0
_NOT_OURS = "def fitserve_must_not_run():\n    return 'it ran'\n"


class Served(NamedTuple):
    """An endpoint that is tried through the service, and the release that serves.

    With several users, fits are done under the accounts of these.
    """

    site: Site
    endpoint_id: str | None
    serving: str | None
    multi_user: bool = False


class Stage(NamedTuple):
    """A stage of a smoke test: what was done, what was seen, how long it took."""

    what: str
    told: str
    seconds: float
    ok: bool = True
    next: str = ""

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**self._asdict(), "seconds": round(self.seconds, 2)}


def direct(endpoint: str, timeout: float) -> Iterator[Stage]:
    """Have a fit done without the service: by ``local``, or by a job through ``parsl:SITE``.

    Parameters
    ----------
    endpoint
        As for `fitserve run --endpoint`.
    timeout
        Seconds to wait, queue included.
    """
    began = time.monotonic()
    try:
        backend = open_backend(endpoint, 1)
        backend.start()
    except FitserveError as error:
        yield _stopped("start", error, began)
        return
    try:
        yield from _fit(backend, timeout)
    except FitserveError as error:
        yield _stopped("fit", error, began)
    finally:
        stopping = time.monotonic()
        backend.stop()
    yield Stage("stop", "workers and jobs are gone", time.monotonic() - stopping)


def _fit(backend: Backend, timeout: float) -> Iterator[Stage]:
    began = time.monotonic()
    backend.submit("smoke", encode_task(small_task()))
    deadline, up = began + timeout, None
    while time.monotonic() < deadline:
        status = backend.status()
        if up is None and status.state == "running":
            up = time.monotonic()
            yield Stage("workers", status.detail, up - began)
        for outcome in backend.outcomes(_POLL):
            if outcome.result is None:
                raise BackendError("the fit was lost", evidence=outcome.error or "")
            took = time.monotonic() - (up or began)
            result = decode_result(outcome.result)
            fit = result.results[0]
            version = result.worker.versions.get("fitserve-worker", "unknown")
            told = (
                f"CLs {fit.CLs_obs or 0:.4f} in {result.timing.total:.2f} s "
                f"on {result.worker.host}, fitserve-worker {version}"
            )
            good = fit.status == "ok" and version == __version__
            yield Stage("fit", told, took, good, fit.reason or "")
            return
    raise BackendError(
        f"the fit did not come back within {timeout:g} s",
        evidence=backend.status().detail,
        hint="wait longer: ARGS='--seconds N'",
    )


def through_the_service(
    served: Served, card: Path, timeout: float, known: str | None
) -> tuple[list[Stage], str | None]:
    """Have a fit done through Globus Compute, then try a function that is not fitserve's.

    The endpoint's own credentials must be in the environment.

    Parameters
    ----------
    served
        The endpoint.
    card
        Its site card.
    timeout
        Seconds to wait for the fit, queue included.
    known
        Id of such a function from an earlier test.

    Returns
    -------
    list of Stage, str
        What was done; and the function's id, if there is one.
    """
    stages = list(_checked(served, card, timeout))
    if all(stage.ok for stage in stages):
        stage, known = _refusal(served, known)
        stages.append(stage)
    return stages, known


def _checked(served: Served, card: Path, timeout: float) -> Iterator[Stage]:
    port = served.site.endpoint.amqp_port
    # Not a thing that users set: the site takes it, and its card does not tell of it.
    known = msgspec.structs.replace(read_card(str(card)), options=None)
    profile = Profile(name=served.site.name, card=known, amqp_port=port)
    options = {TRIAL_OPTION: served.serving or "none"}
    last = time.monotonic()
    for finding in check_endpoint(profile, options, timeout):
        now = time.monotonic()
        yield Stage(finding.what, finding.told, now - last, finding.ok, finding.next)
        last = now
        if finding.what == _LAST_WITHOUT_FIT and served.multi_user:
            # The endpoint's own identity has no account to fit under.
            told = "not tried: a fit is done under the account of the user who asks for it"
            hint = f"as a user: fitserve endpoints check {served.site.name}"
            yield Stage("fit", told, 0.0, next=hint)
            return


def _refusal(served: Served, known: str | None) -> tuple[Stage, str | None]:
    """Try to run a function that the endpoint does not allow, which is well if it is refused."""
    from globus_compute_sdk import Executor

    began = time.monotonic()
    port = served.site.endpoint.amqp_port
    try:
        client = Service().client
        function = known or str(client.register_source_code(_NOT_OURS, "fitserve_must_not_run"))
    except Exception as error:  # noqa: BLE001 -- the SDK raises what it likes
        return Stage("refusal", f"not tried: {error}", time.monotonic() - began, ok=False), known
    executor = Executor(endpoint_id=served.endpoint_id, client=client, amqp_port=port)
    try:
        future = executor.submit_to_registered_function(function)
        told = f"another function was run, and gave {future.result(_REFUSAL_SECONDS)!r}"
        refused = False
    except Exception as error:  # noqa: BLE001 -- whatever it is, it was not run
        said = " ".join(str(getattr(error, "raw_json", None) or error).split())
        refused = "permitted" in said or "not allowed" in said.lower()
        told = "another function is refused" if refused else f"another function failed: {said}"
    finally:
        stop: Any = executor.shutdown  # has no types
        with contextlib.suppress(Exception):
            stop(wait=False, cancel_futures=True)
    return Stage("refusal", told, time.monotonic() - began, refused), function


def _stopped(what: str, error: FitserveError, began: float) -> Stage:
    told = f"{error.cause} ({error.evidence})" if error.evidence else error.cause
    return Stage(what, told, time.monotonic() - began, ok=False, next=error.hint)
