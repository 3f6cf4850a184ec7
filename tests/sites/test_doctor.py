"""The doctor finds what is wrong with a machine: each failure, by commands that pretend."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
import pytest

from fitserve import __version__
from fitserve.errors import BackendError, Check
from sitekit.cli import commands
from sitekit.doctor import Patient, as_json, examine, preflight, report
from sitekit.doctor import machine as machine_module
from sitekit.doctor.network import Answering, address_of, clock, interfaces
from sitekit.doctor.preflight import read_probe
from sitekit.doctor.slurm_findings import limit_seconds
from sitekit.load import load_site
from sitekit.render import Rendering

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sitekit.site import Site


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a home with a short name, with a workers' environment of the right version."""
    with tempfile.TemporaryDirectory(prefix="fs") as directory:
        home = Path(directory)
        binaries = home / "venv" / "bin"
        binaries.mkdir(parents=True)
        (binaries / "activate").write_text(f'export PATH="{binaries}:$PATH"\n')
        python = binaries / "python3"
        python.write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        endpoint = home / "endpoint" / "bin" / "globus-compute-endpoint"
        endpoint.parent.mkdir(parents=True)
        endpoint.write_text("#!/bin/bash\necho Globus Compute Endpoint: 4.19.0\n")
        endpoint.chmod(0o755)
        monkeypatch.setenv("HOME", directory)
        monkeypatch.setenv("USER", "ada")
        monkeypatch.setattr(preflight, "_POLL", 0.1)
        monkeypatch.setattr(preflight, "_SETTLE", 2.0)
        yield home


@pytest.fixture
def patient(make_site: Callable[..., Site], home: Path) -> Callable[..., Patient]:
    """Return a function that makes a site to examine, in order unless it is changed."""

    def make(base: str = "slurm", /, *, seconds: float = 30.0, **changes: Any) -> Patient:
        fitting: dict[str, Any] = {
            "environment": {"container": None, "venv": "~/venv"},
            "directories": {"scratch": "~/scratch"},
            "network": {"interface": "lo"},
            "endpoint": {"venv": "~/endpoint"},
            "node": {"cores": 1, "memory_gb": 4},
        }
        if base.startswith("kubernetes"):
            fitting = {}
        site = make_site(base, **_merged(fitting, changes))
        # The loopback interface stands for one that nodes reach: here they are this machine.
        return Patient(site, Rendering(__version__, home), job_seconds=seconds)

    return make


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = dict(under)
    for key, value in over.items():
        below = both.get(key)
        both[key] = (
            _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
        )
    return both


@pytest.fixture(autouse=True)
def _loopback_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sitekit.render.require_valid", lambda _: [])


def _examined(patient: Patient) -> list[Check]:
    return list(examine(patient))


def _failures(findings: list[Check]) -> list[Check]:
    return [finding for finding in findings if finding.level == "failure"]


BASES = {"slurm": "slurm", "pbspro": "pbspro", "torque": "torque"}


@pytest.mark.parametrize("kind", BASES)
def test_a_site_in_order_has_no_failures(
    kind: str, patient: Callable[..., Patient], fakes: Any
) -> None:
    getattr(fakes, kind)()
    examined = patient(kind)
    findings = _examined(examined)
    assert _failures(findings) == [], report(examined.site.origin, findings)
    good = {finding.what for finding in findings if finding.level == "ok"}
    expected = {
        "endpoint",
        "worker",
        "run directory",
        "old endpoint",
        "address",
        "ports",
        "answer",
        "trial",
        "shared files",
        "clock",
        "worker version",
        "way back",
        "cores",
    }
    assert expected <= good
    run = examined.rendering.home / ".fitserve" / "run"
    assert list(run.iterdir()) == []


def test_the_local_site_is_examined_by_running_it_here(
    patient: Callable[..., Patient], fakes: Any
) -> None:
    examined = patient(
        "local",
        environment={"inherit": None, "venv": "~/venv"},
        network={"interface": None},
        node={"cores": None, "memory_gb": None},
    )
    findings = _examined(examined)
    assert _failures(findings) == [], report(examined.site.origin, findings)
    assert "way back" in {finding.what for finding in findings}


