"""What every engine offers to the worker's entry point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fitserve.contract import HypotestRequest, Hypothesis, HypothesisResult

__all__ = ["Engine", "Work"]


class Work(NamedTuple):
    """A decoded task: hypotheses on one background-only workspace.

    ``request_digest`` is `fitserve.contract.request_digest` of the request.
    """

    workspace_digest: str
    workspace: dict[str, Any]
    hypotheses: Sequence[Hypothesis]
    request: HypotestRequest
    request_digest: str


class Engine(Protocol):
    """Fits hypotheses of one workspace."""

    def hypotest(self, work: Work) -> Iterator[HypothesisResult]:
        """Yield one result for each hypothesis, in any order.

        A hypothesis that cannot be fitted is a result with status and reason; an engine
        raises only for what makes every hypothesis impossible.
        """
        ...
