"""One rig for all tests of this folder."""

from __future__ import annotations

from schedulerrig.fixtures import rig

__all__ = ["rig"]
