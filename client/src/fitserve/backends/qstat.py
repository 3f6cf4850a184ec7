"""The text of ``qstat -f``, which PBS Pro, OpenPBS and Torque write alike."""

from __future__ import annotations

import re

__all__ = ["read_qstat"]


def read_qstat(text: str) -> dict[str, dict[str, str]]:
    r"""Read the attributes of jobs by the jobs' ids.

    Examples
    --------
    A long value goes on in lines that begin with a tab:

    >>> shown = "Job Id: 7.pbs\n    job_state = Q\n    comment = Not Running: \n\tno nodes\n"
    >>> read_qstat(shown)
    {'7.pbs': {'job_state': 'Q', 'comment': 'Not Running: no nodes'}}
    """
    jobs = {}
    for block in re.split(r"(?m)^Job Id: *", text)[1:]:
        ident, _, rest = block.partition("\n")
        attributes = re.findall(r"(?m)^[ \t]+([\w.]+) = (.*)$", rest.replace("\n\t", ""))
        jobs[ident.strip()] = dict(attributes)
    return jobs
