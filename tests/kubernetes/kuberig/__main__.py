"""Fetch and build what the tests need, before they run in a network of their own."""

from __future__ import annotations

from pathlib import Path

from kuberig.images import endpoint_image
from kuberig.tools import command

command("helm")
endpoint_image(Path(__file__).resolve().parents[3])
