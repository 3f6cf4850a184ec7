"""Endpoints that a user has added: their names, their site cards, the options to set.

A site card is what a site tells its users; it is written, by these classes, when the site is
rendered.
"""

from __future__ import annotations

import difflib
import re
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from fitserve.errors import BackendError, InputError, RequestError, StoreError
from fitserve.files import replace_file

__all__ = [
    "CARD_VERSION",
    "PAYLOAD_BYTES",
    "CardLimits",
    "CardWorker",
    "Profile",
    "RenderedCard",
    "SiteCard",
    "add_profile",
    "check_options",
    "find_profile",
    "list_profiles",
    "read_card",
    "remove_profile",
]

CARD_VERSION = 1
PAYLOAD_BYTES = 10_000_000
"""Largest submission and result of Globus Compute."""


class CardWorker(msgspec.Struct, frozen=True, kw_only=True):
    """What fits there: version of fitserve-worker, device, workers of a node."""

    version: str | None = None
    device: str | None = None
    gpu: str | None = None
    per_node: int | None = None
    threads: int | None = None


class CardLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the site allows one user; None where there is no limit or it is not known."""

    longest_task_seconds: float | None = None
    payload_bytes: int = PAYLOAD_BYTES
    walltime: str | None = None
    nodes: int | None = None
    workers: int | None = None
    core_hours: float | None = None


class RenderedCard(msgspec.Struct, frozen=True, kw_only=True):
    """A site as its users see it, whose endpoint need not be registered yet.

    ``options`` are the JSON schemas of what users may set when they submit. ``login_host``
    is where the scheduler may be asked why a block waits, if the site wants that.
    """

    card_version: int
    name: str
    description: str = ""
    contact: str = ""
    url: str = ""
    verified: str = ""
    rendered: str = ""
    endpoint_id: str | None = None
    function_id: str | None = None
    scheduler: str = ""
    login_host: str | None = None
    worker: CardWorker = CardWorker()
    limits: CardLimits = CardLimits()
    options: dict[str, dict[str, Any]] | None = None


class SiteCard(RenderedCard, frozen=True, kw_only=True):
    """The card of a site that can be used: its endpoint is registered."""

    endpoint_id: str


def read_card(source: str) -> SiteCard:
    """Read a site card from a file, or make a bare one from the id of an endpoint.

    Raises
    ------
    InputError
        The file is not a site card, or the site is not registered yet.

    Examples
    --------
    >>> card = read_card("11111111-2222-4333-8444-555555555555")
    >>> card.endpoint_id, card.function_id
    ('11111111-2222-4333-8444-555555555555', None)
    """
    bare = _as_uuid(source)
    if bare is not None:
        return SiteCard(card_version=CARD_VERSION, name=bare[:8], endpoint_id=bare)
    try:
        raw = msgspec.json.decode(Path(source).expanduser().read_bytes())
    except OSError as error:
        raise InputError(
            f"the site card {source} cannot be read",
            evidence=str(error),
            hint="give the file site-card.json of your site's administrator, or the endpoint's id",
        ) from error
    except msgspec.DecodeError as error:
        raise _not_a_card(source, str(error)) from error
    return _checked(source, raw)


def _checked(source: str, raw: Any) -> SiteCard:
    if not isinstance(raw, dict) or "card_version" not in raw:
        raise _not_a_card(source, "it has no card_version")
    if raw["card_version"] != CARD_VERSION:
        raise InputError(
            f"the site card {source} is of another version of fitserve",
            evidence=f"it is of version {raw['card_version']}, this fitserve reads {CARD_VERSION}",
            hint="install the version of fitserve that the site has",
        )
    if not raw.get("endpoint_id"):
        raise InputError(
            f"the site card {source} has no endpoint yet",
            evidence="endpoint_id is null: it was rendered before the endpoint was registered",
            hint="ask the site's administrator for the card that was rendered after its start",
        )
    try:
        card = msgspec.convert(raw, SiteCard)
    except msgspec.ValidationError as error:
        raise _not_a_card(source, str(error)) from error
    for name, value in (("endpoint_id", card.endpoint_id), ("function_id", card.function_id)):
        if value is not None and _as_uuid(value) is None:
            raise _not_a_card(source, f"{name} is '{value}', which is not a UUID")
    return card


def _as_uuid(text: str) -> str | None:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None


def _not_a_card(source: str, evidence: str) -> InputError:
    return InputError(
        f"{source} is not a site card",
        evidence=evidence,
        hint="give the file site-card.json of your site's administrator, or the endpoint's id",
    )


def check_options(card: SiteCard, given: dict[str, str]) -> dict[str, Any]:
    """Return the options with the types that the site's card states.

    A card that was made from an endpoint's id alone knows no options: they go to the site
    as they are, which checks them itself.

    Raises
    ------
    RequestError
        The site has no such option, or not with this value.
    """
    if card.options is None:
        return {name: int(value) if _whole(value) else value for name, value in given.items()}
    checked: dict[str, Any] = {}
    for name, value in given.items():
        schema = card.options.get(name)
        if schema is None:
            close = difflib.get_close_matches(name, card.options, n=1)
            raise RequestError(
                f"{card.name} has no option '{name}'",
                evidence=f"its options: {', '.join(card.options) or 'nothing'}",
                hint=f"--set {close[0]}=..." if close else "",
            )
        checked[name] = _value(card, name, value, schema)
    return checked


def _value(card: SiteCard, name: str, value: str, schema: dict[str, Any]) -> Any:
    import jsonschema_rs

    typed: Any = int(value) if schema.get("type") == "integer" and _whole(value) else value
    try:
        jsonschema_rs.validator_for(schema).validate(typed)
    except jsonschema_rs.ValidationError as error:
        raise RequestError(
            f"{card.name} does not take {name}={value}",
            evidence=error.message,
            hint=_allowed(name, schema),
        ) from error
    return typed


def _allowed(name: str, schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return f"--set {name}= one of {', '.join(map(str, schema['enum']))}"
    if "minimum" in schema:
        return f"--set {name}= {schema['minimum']} to {schema['maximum']}"
    return f"--set {name}= a word of letters, digits and _ . + @ : -"


def _whole(text: str) -> bool:
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdecimal()


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
    """Save an endpoint under a name and return its file.

    Raises
    ------
    RequestError
        The name is not valid, or is taken.
    StoreError
        The file cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", name) or name in BUILT_IN:
        raise RequestError(
            f"'{name}' cannot be the name of an endpoint",
            evidence=f"it needs letters, digits, '_', '.' and '-', and is not one of {BUILT_IN}",
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
        replace_file(path, msgspec.json.format(msgspec.json.encode(profile), indent=2) + b"\n")
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
        names = [*BUILT_IN, *(profile.name for profile in list_profiles())]
        raise BackendError(
            f"there is no endpoint '{name}'",
            evidence=f"known endpoints: {', '.join(names)}",
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
