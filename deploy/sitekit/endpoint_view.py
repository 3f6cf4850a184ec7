"""Read a rendered template as the endpoint reads it, without an endpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jinja2
import yaml
from jinja2.sandbox import SandboxedEnvironment

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["user_config"]


def user_config(template: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Render a user configuration template as globus-compute-endpoint 4.19 does.

    Parameters
    ----------
    template
        Text of ``user_config_template.yaml.j2``.
    options
        What a user sets. Strings reach the template in their JSON quotes.

    Returns
    -------
    dict
        The configuration of a child endpoint.
    """
    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)
    quoted = {
        name: json.dumps(value) if isinstance(value, str) else value
        for name, value in options.items()
    }
    loaded: dict[str, Any] = yaml.safe_load(environment.from_string(template).render(**quoted))
    return loaded
