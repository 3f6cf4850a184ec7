"""From one site file to everything an endpoint needs, checked before anyone logs in.

`load` reads a site file, `check` holds it against the schema and the rules between fields,
`render` writes the endpoint's directory, `doctor` looks at the machine itself. Run from a
checkout as ``python -m sitekit`` (the Makefile's targets do).
"""

from __future__ import annotations

from sitekit.load import find_site, load_site, shipped_sites
from sitekit.problems import Problem, SiteError
from sitekit.render import render_site
from sitekit.rules import check_site
from sitekit.site import Site

__all__ = [
    "Problem",
    "Site",
    "SiteError",
    "check_site",
    "find_site",
    "load_site",
    "render_site",
    "shipped_sites",
]
