"""Parsl's interchange, as a process of its own that goes with its client.

It leaves the client's session: a Ctrl-C in the terminal is for the client. And it drops what a full
disk does not take of its log. Its standard error is the user's terminal: `logging` would print a
traceback there for each line that it cannot write.
"""

from __future__ import annotations

import logging
import os
import runpy
import sys

from fitserve.endpoints.parsl.enlist import enlist

__all__ = ["COMMAND"]

_PARSLS = "parsl.executors.high_throughput.interchange"

COMMAND = ["-m", "fitserve.endpoints.parsl.interchange"]
"""Words after the interpreter that start it: Parsl's script need not be on the user's PATH.

The directory in which it enlists may follow.
"""

if __name__ == "__main__":
    os.setsid()
    for directory in sys.argv[1:]:
        enlist(directory)
    logging.raiseExceptions = False
    runpy.run_module(_PARSLS, run_name="__main__", alter_sys=True)
