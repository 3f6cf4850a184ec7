"""A Python of another minor version than this one: one that is installed, or Debian's next.

It is unpacked into a directory with its own C library and installed nowhere. Packages that
are pure Python, or built for any version, are borrowed from this environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

_RELEASE, _VERSION = "trixie", "3.13"
_PACKAGES = (
    *(f"python{_VERSION}-minimal", f"libpython{_VERSION}-minimal", f"libpython{_VERSION}-stdlib"),
    *("libc6", "libssl3t64", "libexpat1", "zlib1g", "libffi8", "libbz2-1.0", "liblzma5"),
)
_COMPILED = ("cffi", "msgspec", "pydantic-core", "zstandard")
"""Built for one version of Python each; what else a client on Globus Compute needs is not."""


class OtherPython:
    """Runs programs with fitserve's client under another version of Python."""

    def __init__(self, command: list[str], version_: str, packages: Path) -> None:
        self._command = command
        self.version = version_
        self._path = [str(packages), *(one for one in sys.path if one.endswith("site-packages"))]

    def run(self, program: str, environment: dict[str, str], *arguments: str) -> str:
        """Run a program and return what it prints."""
        root = Path(__file__).resolve().parents[3]
        own = [str(root / name / "src") for name in ("contract", "client")]
        path = [self._path[0], *own, *self._path[1:]]
        done = subprocess.run(
            [*self._command, "-c", program, *arguments],
            env={**environment, "PYTHONPATH": os.pathsep.join(path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def find_other_python(place: Path) -> OtherPython:
    """Return another Python; one that is not installed is unpacked into ``place``.

    Raises
    ------
    RuntimeError
        There is none and none can be had.
    """
    command, number = _installed() or (_unpack(place), _VERSION)
    packages = place / "packages"
    pinned = [f"{name}=={version(name)}" for name in _COMPILED]
    _do(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--disable-pip-version-check", "--only-binary=:all:", "--implementation", "cp"),
            *("--python-version", number, "--target", str(packages), *pinned),
        ]
    )
    return OtherPython(command, number, packages)


def _installed() -> tuple[list[str], str] | None:
    beside = Path(sys.base_prefix).parent  # where several are kept beside each other
    for minor in (12, 13, 14):
        name = f"python3.{minor}"
        for found in (shutil.which(name), *beside.glob(f"3.{minor}.*/bin/{name}")):
            if minor == sys.version_info.minor or found is None:
                continue
            # What is found may be a shim of a version manager, for nothing.
            tried = subprocess.run([found, "-c", ""], capture_output=True, check=False)
            if tried.returncode == 0:
                return [str(found)], f"3.{minor}"
    return None


def _unpack(place: Path) -> list[str]:
    state = place / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True)
    mirror = _mirror()
    (state / "sources.list").write_text(f"deb {mirror} {_RELEASE} main\n")
    apt = [
        *("apt-get", "-qq", "-o", f"Dir::Etc::sourcelist={state}/sources.list"),
        *("-o", "Dir::Etc::sourceparts=-", "-o", f"Dir::State::lists={state}/lists"),
        *("-o", f"Dir::Cache={state}/cache", "-o", "APT::Sandbox::User=root"),
    ]
    _do([*apt, "update"])
    _do([*apt, "download", *_PACKAGES], cwd=state)
    root = place / "root"
    for package in sorted(state.glob("*.deb")):
        _do(["dpkg-deb", "-x", str(package), str(root)])
    libraries = root / "usr" / "lib" / "x86_64-linux-gnu"
    loader = root / "usr" / "lib64" / "ld-linux-x86-64.so.2"
    return [
        *(str(loader), "--library-path", str(libraries)),
        str(root / "usr" / "bin" / f"python{_VERSION}"),
    ]


def _mirror() -> str:
    """Return the mirror that this machine's apt is set up with."""
    for line in _do(["apt-cache", "policy"]).splitlines():
        for word in line.split():
            if word.startswith("http") and word.rstrip("/").endswith("/debian"):
                return word
    raise RuntimeError("this machine has no mirror of Debian")


def _do(command: list[str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RuntimeError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ...: {done.stderr.strip()[-500:]}")
    return done.stdout
