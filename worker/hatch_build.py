"""Derive the version, and the pin on `fitserve-contract`, from that distribution's version file.

What is released together works together: exactly one version of the contract is required. In a
source distribution its file is absent, and the version comes from the metadata written when that
was made. The client's and the worker's file are the same.
"""

import re
import tomllib
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class VersionFromContract(MetadataHookInterface):
    """Fill in ``version`` and ``dependencies``."""

    def update(self, metadata: dict[str, Any]) -> None:
        root = Path(self.root)
        version = _version(root)
        tool = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["fitserve"]
        metadata["version"] = version
        metadata["dependencies"] = [f"fitserve-contract=={version}", *tool["dependencies"]]


def _version(root: Path) -> str:
    source = root.parent / "contract" / "src" / "fitserve_contract" / "_version.py"
    if source.is_file():
        found = re.search(r'__version__ = "([^"]+)"', source.read_text())
        if found:
            return found[1]
    return str(HeaderParser().parsestr((root / "PKG-INFO").read_text())["Version"])
