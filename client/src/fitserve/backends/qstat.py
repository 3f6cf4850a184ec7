"""The text of ``qstat -f``, which PBS Pro, OpenPBS and Torque write alike, and Slurm nearly so."""

from __future__ import annotations

import re

__all__ = ["read_qstat"]


def read_qstat(shown: str) -> dict[str, dict[str, str]]:
    r"""Read the attributes of jobs by the jobs' ids.

    Examples
    --------
    A long value goes on in lines that begin with a tab:

    >>> long = "Job Id: 7.pbs\n    job_state = Q\n    comment = Not Running: \n\tno nodes\n"
    >>> read_qstat(long)
    {'7.pbs': {'job_state': 'Q', 'comment': 'Not Running: no nodes'}}

    Slurm's command of that name breaks no lines, and has all of them begin with a tab:

    >>> read_qstat("Job Id:\t7\n\tJob_Name = mine\n\tjob_state = R\n")
    {'7': {'Job_Name': 'mine', 'job_state': 'R'}}
    """
    jobs = {}
    for block in re.split(r"(?m)^Job Id:[ \t]*", shown)[1:]:
        ident, _, rest = block.partition("\n")
        text = rest if rest.startswith("\t") else rest.replace("\n\t", "")
        attributes = re.findall(r"(?m)^[ \t]+([\w.]+) = (.*)$", text)
        jobs[ident.strip()] = dict(attributes)
    return jobs
