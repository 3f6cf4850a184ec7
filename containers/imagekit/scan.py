"""Look through every layer of an image for what should not have stayed in it."""

from __future__ import annotations

import io
import json
import re
import tarfile
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["Finding", "layers", "scan"]

# Configuration of package managers, keys, histories, and what a build leaves behind.
_FILES = re.compile(
    r"(^|/)(\.netrc|\.pypirc|pip\.conf|\.docker/config\.json|\.aws/|\.ssh/|id_(rsa|ed25519|ecdsa)$"
    r"|\.bash_history|\.git/|etc/apt/(sources\.list|auth\.conf)|run/secrets/.|build/|opt/tools/"
    r"|root/\.cache/)"
)
_CONTENTS = {
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\n[A-Za-z0-9+/=]{40}"),
    "an address with a password": re.compile(rb"https?://[\w.~-]+:[^\s/@:'\"]{3,}@[\w.-]+"),
    "a token": re.compile(
        rb"(?<!\w)(pypi-AgEIcHlwaS|gh[pousr]_[A-Za-z0-9]{36}|AKIA[0-9A-Z]{16})(?!\w)"
    ),
}
# Documentation and tests of libraries have made-up ones.
_HARMLESS = re.compile(
    rb"://(user|username|myuser|foo|scott|guest|u|usr|joe|bob)\b|@example\.(com|net|org)\b",
    re.IGNORECASE,
)


class Finding(NamedTuple):
    """Something in a layer: which layer (from 0), the file, and what it is."""

    layer: int
    path: str
    what: str


def layers(archive: Path) -> Iterator[tarfile.TarFile]:
    """Yield the layers of an image in an OCI archive, the lowest first."""
    with tarfile.open(archive) as whole:

        def blob(digest: str) -> bytes:
            member = whole.extractfile(f"blobs/{digest.replace(':', '/')}")
            return member.read() if member else b""

        index = whole.extractfile("index.json")
        manifests = json.load(index)["manifests"] if index else []
        manifest = json.loads(blob(manifests[0]["digest"]))
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=io.BytesIO(blob(layer["digest"]))) as opened:
                yield opened


def scan(archive: Path, needles: Mapping[str, bytes]) -> Iterator[Finding]:
    """Yield what is in an image and should not be, in any of its layers.

    Parameters
    ----------
    archive
        OCI archive, as ``podman save --format oci-archive`` writes it.
    needles
        Bytes that belong to the build machine, such as its name, by what they are.
    """
    for number, layer in enumerate(layers(archive)):
        for member in layer:
            path = member.name.removeprefix("./")
            if member.isdir():
                path += "/"
            if _FILES.search(path) and not member.isdir():
                yield Finding(number, path, "a file of the build machine")
            opened = layer.extractfile(member) if member.isfile() else None
            if opened is not None:
                for what in _contents(opened.read(), needles):
                    yield Finding(number, path, what)


def _contents(content: bytes, needles: Mapping[str, bytes]) -> Iterator[str]:
    for what, needle in needles.items():
        if needle in content:
            yield what
    for what, pattern in _CONTENTS.items():
        for found in pattern.finditer(content):
            if not _HARMLESS.search(found[0]):
                yield f"{what}: {found[0][:60].decode(errors='replace')}"
