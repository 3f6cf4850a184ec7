"""The one version of all three distributions; the other two derive theirs from this file."""

__version__ = "0.1.0"
