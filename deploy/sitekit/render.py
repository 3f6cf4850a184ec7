"""Write the directory of an endpoint from a site."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import jinja2
import msgspec

from fitserve.errors import StoreError
from fitserve.files import replace_file
from sitekit.containers import home
from sitekit.context import Rendering, build_context
from sitekit.documents import engine_description, identity_mapping, site_card, text, user_schema
from sitekit.load import CONFIGS
from sitekit.rules import require_valid

if TYPE_CHECKING:
    from pathlib import Path

    from sitekit.problems import Problem
    from sitekit.site import Site

__all__ = ["Rendering", "render_site", "template_environment", "write_files"]

_EXECUTABLE = {"worker_init.sh", "preflight.sh"}


@functools.cache
def template_environment() -> jinja2.Environment:
    """Return our templates' environment, whose delimiters are not the endpoint's."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(CONFIGS / "templates"),
        variable_start_string="[[",
        variable_end_string="]]",
        block_start_string="[%",
        block_end_string="%]",
        comment_start_string="[#",
        comment_end_string="#]",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701
    )
    environment.filters["json"] = lambda value: json.dumps(
        value, ensure_ascii=False, default=msgspec.to_builtins
    )
    environment.filters["home"] = home
    environment.filters["shell_path"] = lambda path: f'"{home(path)}"'
    return environment


def render_site(
    site: Site, rendering: Rendering, options: dict[str, Any] | None = None
) -> tuple[dict[str, str], list[Problem]]:
    """Render every file of an endpoint.

    Parameters
    ----------
    site
        The site.
    rendering
        What else the files depend on. The same site and rendering give the same bytes.
    options
        Users' options that ``engine.json`` is made for; it has the site's own values for
        the rest.

    Returns
    -------
    dict, list of Problem
        Text of each file by its name, and warnings.

    Raises
    ------
    SiteError
        The site breaks a rule between fields.
    """
    warnings = require_valid(site)
    environment = template_environment()
    context = build_context(site, rendering)

    def fill(name: str, **more: Any) -> str:
        return environment.get_template(f"{name}.j2").render(**context, **more)

    init = fill("worker_init.sh")
    template = fill("user_config_template.yaml", worker_init=init.strip())
    files = {
        "config.yaml": fill("config.yaml"),
        "user_config_template.yaml.j2": template,
        "user_config_schema.json": text(user_schema(site, rendering)),
        "user_environment.yaml": fill("user_environment.yaml"),
        "worker_init.sh": "#!/bin/bash\n" + init,
        f"{context['derived'].endpoint_name}.service": fill("endpoint.service"),
        "site-card.json": text(site_card(site, rendering)),
        "engine.json": text(engine_description(site, rendering, template, options or {})),
    }
    if site.scheduler.type == "kubernetes":
        files["preflight.json"] = fill("preflight.json")
    else:
        files["preflight.sh"] = fill("preflight.sh", worker_init=init.strip())
    if site.access.domains:
        files["identity_mapping.json"] = text(identity_mapping(site, rendering))
    return files, warnings


def write_files(files: dict[str, str], directory: Path) -> None:
    """Write rendered files into a directory, each whole or not at all.

    Raises
    ------
    StoreError
        The directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            mode = 0o755 if name in _EXECUTABLE else 0o644
            replace_file(directory / name, content.encode(), mode)
    except OSError as error:
        raise StoreError(
            f"{directory} cannot be written", evidence=str(error), hint="give another --out"
        ) from error
