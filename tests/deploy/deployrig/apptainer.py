"""Apptainer on compute nodes, as a site's administrators install it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from containerrig.images import APPTAINER
from schedulerrig.hosts import sh

if TYPE_CHECKING:
    from schedulerrig.hosts import Host
    from schedulerrig.rig import Rig

__all__ = ["Apptainer"]

_DEVICE = ("c", 10, 229)


class Apptainer:
    """Nodes on which ordinary users run image files."""

    def __init__(self, rig: Rig, nodes: list[Host]) -> None:
        copied = rig.directory / "apptainer"
        # Hosts may be up for longer than it is there outside, which overlays do not always see.
        shutil.copytree(APPTAINER, copied, symlinks=True)
        # One that users may open; the machine's own stays as it is.
        sh("mknod", "-m", "666", rig.directory / "fuse", *_DEVICE)
        script = f"""
        mkdir -p {APPTAINER}
        mount --bind /srv/apptainer {APPTAINER}
        mount --bind /srv/fuse /dev/fuse
        ln -s {APPTAINER}/usr/bin/apptainer /usr/local/bin/apptainer
        """
        for node in nodes:
            node.run("sh", "-ec", script)

    def image_of(self, host: Host, pid: int) -> str | None:
        """Return the version of fitserve's image that a process runs in, None if in no image."""
        labels = f"/proc/{pid}/root/.singularity.d/labels.json"
        said = host.run("sh", "-c", f"test -d /proc/{pid} && test ! -e {labels} || cat {labels}")
        found: str | None = json.loads(said.stdout or "{}").get("org.fitserve.version")
        return found
