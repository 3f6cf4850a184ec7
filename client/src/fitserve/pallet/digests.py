"""The digest by which a patchset names its workspace, as pyhf makes it.

`pyhf.utils.digest` does the same; importing pyhf takes longer than all else that is done to
read a pallet, and this line of it is a convention of patchsets that cannot change.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

__all__ = ["pyhf_digest"]


def pyhf_digest(content: Any, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of decoded JSON: of its text with sorted keys.

    Parameters
    ----------
    content
        Decoded JSON.
    algorithm
        One of those that pyhf's schema of a patchset allows: ``sha256`` or ``md5``.

    Examples
    --------
    >>> from fitserve.pallet.digests import pyhf_digest
    >>> pyhf_digest({"a": 2.0, "b": 3.0, "c": 1.0})
    'a38f6093800189b79bc22ef677baf90c75705af2cfc7ff594159eca54eaa7928'
    """
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.new(algorithm, text.encode("utf-8"), usedforsecurity=False).hexdigest()
