"""The provider against a real API server, scheduler and kubelet, with its account's own token."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from fitserve import __version__
from kuberig.charts import manifests, site_values
from kuberig.pki import write_kubeconfig
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fitserve.onsite.pods import PodProvider
    from kuberig.cluster import Cluster
    from kuberig.fixtures import Admin

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(1200)]

SPACE = "pods"
ACCOUNT = "fitserve-kubernetes"
FIELDS: dict[str, Any] = {
    "image": f"fitserve/worker:{__version__}",
    "namespace": SPACE,
    "user_id": "1000",
    "group_id": "1000",
    "run_as_non_root": True,
    "init_blocks": 0,
    "init_cpu": 0.1,
    "max_cpu": 1,
    "init_mem": "64Mi",
    "max_mem": "256Mi",
}


@pytest.fixture(scope="module")
def space(kube: Cluster) -> Iterator[str]:
    """Return a namespace with the account and the Role of the chart, and nothing else of it."""
    kube.kubectl("create", "namespace", SPACE)
    rights = [
        one
        for one in manifests(site_values("kubernetes"), "--namespace", SPACE)
        if one["kind"] in {"ServiceAccount", "Role", "RoleBinding"}
    ]
    kube.kubectl("create", "-n", SPACE, "-f", "-", stdin=yaml.safe_dump_all(rights))
    yield SPACE
    kube.kubectl("delete", "namespace", SPACE, "--wait=false")


@pytest.fixture
def provider(
    kube: Cluster, space: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., PodProvider]:
    """Return a function that makes a provider, which acts as the namespace's account."""
    from kubernetes.config import kube_config

    from fitserve.onsite.pods import PodProvider

    def secrets() -> list[dict[str, Any]]:
        return [
            one
            for one in kube.get("secrets", space)
            if one["metadata"].get("annotations", {}).get("kubernetes.io/service-account.name")
            == ACCOUNT
        ]

    [secret] = wait_for("the account's token", secrets, 30)
    token = base64.b64decode(secret["data"]["token"]).decode()
    path = write_kubeconfig(kube.pki, "account", kube.server, token)
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    return lambda kind=PodProvider, **fields: kind(**{**FIELDS, **fields})


def _pod(kube: Cluster, name: str) -> dict[str, Any] | None:
    text = kube.answers("get", "pod", name, "-n", SPACE, "-o", "json")
    return dict(json.loads(text)) if text else None


def _name(provider: Any, job: str) -> str:
    return str(provider.resources[job]["pod_name"])


def test_a_command_that_ends_is_not_started_again(
    kube: Cluster, provider: Callable[..., Any]
) -> None:
    """With Parsl's own provider it is, for ever; that is why there is another."""
    from parsl.jobs.states import JobState
    from parsl.providers import KubernetesProvider

    ours, parsls = provider(), provider(KubernetesProvider)
    job, other = ours.submit("true", 1), parsls.submit("true", 1)

    def restarts() -> int:
        pod = _pod(kube, _name(parsls, other)) or {"status": {}}
        return sum(one["restartCount"] for one in pod["status"].get("containerStatuses", []))

    wait_for("Parsl's pod to be started again", restarts, 120)
    ended = wait_for("the pod's end", lambda: ours.status([job])[0].terminal and ours, 60)
    assert ended.status([job])[0].state == JobState.COMPLETED
    wait_for("the pod to be gone", lambda: _pod(kube, _name(ours, job)) is None, 60)
    assert parsls.status([other])[0].state == JobState.RUNNING
    parsls.cancel([other])


def test_why_a_worker_ended_is_known_without_a_right_to_logs(
    kube: Cluster, provider: Callable[..., Any]
) -> None:
    ours = provider()
    job = ours.submit("echo no such directory >&2; exit 78", 1)
    wait_for("the pod's end", lambda: ours.status([job])[0].terminal, 60)
    [status] = ours.status([job])
    assert (status.exit_code, status.message) == (78, "Error: no such directory")
    with pytest.raises(Exception, match="forbidden"):
        ours.kube_client.list_namespaced_pod(SPACE)


