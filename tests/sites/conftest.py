"""Fixtures of the site tests: site files made from a shipped one, with changes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sitekit.load import CONFIGS, load_site

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sitekit.site import Site


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return ``under`` changed by ``over``; a value of None takes a field away."""
    merged = dict(under)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


@pytest.fixture
def write_site(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a shipped site with changes as a file of its own."""

    def write(base: str = "slurm", /, name: str = "mine", **changes: Any) -> Path:
        given = dict(load_site(CONFIGS / "sites" / f"{base}.yaml")[0].given)
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(merge(given, changes), sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture
def make_site(write_site: Callable[..., Path]) -> Callable[..., Site]:
    """Return a function that loads a shipped site with changes."""
    return lambda base="slurm", /, **changes: load_site(write_site(base, **changes))[0]


@pytest.fixture(scope="session")
def endpoint() -> Path:
    """Return the environment of globus-compute-endpoint; in CI it must be there."""
    from fitserve.errors import BackendError
    from sitekit.endpoint import endpoint_venv

    try:
        return endpoint_venv()
    except BackendError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
