"""What images there are, and what they are called."""

from __future__ import annotations

from pathlib import Path

from fitserve import __version__
from fitserve.errors import RequestError
from fitserve_contract import OLDEST_DRIVERS

__all__ = [
    "ROOT",
    "TARGETS",
    "image_name",
    "lock_name",
    "require_target",
    "required_driver",
    "sif_name",
]

ROOT = Path(__file__).resolve().parents[2]

TARGETS = ("worker", "endpoint", "worker-cuda12", "worker-cuda13")
"""Targets of the Dockerfile."""


def require_target(target: str) -> None:
    """Raise `RequestError` for what is not a target."""
    if target not in TARGETS:
        raise RequestError(
            f"there is no image {target}",
            evidence=f"images are {', '.join(TARGETS)}",
            hint="make images TARGET=worker",
        )


def image_name(target: str, version: str = __version__) -> str:
    """Return the name that site files use.

    Examples
    --------
    >>> image_name("worker-cuda12", "1.2.0")
    'fitserve/worker-cuda12:1.2.0'
    """
    return f"fitserve/{target}:{version}"


def lock_name(target: str) -> str:
    """Return the name of the lock file in ``requirements/`` that a target is made of.

    Examples
    --------
    >>> lock_name("worker-cuda12"), lock_name("endpoint")
    ('worker-cuda12', 'worker-endpoint')
    """
    return "worker-endpoint" if target == "endpoint" else target


def sif_name(target: str, version: str = __version__) -> str:
    """Return the name of the file that site files use.

    Examples
    --------
    >>> sif_name("worker", "1.2.0")
    'worker-1.2.0.sif'
    """
    return f"{target}-{version}.sif"


def required_driver(target: str) -> int | None:
    """Return the oldest NVIDIA driver that a target runs with; None without a GPU.

    Examples
    --------
    >>> required_driver("worker"), required_driver("worker-cuda13")
    (None, 580)
    """
    return OLDEST_DRIVERS.get(target.removeprefix("worker-"))
