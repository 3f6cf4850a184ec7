"""Wait for what a rig brings about in its own time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["wait_for"]


def wait_for(
    what: str, ready: Callable[[], Any], seconds: float = 60.0, *, every: float = 0.3
) -> Any:
    """Ask until the answer is true; returns it.

    Parameters
    ----------
    what
        What is waited for, in words.
    ready
        Asked again and again.
    seconds
        How long it may take.
    every
        Seconds between two questions.

    Raises
    ------
    AssertionError
        It did not come true in time.

    Examples
    --------
    >>> answers = iter([0, 0, 3])
    >>> wait_for("a number", lambda: next(answers), every=0.0)
    3
    >>> wait_for("nothing", lambda: None, seconds=0.0)
    Traceback (most recent call last):
    AssertionError: nothing: not after 0 s
    """
    end = time.monotonic() + seconds
    while True:
        found = ready()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not after {seconds:g} s")
        time.sleep(every)
