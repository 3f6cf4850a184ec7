"""Worker pods as the provider makes and watches them, without a cluster."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from parsl.jobs.states import JobState

from fitserve.endpoints.parsl.site import parsl_config, read_engine
from fitserve.onsite.pods import OWNER_VARIABLES, PodProvider, pod_status
from kuberig.policy import pod_specs, violations
from sitekit.golden import GOLDEN
from sitekit.load import load_site, shipped_sites

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Cluster

pytestmark = pytest.mark.usefixtures("kubeconfig")

FIELDS: dict[str, Any] = {
    "image": "fitserve/worker:1.0",
    "namespace": "fits",
    "user_id": "1000",
    "group_id": "1000",
    "init_blocks": 0,
}
SITES = [name for name in shipped_sites() if load_site(name)[0].kubernetes]


@pytest.fixture
def provider(cluster: Cluster) -> PodProvider:
    provider = PodProvider(**FIELDS)
    provider.kube_client = cluster
    return provider


def _only(cluster: Cluster) -> dict[str, Any]:
    [pod] = cluster.pods.values()
    return pod


@pytest.mark.parametrize("name", SITES)
def test_pods_of_every_site_keep_to_the_restricted_profile(name: str) -> None:
    pod = json.loads((GOLDEN / name / "pod.json").read_text())
    [(_, spec)] = pod_specs(pod)
    assert violations(spec) == []
    assert spec["restartPolicy"] == "Never"
    assert spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", SITES)
def test_driving_a_site_makes_the_pods_that_its_endpoint_makes(
    name: str, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the command that starts the pool, which each composes itself."""
    for variable in OWNER_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    config = parsl_config(read_engine(GOLDEN / name / "engine.json"), run_dir=tmp_path)
    provider = config.executors[0].provider
    assert isinstance(provider, PodProvider)
    provider.kube_client = cluster
    job = provider.submit("true", 1)
    made = json.loads(json.dumps(_only(cluster)).replace(job, "JOB"))
    del made["status"]
    kept = json.loads((GOLDEN / name / "pod.json").read_text())
    for pod in (made, kept):
        pod["spec"]["containers"][0]["command"][2] = ""
    assert made == kept


def test_gpu_pools_are_reached_by_selector_and_tolerations(cluster: Cluster) -> None:
    taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    provider = PodProvider(
        **FIELDS,
        node_selector={"pool": "gpu"},
        tolerations=[taint],
        priority_class="fits",
        secret="registry",  # noqa: S106 - the name of one
        extra_limits={"nvidia.com/gpu": "1"},
    )
    provider.kube_client = cluster
    provider.submit("true", 1)
    spec = _only(cluster)["spec"]
    assert spec["nodeSelector"] == {"pool": "gpu"}
    assert spec["tolerations"] == [taint]
    assert spec["priorityClassName"] == "fits"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_a_pod_belongs_to_the_pod_that_drives_it(
    provider: PodProvider, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in zip(OWNER_VARIABLES, ("endpoint-0", "1234"), strict=True):
        monkeypatch.setenv(variable, value)
    provider.submit("true", 1)
    [owner] = _only(cluster)["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Pod", "endpoint-0", "1234")


def test_a_block_is_pending_until_the_cluster_says_otherwise(
    provider: PodProvider, cluster: Cluster
) -> None:
    job = provider.submit("true", 1)
    assert provider.resources[job]["status"].state == JobState.PENDING
    _only(cluster)["status"] = {"phase": "Running"}
    assert [one.state for one in provider.status([job])] == [JobState.RUNNING]


def test_a_pod_that_ended_is_told_of_and_removed(provider: PodProvider, cluster: Cluster) -> None:
    job = provider.submit("true", 1)
    ended = {"exit_code": 78, "reason": "Error", "message": "fitserve: cannot create /x\n"}
    _only(cluster)["status"] = {
        "phase": "Failed",
        "container_statuses": [{"state": {"terminated": ended}}],
    }
    [status] = provider.status([job])
    assert (status.state, status.exit_code) == (JobState.FAILED, 78)
    assert status.message == "Error: fitserve: cannot create /x"
    assert cluster.pods == {}
    assert provider.status([job]) == [status]


def test_a_pod_that_somebody_deleted_is_noticed(provider: PodProvider, cluster: Cluster) -> None:
    job = provider.submit("true", 1)
    cluster.pods.clear()
    [status] = provider.status([job])
    assert status.state == JobState.CANCELLED
    assert "deleted" in status.message
    assert provider.cancel([job]) == [True]


def test_a_cluster_that_does_not_answer_changes_nothing(
    provider: PodProvider, cluster: Cluster
) -> None:
    from kubernetes.client import ApiException

    job = provider.submit("true", 1)
    cluster.down = True
    assert [one.state for one in provider.status([job])] == [JobState.PENDING]
    with pytest.raises(ApiException):
        provider.cancel([job])
    cluster.down = False
    assert provider.cancel([job]) == [True]
    assert cluster.pods == {}


def test_three_verbs_are_enough(provider: PodProvider, cluster: Cluster) -> None:
    job = provider.submit("true", 1)
    provider.status([job])
    provider.cancel([job])
    assert cluster.calls == ["create", "get", "delete"]


@pytest.mark.parametrize(
    ("status", "state", "message"),
    [
        ({"phase": "Succeeded"}, JobState.COMPLETED, None),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "the node was low on memory"},
            JobState.TIMEOUT,
            "Evicted: the node was low on memory",
        ),
        (
            {
                "phase": "Failed",
                "container_statuses": [
                    {"state": {"terminated": {"reason": "OOMKilled", "exit_code": 137}}}
                ],
            },
            JobState.FAILED,
            "OOMKilled",
        ),
        (
            {
                "phase": "Pending",
                "conditions": [
                    {"type": "Initialized", "status": "True"},
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
                    },
                ],
            },
            JobState.PENDING,
            "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
        ),
        (
            {
                "phase": "Pending",
                "container_statuses": [
                    {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such"}}}
                ],
            },
            JobState.PENDING,
            "ImagePullBackOff: no such",
        ),
        ({"phase": "Unknown"}, JobState.UNKNOWN, None),
    ],
)
def test_what_the_cluster_says_is_passed_on(
    status: dict[str, Any], state: JobState, message: str | None
) -> None:
    found = pod_status({"status": status})
    assert (found.state, found.message) == (state, message)
