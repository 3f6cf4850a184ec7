"""What a batch scheduler is to a site: what may be asked of it, and how it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sitekit.fields import UserOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fitserve.schedulers import base as client
    from sitekit.problems import Problem
    from sitekit.site import Site

__all__ = ["BatchScheduler", "Job", "Question"]


class Job(NamedTuple):
    """A job: one block of workers.

    Attributes
    ----------
    state
        ``queued``, ``running``, or the scheduler's own word.
    reason
        Why it waits, in the scheduler's words; empty where it gives none.
    of_endpoint
        Whether the Globus Compute endpoint asked for it; a client on this machine did
        otherwise (``parsl:SITE``).
    """

    id: str
    name: str
    state: str
    reason: str
    elapsed: str
    nodes: str
    of_endpoint: bool


@dataclass(frozen=True)
class Question:
    """One thing that is asked for a new site.

    Attributes
    ----------
    name
        Name of the flag and of the answer.
    text
        The question.
    schedulers
        For which it is asked.
    default
        Answer that is offered, from the answers so far; None if there is none to offer.
    """

    name: str
    text: str
    schedulers: tuple[str, ...]
    default: Callable[[Mapping[str, Any]], Any] | None = None


@dataclass(frozen=True, kw_only=True)
class BatchScheduler:
    """All that a site's files, rules and commands need to know of one scheduler.

    Attributes
    ----------
    client
        What the client knows of it: its name, and the command that cancels a job.
    submit
        The command that submits the script whose name follows.
    state
        Returns what it says of a job, or ``gone``; takes the seconds that a command may take.
    jobs
        Returns everyone's jobs or the user's own, those that have ended left out; takes which,
        and the seconds.
    output_at_home
        Whether it may put a job's output into the user's home.
    fields
        Fields of `scheduler` that are not for every scheduler, and that it knows.
    directives
        Directives that have a field of their own, and that field.
    rules
        Rules between a site's fields that are its own.
    launchers
        Launchers that work with it; the first is advised.
    launcher_of_many
        The one that is advised where a block has several nodes.
    containers
        Kinds of containers that its jobs can start; the first is advised.
    gpu_requests
        Ways in which it is asked for GPUs; the first is advised.
    questions
        What is asked for a new site with it, besides what is asked for all.
    blueprints
        Shipped sites that a new one extends: the first, or with GPUs the last.
    """

    client: client.Scheduler
    submit: tuple[str, ...]
    state: Callable[[str, int], str]
    jobs: Callable[[bool, int], list[Job]]
    output_at_home: bool = False
    fields: tuple[str, ...]
    directives: Mapping[str, str]
    rules: tuple[Callable[[Site], Iterator[Problem]], ...] = ()
    launchers: tuple[str, ...]
    launcher_of_many: str
    containers: tuple[str, ...]
    gpu_requests: tuple[str, ...]
    questions: tuple[Question, ...]
    blueprints: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name in site files."""
        return self.client.name

    @property
    def options(self) -> tuple[str, ...]:
        """Fields of `scheduler` that users may be allowed to set."""
        return tuple(name for name in UserOptions.__struct_fields__ if name in self.fields)
