"""Images for the cluster: its own pause image, and fitserve's."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

__all__ = ["PAUSE", "pause_archive"]

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
