"""The version of all three distributions; the other two read theirs from this file."""

__version__ = "0.1.0"
