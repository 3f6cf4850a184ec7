"""End what a killed endpoint left behind, before another one is started in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sitekit.target.jobs import cancel_jobs
from sitekit.target.processes import end, end_orphans
from sitekit.target.running import manager_pid

if TYPE_CHECKING:
    from sitekit.target.deployed import Deployed

__all__ = ["Tidied", "tidy"]

_GRACE = 120.0


class Tidied(NamedTuple):
    """What was ended: an endpoint that nobody looked after, orphans of its children, jobs."""

    endpoint: int | None
    orphans: int
    jobs: list[str]

    def __str__(self) -> str:
        """Say it in one line; nothing where there was nothing."""
        if self == (None, 0, []):
            return ""
        endpoint = f"endpoint {self.endpoint}, " if self.endpoint else ""
        return f"{endpoint}{self.orphans} processes, jobs {', '.join(self.jobs) or 'none'}"


def tidy(deployed: Deployed) -> Tidied:
    """End an endpoint that nobody looks after, what its children left, and their jobs.

    Only where none is meant to run: the jobs of one that does would be cancelled too.
    """
    pid = manager_pid(deployed)
    if pid is not None:
        end([pid], _GRACE)
    if deployed.endpoint_id is None:
        return Tidied(pid, 0, [])
    orphans = end_orphans(deployed.endpoint_id)
    return Tidied(pid, orphans, cancel_jobs(deployed.site, deployed.name))
