"""Each rule between fields catches what it is for, at its field, and says what to write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sitekit.derive import derive
from sitekit.load import load_site, shipped_sites
from sitekit.problems import SiteError
from sitekit.rules import check_site, require_valid

if TYPE_CHECKING:
    from collections.abc import Callable

    from sitekit.site import Site

SHARED = {"container": {"image": "/opt/fitserve/worker.sif"}}
UUID = "11111111-2222-4333-8444-555555555555"


@pytest.mark.parametrize("name", shipped_sites())
def test_shipped_sites_are_in_order(name: str) -> None:
    site, _ = load_site(name)
    problems = check_site(site)
    assert [problem for problem in problems if problem.level == "error"] == []
    if site.status != "retired":
        assert problems == []


# base, changes, field of the problem, words of it, words of what to write
WRONG: list[tuple[str, dict[str, Any], str, str, str]] = [
    # times
    ("slurm", {"blocks": {"walltime": None}}, "blocks.walltime", "time limit", "01:00:00"),
    ("slurm", {"blocks": {"walltime": "00:30:00"}}, "blocks.walltime", "longest task", "01:02:00"),
    ("slurm", {"blocks": {"walltime": "02:00:30"}}, "blocks.walltime", "whole minutes", "02:01:00"),
    ("local", {"blocks": {"walltime": "01:00:00"}}, "blocks.walltime", "no time limit", "remove"),
    ("slurm", {"limits": {"walltime": "01:00:00"}}, "blocks.walltime", "01:00:00", "01:00:00"),
    # numbers of blocks
    ("slurm", {"blocks": {"min": 5}}, "blocks.min", "at most blocks.max", "min: 0"),
    ("slurm", {"blocks": {"init": 9}}, "blocks.init", "from blocks.min", "init: 0"),
    ("slurm", {"limits": {"nodes": 2}, "user_options": None}, "blocks.max", "2 nodes", "max: 2"),
    ("slurm", {"limits": {"jobs": 3}, "user_options": None}, "blocks.max", "3 jobs", "max: 3"),
    ("slurm", {"limits": {"workers": 20}}, "blocks.max", "found 32", "max: 2"),
    ("kubernetes", {"blocks": {"nodes": 2}}, "blocks.nodes", "expected 1", "nodes: 1"),
    # nodes and workers
    ("slurm", {"node": {"cores": None}}, "node.cores", "expected the cores", "cores"),
    ("slurm", {"workers": {"per_node": 8, "threads": 2}}, "workers.threads", "8 x 2", "per_node"),
    ("slurm", {"workers": {"per_node": 16}}, "workers.per_node", "16 x 1", "per_node: 8"),
    (
        "slurm",
        {"workers": {"per_node": 8, "memory_gb": 4}},
        "workers.per_node",
        "16 GiB",
        "per_node: 4",
    ),
    ("kubernetes", {"node": {"cores": 2}}, "node.cores", "kubernetes.cpu", "nothing"),
    ("local", {"workers": {"threads": 2}}, "workers.threads", "node.cores", "cores"),
    # GPUs
    ("slurm", {"workers": {"device": "cuda12"}}, "workers.device", "node.gpus", "gpus"),
    ("slurm-gpu", {"workers": {"per_node": 2}}, "workers.per_node", "one worker", "per_node: 1"),
    ("slurm-gpu", {"node": {"gpus": {"count": 4}}, "workers": {"per_node": 2}},
     "workers.per_node", "each of the 4 GPUs", "per_node: 4"),
    ("slurm-gpu", {"node": {"gpus": {"request": "ngpus"}}}, "node.gpus.request", "slurm", "gpus"),
    ("slurm-gpu", {"node": {"gpus": {"request": None}}}, "node.gpus.request", "missing", "gpus"),
    ("kubernetes-gpu", {"node": {"gpus": {"request": "gres"}}}, "node.gpus.request", "kubernetes",
     "nvidia.com/gpu"),
    ("slurm-gpu", {"user_options": {"workers_per_node": {"minimum": 1, "maximum": 1}}},
     "user_options.workers_per_node", "GPU", "remove"),
    # the scheduler's fields
    ("slurm", {"scheduler": {"exclusive": None}}, "scheduler.exclusive", "whole nodes", "false"),
    ("slurm", {"scheduler": {"queue": "x"}}, "scheduler.queue", "no such thing", "partition"),
    ("pbspro", {"scheduler": {"partition": "x"}}, "scheduler.partition", "no such", "queue"),
    ("pbspro", {"scheduler": {"qos": "x"}}, "scheduler.qos", "it is for slurm", "nothing"),
    ("torque", {"scheduler": {"select": ["a=b"]}}, "scheduler.select", "pbspro", "nothing"),
    ("local", {"scheduler": {"account": "x"}}, "scheduler.account", "no such thing", "nothing"),
    ("slurm", {"scheduler": {"directives": ["--time=10"]}}, "scheduler.directives.0", "own field",
     "blocks.walltime"),
    ("slurm", {"scheduler": {"directives": ["-p gpu"]}}, "scheduler.directives.0", "own field",
     "scheduler.partition"),
    ("slurm", {"scheduler": {"directives": ["--gres=gpu:1"]}}, "scheduler.directives.0",
     "own field", "node.gpus"),
    ("pbspro", {"scheduler": {"directives": ["-l walltime=01:00:00"]}}, "scheduler.directives.0",
     "own field", "blocks.walltime"),
    ("torque", {"scheduler": {"directives": ["-q x"]}}, "scheduler.directives.0", "own field",
     "scheduler.queue"),
    ("pbspro", {"scheduler": {"select": ["ngpus=1"]}}, "scheduler.select.0", "own field",
     "node.gpus"),
    # the launcher
    ("torque", {"scheduler": {"launcher": None}},
     "scheduler.launcher", "default differs", "single"),
    ("slurm", {"scheduler": {"launcher": {"type": "aprun"}}}, "scheduler.launcher.type", "slurm",
     "srun"),
    ("slurm", {"blocks": {"nodes": 2}}, "scheduler.launcher.type", "all 2 nodes", "srun"),
    ("pbspro", {"user_options": {"nodes_per_block": {"minimum": 1, "maximum": 4}}},
     "scheduler.launcher.type", "all 4 nodes", "mpiexec"),
    ("polaris", {"scheduler": {"launcher": {"bind_option": None}}},
     "scheduler.launcher.bind_option", "binding", "--bind-to"),
    ("slurm", {"scheduler": {"launcher": {"bind_option": "--bind-to"}}},
     "scheduler.launcher.bind_option", "no such", "nothing"),
    # the network
    ("slurm", {"network": {"interface": None}}, "network", "found none", "interface"),
    ("slurm", {"network": {"address": "10.0.0.1"}},
     "network", "interface and address", "interface"),
    ("pbspro", {"network": {"interface": None, "method": "hostname"}}, "network.method", "several",
     "interface"),
    ("slurm", {"network": {"interface": "lo"}}, "network.interface", "other nodes", "interface"),
    ("slurm", {"network": {"interface": None, "address": "127.0.0.1"}}, "network.address",
     "other nodes", "interface"),
    ("slurm", {"network": {"lost_after_seconds": 40}}, "network.lost_after_seconds", "60 s", "120"),
    ("slurm", {"network": {"encrypted": False}}, "network.encrypted", "expected true", "true"),
    ("kubernetes", {"network": {"encrypted": True, "encrypted_reason": None}}, "network.encrypted",
     "never connect", "false"),
    ("kubernetes", {"network": {"encrypted_reason": None}}, "network.encrypted_reason", "why",
     "NetworkPolicy"),
    ("slurm", {"network": {"encrypted_reason": "because it is slow here"}},
     "network.encrypted_reason", "it is on", "nothing"),
    # the environment
    ("slurm", {"environment": {"venv": "~/venv"}},
     "environment", "venv and container", "container"),
    ("slurm", {"environment": {"container": None}}, "environment", "found none", "container"),
    ("slurm", {"environment": {"container": None, "inherit": True}}, "environment.inherit",
     "compute nodes", "venv"),
    ("slurm", {"environment": {"container": {"image": None}}}, "environment.container.image",
     "the image", "SIF"),
    ("kubernetes", {"environment": {"container": {"type": "docker", "image": "a:1"}}},
     "environment.container.type", "Kubernetes", "kubernetes.image"),
    ("kubernetes", {"environment": {"venv": "/opt/x"}}, "environment", "kubernetes.image", ""),
    ("kubernetes", {"kubernetes": None}, "kubernetes", "where and how", "namespace"),
    ("slurm", {"kubernetes": {"namespace": "a", "image": "a:1", "cpu": {"request": 1, "limit": 1},
     "memory": {"request": "1Gi", "limit": "1Gi"}}}, "kubernetes", "nothing for slurm", "nothing"),
    ("torque", {"environment": {"container": {"type": "podman", "image": "a:1"}}},
     "environment.container.type", "torque", "apptainer"),
    ("kubernetes", {"kubernetes": {"image": "fitserve/worker"}}, "kubernetes.image", "version",
     "sha256"),
    ("kubernetes", {"kubernetes": {"image": "fitserve/worker:latest"}}, "kubernetes.image",
     "version", "sha256"),
    ("slurm", {"environment": {"container": {"image": "docker://host:5000/fit"}}},
     "environment.container.image", "version", "sha256"),
    ("kubernetes", {"kubernetes": {"cpu": {"request": 4}}}, "kubernetes.cpu.request", "limit", "1"),
    ("kubernetes", {"kubernetes": {"memory": {"request": "8Gi"}}}, "kubernetes.memory.request",
     "limit", "3Gi"),
    # directories
    ("slurm", {"directories": {"run": "/tmp/run"}},  # noqa: S108
     "directories.run", "shared", "$HOME"),
    ("frontera", {"directories": {"scratch": "/tmp/x"}},  # noqa: S108
     "directories.scratch", "each of 2", "scratch: /tmp"),
    # who may use it
    ("slurm", {"access": {"mode": "multi-user"}}, "access", "found none", "domains"),
    ("slurm", {"access": {"mode": "multi-user", "domains": ["a.org"]}}, "endpoint.venv",
     "absolute", "/opt"),
    ("slurm", {"access": {"mode": "multi-user", "domains": ["a.org"]}},
     "environment.container.image", "same for all users", "/opt/fitserve/worker-{version}.sif"),
    ("slurm", {"access": {"domains": ["a.org"]}}, "access.domains", "single-user", "multi-user"),
    ("slurm", {"access": {"pam_service": "x"}}, "access.pam_service", "single-user", "multi-user"),
    ("kubernetes", {"access": {"mode": "multi-user", "domains": ["a.org"]}}, "access.mode", "pod",
     "single-user"),
    ("slurm", {"access": {"admins": [UUID]}}, "access.admins", "subscription", "subscription"),
    ("slurm", {"access": {"audit_log": "/a"}}, "access.audit_log", "high_assurance", "true"),
    ("slurm", {"access": {"high_assurance": True, "subscription": UUID}},
     "access.authentication_policy", "high_assurance", "authentication_policy"),
    ("kubernetes", {"access": {"high_assurance": True, "subscription": UUID,
     "authentication_policy": UUID}}, "access.high_assurance", "encrypted", "true"),
    ("slurm", {"access": {"mode": "multi-user", "domains": ["a.org"]},
     "network": {"worker_port": 54000}}, "network.worker_port", "multi-user", "54000-55000"),
    ("slurm", {"access": {"mode": "multi-user", "domains": ["a.org"]}}, "contact", "mailto:",
     "contact: mailto:"),
    ("slurm", {"access": {"mode": "multi-user", "domains": ["a.org"],
     "function_sharing": "private"}}, "access.function_sharing", "could not call", "public"),
    ("slurm", {"login": {"ask_scheduler": True}}, "login.ask_scheduler",
     "login.host", "host:"),
    ("local", {"login": {"ask_scheduler": True, "host": "a.org"}}, "login.ask_scheduler",
     "found local", "remove"),
    # what users may set
    ("local", {"user_options": {"account": {}}}, "user_options.account", "no such", "remove"),
    ("slurm", {"user_options": {"queue": {"choices": ["a"]}}}, "user_options.queue", "slurm",
     "remove"),
    ("slurm", {"scheduler": {"account": "one"}, "user_options": {"account": {"choices": ["two"]}}},
     "user_options.account.choices", "own one", "[one, two]"),
    ("slurm", {"user_options": {"max_blocks": {"minimum": 9, "maximum": 5}}},
     "user_options.max_blocks.minimum", "at most", "5"),
    ("slurm", {"user_options": {"max_blocks": {"minimum": 5}}}, "user_options.max_blocks",
     "own 4", "minimum: 4"),
    ("slurm", {"user_options": {"walltime_minutes": {"minimum": 20}}},
     "user_options.walltime_minutes.minimum", "00:32:00", "33"),
    ("slurm", {"limits": {"walltime": "10:00:00"}}, "user_options.walltime_minutes.maximum",
     "10:00:00", "600"),
    ("slurm", {"limits": {"nodes": 8}}, "user_options.max_blocks.maximum", "8 nodes", "maximum: 8"),
    ("slurm", {"limits": {"jobs": 8}}, "user_options.max_blocks.maximum", "8 jobs", "maximum: 8"),
    ("slurm", {"user_options": {"workers_per_node": {"minimum": 1, "maximum": 99}}},
     "user_options.workers_per_node.maximum", "8 cores", "maximum: 8"),
    ("local", {"user_options": {"workers_per_node": {"minimum": 1, "maximum": 2}}},
     "user_options.workers_per_node", "node.cores", "cores"),
    ("slurm", {"blocks": {"min": 2}}, "user_options.max_blocks.minimum", "blocks.min", "2"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("base", "changes", "field", "expected", "write"),
    WRONG,
    ids=[f"{base}-{field}-{number}" for number, (base, _, field, _, _) in enumerate(WRONG)],
)
def test_a_rule_catches_what_is_wrong(
    make_site: Callable[..., Site],
    base: str,
    changes: dict[str, Any],
    field: str,
    expected: str,
    write: str,
) -> None:
    site = make_site(base, **changes)
    with pytest.raises(SiteError) as refused:
        require_valid(site)
    assert refused.value.exit_code == 3
    found = [one for one in refused.value.problems if one.field == field]
    assert found, str(refused.value)
    assert any(expected in one.expected for one in found), [one.expected for one in found]
    assert any(write in one.write for one in found), [one.write for one in found]
    assert all(one.line >= 1 and one.file.endswith(".yaml") for one in found)


WARNED: list[tuple[str, dict[str, Any], str, str]] = [
    ("slurm", {"blocks": {"walltime": "00:45:00"}}, "blocks.walltime", "takes tasks for its first"),
    ("slurm", {"node": {"gpus": {"count": 1, "kind": "x", "request": "gres"}}}, "node.gpus", "CPU"),
    ("frontera", {"scheduler": {"directives": []}}, "scheduler.directives", "never replaces"),
    ("torque", {"scheduler": {"directives": []}}, "scheduler.directives", "ppn=1"),
    ("slurm", {"environment": {"container": {"image": "docker://fitserve/worker:1"}}},
     "environment.container.image", "every start"),
    ("slurm", {"access": {"mode": "multi-user", "domains": ["a.org"]},
     "contact": "mailto:a@a.org", "endpoint": {"venv": "/opt/f"},
     "environment": SHARED}, "access.authentication_policy", "anyone"),
    ("slurm", {"status": "retired"}, "status", "blueprint"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "changes", "field", "expected"), WARNED)
def test_what_may_be_meant_is_a_warning(
    make_site: Callable[..., Site], base: str, changes: dict[str, Any], field: str, expected: str
) -> None:
    problems = require_valid(make_site(base, **changes))
    [problem] = [one for one in problems if one.field == field]
    assert problem.level == "warning"
    assert expected in problem.expected


def test_every_problem_of_a_file_is_said_at_once(make_site: Callable[..., Site]) -> None:
    site = make_site(
        "slurm",
        blocks={"walltime": "00:10:00", "min": 9},
        network={"interface": None},
        scheduler={"exclusive": None},
    )
    with pytest.raises(SiteError) as refused:
        require_valid(site)
    fields = {problem.field for problem in refused.value.problems}
    assert {"blocks.walltime", "blocks.min", "network", "scheduler.exclusive"} <= fields


def test_what_is_written_puts_it_right(make_site: Callable[..., Site]) -> None:
    """Take the advice for a walltime literally: it must then pass without a warning."""
    with pytest.raises(SiteError) as refused:
        require_valid(make_site("slurm", blocks={"walltime": "00:30:00"}, user_options=None))
    [problem] = [one for one in refused.value.problems if one.field == "blocks.walltime"]
    advised = problem.write.partition('"')[2].rstrip('"')
    assert require_valid(make_site("slurm", blocks={"walltime": advised}, user_options=None)) == []


@pytest.mark.parametrize(
    ("base", "changes", "workers", "threads"),
    [
        ("slurm", {}, 8, 1),
        ("slurm", {"workers": {"threads": 2}}, 4, 2),
        ("slurm", {"workers": {"per_node": 2}}, 2, 4),
        ("slurm", {"workers": {"memory_gb": 4}}, 4, 2),
        ("slurm-gpu", {}, 1, 8),
        ("polaris", {}, 4, 8),
        ("kubernetes", {}, 1, 1),
        ("local", {}, None, None),
    ],
)
def test_workers_follow_from_the_node(
    make_site: Callable[..., Site],
    base: str,
    changes: dict[str, Any],
    workers: int | None,
    threads: int | None,
) -> None:
    derived = derive(make_site(base, **changes))
    assert (derived.workers_per_node, derived.threads) == (workers, threads)


def test_times_and_totals_follow(make_site: Callable[..., Site]) -> None:
    derived = derive(make_site("frontera"))
    assert derived.walltime_seconds == 7200
    assert derived.drain_seconds == 7200 - 1800 - 120
    assert derived.nodes_max == 2
    assert derived.workers_max == 112
    assert derived.core_hours_max == 56 * 2 * 2.0
