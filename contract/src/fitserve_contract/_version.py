"""The version of all three distributions, which two take from here; and the oldest drivers."""

__version__ = "0.1.0"

OLDEST_DRIVERS = {"cuda12": 525, "cuda13": 580}
"""Oldest NVIDIA driver of each CUDA release that JAX has wheels for (NVIDIA's compatibility table,
docs.jax.dev/en/latest/installation.html)."""
