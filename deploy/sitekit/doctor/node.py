"""What a job saw on its node, said as findings."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from sitekit.derive import derive
from sitekit.doctor.findings import Finding, failed, good, warned
from sitekit.doctor.network import clock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sitekit.doctor.shell import Patient

__all__ = ["read_probe"]

_DRIVERS = {"cuda12": 525, "cuda13": 580}
"""Oldest NVIDIA driver of each CUDA release, by docs.jax.dev/en/latest/installation.html."""


def read_probe(
    patient: Patient,
    found: dict[str, Any] | None,
    nonce: str,
    *,
    shared: bool,
    heard: float | None = None,
) -> Iterator[Finding]:
    """Say what a probe found on its node.

    Parameters
    ----------
    patient
        What is examined.
    found
        What ``probe.py`` printed, or None if that cannot be read.
    nonce
        What it was told to repeat.
    shared
        Whether files were seen in both directions.
    heard
        When the probe dialled back, by this machine's clock; now, if it did not.
    """
    if found is None or found.get("nonce") != nonce:
        yield failed(
            "worker",
            "the node's answer cannot be read",
            evidence=str(found)[:200],
            field="environment",
            change="an image with a working python3",
        )
        return
    host = found["host"]
    yield good("worker", f"Python {found['python']} runs on {host}")
    if shared:
        yield good("shared files", "login and compute node see each other's files")
    yield clock(found["time"], heard or time.time(), host)
    yield from _versions(patient, found)
    yield from _reach(patient, found)
    yield from _share(patient, found)
    yield from _gpus(patient, found)


def _versions(patient: Patient, found: dict[str, Any]) -> Iterator[Finding]:
    wanted, have = patient.rendering.version, found["packages"].get("fitserve-worker")
    field = "kubernetes.image" if patient.site.get("kubernetes") else "environment"
    if have is None:
        yield failed(
            "worker version",
            "fitserve-worker is not in the workers' environment",
            evidence=f"{found['executable']} on {found['host']}",
            field=field,
            change="an image or environment that holds fitserve-worker",
        )
    elif have != wanted:
        yield failed(
            "worker version",
            f"fitserve-worker is {have}, and this release is {wanted}",
            evidence=f"{found['executable']} on {found['host']}",
            field=field,
            change=f"the image or environment of {wanted}",
        )
    else:
        yield good("worker version", f"fitserve-worker {have}")
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    if found["packages"].get("parsl") is None:
        yield failed(
            "worker pool",
            "Parsl, whose worker pool runs there, is not in the workers' environment",
            evidence=f"{found['executable']} on {found['host']}",
            field=field,
            change="an image or environment that holds parsl and globus-compute-endpoint",
        )
    elif not found["python"].startswith(f"{ours}."):
        yield warned(
            "Python",
            f"workers have Python {found['python']}, this machine {ours}: driving the site "
            "directly needs the same",
            evidence=str(found["executable"]),
            field=field,
            change=f"an environment with Python {ours}; through the cloud service it works",
        )


def _reach(patient: Patient, found: dict[str, Any]) -> Iterator[Finding]:
    if patient.site.get("scheduler.type") == "kubernetes":
        return
    if found["back"]:
        kind = "interface" if patient.site.get("network.interface") else "address"
        yield failed(
            "way back",
            "a node cannot reach this machine, and its workers would never connect",
            evidence=f"{found['host']}: {found['back']}",
            field=f"network.{kind}",
            change="the interface that nodes reach, or have ports 54000-55000 opened",
        )
    else:
        yield good("way back", "a node reaches this machine")


def _share(patient: Patient, found: dict[str, Any]) -> Iterator[Finding]:
    derived = derive(patient.site)
    if derived.workers_per_node is None:
        return
    wanted = derived.workers_per_node * (derived.threads or 1)
    if found["cpus"] < wanted:
        yield failed(
            "cores",
            f"the job has {found['cpus']} CPUs for {wanted} worker threads",
            evidence=f"affinity on {found['host']}",
            field="node.cores",
            change=f"cores: {found['cpus']}, or a launcher that gives the job all it asked for",
        )
    else:
        yield good("cores", f"{found['cpus']} CPUs for {wanted} worker threads")


def _gpus(patient: Patient, found: dict[str, Any]) -> Iterator[Finding]:
    device = patient.site.get("workers.device")
    if device == "cpu":
        return
    wanted = derive(patient.site).gpus
    if len(found["gpus"]) < wanted:
        yield failed(
            "GPUs",
            f"the job sees {len(found['gpus'])} GPUs, {wanted} are asked for",
            evidence=f"nvidia-smi on {found['host']}, CUDA_VISIBLE_DEVICES={found['visible']}",
            field="node.gpus.request",
            change="the way in which this scheduler is asked for GPUs, and a container that "
            "passes them on",
        )
        return
    driver = found["gpus"][0]["driver"]
    major = int(driver.split(".")[0]) if driver.split(".")[0].isdigit() else 0
    if major < _DRIVERS[device]:
        yield failed(
            "driver",
            f"NVIDIA driver {driver} is too old for {device}, which needs {_DRIVERS[device]}",
            evidence=f"{found['gpus'][0]['name']} on {found['host']}",
            field="workers.device",
            change="device: cuda12" if major >= _DRIVERS["cuda12"] else "device: cpu",
        )
    else:
        yield good("GPUs", f"{len(found['gpus'])} x {found['gpus'][0]['name']}, driver {driver}")
