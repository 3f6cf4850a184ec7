"""What engines offer to the worker's entry point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fitserve.contract import Hypothesis, HypothesisResult, Request, ToyRange

__all__ = ["Engine", "Work"]


class Work(NamedTuple):
    """A decoded task: hypotheses on one background-only workspace.

    ``request_digest`` is `fitserve.contract.request_digest` of the request, ``toys`` which of
    the toys of a request for toys are to be made (None: all).
    """

    workspace_digest: str
    workspace: dict[str, Any]
    hypotheses: Sequence[Hypothesis]
    request: Request
    request_digest: str
    toys: ToyRange | None = None


class Engine(Protocol):
    """Fits hypotheses of one workspace.

    Every engine tests hypotheses. What else it does has a method of the request's kind
    (`fitserve.contract.kind_of`), as `fitserve_worker.engines.pyhf_reference.PyhfEngine` has
    for all of them; requests of other kinds go to that engine.
    """

    def hypotest(self, work: Work) -> Iterator[HypothesisResult]:
        """Yield one result for each hypothesis, in any order.

        A hypothesis that cannot be fitted is a result with status and reason; an engine
        raises only for what makes every hypothesis impossible.
        """
        ...
