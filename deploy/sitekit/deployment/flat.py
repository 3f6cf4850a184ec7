"""A site as one file that needs no other, for a machine that has none of the others."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from sitekit.site import Site

__all__ = ["flat_site"]


def flat_site(site: Site, venv: str | None = None) -> str:
    """Return the text of a site file with all that it extends.

    Parameters
    ----------
    site
        The site.
    venv
        Where the environments that it names are instead, for trying a release before it
        serves.
    """
    fields: dict[str, Any] = copy.deepcopy(dict(site.given))
    fields.pop("extends", None)
    if venv is not None:
        fields["endpoint"] = {**fields["endpoint"], "venv": venv}
        if site.get("environment.venv") is not None:
            fields["environment"] = {**fields["environment"], "venv": venv}
    text: str = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=100)
    return (
        f"# Site {site.name} with all that it extends: change the site file, not this one.\n{text}"
    )
