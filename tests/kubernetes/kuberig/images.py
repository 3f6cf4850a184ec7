"""Images for the cluster: its own pause image, and fitserve's."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from fitserve._version import __version__
from kuberig.tools import cache

__all__ = ["NAMES", "PAUSE", "fitserve_archive", "pause_archive"]

NAMES = ("fitserve/endpoint", "fitserve/worker")
"""Under these names the endpoint's image is loaded: it holds all that a worker's holds."""
_BASES = {
    "BASE_IMAGE": "localhost/fitserve/base:bookworm",
    "BUILD_IMAGE": "localhost/fitserve/base-build:bookworm",
}
_IMAGE = f"localhost/fitserve/endpoint:{__version__}"

PAUSE = "localhost/pause:catatonit"


def pause_archive(directory: Path) -> Path:
    """Write an image that only waits and reaps, as pods are held by; returns its archive.

    Debian has no pause image. catatonit is linked statically and does the same.
    """
    program = Path(str(shutil.which("catatonit"))).resolve()
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(program, arcname="pause")
    content = layer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/pause", "-P"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    index = [{"Config": name, "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]
    archive = directory / "pause.tar"
    with tarfile.open(archive, "w") as tar:
        for file, data in (
            (name, config),
            ("layer.tar", content),
            ("manifest.json", json.dumps(index).encode()),
        ):
            member = tarfile.TarInfo(file)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return archive


def fitserve_archive(root: Path) -> Path:
    """Return the archive of the endpoint's image, which is built if there is none.

    Parameters
    ----------
    root
        Of the checkout.
    """
    found = _podman("image", "inspect", "--format", "{{.Id}}", _IMAGE)
    if found.returncode:
        base = root / "containers" / "tools" / "base.sh"
        subprocess.run(["bash", str(base)], check=True, capture_output=True)
        subprocess.run(
            [sys.executable, "-m", "imagekit", "build", "endpoint"],
            cwd=root / "containers",
            env={**_BASES, **os.environ},
            check=True,
            capture_output=True,
        )
        found = _podman("image", "inspect", "--format", "{{.Id}}", _IMAGE)
    place = cache() / "images"
    place.mkdir(parents=True, exist_ok=True)
    archive = place / f"{found.stdout.strip()[:16]}.tar"
    if not archive.exists():
        for old in place.glob("*.tar"):
            old.unlink()
        part = archive.with_suffix(".part")
        part.unlink(missing_ok=True)
        saved = _podman("save", "--format", "docker-archive", "--output", str(part), _IMAGE)
        assert saved.returncode == 0, saved.stderr
        part.rename(archive)
    return archive


def _podman(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["podman", *words], capture_output=True, text=True, check=False)
