"""Hold Python's cyclic garbage collector while large JSON is read."""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["no_collection"]


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Collect no cycles meanwhile.

    Decoded JSON has none; but each of its millions of objects counts towards the next
    collection, which looks at all of them: half of the time that reading 1Lbb takes.

    Examples
    --------
    >>> import gc
    >>> from fitserve.collection import no_collection
    >>> with no_collection():
    ...     gc.isenabled()
    False
    >>> gc.isenabled()
    True
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