# how the machine is broken; which check fails, at which field, and what must be said
Breaker = tuple[str, str, dict[str, Any], str, str, str]
BROKEN: list[Breaker] = [
    # a scheduler's commands
    ("slurm", "-sbatch", {}, "commands", "scheduler.type", "sbatch"),
    ("pbspro", "-qstat", {}, "commands", "scheduler.type", "qstat"),
    ("torque", "-qdel", {}, "commands", "scheduler.type", "qdel"),
    ("slurm", "squeue=sleep 20", {"scheduler": {"cmd_timeout": 10}}, "answer",
     "scheduler.cmd_timeout", "no answer"),
    ("slurm", 'squeue=echo "Unable to contact slurm controller" >&2; exit 1', {}, "controller",
     "", "Unable to contact"),
    ("slurm", 'scontrol=echo "Slurmctld(primary) at head is DOWN"', {}, "controller", "", "DOWN"),
    ("pbspro", 'qstat=echo "cannot connect to server" >&2; exit 111', {}, "server", "",
     "cannot connect"),
    # partitions and queues
    ("slurm", "", {"scheduler": {"partition": "fast"}}, "partition", "scheduler.partition",
     "debug, long"),
    ("slurm", "sinfo=echo debug", {}, "partition", "scheduler.partition", "debug"),
    ("slurm", ('scontrol=case "$1" in ping) echo is UP;; *) echo "PartitionName=debug State=DOWN '
     'MaxTime=UNLIMITED";; esac'), {}, "partition", "scheduler.partition", "State=DOWN"),
    ("slurm", ('scontrol=case "$1" in ping) echo is UP;; *) echo "PartitionName=debug State=UP '
     'MaxTime=01:00:00";; esac'), {}, "walltime", "blocks.walltime", "MaxTime=01:00:00"),
    ("slurm", ('scontrol=case "$1" in ping) echo is UP;; *) echo "PartitionName=debug State=UP '
     'MaxNodes=1 MaxTime=UNLIMITED";; esac'), {"blocks": {"nodes": 2}}, "nodes", "blocks.nodes",
     "MaxNodes=1"),
    ("slurm", ('scontrol=case "$1" in ping) echo is UP;; *) echo "PartitionName=debug State=UP '
     'AllowAccounts=cms MaxTime=UNLIMITED";; esac'), {"scheduler": {"account": "hep"}}, "account",
     "scheduler.account", "AllowAccounts=cms"),
    ("pbspro", "", {"scheduler": {"queue": "fast"}}, "queue", "scheduler.queue", "workq, debug"),
    ("torque", "", {"scheduler": {"queue": "fast"}}, "queue", "scheduler.queue", "batch"),
    ("pbspro", "", {"blocks": {"walltime": "50:00:00"}}, "walltime", "blocks.walltime",
     "48:00:00"),
    ("torque", "", {"blocks": {"walltime": "50:00:00"}}, "walltime", "blocks.walltime",
     "24:00:00"),
    ("pbspro", "", {"blocks": {"nodes": 11}}, "nodes", "blocks.nodes", "nodect = 10"),
    # accounts and QOS
    ("slurm", "", {"scheduler": {"account": "cms"}}, "account", "scheduler.account",
     "hep, physics"),
    ("slurm", "", {"scheduler": {"qos": "fast"}}, "QOS", "scheduler.qos", "normal, short"),
    ("slurm", "", {"scheduler": {"qos": "short"}}, "walltime", "blocks.walltime", "00:30:00"),
    # the shape of nodes
    ("slurm", "", {"node": {"cores": 16}, "workers": {"per_node": 1}}, "node shape", "node.cores",
     "8"),
    ("slurm", "", {"node": {"memory_gb": 64}}, "node shape", "node.memory_gb", "32000"),
    ("slurm", 'sinfo=case "$*" in *%P*) echo "debug*";; *) echo "8|32000|(null)|x|up";; esac',
     {"node": {"gpus": {"count": 1, "kind": "x", "request": "gres"}},
      "workers": {"device": "cuda12"}}, "GPUs", "scheduler.partition", "(null)"),
    ("slurm", "", {"scheduler": {"constraint": "knl"}}, "constraint", "scheduler.constraint",
     "haswell,ib"),
    # trial submissions
    ("slurm", 'sbatch=echo "error: Invalid account or account/partition combination" >&2; exit 1',
     {}, "trial", "scheduler.account", "Invalid account"),
    ("slurm", 'sbatch=echo "error: Invalid qos specification" >&2; exit 1', {}, "trial",
     "scheduler.qos", "Invalid qos"),
    ("slurm", 'sbatch=echo "error: Requested node configuration is not available" >&2; exit 1',
     {}, "trial", "node.cores", "not available"),
    ("slurm", 'sbatch=echo "error: strange" >&2; exit 1', {}, "trial", "scheduler", "strange"),
    ("pbspro", 'qsub=echo "qsub: Unknown queue" >&2; exit 170', {}, "trial", "scheduler.queue",
     "Unknown"),
    ("pbspro", 'qsub=echo "qsub: Request rejected. Reason: No account string" >&2; exit 1', {},
     "trial", "scheduler.account", "account"),
    ("pbspro", 'qsub=echo "qsub: Must use -l filesystems=" >&2; exit 1', {}, "trial",
     "scheduler.directives", "filesystems"),
    ("torque", 'qsub=echo "qsub: Job exceeds queue resource limits" >&2; exit 1', {}, "trial",
     "scheduler.queue", "exceeds"),
    # a job that starts and goes wrong
    ("slurm", 'sbatch=case "$*" in *--test-only*) ;; *) echo "refused" >&2; exit 1;; esac', {},
     "job", "scheduler", "refused"),
    ("slurm", 'sbatch=case "$*" in *--test-only*) ;; *) echo 7;; esac', {}, "shared files",
     "directories.run", "preflight"),
    ("slurm", "", {"environment": {"modules": ["python/9"]}}, "worker", "environment",
     "python/9"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "broken", "changes", "check", "field", "said"),
    BROKEN,
    ids=[f"{number}-{case[0]}-{case[3]}" for number, case in enumerate(BROKEN)],
)
def test_each_failure_is_found_with_its_evidence_and_field(  # noqa: PLR0913, PLR0917
    kind: str,
    broken: str,
    changes: dict[str, Any],
    check: str,
    field: str,
    said: str,
    patient: Callable[..., Patient],
    fakes: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    getattr(fakes, kind)()
    if broken.startswith("-"):
        fakes.remove(broken[1:])
    elif broken:
        name, _, script = broken.partition("=")
        fakes(name, script)
    if "sleep" in broken:
        monkeypatch.setattr("sitekit.doctor.machine._PATIENCE", 0.05)
    examined = patient(kind, **changes)
    if "sleep" in broken:
        examined = replace(examined, submit=False)
    failures = _failures(_examined(examined))
    matching = [one for one in failures if one.what == check and one.field == field]
    assert matching, report(examined.site.origin, failures)
    assert any(said in f"{one.cause} {one.evidence}" for one in matching), matching
    assert all(one.hint for one in matching)
    if field:
        assert f"{field}: " in report(examined.site.origin, matching)


def test_slow_commands_are_warned_of(patient: Callable[..., Patient], fakes: Any) -> None:
    fakes.slurm()
    fakes("squeue", "sleep 0.6")
    examined = patient(scheduler={"cmd_timeout": 10})
    # Less than the schema lets anyone ask for, so that the test need not wait.
    scheduler = msgspec.structs.replace(examined.site.scheduler, cmd_timeout=1)
    site = msgspec.structs.replace(examined.site, scheduler=scheduler)
    examined = replace(examined, site=site, submit=False)
    [finding] = [one for one in _examined(examined) if one.what == "answer"]
    assert finding.level == "warning"
    assert finding.hint == "cmd_timeout: 2"


def test_without_accounting_parsl_is_said_to_fall_back(
    patient: Callable[..., Patient], fakes: Any
) -> None:
    fakes.slurm()
    fakes("sacct", 'echo "Slurm accounting storage is disabled" >&2; exit 1')
    fakes("sacctmgr", 'echo "Slurm accounting storage is disabled" >&2; exit 1')
    findings = _examined(patient(scheduler={"qos": "normal"}))
    by_check = {finding.what: finding for finding in findings}
    assert by_check["accounting"].level == "warning"
    assert "squeue" in by_check["accounting"].cause
    assert by_check["account"].level == by_check["QOS"].level == "skipped"


def test_a_job_that_stays_queued_is_cancelled_and_said(
    patient: Callable[..., Patient], fakes: Any
) -> None:
    fakes.slurm()
    fakes("sbatch", 'case "$*" in *--test-only*) ;; *) echo "7;cluster" ;; esac')
    fakes("squeue", 'case "$*" in *--jobs=7*) echo "7|PENDING|Priority|" ;; esac')
    fakes("scancel", 'echo "$@" > "$0.asked"')
    examined = patient(seconds=0.4)
    [finding] = [one for one in _examined(examined) if one.what == "job"]
    assert finding.level == "warning"
    assert "queued Priority" in finding.evidence
    assert (fakes.directory / "scancel.asked").read_text().strip() == "7"


def test_a_scheduler_that_does_not_answer_has_not_ended_the_job(
    patient: Callable[..., Patient], fakes: Any
) -> None:
    fakes.slurm()
    fakes("sbatch", 'case "$*" in *--test-only*) ;; *) echo "7;cluster" ;; esac')
    fakes("squeue", 'case "$*" in *--jobs=7*) echo "no controller" >&2; exit 1 ;; esac')
    [finding] = [one for one in _examined(patient(seconds=0.4)) if one.what == "job"]
    assert finding.level == "warning"
    assert "does not answer: no controller" in finding.evidence


def test_pbs_without_history_fails_every_task(patient: Callable[..., Patient], fakes: Any) -> None:
    fakes.pbspro()
    text = (fakes.directory / "qstat").read_text()
    (fakes.directory / "qstat").write_text(text.replace('"job_history_enable": "True"', '"a": 1'))
    [finding] = [one for one in _failures(_examined(patient("pbspro"))) if "history" in one.what]
    assert "qmgr" in finding.hint


def test_an_openpbs_that_answers_for_one_of_two_jobs_is_found(
    patient: Callable[..., Patient], fakes: Any
) -> None:
    """openpbs/openpbs#2672: Parsl would take the others for finished, and submit for ever."""
    fakes.pbspro()
    text = (fakes.directory / "qstat").read_text()
    (fakes.directory / "qstat").write_text(text.replace("for job; do", 'for job in "$1"; do'))
    [finding] = [one for one in _failures(_examined(patient("pbspro"))) if one.what == "job status"]
    assert "1 of 2" in finding.cause
    assert finding.field == "blocks.max"
    assert (fakes.directory / "qdel.gone").read_text().split() == ["10.server", "11.server"]


def test_a_pbs_that_speaks_no_json_is_another(patient: Callable[..., Patient], fakes: Any) -> None:
    fakes.pbspro()
    fakes("qstat", "echo Server Max")
    failures = _failures(_examined(patient("pbspro")))
    assert {"job history", "queue", "job status"} <= {finding.what for finding in failures}


def test_a_torque_with_other_columns_is_found(patient: Callable[..., Patient], fakes: Any) -> None:
    fakes.torque()
    text = (fakes.directory / "qstat").read_text()
    (fakes.directory / "qstat").write_text(text.replace("$1 fitserve ada 0 H batch", "$1 H"))
    [finding] = [one for one in _failures(_examined(patient("torque"))) if one.what == "job status"]
    assert finding.field == "scheduler.type"


def test_trial_jobs_that_cannot_be_removed_are_named(
    patient: Callable[..., Patient], fakes: Any
) -> None:
    fakes.torque()
    fakes("qdel", "echo no >&2; exit 1")
    warnings = [one for one in _examined(patient("torque")) if one.level == "warning"]
    assert any(one.hint == "qdel 10.server" for one in warnings)


def test_jobs_of_an_earlier_endpoint_are_named(patient: Callable[..., Patient], fakes: Any) -> None:
    fakes.slurm()
    fakes(
        "squeue",
        'case "$*" in *--me*%j*)\n'
        'rest="|RUNNING|None|0:01|1|n1"\n'
        'echo "5|parsl.fitserve-mine-HighThroughputExecutor.block-0.1$rest"\n'
        'echo "6|parsl.fitserve-mine-2-HighThroughputExecutor.block-0$rest"\n'
        'echo "7|other$rest" ;; esac',
    )
    [finding] = [one for one in _examined(patient()) if one.what == "old jobs"]
    assert (finding.level, finding.evidence) == ("warning", "5")
    assert "scancel 5" in finding.hint


# Kubernetes


def test_the_directories_of_a_pod_are_not_made_on_this_machine(
    patient: Callable[..., Patient], fakes: Any, home: Path
) -> None:
    fakes.kubernetes()
    inside = {name: str(home / "pod" / name) for name in ("run", "cache", "scratch")}
    _examined(patient("kubernetes", directories=inside))
    assert not (home / "pod").exists()


def _cluster(fakes: Any, old: str = "", new: str = "") -> None:
    fakes.kubernetes()
    path = fakes.directory / "kubectl"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_cluster_in_order_has_no_failures(patient: Callable[..., Patient], fakes: Any) -> None:
    _cluster(fakes)
    examined = patient(
        "kubernetes", kubernetes={"pull_secret": "registry", "service_account": "workers"}
    )
    findings = _examined(examined)
    assert _failures(findings) == [], report(examined.site.origin, findings)
    good = {finding.what for finding in findings if finding.level == "ok"}
    assert {"cluster", "rights", "serviceaccount", "secret", "quota", "worker version"} <= good


@pytest.mark.parametrize(
    ("old", "new", "base", "check", "field"),
    [
        ("echo ok ;;", "echo refused >&2; exit 1 ;;", "kubernetes", "cluster", ""),
        ('echo namespace/fitserve ;;\n                "auth can-i"*) echo yes ;;',
         'echo "(NotFound)" >&2; exit 1 ;;\n "auth can-i"*) echo no ;;', "kubernetes",
         "namespace", "kubernetes.namespace"),
        ("echo yes ;;", "echo no ;;", "kubernetes", "rights", "kubernetes.namespace"),
        ("echo serviceaccount/fitserve-worker ;;", 'echo "(NotFound)" >&2; exit 1 ;;',
         "kubernetes", "serviceaccount", "kubernetes.service_account"),
        ('"nvidia.com/gpu": "4"', '"cpu": "4"', "kubernetes-gpu", "GPUs", "node.gpus.count"),
        ("exec python3 - ;;", 'echo "ErrImagePull" >&2; exit 1 ;;', "kubernetes", "pod",
         "kubernetes.image"),
        ("exec python3 - ;;", "echo nothing ;;", "kubernetes", "worker", "environment"),
    ],
)  # fmt: skip
def test_each_failure_of_a_cluster_is_found(
    old: str, new: str, base: str, check: str, field: str,
    patient: Callable[..., Patient], fakes: Any,
) -> None:  # fmt: skip
    _cluster(fakes, old, new)
    failures = _failures(_examined(patient(base, kubernetes={"service_account": "workers"})))
    assert (check, field) in {(one.what, one.field) for one in failures}


def test_a_namespace_that_deploying_will_make_is_warned_of(
    patient: Callable[..., Patient], fakes: Any
) -> None:
    _cluster(fakes, "echo namespace/fitserve ;;", 'echo "(NotFound)" >&2; exit 1 ;;')
    findings = _examined(patient("kubernetes"))
    assert _failures(findings) == []
    found = {one.what: one for one in findings}
    assert (found["namespace"].level, found["rights"].level) == ("warning", "ok")
    assert "deploying creates it" in found["namespace"].hint
    # There is nowhere to run a worker yet.
    assert found["pod"].level == "skipped"


@pytest.mark.parametrize("hard", ["6Gi", "6G"])
def test_a_quota_that_is_too_small_is_warned_of(
    patient: Callable[..., Patient], fakes: Any, hard: str
) -> None:
    _cluster(fakes, '"limits.memory": "100Gi"', f'"limits.memory": "{hard}"')
    [finding] = [one for one in _examined(patient("kubernetes")) if one.what == "quota"]
    assert finding.level == "warning"
    assert f"limits.memory: 24 of {hard}" in finding.evidence


def test_without_kubectl_nothing_else_is_asked(patient: Callable[..., Patient], fakes: Any) -> None:
    failures = _failures(_examined(patient("kubernetes")))
    assert failures[0].what == "commands"


# this machine


def _machine(patient: Patient) -> dict[str, Check]:
    return {finding.what: finding for finding in machine_module.look(patient)}


def test_an_old_or_broken_endpoint_is_found(
    patient: Callable[..., Patient], fakes: Any, home: Path
) -> None:
    command = home / "endpoint" / "bin" / "globus-compute-endpoint"
    command.write_text("#!/bin/bash\necho Globus Compute Endpoint: 2.4.0\n")
    finding = _machine(patient())["endpoint"]
    assert finding.level == "failure"
    assert "2.4.0" in finding.cause
    assert "4.19.0" in finding.cause
    command.write_text("#!/bin/bash\necho no module >&2; exit 1\n")
    assert "no module" in _machine(patient())["endpoint"].evidence
    command.unlink()
    assert _machine(patient())["endpoint"].level == "warning"


def test_a_worker_of_another_version_is_found(
    patient: Callable[..., Patient], fakes: Any, home: Path
) -> None:
    python = home / "venv" / "bin" / "python3"
    python.write_text("#!/bin/bash\necho 0.0.9\n")
    finding = _machine(patient())["worker"]
    assert finding.level == "failure"
    assert "0.0.9" in finding.cause
    python.write_text("#!/bin/bash\necho PackageNotFoundError >&2; exit 1\n")
    assert "PackageNotFoundError" in _machine(patient())["worker"].evidence


def test_a_missing_image_is_found(patient: Callable[..., Patient], fakes: Any, home: Path) -> None:
    changes = {"venv": None, "container": {"type": "apptainer", "image": "~/w-{version}.sif"}}
    finding = _machine(patient(environment=changes))["image"]
    assert (finding.level, finding.field) == ("failure", "environment.container.image")
    assert f"w-{__version__}.sif" in finding.evidence
    (home / f"w-{__version__}.sif").write_bytes(b"x")
    assert _machine(patient(environment=changes))["image"].level == "ok"


def test_a_run_directory_that_cannot_be_used_is_found(
    patient: Callable[..., Patient], fakes: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").write_text("")
    finding = _machine(patient(directories={"run": "~/file/run"}))["run directory"]
    assert (finding.level, finding.field) == ("failure", "directories.run")
    finding = _machine(patient(directories={"run": "$NOT_SET_HERE/run"}))["run directory"]
    assert "variable" in finding.cause
    usage = machine_module.shutil.disk_usage(home)
    monkeypatch.setattr(
        machine_module.shutil, "disk_usage", lambda _: type(usage)(usage.total, usage.used, 1000)
    )
    finding = _machine(patient())["run directory"]
    assert "0.0 GiB left" in finding.cause


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("/dev/sda 100 1000 1100 0 5 0 0 0", "ok"),
        ("/dev/sda 1050 1000 1100 0 5 0 0 0", "warning"),
        ("/dev/sda 1100* 1000 1100 0 5 0 0 0", "failure"),
        ("nothing here", "skipped"),
    ],
)
def test_a_quota_is_read(
    patient: Callable[..., Patient], fakes: Any, line: str, level: str
) -> None:
    fakes(
        "quota", f'echo "Disk quotas for user ada:"\necho " Filesystem blocks quota"\necho "{line}"'
    )
    assert _machine(patient())["disk quota"].level == level


