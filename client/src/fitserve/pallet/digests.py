"""The digest by which a patchset names its workspace, as pyhf makes it.

`pyhf.utils.digest` does the same; importing pyhf takes longer than all else that is done to
read a pallet, and this line of it is a convention of patchsets that cannot change.
"""

from __future__ import annotations

import hashlib
import json
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["pyhf_digest", "respelled"]

_Spelling = Literal["12.0", "12", "as it is"]
_YIELDS = ("data", "lo_data", "hi_data")


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


def respelled(workspace: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the same workspace with its whole numbers written in other ways: 12.0, or 12.

    The digest tells them apart, and programs that read and write JSON change them. Yields and
    uncertainties are written in one way, all other numbers in one way.

    Examples
    --------
    >>> from fitserve.pallet.digests import respelled
    >>> [one["data"] for one in respelled({"data": [12, 0.5]})][:2]
    [[12.0, 0.5], [12.0, 0.5]]
    """
    spellings: tuple[_Spelling, ...] = ("12.0", "12", "as it is")
    for yields, others in product(spellings, repeat=2):
        if (yields, others) != ("as it is", "as it is"):
            yield _written(workspace, others, yields)


def _written(content: Any, spelling: _Spelling, of_yields: _Spelling) -> Any:
    if isinstance(content, dict):
        return {
            key: _written(value, of_yields if key in _YIELDS else spelling, of_yields)
            for key, value in content.items()
        }
    if isinstance(content, list):
        return [_written(value, spelling, of_yields) for value in content]
    if spelling == "12.0" and type(content) is int:
        return float(content)
    if spelling == "12" and type(content) is float and content.is_integer():
        return int(content)
    return content
