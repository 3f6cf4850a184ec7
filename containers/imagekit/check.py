"""Check that this machine can build and run an image, and that an image works."""

from __future__ import annotations

import json
import os
import platform
import pwd
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitserve import __version__
from fitserve.errors import BackendError, FitserveError
from fitserve_contract import OLDEST_DRIVERS
from imagekit.names import image_name, require_target, required_driver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imagekit.engine import Engine

__all__ = [
    "LOCKED_DOWN",
    "check_driver",
    "check_image",
    "check_machine",
    "check_space",
    "check_subuid",
    "run_selftest",
]

LOCKED_DOWN = (
    *("--rm", "--read-only", "--tmpfs=/tmp", "--network=none"),
    *("--cap-drop=all", "--security-opt=no-new-privileges"),
)
"""Options that leave a container only what a fit needs."""

_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# Of a build: the base, what is installed, and the image, in GiB.
_CPU_SPACE, _GPU_SPACE = 4, 20
_SUBORDINATE = 65536


def check_machine(engine: Engine, target: str) -> Iterator[FitserveError]:
    """Yield what is wrong with this machine for a target, all of it."""
    require_target(target)
    yield from _caught(_check_architecture, platform.machine())
    if os.getuid() != 0 and engine.name == "podman":
        user = pwd.getpwuid(os.getuid()).pw_name
        for file in (Path("/etc/subuid"), Path("/etc/subgid")):
            yield from _caught(check_subuid, user, os.getuid(), file)
    try:
        storage = Path(engine.storage())
    except BackendError as error:
        yield error
        return
    yield from _caught(
        check_space, storage, _CPU_SPACE if required_driver(target) is None else _GPU_SPACE
    )
    yield from _caught(check_driver, target)


def check_subuid(user: str, uid: int, file: Path) -> None:
    """Check that an ordinary user has subordinate ids, without which no image can be unpacked.

    Raises
    ------
    BackendError
        If there are none, or fewer than an image uses.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    ranges = [line.split(":") for line in lines if line.count(":") == 2]  # noqa: PLR2004
    counts = [
        int(count) for name, _, count in ranges if name in {user, str(uid)} and count.isdecimal()
    ]
    if sum(counts) < _SUBORDINATE:
        option = "--add-subuids" if file.name == "subuid" else "--add-subgids"
        raise BackendError(
            f"{user} has too few subordinate ids to unpack an image",
            evidence=f"{sum(counts)} in {file}, {_SUBORDINATE} are needed",
            hint=f"as root: usermod {option} 100000-165535 {user}; then podman system migrate",
        )


def check_space(storage: Path, needed: float) -> None:
    """Check that there is room for a build.

    Parameters
    ----------
    storage
        Where the engine keeps images.
    needed
        Room in GiB.

    Raises
    ------
    BackendError
        If there is less.
    """
    place = next(path for path in (storage, *storage.parents) if path.exists())
    free = shutil.disk_usage(place).free / (1 << 30)
    if free < needed:
        raise BackendError(
            "there is too little room for the image",
            evidence=f"{free:.1f} GiB free in {storage}, a build needs {needed:g}",
            hint="podman system prune, or another graphroot in storage.conf",
        )


def check_driver(target: str, file: Path = _DRIVER_FILE) -> None:
    """Check that the NVIDIA driver of this machine, if it has one, runs a target.

    Raises
    ------
    BackendError
        If it is too old.
    """
    minimum = required_driver(target)
    if minimum is None or not file.is_file():
        return
    seen = re.search(r"\s(\d+)\.\d[\d.]*\s", file.read_text(encoding="ascii", errors="replace"))
    if seen and int(seen[1]) < minimum:
        older = minimum > min(OLDEST_DRIVERS.values())
        raise BackendError(
            f"the NVIDIA driver is too old for {target}",
            evidence=f"driver {seen[0].strip()}, {minimum} or newer is needed",
            hint="make images TARGET=worker-cuda12" if older else "update the driver",
        )


def check_image(engine: Engine, target: str) -> dict[str, Any]:
    """Check that there is an image, for this machine and of this version.

    Returns
    -------
    dict
        What the engine says of it.

    Raises
    ------
    BackendError
        If it is not.
    """
    name = image_name(target)
    image = engine.inspect(target)
    here = _ARCHITECTURES.get(platform.machine(), platform.machine())
    if image["Architecture"] != here:
        raise BackendError(
            f"{name} is for another processor",
            evidence=f"it is for {image['Architecture']}, this machine is {here}",
            hint=f"make images TARGET={target}, here",
        )
    labels = image.get("Labels") or image.get("Config", {}).get("Labels") or {}
    version = labels.get("org.opencontainers.image.version")
    if version != __version__:
        raise BackendError(
            f"{name} is of another version than this checkout",
            evidence=f"the image says {version}, the checkout {__version__}",
            hint=f"make images TARGET={target}",
        )
    return image


def run_selftest(engine: Engine, target: str) -> dict[str, Any]:
    """Run the worker's test of itself in a locked-down container.

    Images for GPUs are tested on the CPU where this machine has no driver.

    Raises
    ------
    BackendError
        If it does not pass.
    """
    words = list(LOCKED_DOWN)
    if required_driver(target) is not None:
        if _DRIVER_FILE.is_file():
            words += ["--gpus=all"] if engine.name == "docker" else ["--device=nvidia.com/gpu=all"]
        else:
            words += ["-e", "JAX_PLATFORMS=cpu"]
    done = engine.run(
        "run", *words, image_name(target), "fitserve-worker", "selftest", "--json", check=False
    )
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise BackendError(
            f"{image_name(target)} does not start",
            evidence="\n        ".join(done.stderr.strip().splitlines()[-5:]),
            hint=f"{engine.name} run --rm {image_name(target)}",
        ) from None
    if not result["passed"]:
        raise BackendError(result["problem"], evidence=result["evidence"], hint=result["hint"])
    return result


def _check_architecture(machine: str) -> None:
    if machine not in _ARCHITECTURES:
        raise BackendError(
            "there is no image for this processor",
            evidence=f"{machine}; JAX has wheels for {' and '.join(_ARCHITECTURES)}",
            hint="build on one of those",
        )


def _caught(check: Callable[..., None], *arguments: Any) -> Iterator[FitserveError]:
    try:
        check(*arguments)
    except FitserveError as error:
        yield error
