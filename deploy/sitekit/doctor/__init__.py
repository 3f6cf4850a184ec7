"""Look at the machine itself: what would keep fits from running, before anyone finds out."""

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

# Here, and not with all else that a scheduler is: a look reads what follows from a site, which
# asks the site's scheduler.
_LOOKS = {
    SLURM.name: slurm_findings.look,
    PBSPRO.name: pbs_findings.look,
    TORQUE.name: pbs_findings.look,
}
# What a scheduler says of who asks, and not of the site.
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
        As each is known. Nothing is registered, and nothing of the site is changed; one small
        job is run if that is wanted.
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
    """Yield findings, without what is not for root: on a multi-user site jobs are its users'."""
    roots = patient.site.access.mode == "multi-user" and os.getuid() == 0
    for finding in findings:
        if roots and finding.what in _OF_USERS and finding.level == "failure":
            why = f"{finding.cause}; but jobs are not root's here: `make doctor` as a user tells"
            yield skipped(finding.what, why, finding.evidence)
        else:
            yield finding
