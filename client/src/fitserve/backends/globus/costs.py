"""What tasks cost through Globus Compute, with where each number is from."""

from __future__ import annotations

from fitserve.backends.costs import DIRECT
from fitserve.endpoints.card import PAYLOAD_BYTES

__all__ = ["CLOUD"]

CLOUD = DIRECT._replace(
    client=4.0,  # assumed: login and registration too
    dispatch=0.0046,  # measured: 1000 small tasks of one batch in 4.6 s
    request=0.5,  # documented: 20 requests in 10 s
    request_tasks=100,  # ours; the SDK takes up to 128
    request_bytes=PAYLOAD_BYTES,  # documented
)
"""Workers on a site as in direct use of it, behind the service."""
