"""Carries tasks to the service and their results back, whatever happens in between.

It uses the SDK's Executor, which gives up for good in two cases, and is helped in both: one
refused submission ends an Executor (a new one is made), and an outage of the broker that
lasts ends the listening for results (they are asked for again by their tasks' ids). A result
whose message was lost is asked for too.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from fitserve.endpoints.base import CLOUD, Outcome
from fitserve.endpoints.globus.ledger import DROPPED, Ledger
from fitserve.endpoints.globus.service import judge
from fitserve.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from globus_compute_sdk import Client, Executor

    from fitserve.endpoints.cards import Profile
    from fitserve.endpoints.globus.service import Service

__all__ = ["Courier", "Recovery"]

# A task that was taken this long ago is asked about now and then, as often as the service's
# limit of 20 requests in 10 s easily allows.
_OVERDUE_SECONDS = 30.0
_ASK_SECONDS = 10.0
_ASK_TASKS = 3


class Recovery:
    """Asks for what a ledger misses.

    Parameters
    ----------
    ledger
        The tasks at the service.
    new_executor
        Makes an Executor of the SDK, to ask with.
    """

    def __init__(self, ledger: Ledger, new_executor: Callable[[], Executor]) -> None:
        self._ledger = ledger
        self._new_executor = new_executor
        self._asked = time.monotonic()

    def find_adrift(self) -> bool:
        """Listen again for results that nobody listens for; returns whether there were such.

        Raises
        ------
        Exception
            Whatever the SDK raises when the service does not answer.
        """
        adrift = self._ledger.adrift()
        for group in {handle["group"] for handle in adrift.values()}:
            futures = self._reload(group)
            for ticket, handle in adrift.items():
                if handle["group"] != group:
                    continue
                future = futures.get(handle["service_task"])
                if future is None:
                    self._ledger.end(Outcome(ticket, None, DROPPED, again=True))
                else:
                    self._ledger.watch(ticket, future)
        return bool(adrift)

    def ask_overdue(self, client: Client) -> bool:
        """Ask about a few tasks without news for long; returns whether it did.

        Raises
        ------
        Exception
            Whatever the SDK raises when the service does not answer.
        """
        if time.monotonic() - self._asked < _ASK_SECONDS:
            return False
        self._asked = time.monotonic()
        overdue = self._ledger.overdue(_OVERDUE_SECONDS, _ASK_TASKS)
        for ticket, sent in overdue:
            self._ask(client, ticket, sent.handle["service_task"])
        return bool(overdue)

    def _ask(self, client: Client, ticket: str, task: str) -> None:
        from globus_compute_sdk.errors import TaskExecutionFailed

        try:
            state = client.get_task(task)
        except TaskExecutionFailed as error:
            self._ledger.failed(ticket, error.remote_data)
            return
        except Exception as error:
            if judge(error).kind != "gone":
                raise
            state = {"pending": False}
        if state["pending"]:
            self._ledger.heard(ticket)
        elif "result" in state:
            self._ledger.answer(ticket, state["result"])
        else:
            self._ledger.end(Outcome(ticket, None, DROPPED, again=True))

    def _reload(self, group: str) -> dict[str, Any]:
        """Return the futures of a task group by their tasks' ids; none if it is gone."""
        executor = self._new_executor()
        try:
            self._ledger.groups.add(group)
            return {str(one.task_id): one for one in executor.reload_tasks(group)}
        except Exception as error:
            if judge(error).kind == "gone":
                return {}
            raise
        finally:
            with contextlib.suppress(Exception):
                executor.shutdown(wait=False)  # type: ignore[no-untyped-call]


# A submission holds every task that comes within this time of the last one, up to its limits.
_LINGER_SECONDS = 0.3
_BATCH_TASKS = CLOUD.request_tasks
# JSON around a task, escaped twice on its way, and around all of them.
_TASK_OVERHEAD = 512
_SUBMISSION_OVERHEAD = 20_000
_LONGEST_PAUSE = 60.0


class _Letter(NamedTuple):
    ticket: str
    task: str

    @property
    def size(self) -> int:
        return len(self.task) + _TASK_OVERHEAD


