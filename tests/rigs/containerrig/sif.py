"""Apptainer's file of the worker's image, made by an ordinary user as on a site."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from containerrig import images
from containerrig.users import checkout, made_user
from imagekit.names import sif_name

if TYPE_CHECKING:
    from containerrig.users import User

__all__ = ["SIF", "load", "make_sif", "prepare_sif", "prepared_sif"]

SIF = sif_name("worker")
_PLACE = images.ROOT / ".cache" / "sif"


def load(user: User, archive: Path) -> str:
    """Have the worker's image in the user's own storage; returns its name."""
    shared = Path(shutil.copy(archive, user.home / "worker.tar"))
    shared.chmod(0o644)
    user.must("podman", "load", "--quiet", "--input", shared)
    shared.unlink()
    return images.IMAGE


def make_sif(user: User) -> Path:
    """Have the user make the file from the image in their own storage."""
    place = checkout(user)
    made = user.must("make", "-C", place, "--no-print-directory", "sif", "ENGINE=podman")
    assert made.strip() == str(place / "build/images" / SIF)
    return Path(made.strip())


def prepare_sif() -> Path:
    """Return the file of this checkout's image, made unless it is there: takes minutes."""
    reason = images.absent()
    assert reason is None, reason
    if images.kept() and (there := prepared_sif()):
        return there
    images.CACHE.mkdir(parents=True, exist_ok=True)
    # The user who makes it is one for all checkouts of this machine.
    with FileLock(images.CACHE / "sif.lock"), images.ready():
        images.build("worker", images.base())
        found = images.run(
            "podman", "image", "inspect", "--format", "{{.Id}}", images.IMAGE
        ).stdout.strip()
        place = _PLACE / found[:16]
        if not (place / SIF).is_file():
            _make(place)
    return place / SIF


def prepared_sif() -> Path | None:
    """Return the file that `prepare_sif` made last, or None."""
    return next(_PLACE.glob(f"*/{SIF}"), None)


def _make(place: Path) -> None:
    with (
        tempfile.TemporaryDirectory() as scratch,
        made_user("fitrigsif", images.find_apptainer()) as user,
    ):
        load(user, images.save(images.IMAGE, Path(scratch) / "worker.tar"))
        made = make_sif(user)
        shutil.rmtree(_PLACE, ignore_errors=True)
        place.mkdir(parents=True)
        part = place / f"{SIF}.part"
        shutil.copyfile(made, part)
        part.rename(place / SIF)
