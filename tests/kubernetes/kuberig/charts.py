"""The chart, rendered by Helm with the values of a site."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from kuberig.tools import command
from sitekit.helm_values import CHART, helm_values
from sitekit.load import load_site, shipped_sites
from sitekit.render import Rendering

__all__ = ["RENDERING", "SITES", "helm", "manifests", "merged", "site_values"]

RENDERING = Rendering("0.0.0", Path("/home/fitserve"))
SITES = [name for name in shipped_sites() if load_site(name)[0].kubernetes]


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return values with others laid over them, as Helm merges its files."""
    both = dict(under)
    for key, value in over.items():
        below = both.get(key)
        nested = isinstance(below, dict) and isinstance(value, dict)
        both[key] = merged(below, value) if nested else value
    return both


def site_values(name: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a site's values, with credentials from a secret that is there, and changes."""
    values = helm_values(load_site(name)[0], RENDERING)
    values = merged(values, {"endpoint": {"credentials": {"existingSecret": "globus"}}})
    return merged(values, changes or {})


def helm(*words: str, values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run Helm with values on its standard input; its failure is no error here."""
    return subprocess.run(
        [command("helm"), *words, "--values", "-"],
        input=yaml.safe_dump(values),
        capture_output=True,
        text=True,
        check=False,
    )


def manifests(values: dict[str, Any], *options: str) -> list[dict[str, Any]]:
    """Return the objects that the chart renders to."""
    done = helm("template", "test", str(CHART), "--namespace", "fits", *options, values=values)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]
