"""Pods as the blocks of `parsl:SITE`: why they wait, and what ends a run, without a cluster."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes.client import ApiException
from parsl.jobs.states import JobState

from fitserve.endpoints.parsl.blocks import Engine, PodWatch, ask_pods, watched
from fitserve.endpoints.parsl.guardian import Guardian
from fitserve.endpoints.parsl.site import EngineDescription, read_engine
from fitserve.endpoints.parsl.troubles import Troubles, status_of
from fitserve.errors import BackendError
from fitserve.onsite.pods import PodProvider
from fitserve.schedulers import never_runs, refusal
from fitserve.schedulers.base import Job
from sitekit.golden import GOLDEN
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Cluster

pytestmark = pytest.mark.usefixtures("kubeconfig")

SITE = "kubernetes"
NO_GPU = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
QUOTA = 'pods "x" is forbidden: exceeded quota: fits, requested: pods=1, used: pods=8'
RIGHTS = 'pods is forbidden: User "ada" cannot create resource "pods" in API group ""'


class Driven:
    """A provider whose pods are watched, as an engine has it."""

    def __init__(self, cluster: Cluster) -> None:
        self.watch = PodWatch()
        made = watched(PodProvider, self.watch, 2.0)
        self.provider = made(image="fitserve/worker:1", user_id="1000", group_id="1000")
        self.provider.kube_client = cluster
        self.watch.ask = partial(ask_pods, self.provider)
        self.executor = type("Executor", (), {"bad_state_is_set": False, "address": "here"})()
        self.connected: set[str] = set()

    def workers(self) -> int:
        return 0


@pytest.fixture
def driven(cluster: Cluster) -> Driven:
    return Driven(cluster)


def _say(cluster: Cluster, **status: Any) -> None:
    for pod in cluster.pods.values():
        pod["status"] = status


def _detail(driven: Driven) -> str:
    driven.provider.status(list(driven.provider.resources))
    engine: Any = driven
    return status_of(SITE, engine).detail


def test_a_client_says_why_its_pods_wait(driven: Driven, cluster: Cluster) -> None:
    assert _detail(driven) == "kubernetes: asking kubernetes for the first block"
    driven.provider.submit("true", 1)
    unscheduled = {"type": "PodScheduled", "status": "False", "message": NO_GPU}
    _say(cluster, phase="Pending", conditions=[unscheduled])
    assert _detail(driven) == f"kubernetes: 1 block queued: {NO_GPU}"
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    _say(cluster, phase="Pending", container_statuses=[{"state": {"waiting": waiting}}])
    assert "1 block queued: ImagePullBackOff: no such image" in _detail(driven)
    _say(cluster, phase="Running")
    assert _detail(driven) == "1 block of kubernetes running, workers are starting"


def test_a_cluster_that_is_silent_ends_no_pod(driven: Driven, cluster: Cluster) -> None:
    job = driven.provider.submit("true", 1)
    cluster.down = True
    assert "the scheduler does not answer" in _detail(driven)
    assert driven.watch.jobs == {job: Job("queued")}
    cluster.down = False
    _say(cluster, phase="Running")
    assert "running" in _detail(driven)
    assert driven.watch.silent == ""


@pytest.mark.parametrize(
    ("status", "ending"),
    [
        ({"phase": "Succeeded"}, "done"),
        ({"phase": "Failed", "reason": "Evicted"}, "node"),
        ({"phase": "Failed", "reason": "Preempting"}, "preempted"),
        (
            {
                "phase": "Failed",
                "container_statuses": [
                    {"state": {"terminated": {"reason": "OOMKilled", "exit_code": 137}}}
                ],
            },
            "memory",
        ),
        ({"phase": "Failed"}, "failed"),
    ],
)
def test_how_a_pod_ended(
    driven: Driven, cluster: Cluster, status: dict[str, Any], ending: str
) -> None:
    job = driven.provider.submit("true", 1)
    _say(cluster, **status)
    [found] = driven.provider.status([job])
    assert found.terminal
    assert driven.watch.jobs[job].ending == ending


def test_a_pod_that_was_taken_away_failed_nothing(driven: Driven, cluster: Cluster) -> None:
    job = driven.provider.submit("true", 1)
    cluster.pods.clear()
    driven.watch.look([job])
    assert driven.watch.jobs[job].ending == "cancelled"
    assert driven.provider.status([job])[0].state == JobState.CANCELLED


def _refused(text: str) -> ApiException:
    error = ApiException(status=403, reason="Forbidden")
    error.body = json.dumps({"kind": "Status", "message": text})
    return error


@pytest.mark.parametrize(("text", "again"), [(QUOTA, True), (RIGHTS, False)])
def test_a_pod_that_is_refused_is_told_of(
    driven: Driven, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, text: str, again: bool
) -> None:
    def create(**_: Any) -> None:
        raise _refused(text)

    monkeypatch.setattr(cluster, "create_namespaced_pod", create)
    with pytest.raises(ApiException):
        driven.provider.submit("true", 1)
    assert driven.watch.refusal is not None
    assert (driven.watch.refusal.text, driven.watch.refusal.again) == (text, again)
    assert text in _detail(driven)
    # Not at once again.
    with pytest.raises(RuntimeError, match="a moment ago"):
        driven.provider.submit("true", 1)


def test_what_no_waiting_helps() -> None:
    assert "image" in (never_runs("InvalidImageName: couldn't parse image") or "")
    assert never_runs(NO_GPU) is None
    assert refusal(QUOTA).hint.startswith("wait")


@pytest.fixture
def description() -> EngineDescription:
    """Return a Kubernetes site, driven from this machine."""
    description = read_engine(GOLDEN / SITE / "engine.json")
    description.engine["address"] = "127.0.0.1"
    description.engine["job_status_kwargs"]["strategy_period"] = 1
    return description


@pytest.fixture
def engine(description: EngineDescription, cluster: Cluster, tmp_path: Path) -> Iterator[Engine]:
    """Return a site's engine on a cluster that only remembers."""
    guardian = Guardian()
    engine = Engine(description, tmp_path, guardian, staged=False)
    engine.provider.kube_client = cluster
    yield engine
    engine.stop()
    guardian.dismiss()


def test_a_run_keeps_to_its_share_before_it_asks_for_the_first_block(
    description: EngineDescription, tmp_path: Path
) -> None:
    guardian = Guardian()
    assert description.engine["provider"]["max_blocks"] > 1
    engine = Engine(description, tmp_path, guardian, staged=False, most=1)
    try:
        assert engine.provider.max_blocks == 1
    finally:
        engine.stop()
        guardian.dismiss()


def test_a_first_pod_that_fails_breaks_no_run(
    description: EngineDescription, engine: Engine, cluster: Cluster
) -> None:
    """Parsl gives a run up for it; three in a row, or two that say why, are needed here."""
    engine.submit("a task")
    first = wait_for("the first pod", lambda: list(cluster.pods), 60)
    words = "fitserve: cannot create /x\n"
    ended = {"reason": "Error", "exit_code": 78, "message": words}
    _say(cluster, phase="Failed", container_statuses=[{"state": {"terminated": ended}}])
    second = wait_for("the next", lambda: set(cluster.pods) - set(first), 60)
    assert not engine.executor.bad_state_is_set
    troubles = Troubles(description, engine)
    troubles.check()
    _say(cluster, phase="Failed", container_statuses=[{"state": {"terminated": ended}}])
    wait_for("its end", lambda: not second & set(cluster.pods), 60)
    with pytest.raises(BackendError, match="end before a worker is there") as raised:
        troubles.check()
    assert "fitserve: cannot create /x" in raised.value.evidence
