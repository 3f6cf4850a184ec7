"""What a picture needs: what draws, an optional part of the client, and points enough."""

from __future__ import annotations

from importlib.util import find_spec

from fitserve.errors import InputError, MissingExtraError

__all__ = ["need_pictures", "need_points"]

_PACKAGES = ("matplotlib", "mplhep", "jinja2")
# Through two points there is a line whatever lies between them.
_LEAST_POINTS = 3


def need_pictures(what: str = "drawing") -> None:
    """Check that the packages of the extra ``plot`` are there, without importing them.

    Raises
    ------
    MissingExtraError
        One is not.
    """
    if not all(find_spec(name) for name in _PACKAGES):
        raise MissingExtraError(what, "plot")


def need_points(count: int, along: str) -> None:
    """Check that there are enough points for a curve.

    Parameters
    ----------
    count
        How many points have a number.
    along
        What varies between them.

    Raises
    ------
    InputError
        There are too few.
    """
    if count < _LEAST_POINTS:
        raise InputError(
            f"there are too few points for a curve along {along}",
            evidence=f"{count} with a valid number, and it takes {_LEAST_POINTS}",
            hint="the numbers are in: fitserve show RUN",
        )