def test_a_pod_writes_into_tmp_alone_and_has_no_token(
    kube: Cluster, provider: Callable[..., Any]
) -> None:
    ours = provider()
    script = (
        "touch /tmp/x && ! touch /x && ! touch $HOME/x && ! test -e /var/run/secrets/kubernetes.io"
        " && grep -q '^CapEff:.0*$' /proc/self/status && grep -q '^Seccomp:.2' /proc/self/status"
        " && grep -q '^NoNewPrivs:.1' /proc/self/status && [ $(id -u) = 1000 ]"
    )
    job = ours.submit(script, 1)
    wait_for("the pod's end", lambda: ours.status([job])[0].terminal, 60)
    assert str(ours.status([job])[0].state.name) == "COMPLETED", ours.status([job])


@pytest.mark.parametrize("lacking", ["create", "get", "delete"])
def test_each_verb_is_needed(kube: Cluster, provider: Callable[..., Any], lacking: str) -> None:
    from kubernetes.client import ApiException
    from parsl.jobs.states import JobState

    def allow(*verbs: str) -> None:
        rules = [{"op": "replace", "path": "/rules/0/verbs", "value": list(verbs)}]
        patch = ("--type=json", f"--patch={json.dumps(rules)}")
        kube.kubectl("patch", "role", ACCOUNT, "-n", SPACE, *patch)

    ours = provider()
    allow(*({"create", "get", "delete"} - {lacking}))
    try:
        if lacking == "create":
            with pytest.raises(ApiException, match="cannot create"):
                ours.submit("sleep 60", 1)
            return
        job = ours.submit("sleep 60", 1)
        wait_for(
            "the pod to run",
            lambda: (_pod(kube, _name(ours, job)) or {})["status"]["phase"] == "Running",
            60,
        )
        if lacking == "get":
            assert ours.status([job])[0].state == JobState.PENDING
        else:
            with pytest.raises(ApiException, match="cannot delete"):
                ours.cancel([job])
    finally:
        allow("create", "get", "delete")
    assert ours.status([job])[0].state == JobState.RUNNING
    ours.cancel([job])


def test_a_pod_waits_for_a_gpu_and_says_so(
    kube: Cluster, provider: Callable[..., Any], admin: Admin
) -> None:
    from sitekit.pods import labels

    taint = "nvidia.com/gpu=present:NoSchedule"
    kube.kubectl("taint", "nodes", "node", taint)
    ours = provider(
        extra_limits={"nvidia.com/gpu": "1"},
        tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        node_selector={"pool": "gpu"},
        labels=labels("fitserve-gpus", "worker"),
    )
    site = admin.site("gpus", kubernetes={"namespace": SPACE})
    try:
        job = ours.submit("sleep 60", 1)

        def reason() -> str:
            return ours.status([job])[0].message or ""

        # The scheduler names the first filter that no node passes: the selector, then GPUs.
        wait_for("a reason", reason, 60)
        assert "didn't match" in reason()
        kube.kubectl("label", "node", "node", "pool=gpu")
        wait_for("the next reason", lambda: "Insufficient nvidia.com/gpu" in reason(), 60)
        # What `make status` shows to the administrator; nothing is deployed here but the pod.
        [pod] = _shown(admin, site)
        assert pod["phase"] == "Pending"
        assert "Insufficient nvidia.com/gpu" in pod["reason"]
        _give_gpus(kube, 1)
        wait_for("a GPU", lambda: ours.status([job])[0].state.name == "RUNNING", 60)
        untolerated = provider()
        other = untolerated.submit("true", 1)
        wait_for("the taint", lambda: untolerated.status([other])[0].message, 60)
        assert "taint" in untolerated.status([other])[0].message
        untolerated.cancel([other])
        ours.cancel([job])
    finally:
        kube.kubectl("taint", "nodes", "node", f"{taint}-")
        kube.kubectl("label", "node", "node", "pool-")


def _shown(admin: Admin, site: Path) -> list[dict[str, Any]]:
    return list(admin.status(site)["workers"])


def _give_gpus(kube: Cluster, count: int) -> None:
    """Pretend that a device plugin has found GPUs."""
    capacity = {"status": {"capacity": {"nvidia.com/gpu": str(count)}}}
    patch = ("--subresource=status", f"--patch={json.dumps(capacity)}")
    kube.kubectl("patch", "node", "node", *patch)
