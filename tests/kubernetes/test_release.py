"""What deploying asks of helm and kubectl, which here only take note of it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner

from fitserve.errors import BackendError, FitserveError, RequestError
from kuberig.fake import Fake
from kuberig.notebooks import notebook_pod
from kuberig.policy import pod_specs, violations
from sitekit.cli import commands
from sitekit.deployment.cluster import Cluster
from sitekit.deployment.release import Release, namespace_manifest
from sitekit.deployment.targets import CREDENTIALS, Options
from sitekit.helm_values import hub_values
from sitekit.load import load_site
from sitekit.pods import run_job
from sitekit.render import Rendering

if TYPE_CHECKING:
    from collections.abc import Callable

RENDERING = Rendering("0.0.0", Path("/home/fitserve"))
IDENT = "11111111-2222-4333-8444-555555555555"
_AMOUNTS = ("requests", "limits")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.chdir(tmp_path)
    return Fake(tmp_path, monkeypatch)


def _release(**overrides: Any) -> Release:
    return Release(load_site("kubernetes")[0], RENDERING, overrides)


def _cluster() -> Cluster:
    return Cluster(load_site("kubernetes")[0], Options())


def test_without_credentials_there_is_no_endpoint(fake: Fake) -> None:
    assert _release().install().endpoint is False
    [(words, values)] = fake.calls("helm upgrade")
    assert "--install fitserve-kubernetes" in words
    assert "--rollback-on-failure" in words
    assert json.loads(values)["endpoint"]["enabled"] is False


def test_credentials_are_on_no_command_line(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in zip(CREDENTIALS, (IDENT, "not one"), strict=True):
        monkeypatch.setenv(variable, value)
    fake.tell({"kubectl exec": (0, json.dumps({"endpoint_id": IDENT}))})
    assert _release().install() == (True, True, None)
    calls = fake.calls()
    assert not any("not one" in words for words, _ in calls)
    first, second = (json.loads(values) for _, values in fake.calls("helm upgrade"))
    assert first["endpoint"]["credentials"] == {"clientId": IDENT, "clientSecret": "not one"}
    # Its state goes with its pod: the id is kept by the release from now on.
    assert (first["endpoint"]["id"], second["endpoint"]["id"]) == (None, IDENT)


def test_the_id_of_an_earlier_revision_is_kept(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in zip(CREDENTIALS, (IDENT, "not one"), strict=True):
        monkeypatch.setenv(variable, value)
    fake.tell({"helm get values": (0, json.dumps({"endpoint": {"id": IDENT}}))})
    _release().install()
    [(_, values)] = fake.calls("helm upgrade")
    assert json.loads(values)["endpoint"]["id"] == IDENT


def test_deploying_again_without_credentials_keeps_the_endpoint(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = {
        name: base64.b64encode(value.encode()).decode()
        for name, value in zip(CREDENTIALS, (IDENT, "not one"), strict=True)
    }
    fake.tell(
        {
            "kubectl get secret fitserve-kubernetes-credentials": (0, json.dumps({"data": data})),
            "kubectl exec": (0, json.dumps({"endpoint_id": IDENT})),
        }
    )
    monkeypatch.chdir(tmp_path)
    registered = SimpleNamespace(function_id=IDENT)
    monkeypatch.setattr("fitserve_worker.function.register", lambda **_: registered)
    done = CliRunner().invoke(commands, ["deploy", "kubernetes", "--no-smoke"])
    assert done.exit_code == 0, done.output
    endpoint = json.loads(fake.calls("helm upgrade")[0][1])["endpoint"]
    assert endpoint["enabled"] is True
    assert endpoint["credentials"] == {"clientId": IDENT, "clientSecret": "not one"}
    assert not any("not one" in words for words, _ in fake.calls())


def test_half_of_the_credentials_is_an_error(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CREDENTIALS[0], IDENT)
    with pytest.raises(BackendError, match="incomplete"):
        _release().install()
    assert fake.calls("helm upgrade") == []


def test_a_namespace_is_made_with_the_restricted_profile(fake: Fake) -> None:
    fake.tell({"kubectl get namespace": (1, "Error (NotFound): no such namespace")})
    _release().install()
    [(_, text)] = fake.calls("kubectl create")
    assert json.loads(text) == namespace_manifest("fitserve")
    labels = json.loads(text)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_an_upgrade_that_fails_says_why(fake: Fake) -> None:
    fake.tell({"helm upgrade": (1, "Error: deadline exceeded")})
    with pytest.raises(BackendError, match="serves again") as raised:
        _release().install()
    assert "deadline" in str(raised.value)


def test_what_was_put_back_and_is_not_ready_is_not_said_to_serve(fake: Fake) -> None:
    failed = "Error: UPGRADE FAILED: an error occurred while rolling back the release."
    fake.tell({"helm upgrade": (1, failed)})
    with pytest.raises(BackendError, match="not ready yet"):
        _release().install()


def test_a_cluster_that_is_out_of_reach_is_said(fake: Fake) -> None:
    fake.tell({"kubectl get namespace": (1, "connection refused - did you specify the host?")})
    with pytest.raises(BackendError, match="kubectl get failed"):
        _release().install()


def _namespace(made: bool) -> str:
    metadata = namespace_manifest("fitserve")["metadata"] if made else {"name": "fitserve"}
    return json.dumps({"metadata": metadata})


@pytest.mark.parametrize(
    ("made", "others", "removed"),
    [
        (True, [], True),
        (False, [], False),
        (True, [{"metadata": {"name": "notebook"}}], False),
        (True, [{"metadata": {"name": "kube-root-ca.crt"}}], True),
    ],
)
def test_destroying_leaves_what_others_have(
    fake: Fake, made: bool, others: list[Any], removed: bool
) -> None:
    fake.tell(
        {
            "kubectl get namespace": (0, _namespace(made)),
            "kubectl get pods,jobs": (0, json.dumps({"items": others})),
        }
    )
    assert _release().destroy() == []
    assert bool(fake.calls("kubectl delete namespace")) is removed
    assert fake.calls("helm uninstall")


def test_what_is_left_is_said(fake: Fake) -> None:
    stuck = {"metadata": {"name": "stuck"}}
    fake.tell({"kubectl get persistentvolumeclaims": (0, json.dumps({"items": [stuck]}))})
    assert _release().destroy() == ["persistentvolumeclaims/stuck"]
    assert fake.calls("kubectl delete namespace") == []


def _pod(component: str, **status: Any) -> dict[str, Any]:
    from sitekit.pods import labels

    return {
        "metadata": {
            "name": component,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": labels("fitserve-kubernetes", component),
        },
        "spec": {"nodeName": None, "containers": [{"image": "fitserve/worker:1"}]},
        "status": status,
    }


def test_status_shows_what_pods_wait_for(fake: Fake) -> None:
    message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "message": message}
    ended = {"reason": "OOMKilled", "exitCode": 137}
    container = {
        "ready": True,
        "restartCount": 2,
        "state": {"running": {}},
        "lastState": {"terminated": ended},
    }
    pods = [
        {**_pod("worker", phase="Running"), "metadata": {"name": "theirs", "labels": {}}},
        _pod("worker", phase="Pending", conditions=[condition]),
        _pod("endpoint", phase="Running", containerStatuses=[container]),
    ]
    fake.tell(
        {
            "helm history": (0, json.dumps([{"revision": 3, "status": "deployed"}])),
            "kubectl get pods": (0, json.dumps({"items": pods})),
        }
    )
    found = _cluster().status()
    assert [len(found[name]) for name in ("endpoint", "workers", "clients")] == [1, 1, 0]
    assert found["workers"][0]["reason"] == message
    assert (found["endpoint"][0]["ready"], found["endpoint"][0]["restarts"]) == (True, 2)
    said = Cluster.status_text(found)
    assert "revision 3 (deployed)" in said
    assert message in said
    assert "OOMKilled" in said
    assert "clients: none" in said


def test_a_site_that_is_not_deployed_is_said_to_be_so(fake: Fake) -> None:
    fake.tell({"helm history": (1, "Error: release: not found")})
    assert "is not deployed" in Cluster.status_text(_cluster().status())


def test_a_job_keeps_to_the_restricted_profile(make_site: Callable[..., Any]) -> None:
    site = make_site("kubernetes", kubernetes={"pull_secret": "registry"})
    job = run_job(site, "0.0.0", "mine", ["fitserve", "run", "example"])
    [(name, spec)] = pod_specs(job)
    assert (name, violations(spec)) == ("Job/mine", [])
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    mounts = {one["mountPath"] for one in spec["containers"][0]["volumeMounts"]}
    assert "/etc/xdg/fitserve/sites/changed" in mounts


def test_a_hubs_notebooks_are_clients_of_the_restricted_profile(
    make_site: Callable[..., Any],
) -> None:
    site = make_site("kubernetes")
    pod = notebook_pod(hub_values(site), "ada", "jupyter/scipy-notebook:2024-10-07")
    [(_, spec)] = pod_specs(pod)
    # A notebook writes into its image, and what it may use is the hub's to say.
    own = {"its root can be written", *(f"no {kind} of cpu, memory" for kind in _AMOUNTS)}
    assert {one.partition(": ")[2] for one in violations(spec)} == own
    assert spec["automountServiceAccountToken"] is True
    assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == "client"
    job = run_job(site, "0.0.0", "mine", ["fitserve", "run", "example"])
    [(_, other)] = pod_specs(job)
    assert spec["serviceAccountName"] == other["serviceAccountName"]
    for one in (spec, other):
        mounts = {mount["mountPath"] for mount in one["containers"][0]["volumeMounts"]}
        assert "/etc/xdg/fitserve/sites/changed" in mounts


# The command line


def test_the_commands_of_every_site_find_the_cluster(fake: Fake) -> None:
    fake.tell({"helm history": (1, "Error: release: not found")})
    done = CliRunner().invoke(commands, ["status", "kubernetes"])
    assert "is not deployed in namespace fitserve" in done.output


def test_other_sites_are_no_clusters() -> None:
    with pytest.raises(RequestError, match="has no Helm values"):
        Cluster(load_site("slurm")[0], Options())
    for words in (["values"], ["namespace"], ["hub"], ["job", "mine", "true"]):
        done = CliRunner().invoke(commands, ["cluster", words[0], "slurm", *words[1:]])
        assert isinstance(done.exception, RequestError)


def test_upgrading_needs_something_to_upgrade(fake: Fake) -> None:
    fake.tell({"helm history": (1, "Error: release: not found")})
    done = CliRunner().invoke(commands, ["upgrade", "kubernetes"])
    assert isinstance(done.exception, FitserveError)
    assert "make deploy" in done.exception.hint


def test_what_is_printed_can_be_applied(fake: Fake) -> None:
    runner = CliRunner()
    values = yaml.safe_load(runner.invoke(commands, ["cluster", "values", "kubernetes"]).output)
    assert values["name"] == "fitserve-kubernetes"
    namespace = runner.invoke(commands, ["cluster", "namespace", "kubernetes"]).output
    assert yaml.safe_load(namespace)["kind"] == "Namespace"
    hub = yaml.safe_load(runner.invoke(commands, ["cluster", "hub", "kubernetes"]).output)
    assert hub["singleuser"]["serviceAccountName"] == "fitserve-kubernetes"
    words = ["cluster", "job", "kubernetes", "mine", "--", "fitserve", "run", "example"]
    job = yaml.safe_load(runner.invoke(commands, words).output)
    assert job["spec"]["template"]["spec"]["containers"][0]["command"][0] == "fitserve"


def test_an_endpoint_needs_a_function_that_it_may_run(fake: Fake, tmp_path: Path) -> None:
    path = tmp_path / "vaulted.yaml"
    kubernetes = {"credentials_secret": "vault"}
    path.write_text(yaml.safe_dump({"extends": "kubernetes", "kubernetes": kubernetes}))
    done = CliRunner().invoke(commands, ["deploy", str(path), "--no-smoke"])
    assert isinstance(done.exception, RequestError)
    assert "--function-id" in done.exception.hint
    assert fake.calls("helm upgrade") == []
