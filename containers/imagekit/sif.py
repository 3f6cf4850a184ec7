"""Make an Apptainer image file from an image that was built."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fitserve import __version__
from fitserve.errors import BackendError
from imagekit.names import ROOT, image_name, require_target, sif_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imagekit.engine import Engine

__all__ = ["find_apptainer", "make_sif", "save_archive"]

_ARCHIVES = {"podman": "oci-archive", "docker": "docker-archive"}


def find_apptainer() -> str:
    """Return the command of Apptainer or SingularityCE.

    Raises
    ------
    BackendError
        If neither is installed.
    """
    for name in ("apptainer", "singularity"):
        command = shutil.which(name)
        if command:
            return command
    raise BackendError(
        "Apptainer is not installed",
        evidence="there is no apptainer and no singularity on PATH",
        hint="copy the archive to a machine that has one: make sif ARGS='--archive-only'",
    )


def save_archive(engine: Engine, target: str, directory: Path) -> Path:
    """Write an image as one file, which Apptainer and Charliecloud read.

    Raises
    ------
    BackendError
        If there is no such image.
    """
    require_target(target)
    engine.inspect(target)
    directory.mkdir(parents=True, exist_ok=True)
    archive = directory / f"{target}-{__version__}.tar"
    archive.unlink(missing_ok=True)
    words = ["--format", _ARCHIVES[engine.name]] if engine.name == "podman" else []
    engine.run("save", *words, "--output", str(archive), image_name(target))
    return archive


def make_sif(engine: Engine, target: str, directory: Path, options: Sequence[str] = ()) -> Path:
    """Make the image file of a target, and test it.

    Parameters
    ----------
    engine
        Has the image.
    target
        A target of the Dockerfile.
    directory
        Where the file is written; it gets the name that site files use.
    options
        Further options of ``apptainer build``.

    Raises
    ------
    BackendError
        If there is no Apptainer, or it fails; its output is on standard error.
    """
    command = find_apptainer()
    file = directory.resolve() / sif_name(target)
    with tempfile.TemporaryDirectory(prefix="fitserve-sif-") as scratch:
        archive = save_archive(engine, target, Path(scratch))
        partial = Path(scratch) / file.name
        words = [command, "build", *options]
        words += ["--build-arg", f"SOURCE={_ARCHIVES[engine.name]}"]
        words += ["--build-arg", f"ARCHIVE={archive}", "--build-arg", f"VERSION={__version__}"]
        words += [str(partial), str(ROOT / "containers" / "worker.def")]
        done = subprocess.run(words, stdout=sys.stderr, check=False)
        if done.returncode or not partial.is_file():
            raise BackendError(
                f"{file.name} was not made",
                evidence=f"{Path(command).name} build ended with status {done.returncode}, "
                "see above",
                hint="make image-check",
            )
        directory.mkdir(parents=True, exist_ok=True)
        shutil.move(partial, file)
    return file
