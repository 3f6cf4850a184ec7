"""Backends: where tasks are done. `open_backend` finds one by an endpoint's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitserve.backends.base import Backend, BackendStatus, Limits, Outcome
from fitserve.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Backend", "BackendStatus", "Limits", "Outcome", "endpoint_names", "open_backend"]


def _local(workers: int | None) -> Backend:
    from fitserve.backends.local import LocalBackend

    return LocalBackend(workers)


def _inline(workers: int | None) -> Backend:  # noqa: ARG001 - this process is the one worker
    from fitserve.backends.inline import InlineBackend

    return InlineBackend()


_BUILT_IN: dict[str, Callable[[int | None], Backend]] = {"local": _local, "inline": _inline}


def endpoint_names() -> list[str]:
    """Return the names that `open_backend` knows."""
    return sorted(_BUILT_IN)


def open_backend(endpoint: str, workers: int | None = None) -> Backend:
    """Return the backend of an endpoint; nothing is started yet.

    Raises
    ------
    BackendError
        No endpoint has this name.
    """
    make = _BUILT_IN.get(endpoint)
    if make is None:
        raise BackendError(
            f"there is no endpoint '{endpoint}'",
            evidence=f"known endpoints: {', '.join(endpoint_names())}",
            hint="fitserve run PALLET --endpoint local",
        )
    return make(workers)
