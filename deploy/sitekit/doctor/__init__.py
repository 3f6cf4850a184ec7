"""Look at the machine itself: what would keep fits from running, before anyone finds out."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sitekit.doctor import job, kubernetes, machine, network, pbs, slurm
from sitekit.doctor.findings import Finding, as_json, failed, report
from sitekit.doctor.shell import Patient
from sitekit.render import render_site, write_files

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Finding", "Patient", "as_json", "examine", "report"]


def examine(patient: Patient) -> Iterator[Finding]:
    """Examine a site on its login node, in the order in which things are needed.

    Parameters
    ----------
    patient
        What is examined, and how far to go.

    Yields
    ------
    Finding
        As each is known. Nothing is registered, and nothing of the site is changed; one small
        job is run if that is wanted.
    """
    site = patient.site
    if site.get("status") == "retired":
        yield failed("status", "this machine is gone", field="status", change="status: active")
        return
    files, _ = render_site(site, patient.rendering)
    kind = site.get("scheduler.type")
    yield from machine.look(patient)
    yield from network.look(patient)
    with tempfile.TemporaryDirectory() as scratch:
        write_files(files, Path(scratch))
        if kind == "slurm":
            yield from slurm.look(patient, Path(scratch) / "preflight.sh")
    if kind in {"pbspro", "torque"}:
        yield from pbs.look(patient)
    if kind == "kubernetes":
        yield from kubernetes.look(patient)
    yield from job.look(patient, files.get("preflight.sh") or files["preflight.json"])
