"""Examine the machine itself: what would keep fits from running, before a user meets it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sitekit.doctor import kubernetes, machine, network, pbs_findings, preflight, slurm_findings
from sitekit.doctor.findings import Patient, as_json, failed, report, skipped
from sitekit.render import render_site, write_files
from sitekit.schedulers.pbs import PBSPRO, TORQUE
from sitekit.schedulers.slurm import SLURM

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fitserve.errors import Check

__all__ = ["Patient", "as_json", "examine", "report"]

# Not in `sitekit.schedulers`: these modules need `derive`, which imports that package.
_LOOKS = {
    SLURM.name: slurm_findings.look,
    PBSPRO.name: pbs_findings.look,
    TORQUE.name: pbs_findings.look,
}
# Findings about the user who asks, not about the site.
_OF_USERS = {"account", "qos", "trial"}


def examine(patient: Patient) -> Iterator[Check]:
    """Examine a site on its login node, in the order in which things are needed.

    Parameters
    ----------
    patient
        What is examined, and how far to go.

    Yields
    ------
    Check
        Each as soon as it is known. Nothing is registered, and the site is not changed; one small
        job is run if the patient says so.
    """
    site = patient.site
    if site.status == "retired":
        yield failed("status", "this machine is gone", field="status", change="status: active")
        return
    files, _ = render_site(site, patient.rendering)
    kind = site.scheduler.type
    yield from machine.look(patient)
    yield from network.look(patient)
    with tempfile.TemporaryDirectory() as scratch:
        write_files(files, Path(scratch))
        if kind in _LOOKS:
            findings = _LOOKS[kind](patient, Path(scratch) / "preflight.sh")
            yield from _of_users(patient, findings)
    if kind == "kubernetes":
        yield from kubernetes.look(patient)
    yield from preflight.look(patient, files.get("preflight.sh") or files["preflight.json"])


def _of_users(patient: Patient, findings: Iterable[Check]) -> Iterator[Check]:
    """Yield findings; on a multi-user site, root needs no account: its users submit the jobs."""
    roots = patient.site.access.mode == "multi-user" and os.getuid() == 0
    for finding in findings:
        if roots and finding.what in _OF_USERS and finding.level == "failure":
            why = f"{finding.cause}; but root submits no jobs here: run `make doctor` as a user"
            yield skipped(finding.what, why, finding.evidence)
        else:
            yield finding
