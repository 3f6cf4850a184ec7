"""Derive the worker's version, and its pin on the client, from the client's version file.

The contract that both sides speak lives in the client's distribution, so a worker always
requires exactly the client it was released with. In a source distribution the client's
file is absent and the version comes from the metadata written when that was made.
"""

import re
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class VersionFromClient(MetadataHookInterface):
    """Fill in ``version`` and ``dependencies``."""

    def update(self, metadata: dict[str, Any]) -> None:
        root = Path(self.root)
        version = _version(root)
        metadata["version"] = version
        metadata["dependencies"] = [f"fitserve=={version}", *_declared(root)]


def _version(root: Path) -> str:
    source = root.parent / "client" / "src" / "fitserve" / "_version.py"
    if source.is_file():
        found = re.search(r'__version__ = "([^"]+)"', source.read_text())
        if found:
            return found[1]
    return str(HeaderParser().parsestr((root / "PKG-INFO").read_text())["Version"])


def _declared(root: Path) -> list[str]:
    import tomllib

    tool = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["fitserve"]
    return list(tool["dependencies"])
