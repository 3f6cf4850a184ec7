"""The one version of both distributions; ``fitserve-worker`` derives its own from this file."""

__version__ = "0.1.0"
