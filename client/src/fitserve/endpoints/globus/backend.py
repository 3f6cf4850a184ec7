"""The backend of an endpoint of Globus Compute, and whether that is online and has workers.

Its `Presence` is looked up regularly, in a thread. Why a block waits is asked of the site's
scheduler, where the site card allows it.
"""

from __future__ import annotations

import contextlib
import queue
import shlex
import shutil
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

from fitserve.endpoints.base import CLOUD, Accepted, BackendStatus, Limits, Outcome
from fitserve.endpoints.cards import check_options
from fitserve.endpoints.globus.courier import Courier
from fitserve.endpoints.globus.service import judge
from fitserve.errors import BackendError, MissingExtraError
from fitserve.schedulers import SCHEDULERS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fitserve.endpoints.base import Costs
    from fitserve.endpoints.cards import Profile, SiteCard
    from fitserve.endpoints.globus.service import Service

__all__ = ["GlobusBackend", "Presence", "waiting_reason"]

# A question to the scheduler may take this long.
_ANSWER_SECONDS = 10
_EVERY_SECONDS = 5.0
# The service calls an endpoint offline after a few missed heartbeats; one that has not shown
# itself for this many is taken to be gone, and its tasks are sent again.
_HEARTBEATS = 3
_HEARTBEAT_SECONDS = 30.0
_WORKERS = 4
"""Assumed where the card does not say how many there are at most."""
_LEAST_WINDOW = 16
_ENVELOPE_BYTES = 30_000
"""Of a submission besides its tasks: the user's runtime, options, ids."""


def waiting_reason(card: SiteCard) -> str:
    """Return what an endpoint without workers waits for.

    The scheduler is asked for its reason where the card names a host for it
    (``login_host``): directly on that host, else by ssh with the user's own key and without
    asking for a password.
    """
    if card.scheduler in {"", "local"}:
        return f"waiting for the first worker of {card.name}"
    waiting = f"waiting in the queue of {card.name} ({card.scheduler})"
    reason = _reason(card)
    return f"{waiting}: {reason}" if reason else waiting


def _reason(card: SiteCard) -> str:
    scheduler = SCHEDULERS.get(card.scheduler)
    if scheduler is None or not card.login_host:
        return ""
    # A fixed command: nothing that a card says is ever run.
    command = scheduler.waiting
    if socket.getfqdn() != card.login_host and socket.gethostname() != card.login_host:
        if shutil.which("ssh") is None or card.login_host.startswith("-"):
            return ""
        command = (
            "ssh",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=5",
            card.login_host,
            shlex.join(command),
        )
    try:
        done = subprocess.run(  # noqa: S603 - fixed words, and a host that is not an option
            command, capture_output=True, text=True, check=False, timeout=_ANSWER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if done.returncode:
        return ""
    reasons = sorted({line.strip() for line in scheduler.why(done.stdout) if line.strip()})
    return ", ".join(reasons[:3])


class Presence:
    """Keeps a `BackendStatus` up to date.

    A task that a dead child endpoint had taken would never end, since the site starts a new
    child only when something is submitted: such tasks are given back to be sent again.
    """

    def __init__(self, profile: Profile, courier: Courier) -> None:
        self._profile = profile
        self._courier = courier
        self._status = BackendStatus("starting", 0, "connecting to Globus Compute")
        self._first_seen: dict[str, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fitserve-presence", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopping.set()

    def status(self) -> BackendStatus:
        """Return the latest status."""
        trouble = self._courier.trouble
        if trouble:
            return BackendStatus("offline", 0, f"{trouble}; trying again")
        return self._status

    def _run(self) -> None:
        while not self._stopping.wait(_EVERY_SECONDS if self._first_seen else 1.0):
            service = self._courier.service
            if service is None or not self._courier.ledger.count():
                continue
            try:
                self._status = self._ask(service)
            except Exception as error:  # noqa: BLE001 - shown as the state, asked again
                failure = judge(error)
                self._status = BackendStatus("offline", 0, failure.error.cause)

    def _ask(self, service: Service) -> BackendStatus:
        card = self._profile.card
        online, answer = service.endpoint_status(card.endpoint_id)
        if not online:
            return BackendStatus("offline", 0, f"{self._profile.name} is offline")
        workers = 0
        up = False
        for child in self._courier.ledger.children():
            state = _state(service, child)
            if state is None:
                self._first_seen.setdefault(child, time.monotonic())
                return BackendStatus("waiting", 0, f"{card.name} is online")
            child_online, details = state
            up = up or child_online
            if child_online:
                self._first_seen[child] = time.monotonic()
                workers += int(details.get("total_workers") or 0)
            else:
                self._missed(child, answer)
        if not up:
            return BackendStatus("starting", 0, f"starting your endpoint on {card.name}")
        if not workers:
            return BackendStatus("waiting", 0, waiting_reason(card))
        return BackendStatus("running", workers, f"{workers} workers on {card.name}")

    def _missed(self, child: str, answer: dict[str, Any]) -> None:
        now = time.monotonic()
        seen = self._first_seen.setdefault(child, now)
        patience = _HEARTBEATS * float(answer.get("heartbeat_period") or _HEARTBEAT_SECONDS)
        if now - seen > patience:
            self._first_seen[child] = now
            self._courier.ledger.give_up(
                child, f"your endpoint on {self._profile.card.name} has ended"
            )


def _state(service: Service, child: str) -> tuple[bool, dict[str, Any]] | None:
    """Return the state of a child endpoint, or None where the service does not show it."""
    try:
        return service.endpoint_status(child)
    except BackendError as error:
        cause = error.__cause__
        if cause is not None and judge(cause).kind in {"gone", "refused"}:
            return None
        raise


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
