"""Whether what draws is installed: it is an optional part of the client."""

from __future__ import annotations

from importlib.util import find_spec

from fitserve.errors import MissingExtraError

__all__ = ["need_pictures"]

_PACKAGES = ("matplotlib", "mplhep", "jinja2")


def need_pictures(what: str = "drawing") -> None:
    """Check that the packages of the extra ``plot`` are there, without importing them.

    Raises
    ------
    MissingExtraError
        One is not.
    """
    if not all(find_spec(name) for name in _PACKAGES):
        raise MissingExtraError(what, "plot")
