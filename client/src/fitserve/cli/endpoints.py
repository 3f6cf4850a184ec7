"""`fitserve endpoints`: add sites, look at them, log in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fitserve.endpoints.cards import Profile

__all__ = ["endpoints"]


@click.group()
def endpoints() -> None:
    """Add, check and list the endpoints of sites, and log in to Globus."""


@endpoints.command("add")
@click.argument("name")
@click.option(
    "--card",
    required=True,
    metavar="FILE|UUID",
    help="The site's card (site-card.json), or the endpoint's id.",
)
@click.option(
    "--amqp-port",
    type=click.Choice(["443", "5671"]),
    default="443",
    show_default=True,
    help="Port for results; 5671 is often blocked.",
)
@click.option("--replace", is_flag=True, help="Replace an endpoint of this name.")
def add(name: str, card: str, amqp_port: str, *, replace: bool) -> None:
    """Remember an endpoint under NAME, for `fitserve run PALLET --endpoint NAME`."""
    from fitserve.console import say
    from fitserve.endpoints.cards import add_profile, read_card

    path = add_profile(name, read_card(card), amqp_port=int(amqp_port), replace=replace)
    say(f"{name} is in {path}; next: fitserve endpoints check {name}")


@endpoints.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def list_(*, as_json: bool) -> None:
    """List the endpoints that you added, with what may be set of each."""
    import msgspec

    from fitserve.console import emit_json, say, show_table
    from fitserve.endpoints.cards import list_profiles

    profiles = list_profiles()
    if as_json:
        emit_json([msgspec.to_builtins(profile) for profile in profiles])
        return
    if not profiles:
        say("there are none besides local and inline: fitserve endpoints add NAME --card FILE")
        return
    show_table(["name", "site", "device", "workers", "--set", "contact"], map(_cells, profiles))


def _cells(profile: Profile) -> list[str]:
    card = profile.card
    settable = "anything" if card.options is None else ", ".join(card.options)
    return [
        profile.name,
        card.description or card.endpoint_id,
        card.worker.gpu or card.worker.device or "",
        str(card.limits.workers or card.worker.per_node or ""),
        settable,
        card.contact,
    ]


@endpoints.command("remove")
@click.argument("name")
def remove(name: str) -> None:
    """Forget the endpoint NAME; runs made on it are kept."""
    from fitserve.console import say
    from fitserve.endpoints.cards import remove_profile

    remove_profile(name)
    say(f"{name} is forgotten")


@endpoints.command("check")
@click.argument("name")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds for the small fit.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Option of the site.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(name: str, timeout: float, settings: tuple[str, ...], *, as_json: bool) -> None:
    """Say whether NAME works: login, service, endpoint, function, workers, a real small fit.

    Every failure comes with its cause and the next command. The exit status is 5 unless all
    is well.
    """
    from fitserve.console import emit_json, plain
    from fitserve.endpoints import parse_options
    from fitserve.endpoints.cards import find_profile
    from fitserve.endpoints.check import check_endpoint
    from fitserve.errors import BackendError

    profile = find_profile(name)
    checks = []
    for one in check_endpoint(profile, parse_options(settings), timeout):
        checks.append(one)
        if not as_json:
            click.secho(plain(one.as_text()), fg=None if one.ok else "red")
    if as_json:
        emit_json([one.as_data() for one in checks])
    bad = next((one for one in checks if not one.ok), None)
    if bad:
        raise BackendError(f"the endpoint '{name}' does not work", evidence=bad.told, hint=bad.hint)


@endpoints.command("login")
def login() -> None:
    """Log in to Globus in a browser, or with client credentials from your environment.

    Client credentials are in GLOBUS_COMPUTE_CLIENT_ID and GLOBUS_COMPUTE_CLIENT_SECRET.
    """
    from fitserve.console import say
    from fitserve.endpoints.globus.service import log_in

    identity = log_in()
    say(f"you are {identity.username} ({identity.id}), by {identity.login}")


@endpoints.command("logout")
def logout() -> None:
    """Revoke and forget the login."""
    from fitserve.console import say
    from fitserve.endpoints.globus.service import log_out

    log_out()
    say("logged out")


@endpoints.command("whoami")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def whoami(*, as_json: bool) -> None:
    """Say who you are for Globus."""
    from fitserve.console import emit_json, tell
    from fitserve.endpoints.globus.service import Service

    identity = Service().whoami()
    fields: dict[str, Any] = identity._asdict()
    if as_json:
        emit_json(fields)
    else:
        tell(f"{identity.username} ({identity.id}), by {identity.login}")
