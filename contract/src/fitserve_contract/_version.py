"""The version of all distributions, which the other two read here, and the oldest drivers."""

__version__ = "0.1.0"

OLDEST_DRIVERS = {"cuda12": 525, "cuda13": 580}
"""Oldest NVIDIA driver of each CUDA release that JAX has wheels for (NVIDIA's compatibility table,
docs.jax.dev/en/latest/installation.html)."""
