"""Parsl's interchange, as a process of its own that goes with its client.

It leaves the client's session: a Ctrl-C in the terminal is for the client. The terminal is as well:
what the interchange says as its run is ended under it goes into a file. And it drops what a full
disk does not take of its log: `logging` would print a traceback for each line.
"""

from __future__ import annotations

import contextlib
import logging
import os
import runpy
import sys
from pathlib import Path

from fitserve.endpoints.parsl.enlist import enlist

__all__ = ["COMMAND"]

_PARSLS = "parsl.executors.high_throughput.interchange"

COMMAND = ["-m", "fitserve.endpoints.parsl.interchange"]
"""Words after the interpreter that start it: Parsl's script need not be on the user's PATH.

The directory in which it enlists follows, and the file for its standard error; neither where a
site's configuration is used without a run.
"""

if __name__ == "__main__":
    os.setsid()
    if sys.argv[1:]:
        _, groups, log = sys.argv
        # If it cannot be opened, everything of the run is being removed.
        for place in (os.devnull, log):
            with contextlib.suppress(OSError), Path(place).open("ab") as stream:
                os.dup2(stream.fileno(), sys.stderr.fileno())
        enlist(groups)
    logging.raiseExceptions = False
    runpy.run_module(_PARSLS, run_name="__main__", alter_sys=True)