def test_credentials_that_others_can_read_are_found(
    patient: Callable[..., Patient], fakes: Any, home: Path
) -> None:
    path = home / ".config" / "fitserve" / "fitserve-mine.env"
    path.parent.mkdir(parents=True)
    path.write_text("A=b\n")
    path.chmod(0o644)
    finding = _machine(patient())["credentials"]
    assert finding.level == "failure"
    assert "chmod 600" in finding.hint
    path.chmod(0o600)
    assert _machine(patient())["credentials"].level == "ok"


def test_what_is_left_of_an_endpoint_is_found(
    patient: Callable[..., Patient], fakes: Any, home: Path
) -> None:
    pid = home / ".globus_compute" / "fitserve-mine" / "daemon.pid"
    pid.parent.mkdir(parents=True)
    pid.write_text("999999999")
    finding = _machine(patient())["old endpoint"]
    assert finding.level == "warning"
    assert finding.hint == f"rm {pid}"
    pid.write_text(str(os.getpid()))
    assert _machine(patient())["old endpoint"].level == "ok"
    pid.unlink()
    words = ["process_worker_pool", f"--logdir={home}/run/fitserve-mine-HighThroughputExecutor"]
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *words])
    other = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", words[0], f"{home}/fitserve-mine2/x"]
    )
    try:
        time.sleep(0.2)
        finding = _machine(patient())["old processes"]
        assert finding.hint == f"kill {orphan.pid}"
    finally:
        for process in (orphan, other):
            process.kill()
            process.wait()


