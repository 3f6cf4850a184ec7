"""Site cards: what a site tells its users, written when the site was rendered."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import msgspec

from fitserve.errors import InputError

__all__ = ["CARD_VERSION", "PAYLOAD_BYTES", "CardLimits", "CardWorker", "SiteCard", "read_card"]

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


class SiteCard(msgspec.Struct, frozen=True, kw_only=True):
    """A site as its users need to know it.

    ``options`` are the JSON schemas of what users may set when they submit. ``login_host``
    is where the scheduler may be asked why a block waits, if the site wants that.
    """

    card_version: int
    name: str
    endpoint_id: str
    function_id: str | None = None
    description: str = ""
    contact: str = ""
    url: str = ""
    verified: str = ""
    scheduler: str = ""
    worker: CardWorker = CardWorker()
    limits: CardLimits = CardLimits()
    options: dict[str, dict[str, Any]] | None = None
    login_host: str | None = None


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
