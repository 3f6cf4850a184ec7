"""From one site file to everything an endpoint needs, checked before anyone logs in.

`load` reads a site file and checks it against the schema, `rules` check its fields against each
other, `render` writes the endpoint's directory, `doctor` examines the machine itself. Run from a
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
