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
import tempfile
from pathlib import Path

from fitserve import __version__
from kuberig.tools import cache

__all__ = [
    "NAMES",
    "PAUSE",
    "endpoint_image",
    "fitserve_archive",
    "fitserve_image",
    "pause_archive",
]

NAMES = ("fitserve/endpoint", "fitserve/worker")
"""Under these names the endpoint's image is loaded: it holds all that a worker's holds."""
_BASES = {
    "BASE_IMAGE": "localhost/fitserve/base:bookworm",
    "BUILD_IMAGE": "localhost/fitserve/base-build:bookworm",
}
_IMAGE = f"localhost/fitserve/endpoint:{__version__}"
_RIG_IMAGE = "localhost/fitserve/endpoint:rig"
# Modules of the image are compiled beforehand, and not looked at again: both are replaced.
_PACKAGES = ("client/src/fitserve", "contract/src/fitserve_contract", "worker/src/fitserve_worker")
_OVERLAY = f"""FROM {_IMAGE}
USER 0:0
COPY . /overlay
RUN place=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \\
    for name in fitserve fitserve_contract fitserve_worker; do \\
        rm -rf $place/$name && mv /overlay/$name $place/ && \\
        python -m compileall -q --invalidation-mode unchecked-hash $place/$name || exit 1; \\
    done && rm -rf /overlay
USER 1000:1000
"""

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


def endpoint_image(root: Path) -> str:
    """Return the name of the endpoint's image, which is built if there is none: takes minutes."""
    if _podman("image", "exists", _IMAGE, check=False).returncode:
        base = root / "containers" / "tools" / "base.sh"
        subprocess.run(["bash", str(base)], check=True, capture_output=True)
        subprocess.run(
            [sys.executable, "-m", "imagekit", "build", "endpoint"],
            cwd=root / "containers",
            env={**_BASES, **os.environ},
            check=True,
            capture_output=True,
        )
    return _IMAGE


def fitserve_image(root: Path) -> str:
    """Return the name of the endpoint's image with this checkout's own code, laid over it.

    Parameters
    ----------
    root
        Of the checkout.
    """
    endpoint_image(root)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        for source in _PACKAGES:
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(root / source, place / Path(source).name, ignore=ignore)
        (place / "Dockerfile").write_text(_OVERLAY)
        _podman("build", "--layers=false", "--network=none", "--tag", _RIG_IMAGE, str(place))
    return _RIG_IMAGE


def fitserve_archive(root: Path) -> Path:
    """Return the archive of `fitserve_image`."""
    image = fitserve_image(root)
    ident = _podman("image", "inspect", "--format", "{{.Id}}", image).stdout.strip()
    images = cache() / "images"
    images.mkdir(parents=True, exist_ok=True)
    for old in images.iterdir():
        old.unlink()
    archive = images / f"{ident[:16]}.tar"
    _podman("save", "--format", "docker-archive", "--output", str(archive), image)
    return archive


def _podman(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["podman", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"podman {words[0]}: {done.stderr}"
    return done
