"""A site driven from its login node, through its own scheduler and without a service."""

from fitserve.backends.direct.backend import SiteBackend

__all__ = ["SiteBackend"]
