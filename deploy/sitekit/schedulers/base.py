"""What a site needs to know of a batch scheduler: its options, rules and commands."""

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
        Whether the Globus Compute endpoint submitted it; otherwise a client on this machine did
        (``parsl:SITE``).
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
    """A question for a new site.

    Attributes
    ----------
    name
        Name of the flag and of the answer.
    text
        The question.
    schedulers
        Those that it is asked for.
    default
        Returns the answer to offer, from the answers so far; None if there is none to offer.
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
        What the client knows of it: its name, and how to ask for a job and to cancel one.
    submit
        The command that submits the script whose name follows.
    jobs
        Returns the jobs that have not ended; takes whether everyone's or only the user's own, and
        the seconds that a command may take.
    output_at_home
        Whether it may put a job's output into the user's home.
    fields
        Fields of `scheduler` that it has and not every scheduler has.
    directives
        Directives that have a field of their own, and that field.
    rules
        Its own rules between a site's fields.
    launchers
        Launchers that work with it; the first is advised.
    launcher_of_many
        The launcher that is advised where a block has several nodes.
    containers
        Kinds of containers that its jobs can start; the first is advised.
    gpu_requests
        Ways to ask it for GPUs; the first is advised.
    questions
        Its own questions for a new site, besides those for all.
    blueprints
        Shipped sites that a new one extends: the first, or with GPUs the last.
    """

    client: client.Scheduler
    submit: tuple[str, ...]
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
