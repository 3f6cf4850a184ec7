"""Helm values of sites, held against the chart's own schema; no other software is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml

from fitserve.errors import RequestError
from kuberig.charts import RENDERING, SITES, merged, site_values
from sitekit.golden import GOLDEN
from sitekit.helm_values import CHART, FILES, helm_values
from sitekit.load import load_site
from sitekit.render import Rendering

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sitekit.site import Site

DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def _complete(values: dict[str, Any]) -> dict[str, Any]:
    return merged(DEFAULTS, values)


def _refused(values: dict[str, Any]) -> bool:
    return not jsonschema.Draft7Validator(SCHEMA).is_valid(_complete(values))


@pytest.mark.parametrize("name", SITES)
def test_the_values_of_every_site_fit_the_schema(name: str) -> None:
    jsonschema.validate(_complete(site_values(name)), SCHEMA)


def test_defaults_alone_install_nothing() -> None:
    assert _refused({})


def _objects(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if node.get("type") == "object":
            yield node
        for below in node.values():
            yield from _objects(below)
    elif isinstance(node, list):
        for below in node:
            yield from _objects(below)


def test_the_schema_is_closed_and_names_every_value() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    open_ones = [node for node in _objects(SCHEMA) if node.get("additionalProperties") is None]
    # Helm's own `global`, and containers, which Kubernetes itself describes.
    assert len(open_ones) == 2

    def hold(values: Any, node: dict[str, Any]) -> None:
        for key, value in values.items():
            below = node["properties"][key]
            if isinstance(value, dict) and "properties" in below:
                hold(value, below)

    hold(DEFAULTS, SCHEMA)


@pytest.mark.parametrize(
    "changes",
    [
        {"replicas": 2},
        {"endpoint": {"credential": {}}},
        {"endpoint": {"image": "fitserve/endpoint:latest"}},
        {"endpoint": {"image": "fitserve/endpoint"}},
        {"worker": {"image": "fitserve/worker:main"}},
        {"worker": {"userId": 0}},
        {"endpoint": {"resources": {"limits": {"memory": "lots"}}}},
        {"endpoint": {"credentials": {"existingSecret": None}}},
        {"endpoint": {"credentials": {"clientId": "0" * 8}}},
        {"configuration": {"config.py": "import os"}},
        {"name": "Not A Name"},
        {"endpoint": {"env": {"lower": "x"}}},
        {"networkPolicy": {"clients": ["login.example.edu"]}},
        {"networkPolicy": {"proxyPorts": [0]}},
    ],
)
def test_what_is_wrong_or_unsafe_is_refused(changes: dict[str, Any]) -> None:
    assert not _refused(site_values("kubernetes"))
    assert _refused(site_values("kubernetes", changes))


def test_without_an_endpoint_no_credentials_are_asked_for() -> None:
    values = helm_values(load_site("river")[0], RENDERING, endpoint=False)
    assert not _refused(values)


@pytest.mark.parametrize("name", SITES)
def test_the_cluster_gets_what_was_rendered(name: str) -> None:
    values = site_values(name)
    for file in FILES:
        assert values["configuration"][file] == (GOLDEN / name / file).read_text()


def test_values_follow_the_site_file(make_site: Callable[..., Site]) -> None:
    site = make_site(
        "kubernetes-gpu",
        kubernetes={
            "service_account": "fitters",
            "pull_secret": "registry",
            "credentials_secret": "vault",
            "endpoint_pod": {"state": "2Gi", "storage_class": "fast", "memory": {"limit": "3Gi"}},
        },
        network={"proxy": {"https": "http://proxy.example.edu:3128", "none_for": ["10.0.0.1"]}},
        endpoint={"heartbeat_seconds": 60},
    )
    ident = "11111111-2222-4333-8444-555555555555"
    values = helm_values(site, Rendering("1.2.3", Path("/h"), endpoint_id=ident))
    assert not _refused(values)
    endpoint, worker = values["endpoint"], values["worker"]
    assert endpoint["image"] == "fitserve/endpoint:1.2.3"
    assert endpoint["state"] == {"size": "2Gi", "storageClass": "fast"}
    assert endpoint["resources"]["limits"] == {"cpu": "2", "memory": "3Gi"}
    assert endpoint["credentials"] == {"existingSecret": "vault"}
    assert endpoint["env"]["HTTPS_PROXY"] == "http://proxy.example.edu:3128"
    assert values["networkPolicy"] == {"proxyPorts": [3128]}
    assert (endpoint["id"], endpoint["heartbeatSeconds"]) == (ident, 60)
    assert worker["serviceAccount"] == {"name": "fitters", "create": False}
    assert worker["pullSecret"] == "registry"
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize(
    ("proxy", "ports"),
    [
        (
            {"https": "http://proxy.example.edu:3128", "http": "http://other.example.edu"},
            [80, 3128],
        ),
        ({"https": "https://proxy.example.edu"}, [443]),
    ],
)
def test_ports_of_proxies_are_let_through(
    make_site: Callable[..., Site], proxy: dict[str, str], ports: list[int]
) -> None:
    values = helm_values(make_site("kubernetes", network={"proxy": proxy}), RENDERING)
    assert values["networkPolicy"]["proxyPorts"] == ports
    assert not _refused(merged(site_values("kubernetes"), {"networkPolicy": {"proxyPorts": ports}}))


def test_other_sites_have_no_values() -> None:
    with pytest.raises(RequestError, match="no Helm values"):
        helm_values(load_site("slurm")[0], RENDERING)
