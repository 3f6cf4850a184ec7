"""The rendered files that are JSON: users' options, the engine, the card, the mapping.

`user_config` reads a rendered template as the endpoint reads it, without an endpoint.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jinja2
import msgspec
import yaml
from jinja2.sandbox import SandboxedEnvironment

from fitserve.endpoints.cards import CARD_VERSION, CardLimits, CardWorker, RenderedCard
from fitserve.endpoints.parsl.site import ENGINE_VERSION, EngineDescription
from sitekit.context import header
from sitekit.derive import derive, hms
from sitekit.fields import Bounds, Choice, Selection
from sitekit.schema import schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sitekit.context import Rendering
    from sitekit.site import Site

__all__ = [
    "TRIAL_OPTION",
    "engine_description",
    "identity_mapping",
    "site_card",
    "text",
    "user_config",
    "user_schema",
]

TRIAL_OPTION = "trial"
"""Its only effect: for another value, Globus Compute starts another child. A smoke test gives its
release, or a child of the release before could answer."""


def text(document: Any) -> str:
    """Return a document as the JSON text that is written: stable and readable."""
    data = msgspec.to_builtins(document)
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def user_schema(site: Site, rendering: Rendering) -> dict[str, Any]:
    """Return the JSON schema of what users may set; all else is refused."""
    properties = {
        name: _option_schema(option) for name, option in site.user_options.allowed().items()
    }
    properties[TRIAL_OPTION] = _option_schema(Choice())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": header(site, rendering),
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def _option_schema(option: Bounds | Selection | Choice) -> dict[str, Any]:
    if isinstance(option, Bounds):
        return {"type": "integer", "minimum": option.minimum, "maximum": option.maximum}
    if option.choices is not None:
        return {"type": "string", "enum": option.choices}
    word = schema()["$defs"]["word"]
    # `pattern` alone would let a final newline pass in Python; `not` does not.
    return {
        "type": "string",
        "minLength": 1,
        "maxLength": word["maxLength"],
        "pattern": "^[A-Za-z0-9]",
        "not": {"pattern": "[^A-Za-z0-9_.+@:-]"},
    }


def engine_description(
    site: Site, rendering: Rendering, template: str, options: dict[str, Any]
) -> EngineDescription:
    """Return the engine as a client reads it, for driving the site from its login node.

    It is what the endpoint's own template gives, so the two cannot differ.
    """
    return EngineDescription(
        engine_version=ENGINE_VERSION,
        site=site.name,
        rendered=header(site, rendering),
        run_dir=site.directories.run,
        engine=user_config(template, options)["engine"],
    )


def site_card(site: Site, rendering: Rendering) -> RenderedCard:
    """Return what a client needs to know of a site."""
    derived = derive(site)
    functions = site.access.functions
    walltime = derived.walltime_seconds
    return RenderedCard(
        card_version=CARD_VERSION,
        name=site.name,
        description=site.description,
        contact=site.contact,
        url=site.url,
        verified=site.verified,
        rendered=header(site, rendering),
        endpoint_id=rendering.endpoint_id or site.endpoint.id,
        function_id=rendering.function_id or (functions[0] if functions else None),
        scheduler=site.scheduler.type,
        login_host=site.login.host if site.login.ask_scheduler else None,
        worker=CardWorker(
            version=rendering.version,
            device=site.workers.device,
            gpu=site.node.gpus.kind if derived.gpus and site.node.gpus else None,
            per_node=derived.workers_per_node,
            threads=derived.threads,
        ),
        limits=CardLimits(
            longest_task_seconds=derived.longest_seconds,
            walltime=hms(walltime) if walltime else None,
            nodes=derived.nodes_max,
            workers=derived.workers_max,
            core_hours=derived.core_hours_max,
        ),
        options={name: _option_schema(one) for name, one in site.user_options.allowed().items()},
    )


def identity_mapping(site: Site, rendering: Rendering) -> list[dict[str, Any]]:
    """Return the mapping of NAME@DOMAIN to the local account NAME."""
    return [
        {
            "comment": header(site, rendering),
            "DATA_TYPE": "expression_identity_mapping#1.0.0",
            "mappings": [
                {
                    "source": "{username}",
                    # Globus' own reduced expressions: no character classes. An endpoint run
                    # by root refuses to become root, whoever asks.
                    "match": "(.*)@" + domain.replace(".", "\\."),
                    "output": "{0}",
                }
                for domain in site.access.domains or ()
            ],
        }
    ]


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
