"""What a deployment made on this machine, so that all of it, and nothing else, can go again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from fitserve.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Manifest", "read_manifest", "write_manifest"]


class Manifest(msgspec.Struct, kw_only=True):
    """What is remembered of an endpoint's deployment.

    Attributes
    ----------
    endpoint, site
        Names.
    made
        Paths that were not there before, each before what is in it.
    links
        Environments that are links to the release that serves.
    releases
        Releases that were installed for this endpoint, the newest last.
    current, previous
        The release that serves, and the one to go back to.
    examined
        What the doctor last found in order: release and site digest.
    function_id, refused_id
        fitserve's registered function, and one that the smoke test tries in vain.
    """

    endpoint: str
    site: str
    made: list[str] = []
    links: list[str] = []
    releases: list[str] = []
    current: str | None = None
    previous: str | None = None
    examined: str | None = None
    function_id: str | None = None
    refused_id: str | None = None


def read_manifest(path: Path) -> Manifest:
    """Read the manifest.

    Raises
    ------
    StoreError
        Nothing was deployed, or the file is damaged.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise StoreError(
            "nothing was deployed here", evidence=f"no {path}", hint="make deploy SITE=..."
        ) from error
    except (OSError, msgspec.MsgspecError) as error:
        raise StoreError(f"{path} is damaged", evidence=str(error)) from error


def write_manifest(path: Path, manifest: Manifest, **changes: object) -> bool:
    """Write the manifest with some fields changed; returns whether anything was.

    Raises
    ------
    StoreError
        It cannot be written.
    """
    present: Mapping[str, object] = msgspec.structs.asdict(manifest)
    if all(present[name] == value for name, value in changes.items()):
        return False
    for name, value in changes.items():
        setattr(manifest, name, value)
    try:
        part = path.with_suffix(".part")
        part.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        os.replace(part, path)  # noqa: PTH105 -- atomic on every file system
    except OSError as error:
        raise StoreError(f"{path} cannot be written", evidence=str(error)) from error
    return True
