"""Globus Compute's own command, whose endpoints give up after several failed blocks in a row.

A deployment puts a script of that name on the endpoint's PATH before Globus Compute's own. Parsl's
handler gives up with the first block, if that fails, and never after a block that worked: it would
ask for one after the other for as long as there are tasks.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from parsl.executors import HighThroughputExecutor
    from parsl.jobs.states import JobStatus

__all__ = ["MOST_FAILED", "give_up", "main", "register"]

MOST_FAILED = 3
"""Blocks in a row after which an endpoint gives up, here and in direct use.

A bad node is one of many; another block does not cure what is wrong with all of them.
"""


def give_up(executor: HighThroughputExecutor, status: Mapping[str, JobStatus]) -> None:
    """Fail an executor and its tasks if its last blocks never had a worker, with what they said.

    Parameters
    ----------
    executor
        Parsl's executor, as its error handlers are given it.
    status
        Of every block that was asked for, by its number.
    """
    from parsl.jobs.error_handlers import _get_error
    from parsl.jobs.states import JobState

    worked = set(executor.connected_blocks())
    failed: dict[str, JobStatus] = {}
    for block in sorted(status, key=int):
        if block in worked:
            failed = {}
        elif status[block].terminal and status[block].state != JobState.SCALED_IN:
            failed[block] = status[block]
    if len(failed) >= MOST_FAILED:
        executor.set_bad_state_and_fail_all(_get_error(failed))


def register() -> None:
    """Have Parsl's executors use it where they would use Parsl's own: a site file names none."""
    from parsl.executors import status_handling

    status_handling.simple_error_handler = give_up


_STARTS = {"start", "_start-user-endpoint"}


def main() -> None:
    """Run `globus-compute-endpoint` with the arguments of this process."""
    from globus_compute_endpoint.cli import cli_run

    if _STARTS.intersection(sys.argv[1:]):
        register()
    sys.exit(cli_run())
