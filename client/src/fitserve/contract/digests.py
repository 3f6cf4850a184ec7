"""Digests that name workspaces, requests and hypotheses.

They are SHA-256 of JSON with sorted keys and no spaces, so that the same content has the
same name whichever file or program it came from. (The digest in a patchset is pyhf's own,
of another spelling of the same content; it is verified when a pallet is read.)
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from fitserve.contract.requests import Request
    from fitserve.contract.types import Hypothesis

__all__ = ["digest", "hypothesis_key", "request_digest"]

# Raised where the numbers of an engine change by more than rounding, so that results of before
# are not taken for those of today: neither of earlier runs nor of workers of another version.
_NUMBERS = 2

_canonical = msgspec.json.Encoder(order="sorted")


def digest(content: Any) -> str:
    """Return the SHA-256 (64 hexadecimal digits) of a JSON-like object.

    Examples
    --------
    >>> from fitserve.contract import digest
    >>> digest({"b": 1, "a": [2.0]}) == digest({"a": [2.0], "b": 1})
    True
    """
    return hashlib.sha256(_canonical.encode(content)).hexdigest()


def request_digest(request: Request) -> str:
    """Return the digest of a request: all that decides a result besides the pallet."""
    return digest(request)


def hypothesis_key(workspace_digest: str, hypothesis: Hypothesis, request: str) -> str:
    """Return the key under which a result is never computed twice.

    It tells workspace, patch, request (the engine in it) and how engines compute.

    Parameters
    ----------
    workspace_digest
        `digest` of the background-only workspace.
    hypothesis
        The hypothesis; its name and mass values do not enter, its patch does.
    request
        `request_digest` of the request.
    """
    return digest([workspace_digest, hypothesis.patch, request, _NUMBERS])
