"""Find results whose messages did not come: the SDK stopped listening, or they were lost."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from fitserve.backends.base import Outcome
from fitserve.backends.globus.ledger import DROPPED
from fitserve.endpoints.failures import judge

if TYPE_CHECKING:
    from collections.abc import Callable

    from globus_compute_sdk import Client, Executor

    from fitserve.backends.globus.ledger import Ledger

__all__ = ["Recovery"]

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
        """Ask about a few tasks that were not heard of for long; returns whether it did.

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
