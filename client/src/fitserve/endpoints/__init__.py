"""Endpoints that a user has added: profiles, site cards, options, the login, the check."""

from fitserve.endpoints.card import SiteCard, read_card
from fitserve.endpoints.options import parse_options
from fitserve.endpoints.profiles import (
    Profile,
    add_profile,
    find_profile,
    list_profiles,
    remove_profile,
)

__all__ = [
    "Profile",
    "SiteCard",
    "add_profile",
    "find_profile",
    "list_profiles",
    "parse_options",
    "read_card",
    "remove_profile",
]
