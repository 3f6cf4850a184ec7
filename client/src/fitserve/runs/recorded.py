"""The endpoint to go on with, where somebody else may have written the run directory."""

from __future__ import annotations

import os
import pwd
import re
from typing import TYPE_CHECKING

from fitserve.errors import BackendError, FitserveError, RequestError
from fitserve.runs.store import known_runs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["other_owner", "recorded_endpoint"]

_NAME = re.compile(r"(?:parsl:)?(?!.*\.json$)[A-Za-z0-9][A-Za-z0-9_.-]*")


def other_owner(path: Path) -> str | None:
    """Return the name of the user that a directory belongs to, None for this one.

    Raises
    ------
    OSError
        There is no such directory.
    """
    owner = path.stat().st_uid
    if owner == os.getuid():
        return None
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return f"user {owner}"


def recorded_endpoint(path: Path, endpoint: str, options: Mapping[str, str]) -> str:
    """Return the endpoint that a run directory names, if it and its options may be used.

    Their names are looked up in this user's own configuration. A path would lead to a file that
    says what to execute, and a run directory may contain such a file. Options that no site card
    checks may be code as well: they are taken from this user's own runs only.

    Raises
    ------
    BackendError
        The endpoint is named by its path.
    RequestError
        The run was not started by this user, and its options cannot be checked.
    """
    again = f"fitserve resume {path} --endpoint ENDPOINT"
    for name in endpoint.split(","):
        if not _NAME.fullmatch(name.strip()):
            raise BackendError(
                "the run directory names its endpoint by a path, from which code would be run",
                evidence=f"endpoint '{endpoint}'",
                hint=f"{again}; repeat the path there if you trust what it leads to",
            )
    if options and path.resolve() not in known_runs() and not _are_checked(endpoint):
        settings = " ".join(f"{name}={value}" for name, value in options.items())
        raise RequestError(
            "the run directory sets options of the endpoint that no site card checks, and it is "
            "none of the runs that were started here",
            evidence=settings,
            hint=f"{again} --set NAME=VALUE, with the options that you trust",
        )
    return endpoint


def _are_checked(endpoint: str) -> bool:
    """Return whether a card says which values each of the endpoint's options may have."""
    from fitserve.endpoints.cards import find_profile

    try:
        profiles = [find_profile(name.strip()) for name in endpoint.split(",")]
    except FitserveError:
        return True  # it takes no options, or does not exist: opening it says so
    return all(profile.card.options is not None for profile in profiles)
