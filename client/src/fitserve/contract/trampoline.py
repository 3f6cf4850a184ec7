"""The function that an endpoint runs: source text, registered once, the same for every release.

It is all the code that ever reaches a worker from outside, and it only calls the worker that
the site installed. What it takes and returns is text (`fitserve.contract.codec`), so that
client and worker may have different versions of Python.
"""

from __future__ import annotations

import hashlib

__all__ = ["FUNCTION_DIGEST", "FUNCTION_NAME", "FUNCTION_SOURCE"]

FUNCTION_NAME = "fitserve_run"

FUNCTION_SOURCE = """\
def fitserve_run(task):
    from fitserve_worker import run
    return run(task)
"""

FUNCTION_DIGEST = hashlib.sha256(FUNCTION_SOURCE.encode()).hexdigest()
"""SHA-256 of the source, by which a registered function is recognised."""
