"""Images of this checkout, built by Podman on a base made from Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imagekit.names import image_name

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "APPTAINER",
    "CACHE",
    "CONF",
    "IMAGE",
    "PROGRAMS",
    "ROOT",
    "absent",
    "base",
    "build",
    "find_apptainer",
    "kept",
    "ready",
    "run",
    "save",
]

ROOT = Path(__file__).resolve().parents[3]
CONF = Path(__file__).with_name("containers.conf")
CACHE = Path(os.environ.get("FITSERVE_CACHE", "~/.cache/fitserve-rigs")).expanduser()
APPTAINER = Path(os.environ.get("FITSERVE_APPTAINER", "/opt/fitserve-apptainer"))
"""Where Apptainer is unpacked; it works from no other path."""
IMAGE = f"localhost/{image_name('worker')}"
PROGRAMS = (
    *("podman", "buildah", "runc", "debootstrap", "newuidmap", "patchelf"),
    *("mksquashfs", "squashfuse"),
)
"""What images are built and run with."""


def run(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it said.

    Raises
    ------
    AssertionError
        It failed, and ``check`` is true.
    """
    given = {"check": True, "timeout": 1800, **options}
    command = [str(word) for word in words]
    try:
        return subprocess.run(  # noqa: PLW1510 - it is among the options
            command, capture_output=True, text=True, **given
        )
    except subprocess.CalledProcessError as error:
        said = f"{' '.join(command)}\n{error.stdout[-3000:]}\n{error.stderr[-3000:]}"
        raise AssertionError(said) from None


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def absent(programs: tuple[str, ...] = PROGRAMS) -> str | None:
    """Return what keeps images from being built and run here, or None."""
    missing = [name for name in programs if shutil.which(name, path=_path()) is None]
    if os.getuid() != 0:
        missing.append("root")
    if missing:
        return f"these tests need {', '.join(missing)}: see docs/containers.md"
    return None


@contextmanager
def ready() -> Iterator[None]:
    """Give programs what they need of this machine; let users mount image files, as sites do."""
    fuse = Path("/dev/fuse")
    mode = fuse.stat().st_mode & 0o777 if fuse.exists() else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", _path())
        patch.setenv("CONTAINERS_CONF", str(CONF))
        if mode is not None:
            fuse.chmod(0o666)
        try:
            yield
        finally:
            if mode is not None:
                fuse.chmod(mode)


def base() -> dict[str, str]:
    """Return the environment of a build on Debian's packages alone."""
    run("bash", ROOT / "containers/tools/base.sh")
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT}/containers:{ROOT}/contract/src:{ROOT}/client/src",
        "BASE_IMAGE": "localhost/fitserve/base:bookworm",
        "BUILD_IMAGE": "localhost/fitserve/base-build:bookworm",
    }


def build(target: str, environment: dict[str, str], *options: str) -> None:
    """Build a target as `make images` does."""
    words = ("python3", "-m", "imagekit", "build", target, "--engine", "podman")
    run(*words, "--network", "host", *options, env=environment, timeout=3000)


def kept() -> bool:
    """Return whether images that are there are taken as they are, while tests are written."""
    return bool(os.environ.get("FITSERVE_KEEP_IMAGE")) and not os.environ.get("CI")


def save(image: str, archive: Path) -> Path:
    """Write an image as one file that every user can read."""
    archive.unlink(missing_ok=True)
    run("podman", "save", "--format", "oci-archive", "--output", archive, image)
    archive.chmod(0o644)
    return archive


def find_apptainer() -> str:
    """Return the directory of Apptainer's commands, which is unpacked if it is not there."""
    return run("bash", ROOT / "containers/tools/apptainer.sh").stdout.strip()
