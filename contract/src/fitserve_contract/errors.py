"""The errors that client and worker share: a cause, its evidence and the next thing to do.

Needs Python's standard library alone. `fitserve.errors` has these and the client's own.
"""

from __future__ import annotations

__all__ = ["BackendError", "ContractError", "FitserveError", "StoreError"]


class FitserveError(Exception):
    """An error that a user can act upon.

    Parameters
    ----------
    cause
        What is wrong, in one sentence without a final full stop.
    evidence
        What shows it: a path, a value, the message of a library.
    hint
        The next command to run or thing to change.
    """

    exit_code = 1

    def __init__(self, cause: str, *, evidence: str = "", hint: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.evidence = evidence
        self.hint = hint

    def __str__(self) -> str:
        """Return the cause, the evidence and the hint, one line each."""
        lines = [self.cause]
        if self.evidence:
            lines.append(f"  seen: {self.evidence}")
        if self.hint:
            lines.append(f"  next: {self.hint}")
        return "\n".join(lines)


class BackendError(FitserveError):
    """The endpoint or backend is unknown or does not work."""

    exit_code = 5


class ContractError(BackendError):
    """A task or result is not one of this version of the wire contract."""


class StoreError(FitserveError):
    """A run directory or an output cannot be read, written or locked."""

    exit_code = 6