# the network


def test_a_missing_interface_is_found_with_those_that_are_there(
    patient: Callable[..., Patient], fakes: Any
) -> None:
    fakes.slurm()
    failures = _failures(_examined(patient(network={"interface": "ib7"})))
    [finding] = [one for one in failures if one.what == "address"]
    assert "lo 127.0.0.1" in finding.evidence
    assert finding.field == "network.interface"


def test_addresses_are_those_of_this_machine(make_site: Callable[..., Site]) -> None:
    assert interfaces()["lo"] == "127.0.0.1"
    assert address_of(make_site(network={"interface": "lo"})) == "127.0.0.1"
    assert address_of(make_site(network={"interface": None, "address": "10.1.2.3"})) == "10.1.2.3"
    assert address_of(make_site(network={"interface": "no0"})) is None


def test_an_address_of_another_machine_is_warned_of(
    patient: Callable[..., Patient], fakes: Any
) -> None:
    fakes.slurm()
    changes = {"interface": None, "address": "192.0.2.77"}
    findings = _examined(replace(patient(network=changes), submit=False))
    [finding] = [one for one in findings if one.what == "address"]
    assert (finding.level, finding.field) == ("warning", "network.address")


def test_a_taken_port_is_found(patient: Callable[..., Patient], fakes: Any) -> None:
    fakes.slurm()
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        port = listener.getsockname()[1]
        failures = _failures(_examined(patient(network={"worker_port": port})))
    assert ("ports", "network.worker_port") in {(one.what, one.field) for one in failures}


