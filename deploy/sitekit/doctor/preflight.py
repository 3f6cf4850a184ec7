"""Run one small job on a compute node, and judge what it reports."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitserve.schedulers.base import Job
from fitserve_contract import OLDEST_DRIVERS
from sitekit.derive import derive
from sitekit.doctor.findings import failed, good, skipped, warned
from sitekit.doctor.kubernetes import no_namespace
from sitekit.doctor.machine import place
from sitekit.doctor.network import Answering, address_of, clock
from sitekit.jobs import cancel_job, job_state, submit_job
from sitekit.shell import run

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from fitserve.errors import Check
    from sitekit.doctor.findings import Patient

__all__ = ["look", "read_probe"]

_PROBE = Path(__file__).with_name("probe.py")
_POLL = 2.0
_SETTLE = 30.0


def look(patient: Patient, script: str) -> Iterator[Check]:
    """Run the pre-flight job and judge its report.

    Parameters
    ----------
    patient
        What is examined.
    script
        Text of the rendered pre-flight job, or of the pod's overrides on Kubernetes.
    """
    if not patient.submit:
        yield skipped("job", "no job was asked for")
        return
    base = place(patient, patient.site.directories.run)
    if patient.site.scheduler.type == "kubernetes":
        yield from _pod(patient, script)
        return
    if base is None or not base.is_dir():
        yield skipped("job", "there is no run directory to start it from")
        return
    nonce = secrets.token_hex(8)
    directory = base / f"preflight-{nonce}"
    directory.mkdir(mode=0o700)
    with Answering(patient.site.network.worker_port) as listener:
        task = {
            "nonce": nonce,
            "address": address_of(patient.site) or "127.0.0.1",
            "port": listener.port,
        }
        (directory / "preflight.json").write_text(json.dumps(task), encoding="utf-8")
        (directory / "preflight.nonce").write_text(nonce, encoding="utf-8")
        (directory / "preflight.sh").write_text(script, encoding="utf-8")
        shutil.copyfile(_PROBE, directory / "probe.py")
        ended = yield from _submit(patient, directory)
    if ended:
        yield from _results(patient, directory, nonce, listener.heard)
        shutil.rmtree(directory, ignore_errors=True)


def _submit(patient: Patient, directory: Path) -> Generator[Check, None, bool]:
    """Run the job; returns whether it ended."""
    if patient.site.scheduler.type == "local":
        # Workers inherit the environment of what starts them, which is this Python's.
        own = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = run(
            "bash", "preflight.sh", timeout=patient.job_seconds, cwd=directory, environment=own
        )
        (directory / "preflight.out").write_text(done.out + done.err, encoding="utf-8")
        return True
    done = submit_job(patient.site, directory / "preflight.sh")
    if not done.ok:
        yield failed(
            "job",
            "the pre-flight job is refused",
            evidence=done.words,
            field="scheduler",
            change="what the scheduler complains about",
        )
        return False
    job = done.out.strip().splitlines()[-1].split(";")[0]
    started, status = time.monotonic(), Job("queued")
    while time.monotonic() - started < patient.job_seconds:
        if (directory / "seen-by-node").exists():
            _let_end(patient, job)
            return True
        status = job_state(patient.site, job)
        if status.state == "ended":
            _settle(directory)
            return True
        time.sleep(_POLL)
    cancel_job(patient.site, job)
    yield warned(
        "job",
        f"the pre-flight job did not run within {patient.job_seconds:.0f} s; it was cancelled",
        evidence=f"job {job}: {status.state} {status.reason}",
        field="scheduler",
        change="a partition or queue that is less busy, or wait longer: --job-seconds",
    )
    return False


def _let_end(patient: Patient, job: str) -> None:
    """Wait for a job that is about to end.

    When a job ends, PBS copies its output to the directory that it was submitted from: if that is
    gone by then, to the user's home.
    """
    started = time.monotonic()
    while time.monotonic() - started < _SETTLE and job_state(patient.site, job).state != "ended":
        time.sleep(_POLL)


def _settle(directory: Path) -> None:
    """Wait for what the node wrote: a shared file system may show it a little later."""
    started = time.monotonic()
    while time.monotonic() - started < _SETTLE:
        output = directory / "preflight.out"
        if (directory / "seen-by-node").exists() or (output.is_file() and output.stat().st_size):
            break
        time.sleep(_POLL)
    # A job that ended well has written both files at nearly the same time.
    time.sleep(_POLL)


def _pod(patient: Patient, overrides: str) -> Iterator[Check]:
    if no_namespace(patient) is not None:
        yield skipped("pod", "there is no namespace to run it in yet")
        return
    nonce = secrets.token_hex(8)
    # The pod reads the probe from its standard input and has no file to read.
    probe = _PROBE.read_text(encoding="utf-8").replace(
        'with open("preflight.json", encoding="utf-8") as file:',
        "if True:",
    )
    task = {"nonce": nonce, "address": "", "port": None}
    probe = probe.replace("task = json.load(file)", f"task = {task!r}")
    site = patient.site.pinned(patient.rendering.version)
    done = run(
        "kubectl", "run", f"fitserve-preflight-{nonce}", "--rm", "--stdin", "--quiet",
        "--restart=Never", f"--namespace={site.pods.namespace}",
        f"--image={site.pods.image}", f"--overrides={overrides}",
        f"--pod-running-timeout={patient.job_seconds:.0f}s",
        timeout=patient.job_seconds + 60, text=probe,
    )  # fmt: skip
    if not done.ok:
        yield failed(
            "pod",
            "a worker pod does not run",
            evidence=done.words.removeprefix(done.command),
            field="kubernetes.image",
            change="an image that the cluster can pull, and limits that a node has",
        )
        return
    yield from read_probe(patient, _loaded(done.out), nonce, shared=False)


def _loaded(text: str) -> dict[str, Any] | None:
    try:
        answer = json.loads(text[text.index("{") : text.rindex("}") + 1])
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _results(patient: Patient, directory: Path, nonce: str, heard: float | None) -> Iterator[Check]:
    output = directory / "preflight.out"
    out = output.read_text(encoding="utf-8", errors="replace") if output.is_file() else ""
    seen = directory / "seen-by-node"
    shared = seen.is_file() and seen.read_text(encoding="utf-8") == nonce
    probe = directory / "probe.json"
    answer = _loaded(probe.read_text(encoding="utf-8")) if probe.is_file() else None
    if not shared and not out:
        yield failed(
            "shared files",
            "the job left nothing in the run directory: nodes do not see it",
            evidence=str(directory),
            field="directories.run",
            change="a directory on a file system that compute nodes share",
        )
        return
    if answer is None:
        yield failed(
            "worker",
            "workers do not start on a node",
            evidence="\n".join(out.strip().splitlines()[-4:]) or "the job printed nothing",
            field="environment",
            change=_advice(out),
        )
        return
    yield from read_probe(patient, answer, nonce, shared=shared, heard=heard)


def _advice(out: str) -> str:
    for line in out.splitlines():
        if line.startswith("fitserve: ") and "see " in line:
            return line.rpartition("see ")[2]
    if "command not found" in out or "not found" in out:
        return "modules: the one that has the missing command"
    return "what the node complains about"


# -- the report of the node ------------------------------------------------------------------


def read_probe(
    patient: Patient,
    answer: dict[str, Any] | None,
    nonce: str,
    *,
    shared: bool,
    heard: float | None = None,
) -> Iterator[Check]:
    """Judge what a probe reports of its node.

    Parameters
    ----------
    patient
        What is examined.
    answer
        What ``probe.py`` printed, or None if that cannot be read.
    nonce
        What it had to repeat.
    shared
        Whether files were seen in both directions.
    heard
        When the probe dialled back, by this machine's clock; now, if it did not.
    """
    if answer is None or answer.get("nonce") != nonce:
        yield failed(
            "worker",
            "the node's answer cannot be read",
            evidence=str(answer)[:200],
            field="environment",
            change="an image with a working python3",
        )
        return
    host = answer["host"]
    yield good("worker", f"Python {answer['python']} runs on {host}")
    if shared:
        yield good("shared files", "login and compute node see each other's files")
    yield clock(answer["time"], heard or time.time(), host)
    yield from _versions(patient, answer)
    yield from _reach(patient, answer)
    yield from _share(patient, answer)
    yield from _gpus(patient, answer)


def _versions(patient: Patient, answer: dict[str, Any]) -> Iterator[Check]:
    version, have = patient.rendering.version, answer["packages"].get("fitserve-worker")
    field = "kubernetes.image" if patient.site.kubernetes else "environment"
    if have is None:
        yield failed(
            "worker version",
            "fitserve-worker is not in the workers' environment",
            evidence=f"{answer['executable']} on {answer['host']}",
            field=field,
            change="an image or environment that holds fitserve-worker",
        )
    elif have != version:
        yield failed(
            "worker version",
            f"fitserve-worker is {have}, and this release is {version}",
            evidence=f"{answer['executable']} on {answer['host']}",
            field=field,
            change=f"the image or environment of {version}",
        )
    else:
        yield good("worker version", f"fitserve-worker {have}")
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    if answer["packages"].get("parsl") is None:
        yield failed(
            "worker pool",
            "Parsl, whose worker pool runs there, is not in the workers' environment",
            evidence=f"{answer['executable']} on {answer['host']}",
            field=field,
            change="an image or environment that holds parsl and globus-compute-endpoint",
        )
    elif not answer["python"].startswith(f"{ours}."):
        yield warned(
            "Python",
            f"workers have Python {answer['python']}, this machine {ours}: driving the site "
            "directly needs the same",
            evidence=str(answer["executable"]),
            field=field,
            change=f"an environment with Python {ours}; through the cloud service it works",
        )


def _reach(patient: Patient, answer: dict[str, Any]) -> Iterator[Check]:
    if patient.site.scheduler.type == "kubernetes":
        return
    if answer["back"]:
        kind = "interface" if patient.site.network.interface else "address"
        yield failed(
            "way back",
            "a node cannot reach this machine, and its workers would never connect",
            evidence=f"{answer['host']}: {answer['back']}",
            field=f"network.{kind}",
            change="the interface that nodes reach, or have ports 54000-55000 opened",
        )
    else:
        yield good("way back", "a node reaches this machine")


def _share(patient: Patient, answer: dict[str, Any]) -> Iterator[Check]:
    derived = derive(patient.site)
    if derived.workers_per_node is None:
        return
    needed = derived.workers_per_node * (derived.threads or 1)
    if answer["cpus"] < needed:
        yield failed(
            "cores",
            f"the job has {answer['cpus']} CPUs for {needed} worker threads",
            evidence=f"affinity on {answer['host']}",
            field="node.cores",
            change=f"cores: {answer['cpus']}, or a launcher that gives the job all it asked for",
        )
    else:
        yield good("cores", f"{answer['cpus']} CPUs for {needed} worker threads")


def _gpus(patient: Patient, answer: dict[str, Any]) -> Iterator[Check]:
    device = patient.site.workers.device
    if device == "cpu":
        return
    needed = derive(patient.site).gpus
    if len(answer["gpus"]) < needed:
        yield failed(
            "GPUs",
            f"the job sees {len(answer['gpus'])} GPUs, {needed} are asked for",
            evidence=f"nvidia-smi on {answer['host']}, CUDA_VISIBLE_DEVICES={answer['visible']}",
            field="node.gpus.request",
            change="the way to ask this scheduler for GPUs, and a container that passes them on",
        )
        return
    driver = answer["gpus"][0]["driver"]
    major = int(driver.split(".")[0]) if driver.split(".")[0].isdigit() else 0
    if major < OLDEST_DRIVERS[device]:
        yield failed(
            "driver",
            f"NVIDIA driver {driver} is too old for {device}, which needs {OLDEST_DRIVERS[device]}",
            evidence=f"{answer['gpus'][0]['name']} on {answer['host']}",
            field="workers.device",
            change="device: cuda12" if major >= OLDEST_DRIVERS["cuda12"] else "device: cpu",
        )
    else:
        yield good("GPUs", f"{len(answer['gpus'])} x {answer['gpus'][0]['name']}, driver {driver}")
