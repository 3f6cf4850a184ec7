"""Build an image from the Dockerfile, the same from the same commit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fitserve import __version__
from fitserve.errors import BackendError, RequestError
from imagekit.names import ROOT, image_name, lock_name, require_target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imagekit.engine import Engine

__all__ = ["build", "index_settings"]

_CERTIFICATES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
# Paths in pip's configuration are of this machine and mean nothing in a build.
_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")


def build(engine: Engine, target: str, options: Sequence[str] = ()) -> str:
    """Build a target.

    ``BASE_IMAGE`` and ``BUILD_IMAGE`` of the environment replace the Dockerfile's. Files in
    the image have the time of the commit (``SOURCE_DATE_EPOCH``, if that is set).

    Parameters
    ----------
    engine
        Podman or Docker.
    target
        A target of the Dockerfile.
    options
        Further options of the engine's build command.

    Returns
    -------
    str
        Name of the image.

    Raises
    ------
    BackendError
        If the build fails; its output is on standard error.
    RequestError
        If there is no such target, or ``SOURCE_DATE_EPOCH`` is not a time.
    """
    require_target(target)
    name = image_name(target)
    epoch = _epoch()
    arguments = {
        "LOCK": lock_name(target),
        "VERSION": __version__,
        "REVISION": _git("rev-parse", "HEAD") or "unknown",
        "SOURCE_DATE_EPOCH": epoch,
        "CREATED": datetime.fromtimestamp(int(epoch), UTC).isoformat(),
    }
    for variable in ("BASE_IMAGE", "BUILD_IMAGE"):
        if os.environ.get(variable):
            arguments[variable] = os.environ[variable]
    if "BASE_IMAGE" in arguments:
        arguments.setdefault("BUILD_IMAGE", arguments["BASE_IMAGE"])
    with tempfile.TemporaryDirectory() as secrets:
        command = [engine.command, "build", "--target", target, "--tag", name]
        command += ["--file", str(ROOT / "containers" / "Dockerfile")]
        for key, value in arguments.items():
            command += ["--build-arg", f"{key}={value}"]
        for key, path in _secrets(Path(secrets)):
            command += ["--secret", f"id={key},src={path}"]
        if engine.name == "podman":
            command += ["--timestamp", epoch, "--layers"]
            command += ["--ignorefile", str(ROOT / "containers" / "Dockerfile.dockerignore")]
        command += [*options, str(ROOT)]
        environment = {**os.environ, "DOCKER_BUILDKIT": "1", "SOURCE_DATE_EPOCH": epoch}
        done = subprocess.run(command, env=environment, stdout=sys.stderr, check=False)
    if done.returncode:
        raise BackendError(
            f"{name} was not built",
            evidence=f"{engine.name} build ended with status {done.returncode}, see above",
            hint="make image-check says whether this machine can build",
        )
    return name


def _epoch() -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct") or "0"
    if not epoch.isdecimal():
        raise RequestError(
            "SOURCE_DATE_EPOCH is not a time",
            evidence=f"it is '{epoch}'",
            hint="seconds since 1970, such as git log -1 --format=%ct prints",
        )
    return epoch


def _secrets(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield this machine's settings and certificates for a package index: ids and files."""
    settings = index_settings(_pip_configuration())
    if settings:
        file = directory / "pip.conf"
        file.write_text(settings, encoding="utf-8")
        yield "pip_conf", str(file)
    for variable in _CERTIFICATES:
        bundle = os.environ.get(variable)
        if bundle and Path(bundle).is_file():
            yield "ca_bundle", bundle
            return


def _pip_configuration() -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def index_settings(listed: str) -> str:
    r"""Return pip's settings of the package index, from what ``pip config list`` printed.

    Examples
    --------
    >>> print(index_settings("global.index-url='https://a.b/simple'\nglobal.cert='/x.pem'\n"))
    [global]
    index-url = https://a.b/simple
    <BLANKLINE>
    >>> index_settings("global.extra-index-url='file:///opt/x'")
    ''
    """
    lines = []
    for name, value in re.findall(r"(?m)^(?:global|install|:env:)\.([a-z-]+)='(.*)'$", listed):
        if name in _SETTINGS and "file:" not in value:
            lines.append(f"{name} = {value}\n")
    return "".join(["[global]\n", *dict.fromkeys(lines)]) if lines else ""


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