def test_a_node_that_cannot_reach_back_is_found(
    patient: Callable[..., Patient], fakes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a firewall: the node dials a port at which it gets no answer."""
    fakes.slurm()
    with socket.socket() as closed:
        closed.bind(("", 0))

        class Firewalled(Answering):
            def __enter__(self) -> Self:
                super().__enter__()
                self.port = closed.getsockname()[1]
                return self

        monkeypatch.setattr(preflight, "Answering", Firewalled)
        failures = _failures(_examined(patient()))
    [finding] = failures
    assert (finding.what, finding.field) == ("way back", "network.interface")
    assert "refused" in finding.evidence


@pytest.fixture
def proxy() -> Iterator[Callable[[bytes], int]]:
    """Return a function that starts a proxy with one answer to everything."""
    listeners = []

    def start(answer: bytes) -> int:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listeners.append(listener)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(500)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        return int(listener.getsockname()[1])

    yield start
    for listener in listeners:
        listener.close()


def _internet(patient: Patient, *hosts: tuple[str, int]) -> list[Check]:
    from sitekit.doctor import network

    asked = Patient(patient.site, patient.rendering, hosts=hosts, submit=False)
    return [finding for finding in network.look(asked) if finding.what == "internet"]


def test_the_way_out_is_tried_directly_and_through_a_proxy(
    patient: Callable[..., Patient], fakes: Any, proxy: Callable[[bytes], int]
) -> None:
    there = proxy(b"")
    [finding] = _internet(patient(), ("127.0.0.1", there))
    assert finding.level == "ok"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        [finding] = _internet(patient(), ("127.0.0.1", closed.getsockname()[1]))
    assert (finding.level, finding.field) == ("failure", "network.proxy")
    assert "refused" in finding.evidence
    for answer, level in (
        (b"HTTP/1.1 200 OK\r\n\r\n", "ok"),
        (b"HTTP/1.1 403 No\r\n\r\n", "failure"),
    ):
        address = f"http://127.0.0.1:{proxy(answer)}"
        [finding] = _internet(patient(network={"proxy": {"https": address}}), ("globus.test", 443))
        assert finding.level == level
        assert level == "ok" or "403" in finding.evidence


def test_messages_need_a_way_without_the_proxy(
    patient: Callable[..., Patient], fakes: Any, proxy: Callable[[bytes], int]
) -> None:
    """The endpoint's pika knows of no proxy: one that takes AMQPS is no way for it."""
    from sitekit.doctor import network

    address = f"http://127.0.0.1:{proxy(b'HTTP/1.1 200 OK' + bytes([13, 10, 13, 10]))}"
    plain, behind = patient(), patient(network={"proxy": {"https": address}})

    def looked(of: Patient, port: int) -> Check:
        asked = replace(of, hosts=(), messages=("127.0.0.1", port), submit=False)
        [finding] = [one for one in network.look(asked) if one.what == "internet"]
        return finding

    there = proxy(b"")
    assert looked(plain, there).level == looked(behind, there).level == "ok"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        for of, said in ((plain, "no task arrives"), (behind, "only reached through the proxy")):
            finding = looked(of, port)
            assert (finding.level, finding.field) == ("failure", "endpoint.amqp_port")
            assert said in finding.cause
            assert "refused" in finding.evidence
            assert "443 or 5671" in finding.hint


def test_a_listener_answers_what_it_is_told() -> None:
    with Answering(None) as listener:
        assert listener.port is not None
        with socket.create_connection(("127.0.0.1", listener.port), timeout=5) as connection:
            connection.sendall(b"hello\n")
            assert connection.recv(100) == b"hello\n"


@pytest.mark.parametrize(("skew", "level"), [(0, "ok"), (-30, "warning"), (600, "failure")])
def test_clocks_are_compared(skew: float, level: str) -> None:
    assert clock(1e9 + skew, 1e9, "node7").level == level


# what a node tells


def _probe(**changes: Any) -> dict[str, Any]:
    found = {
        "nonce": "n",
        "host": "node7",
        "time": time.time(),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}.1",
        "executable": "/usr/bin/python3",
        "cpus": 8,
        "memory_gb": 16.0,
        "packages": {"fitserve-worker": __version__, "parsl": "2026.1"},
        "back": "",
        "gpus": [{"name": "V100", "driver": "580.65"}],
        "visible": "0",
    }
    return {**found, **changes}


