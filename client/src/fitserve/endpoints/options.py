"""What a user sets of a site when submitting, checked before anything is sent."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from fitserve.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitserve.endpoints.card import SiteCard

__all__ = ["check_options", "parse_options"]


def parse_options(settings: Iterable[str]) -> dict[str, str]:
    """Return the names and values of ``NAME=VALUE`` texts.

    Raises
    ------
    RequestError
        A text has no name or no ``=``.

    Examples
    --------
    >>> parse_options(["account=atlas", "walltime_minutes=30"])
    {'account': 'atlas', 'walltime_minutes': '30'}
    """
    options = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise RequestError(f"'{setting}' is not NAME=VALUE", hint="--set NAME=VALUE")
        options[name.strip()] = value
    return options


def check_options(card: SiteCard, given: dict[str, str]) -> dict[str, Any]:
    """Return the options with the types that the site's card says.

    A card that was made from an endpoint's id alone knows no options: they go to the site
    as they are, which checks them itself.

    Raises
    ------
    RequestError
        The site lets users set no such thing, or not to this value.
    """
    if card.options is None:
        return {name: int(value) if _whole(value) else value for name, value in given.items()}
    checked: dict[str, Any] = {}
    for name, value in given.items():
        schema = card.options.get(name)
        if schema is None:
            close = difflib.get_close_matches(name, card.options, n=1)
            raise RequestError(
                f"{card.name} lets nobody set '{name}'",
                evidence=f"what may be set: {', '.join(card.options) or 'nothing'}",
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
