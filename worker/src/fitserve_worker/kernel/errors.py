"""What the kernel raises for a model that it does not fit."""

from __future__ import annotations

__all__ = ["UnsupportedModelError"]


class UnsupportedModelError(Exception):
    """The kernel does not fit this model; the reason says why, for the reference engine.

    It never reaches a user: whoever calls the kernel hands the hypothesis to pyhf, which
    either knows how to fit it or says what is wrong with it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