@pytest.mark.parametrize(
    ("base", "changes", "check", "field", "level"),
    [
        ("slurm", {"packages": {"parsl": "1"}}, "worker version", "environment", "failure"),
        ("slurm", {"packages": {"fitserve-worker": "0.0.1", "parsl": "1"}}, "worker version",
         "environment", "failure"),
        ("slurm", {"packages": {"fitserve-worker": __version__}}, "worker pool", "environment",
         "failure"),
        ("slurm", {"python": "3.6.8"}, "Python", "environment", "warning"),
        ("slurm", {"back": "10.0.0.1:54000: timed out"}, "way back", "network.interface",
         "failure"),
        ("slurm", {"cpus": 1}, "cores", "node.cores", "failure"),
        ("slurm", {"time": 0.0}, "clock", "", "failure"),
        ("slurm", {"nonce": "other"}, "worker", "environment", "failure"),
        ("slurm-gpu", {"gpus": []}, "GPUs", "node.gpus.request", "failure"),
        ("slurm-gpu", {"gpus": [{"name": "K80", "driver": "470.1"}]}, "driver", "workers.device",
         "failure"),
        ("kubernetes", {"packages": {}}, "worker version", "kubernetes.image", "failure"),
    ],
)  # fmt: skip
def test_what_a_node_tells_is_judged(
    make_site: Callable[..., Site], tmp_path: Path, base: str, changes: dict[str, Any],
    check: str, field: str, level: str,
) -> None:  # fmt: skip
    patient = Patient(make_site(base), Rendering(__version__, tmp_path))
    findings = list(read_probe(patient, _probe(**changes), "n", shared=True))
    assert (check, field, level) in {(one.what, one.field, one.level) for one in findings}
    in_order = list(read_probe(patient, _probe(), "n", shared=True))
    assert {one.level for one in in_order} == {"ok"}


