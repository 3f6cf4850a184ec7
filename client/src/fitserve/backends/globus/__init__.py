"""Endpoints of Globus Compute: tasks through the service, results over its broker."""

from fitserve.backends.globus.backend import GlobusBackend

__all__ = ["GlobusBackend"]
