"""The published pallet that is fitted on hosts of the rig."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from schedulerrig.site import CHECKOUT

__all__ = ["staus"]


def staus(home: Path) -> Path:
    """Copy the published pallet of the direct stau search into a home, or skip the test."""
    shared = Path(os.environ.get("FITSERVE_SHARED", CHECKOUT.parent / "shared"))
    found = sorted(shared.glob("pallets/*staus*"))
    if not found:
        if os.environ.get("CI"):
            pytest.fail(f"no pallet of staus in {shared}")
        pytest.skip(f"no pallet of staus in {shared}")
    target = home / found[0].name
    if not target.exists():
        if found[0].is_dir():
            shutil.copytree(found[0], target)
        else:
            shutil.copyfile(found[0], target)
            target.chmod(0o644)
    return target
