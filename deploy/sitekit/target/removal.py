"""Remove an endpoint: its processes and jobs by id, and what deploying made."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sitekit.jobs import outputs_at_home
from sitekit.shell import run
from sitekit.target.deployed import read_manifest
from sitekit.target.service import stop

if TYPE_CHECKING:
    from sitekit.target.deployed import Deployed, Manifest

__all__ = ["destroy"]

_SECONDS = 120.0


def destroy(deployed: Deployed) -> dict[str, Any]:
    """Stop an endpoint, delete it from the service, and remove what deploying made.

    A directory that existed before, or that holds something else too, is left.

    Returns
    -------
    dict
        What was ended and removed, what is ``left``, and as ``told`` what the service said where
        it did not delete the endpoint.
    """
    manifest, endpoint = deployed.manifest, deployed.endpoint_id
    ended = stop(deployed, disable=True)
    complaint = _tell_service(deployed)
    ours = {
        deployed.path(path)
        for path in (
            *(deployed.places.state, deployed.places.configuration, deployed.places.direct),
            *(deployed.places.run, deployed.places.cache),
        )
    }
    removed, left = [], []
    for release in _unused(deployed, manifest):
        shutil.rmtree(release, ignore_errors=True)
        removed.append(str(release))
    if endpoint is not None:
        # The service's own name of a user's child, as in `fitserve_worker.processes`.
        for child in deployed.configuration.parent.glob(f"uep.{endpoint}.*"):
            shutil.rmtree(child, ignore_errors=True)
            removed.append(str(child))
    for output in outputs_at_home(deployed.site, deployed.name):
        output.unlink(missing_ok=True)
        removed.append(str(output))
    kept = _still_needed(deployed)
    for made in reversed(manifest.made):
        path = Path(made)
        if path in kept:
            continue
        if _remove(path, whole=path in ours):
            removed.append(made)
        elif path.exists():
            left.append(made)
    return {**ended, "removed": removed, "left": left, "told": complaint}


def _unused(deployed: Deployed, manifest: Manifest) -> list[Path]:
    """Return this endpoint's releases that no other endpoint on this machine has."""
    own = deployed.path(deployed.places.manifest)
    others = {
        release
        for other in own.parent.parent.glob("*/manifest.json")
        if other != own
        for release in read_manifest(other).releases
    }
    place = deployed.path(deployed.places.releases)
    return [place / release for release in manifest.releases if release not in others]


def _still_needed(deployed: Deployed) -> set[Path]:
    """Return what this endpoint shares with others on this machine: login, functions, images."""
    own = deployed.path(deployed.places.direct)
    engines = [one for one in own.parent.glob("*/engine.json") if one.parent != own]
    described = [json.loads(one.read_text(encoding="utf-8"))["engine"] for one in engines]
    images = {deployed.path(one["container_uri"]) for one in described if "container_uri" in one}
    others = deployed.configuration.parent.glob("*/config.yaml")
    if any(one.parent != deployed.configuration for one in others):
        shared = (deployed.places.functions, deployed.places.tokens)
        return images | {deployed.path(path) for path in shared}
    return images


def _remove(path: Path, *, whole: bool) -> bool:
    with contextlib.suppress(OSError):
        if path.is_symlink() or path.is_file():
            path.unlink()
            return True
        if path.is_dir():
            if whole:
                shutil.rmtree(path)
            else:
                path.rmdir()  # refuses a directory with something in it
            return True
    return False


def _tell_service(deployed: Deployed) -> str:
    """Delete the endpoint from the service; returns the error if that fails, else nothing."""
    if deployed.endpoint_id is None:
        return ""
    command = deployed.link / "bin" / "globus-compute-endpoint"
    words = ("delete", "--yes", "--force", deployed.name)
    done = run(str(command), *words, timeout=_SECONDS, environment=deployed.environment())
    return "" if done.ok else done.words[-500:]
