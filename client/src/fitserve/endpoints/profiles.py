"""Endpoints by the names that this user gave them, one small file for each."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from fitserve.endpoints.card import SiteCard
from fitserve.errors import BackendError, RequestError, StoreError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Profile", "add_profile", "find_profile", "list_profiles", "remove_profile"]

BUILT_IN = ("local", "inline")
AMQP_PORT = 443
"""Of Globus' message broker. It listens on 5671 too, which is often blocked."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint that the user has added; ``added`` is ISO 8601 in UTC."""

    name: str
    card: SiteCard
    amqp_port: int = AMQP_PORT
    added: str = ""


def add_profile(
    name: str, card: SiteCard, *, amqp_port: int = AMQP_PORT, replace: bool = False
) -> Path:
    """Remember an endpoint under a name and return the file that does.

    Raises
    ------
    RequestError
        The name cannot be one, or is taken.
    StoreError
        The file cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", name) or name in BUILT_IN:
        raise RequestError(
            f"'{name}' cannot be the name of an endpoint",
            evidence=f"it is of letters, digits, '_', '.' and '-', and not one of {BUILT_IN}",
        )
    path = _directory() / f"{name}.json"
    if path.exists() and not replace:
        raise RequestError(
            f"there is an endpoint '{name}' already",
            evidence=str(path),
            hint="choose another name, or --replace",
        )
    profile = Profile(
        name=name,
        card=card,
        amqp_port=amqp_port,
        added=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=2) + b"\n")
        part.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written", evidence=str(error)) from error
    return path


def find_profile(name: str) -> Profile:
    """Return the endpoint of this name.

    Raises
    ------
    BackendError
        There is none.
    StoreError
        Its file is damaged.
    """
    path = _directory() / f"{name}.json"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or not path.is_file():
        known = [*BUILT_IN, *(profile.name for profile in list_profiles())]
        raise BackendError(
            f"there is no endpoint '{name}'",
            evidence=f"known endpoints: {', '.join(known)}",
            hint=f"fitserve endpoints add {name} --card site-card.json",
        )
    return _read(path)


def list_profiles() -> list[Profile]:
    """Return the endpoints that were added, by name.

    Raises
    ------
    StoreError
        A file is damaged.
    """
    return [_read(path) for path in sorted(_directory().glob("*.json"))]


def remove_profile(name: str) -> None:
    """Forget an endpoint.

    Raises
    ------
    BackendError
        There is none of this name.
    StoreError
        The file cannot be removed.
    """
    path = _directory() / f"{name}.json"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or not path.is_file():
        raise BackendError(f"there is no endpoint '{name}'", hint="fitserve endpoints list")
    try:
        path.unlink()
    except OSError as error:
        raise StoreError(f"{path} cannot be removed", evidence=str(error)) from error


def _read(path: Path) -> Profile:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Profile)
    except (OSError, msgspec.MsgspecError) as error:
        raise StoreError(
            f"{path} is damaged",
            evidence=str(error),
            hint=f"fitserve endpoints add {path.stem} --card site-card.json --replace",
        ) from error


def _directory() -> Path:
    import platformdirs

    return platformdirs.user_config_path("fitserve") / "endpoints"
