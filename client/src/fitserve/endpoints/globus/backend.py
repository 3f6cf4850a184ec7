"""The backend of an endpoint of Globus Compute."""

from __future__ import annotations

import contextlib
import queue
from typing import TYPE_CHECKING, Any

from fitserve.endpoints.base import CLOUD, Accepted, BackendStatus, Limits, Outcome
from fitserve.endpoints.cards import check_options
from fitserve.endpoints.globus.courier import Courier
from fitserve.endpoints.globus.presence import Presence
from fitserve.errors import BackendError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fitserve.endpoints.base import Costs
    from fitserve.endpoints.cards import Profile, SiteCard

__all__ = ["GlobusBackend"]

_WORKERS = 4
"""Assumed where the card does not say how many there are at most."""
_LEAST_WINDOW = 16
_ENVELOPE_BYTES = 30_000
"""Of a submission besides its tasks: the user's runtime, options, ids."""


class GlobusBackend:
    """Sends tasks to an endpoint through the Globus Compute service.

    Parameters
    ----------
    profile
        The endpoint, as the user has added it.
    options
        What the user sets of the site, as given on the command line.
    workers
        Expected number of workers; by default what the site's card says.

    Raises
    ------
    RequestError
        The site has no such option, or not with this value.
    """

    def __init__(
        self, profile: Profile, options: dict[str, str], workers: int | None = None
    ) -> None:
        self.name = profile.name
        checked = check_options(profile.card, options)
        expected = workers or _expected_workers(profile.card, checked)
        self.limits = Limits(
            task_bytes=profile.card.limits.payload_bytes - _ENVELOPE_BYTES,
            outstanding=max(_LEAST_WINDOW, 4 * expected),
            workers=expected,
            task_seconds=profile.card.limits.longest_task_seconds,
            costs=_costs(profile.card, checked),
        )
        self._courier = Courier(profile, checked)
        self._presence = Presence(profile, self._courier)

    def start(self) -> None:
        """Begin to connect; the first `submit` raises what prevents it."""
        try:
            import globus_compute_sdk  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(f"the endpoint '{self.name}'", "globus") from error
        self._courier.start()
        self._presence.start()

    def stage(self, digest: str, compressed: bytes) -> bool:  # noqa: ARG002
        """Return False: there is no file system between here and the workers."""
        return False

    def submit(self, ticket: str, task: str) -> None:
        """Hand a task to the thread that sends.

        Raises
        ------
        BackendError
            The service, the endpoint or the login does not allow it.
        """
        self._raise()
        self._courier.put(ticket, task)

    def outcomes(self, timeout: float) -> list[Outcome]:
        """Return what ended; wait up to ``timeout`` seconds for the first of it.

        Raises
        ------
        BackendError
            No more tasks will end, for a reason that the user has to remove.
        """
        try:
            ended = [self._courier.ledger.ended.get(timeout=timeout)]
        except queue.Empty:
            self._raise()
            return []
        with contextlib.suppress(queue.Empty):
            while True:
                ended.append(self._courier.ledger.ended.get_nowait())
        return ended

    def accepted(self) -> list[Accepted]:
        """Return the tasks that the service has taken since the last call."""
        return self._courier.ledger.accepted()

    def collect(self, tasks: Sequence[Accepted]) -> None:
        """Ask for the results of tasks that an earlier process has sent."""
        self._courier.ledger.collect(tasks)

    def status(self) -> BackendStatus:
        """Return whether the endpoint is there and has workers."""
        return self._presence.status()

    def stop(self) -> None:
        """Send nothing more; what the service has taken goes on there."""
        self._presence.stop()
        self._courier.stop()

    def logs(self) -> Path | None:
        """Return None: the logs are the site's."""
        return None

    def _raise(self) -> None:
        failure = self._courier.ledger.failure
        if failure is not None:
            raise BackendError(failure.cause, evidence=failure.evidence, hint=failure.hint)


def _costs(card: SiteCard, options: dict[str, Any]) -> Costs:
    per_block = _per_node(card, options) * options.get("nodes_per_block", 1)
    return CLOUD._replace(
        queue=0.0 if card.scheduler == "local" else CLOUD.queue,
        request_bytes=card.limits.payload_bytes,
        workers_per_block=per_block or CLOUD.workers_per_block,
    )


def _per_node(card: SiteCard, options: dict[str, Any]) -> int:
    """Return the workers of a node, 0 where that is not known."""
    return int(options.get("workers_per_node") or card.worker.per_node or 0)


def _expected_workers(card: SiteCard, options: dict[str, Any]) -> int:
    per_node = _per_node(card, options)
    blocks = options.get("max_blocks")
    nodes = blocks * options.get("nodes_per_block", 1) if blocks else card.limits.nodes
    if per_node and nodes:
        return int(per_node * nodes)
    return card.limits.workers or per_node or _WORKERS
