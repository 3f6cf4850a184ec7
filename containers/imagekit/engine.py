"""The program that builds and runs images: Podman or Docker."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

from fitserve.errors import BackendError
from imagekit.names import image_name

__all__ = ["ENGINES", "Engine", "find_engine"]

ENGINES = ("podman", "docker")


@dataclass(frozen=True)
class Engine:
    """A container engine that is installed.

    Attributes
    ----------
    name
        ``podman`` or ``docker``.
    command
        Path of its command.
    """

    name: str
    command: str

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of the engine.

        Raises
        ------
        BackendError
            If it fails, and ``check`` is true: with the last lines that it printed.
        """
        done = subprocess.run(
            [self.command, *words], capture_output=True, text=True, check=False, errors="replace"
        )
        if check and done.returncode:
            raise BackendError(
                f"{self.name} {words[0]} failed with status {done.returncode}",
                evidence="\n        ".join(done.stderr.strip().splitlines()[-5:]),
                hint="make image-check",
            )
        return done

    def inspect(self, target: str) -> dict[str, Any]:
        """Return what the engine knows of a target's image.

        Raises
        ------
        BackendError
            If there is no such image.
        """
        image = image_name(target)
        done = self.run("image", "inspect", image, check=False)
        if done.returncode:
            raise BackendError(
                f"{self.name} has no image {image}",
                evidence=f"{self.name} image inspect {image} finds nothing",
                hint=f"make images TARGET={target} ENGINE={self.name}",
            )
        description: dict[str, Any] = json.loads(done.stdout)[0]
        return description

    def storage(self) -> str:
        """Return the directory in which images are kept.

        Raises
        ------
        BackendError
            If the engine does not work.
        """
        field = "{{.Store.GraphRoot}}" if self.name == "podman" else "{{.DockerRootDir}}"
        done = self.run("info", "--format", field, check=False)
        if done.returncode:
            raise BackendError(
                f"{self.name} does not work here",
                evidence="\n        ".join(done.stderr.strip().splitlines()[-5:]),
                hint="start its service if it has one, or take the other: ENGINE=podman or docker",
            )
        return done.stdout.strip()


def find_engine(choice: str | None = None) -> Engine:
    """Return the engine that was asked for, or the first that is installed.

    Raises
    ------
    BackendError
        If there is none.
    """
    if choice and choice not in ENGINES:
        raise BackendError(
            f"{choice} is not an engine for building images",
            evidence=f"engines are {' and '.join(ENGINES)}",
            hint="Apptainer's image is made from theirs: make sif",
        )
    for name in [choice] if choice else ENGINES:
        command = shutil.which(name)
        if command:
            return Engine(name, command)
    raise BackendError(
        f"{choice or 'no container engine'} is {'not ' if choice else ''}installed",
        evidence=f"there is no {choice or ' and no '.join(ENGINES)} on PATH",
        hint="apt install podman buildah uidmap, or docker.io",
    )
