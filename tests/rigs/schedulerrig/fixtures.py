"""The rig as a fixture: import it into a ``conftest.py``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from schedulerrig.rig import Rig, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["rig"]


@pytest.fixture(scope="session")
def rig() -> Iterator[Rig]:
    """Return one rig for all tests; without root or Slurm they are skipped, in CI they fail."""
    absent = missing()
    if absent:
        if os.environ.get("CI"):
            pytest.fail(absent)
        pytest.skip(absent)
    rig = Rig.new()
    try:
        rig.up()
        yield rig
    finally:
        rig.down()
