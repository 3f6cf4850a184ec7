"""Look through an image, all of its layers and what it says of itself, for what should not stay.

Trivy and its like know tokens, which are a few lines here, and not what this is for: traces of the
machine that built the image, its name, its directories, its settings. Nor do their own makers
publish them where this project's packages come from. Layers are read and never unpacked.
"""

from __future__ import annotations

import json
import re
import tarfile
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import IO, Any

__all__ = ["Finding", "layers", "scan"]

# Configuration of package managers, keys, histories, and what a build leaves behind.
_FILES = re.compile(
    r"(^|/)(\.netrc|\.pypirc|pip\.conf|\.docker/config\.json|\.aws/|\.ssh/|id_(rsa|ed25519|ecdsa)$"
    r"|\.bash_history|\.git/|etc/apt/(sources\.list|auth\.conf)|run/secrets/.|build/|opt/tools/"
    r"|root/\.cache/)"
)
# Each begins with what can be looked for fast: images for GPUs have 5 GB.
_CONTENTS = {
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\n[A-Za-z0-9+/=]{40}"),
    "an address with a password": re.compile(rb"https?://[\w.~-]+:[^\s/@:'\"]{3,}@[\w.-]+"),
    "a token of PyPI": re.compile(rb"pypi-AgEIcHlwaS[\w-]{16,}"),
    "a token of GitHub": re.compile(rb"gh[pousr]_(?<!\wgh[pousr]_)[A-Za-z0-9]{36}(?!\w)"),
    "a token of AWS": re.compile(rb"AKIA(?<!\wAKIA)[0-9A-Z]{16}(?!\w)"),
}
# Documentation and tests of libraries have made-up ones.
_HARMLESS = re.compile(
    rb"://(user|username|myuser|foo|scott|guest|u|usr|joe|bob)\b|@example\.(com|net|org)\b",
    re.IGNORECASE,
)
# What a build may be told of the machine: an image's variables, labels and history have none of it.
_SETTINGS = re.compile(
    rb"(?i)(?<!\w)((?:https?|ftp|all|no)_proxy|pip_\w+|\w+_ca_bundle|ssl_cert_\w+"
    rb"|\w*(?:token|password))="
)
# What stands before the name of a host: a user, an address, the name of a setting.
_BEFORE_HOST = re.compile(
    rb"([a-z_][a-z0-9_-]{2,31}@|://|(?i:host_?name)[\"']?[ \t]*[:=][ \t]*[\"']?"
    rb"|\n[ \t]*[0-9a-f]*[.:][0-9a-f.:]+[ \t]([^\n]*[ \t])?)\Z"
)
_LONGEST_BEFORE = 128
_SHORT = 4


class Finding(NamedTuple):
    """Something in an image: its layer (from 0; None if in none), the file, and what it is."""

    layer: int | None
    path: str
    what: str


def layers(archive: Path) -> Iterator[tarfile.TarFile]:
    """Yield the layers of an image in an OCI archive, the lowest first."""
    with tarfile.open(archive) as whole:
        for layer in _manifest(whole)["layers"]:
            with tarfile.open(fileobj=_blob(whole, layer["digest"])) as opened:
                yield opened


def scan(archive: Path, needles: Mapping[str, bytes], host: str = "") -> Iterator[Finding]:
    """Yield what is in an image and should not be, in any of its layers or its configuration.

    Parameters
    ----------
    archive
        OCI archive, as ``podman save --format oci-archive`` writes it.
    needles
        Bytes that belong to the build machine, such as a directory, by what they are.
    host
        Name of the build machine. One that is short or a word is in any program; it is looked
        for where hosts are named: behind a user, an address or a setting, and alone on a line.
    """
    with tarfile.open(archive) as whole:
        manifest = _manifest(whole)
        configuration = json.load(_blob(whole, manifest["config"]["digest"]))
    said = "\n".join([*_strings(manifest), *_strings(configuration)]).encode()
    names = (found[1].decode() for found in _SETTINGS.finditer(said))
    settings = (f"a setting of the build: {name}" for name in names)
    for what in dict.fromkeys([*_contents(said, needles, host), *settings]):
        yield Finding(None, "configuration", what)
    for number, layer in enumerate(layers(archive)):
        for member in layer:
            path = member.name.removeprefix("./")
            if member.isdir():
                path += "/"
            if _FILES.search(path) and not member.isdir():
                yield Finding(number, path, "a file of the build machine")
            opened = layer.extractfile(member) if member.isfile() else None
            if opened is not None:
                for what in _contents(opened.read(), needles, host):
                    yield Finding(number, path, what)


def _blob(whole: tarfile.TarFile, digest: str) -> IO[bytes]:
    opened = whole.extractfile(f"blobs/{digest.replace(':', '/')}")
    if opened is None:
        raise ValueError(f"{digest} is not a file")
    return opened


def _manifest(whole: tarfile.TarFile) -> Any:
    index = whole.extractfile("index.json")
    manifests = json.load(index)["manifests"] if index else []
    return json.load(_blob(whole, manifests[0]["digest"]))


def _strings(document: Any) -> Iterator[str]:
    """Yield all texts of a JSON document; a pair as NAME=VALUE, as variables are written."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, list):
        for one in document:
            yield from _strings(one)
    elif isinstance(document, dict):
        for key, value in document.items():
            if isinstance(value, str):
                yield f"{key}={value}"
                yield value
            else:
                yield from _strings(value)


def _contents(content: bytes, needles: Mapping[str, bytes], host: str) -> Iterator[str]:
    for what, needle in needles.items():
        if needle in content:
            yield what
    if host and _names(content, host):
        yield "the host's name"
    for what, pattern in _CONTENTS.items():
        for found in pattern.finditer(content):
            if not _HARMLESS.search(found[0]):
                yield f"{what}: {found[0][:60].decode(errors='replace')}"


def _names(content: bytes, host: str) -> bool:
    name = host.encode()
    if len(name) > _SHORT and not name.isalpha():
        return name in content
    for found in re.finditer(re.escape(name) + rb"(?![\w-])", content):
        begin, end = found.span()
        start = begin - _LONGEST_BEFORE
        before = content[start:begin] if start > 0 else b"\n" + content[:begin]
        alone = before.endswith(b"\n") and content[end : end + 1] in {b"", b"\r", b"\n"}
        if alone or _BEFORE_HOST.search(before):
            return True
    return False
