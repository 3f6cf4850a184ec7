"""Submit, find and cancel jobs: an endpoint's are found by the names that Parsl gives them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from fitserve.schedulers import base as client
from sitekit.schedulers import BATCH, scheduler_of
from sitekit.shell import run

if TYPE_CHECKING:
    from sitekit.schedulers.base import Job
    from sitekit.shell import Result
    from sitekit.site import Site

__all__ = [
    "cancel_job",
    "cancel_jobs",
    "find_jobs",
    "job_state",
    "outputs_at_home",
    "submit_job",
]


def submit_job(site: Site, script: Path) -> Result:
    """Submit a script from its own directory; the job's id is in the last line of the answer."""
    command = BATCH[site.scheduler.type].submit
    timeout = site.scheduler.cmd_timeout
    return run(*command, script.name, timeout=timeout, cwd=script.parent)


def cancel_job(site: Site, job: str) -> Result:
    """Cancel a job."""
    command = BATCH[site.scheduler.type].client.cancel
    return run(command, job, timeout=site.scheduler.cmd_timeout)


def job_state(site: Site, job: str) -> client.Job:
    """Return a job as its scheduler sees it; as running, if the scheduler does not answer."""
    try:
        return BATCH[site.scheduler.type].client.jobs([job], site.scheduler.cmd_timeout)[job]
    except client.SilentSchedulerError as error:
        return client.Job("running", f"the scheduler does not answer: {error}")


def find_jobs(site: Site, endpoint: str, *, everyone: bool = False) -> list[Job]:
    """Return the jobs of an endpoint and of direct runs on its site.

    Parameters
    ----------
    everyone
        All users' jobs, not only this one's: those of an endpoint that is root's.
    """
    batch = scheduler_of(site)
    if batch is None:
        return []
    ours = re.compile(_name(endpoint))
    return [
        job._replace(of_endpoint=bool(matched[1]))
        for job in batch.jobs(everyone, site.scheduler.cmd_timeout)
        if (matched := ours.match(job.name))
    ]


def _name(endpoint: str) -> str:
    """Return a pattern of the names that Parsl gives jobs; its group matches for an endpoint's.

    Its provider for Torque puts another ``parsl.`` in front.
    """
    return rf"(?:parsl\.){{1,2}}{re.escape(endpoint)}(-HighThroughputExecutor)?\."


def outputs_at_home(site: Site, endpoint: str) -> list[Path]:
    """Return the files of jobs' output that PBS has put into the user's home.

    It does so where it ignores the output file it was given, as Debian's qsub over Slurm does.
    Their names are the job's or its script's, with ``.o`` or ``.e`` and the job's number.
    """
    batch = scheduler_of(site)
    if batch is None or not batch.output_at_home:
        return []
    ours = re.compile(rf"{_name(endpoint)}block-[0-9.]+(\.submit)?\.[oe][0-9]+\Z")
    paths = Path.home().glob("parsl.*.[oe][0-9]*")
    return sorted(path for path in paths if ours.match(path.name) and path.is_file())


def cancel_jobs(site: Site, endpoint: str) -> list[str]:
    """Cancel the jobs of an endpoint, each by its id; those of direct runs are left alone.

    Returns
    -------
    list of str
        Ids that were cancelled.
    """
    jobs = find_jobs(site, endpoint, everyone=site.access.mode == "multi-user")
    return [job.id for job in jobs if job.of_endpoint and cancel_job(site, job.id).ok]
