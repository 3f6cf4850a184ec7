"""One rig for all tests of this folder, and its users."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from schedulerrig.fixtures import rig
from schedulerrig.users import User

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schedulerrig.rig import Rig

__all__ = ["rig"]


@pytest.fixture(scope="session")
def ada(rig: Rig) -> User:
    """Return a user at the login node of Slurm."""
    return User(rig, rig.login, "ada")


@pytest.fixture(scope="session")
def ada_at_pbs(rig: Rig) -> User:
    """Return the same user at the login node of PBS."""
    return User(rig, rig.pbs, "ada")


@pytest.fixture
def quiet(rig: Rig) -> Iterator[Rig]:
    """Return the rig; no job is left in Slurm's queue after the test."""
    yield rig
    rig.slurm.cancel_all()
