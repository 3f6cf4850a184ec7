"""A release as one file: every wheel that a site needs, and the parts of this tree it reads.

Nothing is fetched on the site, which may not reach a package index; all wheels were checked here
against the hashes of ``requirements/site.lock``.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fitserve import __version__
from fitserve.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Bundle", "cache_directory", "make_bundle", "requirements_for"]

_ROOT = Path(__file__).resolve().parents[3]
_LOCK = _ROOT / "requirements" / "site.lock"
_OWN = ("contract", "client", "worker")
_SHIPPED = ("deploy/sitekit", "endpoint_configs", "requirements/endpoint.lock")
_SUFFIXES = {".py", ".yaml", ".json", ".j2", ".lock"}
_NOT_SHIPPED = {"__pycache__", "golden"}
# glibc 2.28 is that of RHEL 8; older wheels are taken too.
_PLATFORMS = ("manylinux_2_28", "manylinux2014", "manylinux_2_17")


class Bundle(NamedTuple):
    """A packed release: its name, and the file."""

    release: str
    path: Path


def cache_directory() -> Path:
    """Return where wheels and bundles are kept; FITSERVE_DEPLOY_CACHE names another place."""
    return Path(os.environ.get("FITSERVE_DEPLOY_CACHE", _ROOT / ".cache" / "deploy"))


def make_bundle(python: str, machine: str) -> Bundle:
    """Pack the present tree for a Python version and a processor, unless it is packed already.

    Parameters
    ----------
    python
        Version of the target's Python, such as ``3.11.2``.
    machine
        The target's processor, as ``uname -m`` prints it.

    Returns
    -------
    Bundle
        The name is the version and a digest of everything in it: the same tree gives the same
        name.

    Raises
    ------
    BackendError
        Wheels cannot be fetched or built.
    """
    wheels = _wheelhouse(python, machine)
    with tempfile.TemporaryDirectory() as scratch:
        own = _own_wheels(Path(scratch))
        files = {f"wheels/{path.name}": path for path in (*sorted(wheels.glob("*.whl")), *own)}
        files |= {f"fitserve/{name}": path for name, path in _shipped()}
        digest = hashlib.sha256(f"{python.rpartition('.')[0]} {machine}".encode())
        for name, path in sorted(files.items()):
            digest.update(f"\0{name}\0".encode())
            digest.update(path.read_bytes())
        release = f"{__version__}-{digest.hexdigest()[:12]}"
        packed = cache_directory() / "bundles" / f"{release}.tar"
        if not packed.is_file():
            _pack(packed, files)
    return Bundle(release, packed)


def _pack(packed: Path, files: dict[str, Path]) -> None:
    packed.parent.mkdir(parents=True, exist_ok=True)
    for old in packed.parent.glob("*.tar"):
        old.unlink()  # a bundle has hundreds of MB, and is made again in seconds
    part = packed.with_suffix(f".{os.getpid()}.part")
    with tarfile.open(part, "w") as archive:
        for name, path in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as stream:
                archive.addfile(entry, stream)
    part.replace(packed)


def _shipped() -> Iterator[tuple[str, Path]]:
    for part in _SHIPPED:
        place = _ROOT / part
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            relative = path.relative_to(_ROOT)
            if path.suffix in _SUFFIXES and not _NOT_SHIPPED & set(relative.parts):
                yield str(relative), path


def _own_wheels(scratch: Path) -> list[Path]:
    # Hatchling builds the same bytes from the same tree.
    trees = [str(_ROOT / name) for name in _OWN]
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(scratch), *trees)
    return sorted(scratch.glob("*.whl"))


def _wheelhouse(python: str, machine: str) -> Path:
    minor = ".".join(python.split(".")[:2])
    key = hashlib.sha256(_LOCK.read_bytes()).hexdigest()[:12]
    place = cache_directory() / "wheels" / f"{minor}-{machine}-{key}"
    if (place / ".complete").is_file():
        return place
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    sys.stderr.write(f"fetching the wheels of requirements/site.lock for Python {minor} ...\n")
    ours = ".".join(platform.python_version_tuple()[:2])
    if (minor, machine) == (ours, platform.machine()):
        _pip("wheel", "--require-hashes", "-r", str(_LOCK), "--wheel-dir", str(place))
    else:
        requirements = place / "requirements.txt"
        requirements.write_text(requirements_for(_LOCK.read_text(encoding="utf-8"), minor, machine))
        platforms = [f"--platform={name}_{machine}" for name in _PLATFORMS]
        _pip(
            *("download", "--no-deps", "--only-binary=:all:", "--implementation=cp"),
            *(f"--python-version={minor}", *platforms, "--require-hashes"),
            *("-r", str(requirements), "--dest", str(place)),
        )
    (place / ".complete").touch()
    return place


def requirements_for(lock: str, minor: str, machine: str) -> str:
    r"""Return the part of a lock file that applies to a Python version and a processor.

    pip reads markers for the Python that it runs on, whatever ``--python-version`` says.

    Examples
    --------
    >>> lock = '''jax==1 ; python_full_version < '3.12' \\
    ...     --hash=sha256:00
    ... jax==2 ; python_full_version >= '3.12' \\
    ...     --hash=sha256:11
    ... '''
    >>> print(requirements_for(lock, "3.12", "x86_64"))
    jax==2 --hash=sha256:11
    """
    from packaging.markers import Marker

    environment = {
        "python_version": minor,
        "python_full_version": f"{minor}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    kept = []
    for line in lock.replace("\\\n", " ").splitlines():
        requirement, _, hashes = line.partition("--hash")
        name, _, marker = requirement.partition(";")
        if name.strip() and (not marker.strip() or Marker(marker).evaluate(environment)):
            kept.append(" ".join(f"{name.strip()} --hash{hashes}".split()))
    return "\n".join(kept)


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", words[0], "--quiet", "--disable-pip-version-check"]
    # A worker's own hook reads the tree; nothing else of this process concerns pip.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(  # noqa: S603
        [*command, *words[1:]], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        complaints = [
            line for line in done.stderr.splitlines() if not re.match(r"WARNING|\s*$", line)
        ]
        raise BackendError(
            "the wheels of a release cannot be fetched or built",
            evidence="\n".join(complaints[-6:]),
            hint="look at the network and at pip's configuration on this machine",
        )