def test_cuda_13_needs_a_newer_driver(make_site: Callable[..., Site], tmp_path: Path) -> None:
    patient = Patient(
        make_site("slurm-gpu", workers={"device": "cuda13"}),
        Rendering(__version__, tmp_path),
    )
    old = _probe(gpus=[{"name": "A100", "driver": "550.1"}])
    [finding] = [one for one in read_probe(patient, old, "n", shared=True) if one.what == "driver"]
    assert "580" in finding.cause
    assert finding.hint == "device: cuda12"


# the command


def test_times_of_slurm_are_read() -> None:
    assert limit_seconds("1-12:30:00") == 131400
    assert limit_seconds("12:30:00") == 45000
    assert limit_seconds("90") == 5400
    assert limit_seconds("infinite") is None


def test_a_retired_machine_is_not_examined(tmp_path: Path) -> None:
    site, _ = load_site("bluewaters")
    [finding] = examine(Patient(site, Rendering("1", tmp_path)))
    assert finding.level == "failure"


def test_the_command_reports_and_ends_with_the_class_of_what_failed(
    write_site: Callable[..., Path],
    home: Path,
    fakes: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fakes.slurm()
    path = write_site(
        "slurm",
        environment={"container": None, "venv": "~/venv"},
        network={"interface": "ib7"},
        endpoint={"venv": "~/endpoint"},
    )
    with pytest.raises(BackendError, match="keep fits from running") as failed:
        commands.main(["doctor", str(path), "--direct", "--no-job"], standalone_mode=False)
    assert failed.value.exit_code == 5
    said = capsys.readouterr().out
    line = path.read_text().splitlines().index("  interface: ib7") + 1
    assert f"mine.yaml:{line}: network.interface" in said
    assert "skipped  job: no job was asked for" in said
    with pytest.raises(BackendError):
        commands.main(
            ["doctor", str(path), "--direct", "--no-job", "--json"], standalone_mode=False
        )
    rows = json.loads(capsys.readouterr().out)
    [row] = [row for row in rows if row["check"] == "address"]
    assert row["line"] == line


def test_findings_as_data_name_their_line(make_site: Callable[..., Site]) -> None:
    site = make_site()
    [row] = as_json(site.origin, [Check("a", "failure", "b", field="network.interface")])
    assert row["file"].endswith("mine.yaml")
    assert row["line"] > 1
