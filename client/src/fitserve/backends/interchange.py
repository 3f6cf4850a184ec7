"""Parsl's interchange, which goes without what a full disk does not take of its log.

Its standard error is the user's terminal: `logging` would print a traceback there for each line
that it cannot write.
"""

from __future__ import annotations

import logging
import runpy

__all__ = ["COMMAND"]

_PARSLS = "parsl.executors.high_throughput.interchange"

COMMAND = ["-m", "fitserve.backends.interchange"]
"""Words after the interpreter that start it: Parsl's script need not be on the user's PATH."""

if __name__ == "__main__":
    logging.raiseExceptions = False
    runpy.run_module(_PARSLS, run_name="__main__", alter_sys=True)