class Courier:
    """Sends in a thread of its own; what happens is in its ledger.

    Parameters
    ----------
    profile
        The endpoint.
    options
        The user's options, checked.

    Attributes
    ----------
    ledger
        The tasks that the service has, and those that ended.
    service
        The connection, once there is one.
    trouble
        Why nothing can be sent at this moment, if so.
    """

    def __init__(self, profile: Profile, options: dict[str, Any]) -> None:
        self.ledger = Ledger(profile.card)
        self.service: Service | None = None
        self.trouble: str | None = None
        self._profile = profile
        self._options = options
        self._function = profile.card.function_id or ""
        self._recovery = Recovery(self.ledger, self._new_executor)
        self._executor: Executor | None = None
        self._batch_bytes = profile.card.limits.payload_bytes - _SUBMISSION_OVERHEAD
        self._lock = threading.Lock()
        self._waiting: deque[_Letter] = deque()
        self._put_at = 0.0
        self._stopping = threading.Event()
        self._pauses = 0
        self._thread = threading.Thread(target=self._run, name="fitserve-courier", daemon=True)

    def start(self) -> None:
        """Begin to connect and to send."""
        self._thread.start()

    def put(self, ticket: str, task: str) -> None:
        """Send a task as soon as the limits allow."""
        with self._lock:
            self._waiting.append(_Letter(ticket, task))
            self._put_at = time.monotonic()

    def stop(self) -> None:
        """Send nothing more and let go of what was sent."""
        self._stopping.set()
        self.ledger.close()
        self._drop()
        if self._thread.is_alive():
            self._thread.join(timeout=3.0)
        if self.service is not None:
            _release(self.ledger.groups)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set() and self.ledger.failure is None:
                try:
                    self._work()
                except Exception as error:
                    failure = judge(error, "the endpoint or its function")
                    if failure.kind != "later":
                        raise failure.error from error
                    self._pause(failure.error)
        except BackendError as error:
            self.ledger.failure = error

    def _work(self) -> None:
        """Do what there is to do; whatever goes wrong with the service is raised."""
        service = self._connected()
        busy = self._send_some()
        busy = self._recovery.find_adrift() or busy
        busy = self._recovery.ask_overdue(service.client) or busy
        if busy:
            self.trouble = None
            self._pauses = 0
        else:
            self._stopping.wait(0.05)

    def _pause(self, error: BackendError) -> None:
        """Wait, longer each time, until the service may answer again."""
        self.trouble = error.cause
        self._stopping.wait(min(2.0**self._pauses, _LONGEST_PAUSE))
        self._pauses += 1

    def _connected(self) -> Service:
        if self.service is None:
            from fitserve.endpoints.globus.service import Service

            self.service = Service()
        if not self._function:
            self._function = self.service.function_for(self._profile.card.endpoint_id, None)
        return self.service

    def _send_some(self) -> bool:
        """Send one submission, if there is enough for one; returns whether it did."""
        batch = self._next_batch()
        if not batch:
            return False
        executor = self._executor = self._executor or self._new_executor()
        posted = []
        # An Executor that stops between two tasks refuses the second by a RuntimeError.
        with contextlib.suppress(RuntimeError):
            for letter in batch:
                future = executor.submit_to_registered_function(self._function, (letter.task,))
                posted.append((letter, future))
        while any(future.task_id is None and not future.done() for _, future in posted):
            if self._stopping.wait(0.02):
                return False
        refused = [letter for letter, future in posted if not self._took(letter, future)]
        left = [*refused, *batch[len(posted) :]]
        if left:
            self._drop()
            with self._lock:
                self._waiting.extendleft(reversed(left))
            errors = [future.exception() for _, future in posted if _failed(future)]
            self._refused(refused, next((error for error in errors if error is not None), None))
        return True

    def _next_batch(self) -> list[_Letter]:
        with self._lock:
            total = sum(letter.size for letter in self._waiting)
            full = total >= self._batch_bytes or len(self._waiting) >= _BATCH_TASKS
            if not full and time.monotonic() - self._put_at < _LINGER_SECONDS:
                return []
            batch: list[_Letter] = []
            size = 0
            while self._waiting and len(batch) < _BATCH_TASKS:
                size += self._waiting[0].size
                if batch and size > self._batch_bytes:
                    break
                batch.append(self._waiting.popleft())
            return batch

    def _took(self, letter: _Letter, future: Any) -> bool:
        """Note a task that the service has; returns whether it has it."""
        if future.task_id is None:
            return False
        metadata = getattr(future, "_metadata", {})
        handle = {
            "endpoint": self._profile.card.endpoint_id,
            "child": str(metadata.get("endpoint_uuid") or ""),
            "group": str(metadata.get("task_group_uuid") or ""),
            "service_task": str(future.task_id),
        }
        self.ledger.take(letter.ticket, handle, future)
        return True

    def _refused(self, refused: Sequence[_Letter], error: BaseException | None) -> None:
        """Make smaller submissions after one that was too large; raise any other error."""
        if error is None:
            return
        if judge(error).kind != "large":
            raise error
        size = sum(letter.size for letter in refused)
        if len(refused) > 1:
            self._batch_bytes = min(self._batch_bytes, size) // 2
            return
        with self._lock:
            self._waiting.remove(refused[0])
        reason = f"the service takes no submission of {size} bytes"
        self.ledger.ended.put(Outcome(refused[0].ticket, None, reason))

    def _new_executor(self) -> Executor:
        from globus_compute_sdk import Executor
        from globus_compute_sdk.serialize import JSONData

        assert self.service is not None  # noqa: S101 - `_connect` comes first
        executor = Executor(
            endpoint_id=self._profile.card.endpoint_id,
            client=self.service.client,
            user_endpoint_config=self._options or None,
            label="fitserve",
            batch_size=_BATCH_TASKS,
            amqp_port=self._profile.amqp_port,
            result_serializers=[JSONData],
        )
        # The SDK would go on with the last group of any Executor of this process.
        executor.task_group_id = None
        return executor

    def _drop(self) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            with contextlib.suppress(Exception):
                executor.shutdown(wait=False, cancel_futures=True)  # type: ignore[no-untyped-call]


def _failed(future: Any) -> bool:
    return future.task_id is None and future.done() and not future.cancelled()


def _release(groups: set[str]) -> None:
    """Stop listening for results.

    The SDK keeps the process alive until the last result has come, and has no public way to
    leave earlier: without this a user's Ctrl-C would wait for the whole run.
    """
    from globus_compute_sdk.sdk import executor as module

    watchers: dict[Any, Any] = getattr(module, "_RESULT_WATCHERS", {})
    for group, watcher in list(watchers.items()):
        if str(group) in groups:
            with contextlib.suppress(Exception):
                watcher.shutdown(wait=False, cancel_futures=True)
