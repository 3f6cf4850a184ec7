"""The catalogue of published analyses that fitserve knows how to fetch and label."""

from fitserve.analyses.entries import Analysis, Archive, catalogue, find, recognise

__all__ = ["Analysis", "Archive", "catalogue", "find", "recognise"]
