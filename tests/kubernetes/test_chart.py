"""The chart as Helm renders it: for every site, against Kubernetes' schemas and the policy."""

from __future__ import annotations

import os
from typing import Any

import pytest
import yaml

from kuberig.charts import RENDERING, SITES, helm, manifests, merged, site_values
from kuberig.policy import pod_specs, violations
from kuberig.tools import missing
from sitekit.deployment.release import namespace_manifest
from sitekit.golden import GOLDEN
from sitekit.helm_values import CHART, FILES, helm_values
from sitekit.load import load_site
from sitekit.pods import labels, run_job

pytestmark = [pytest.mark.containers, pytest.mark.usefixtures("tools")]

VERSIONS = ["1.25", "1.37"]
"""The oldest and the newest whose schemas kubernetes-validate has."""
EVERYTHING: dict[str, Any] = {
    "endpoint": {
        "id": "11111111-2222-4333-8444-555555555555",
        "credentials": {
            "existingSecret": None,
            "clientId": "11111111-2222-4333-8444-555555555555",
            "clientSecret": "not one",
        },
        "state": {"size": "1Gi", "storageClass": "fast"},
        "priorityClass": "high",
        "env": {"HTTPS_PROXY": "http://proxy.example.edu:3128"},
        "disruptionBudget": True,
    },
    "worker": {"pullSecret": "registry"},
    "networkPolicy": {"proxyPorts": [3128], "clients": ["192.0.2.0/24"]},
}


@pytest.fixture(scope="module")
def tools() -> None:
    """Without Helm the tests are skipped, and in CI they fail."""
    absent = missing()
    if absent and os.environ.get("CI"):
        pytest.fail(absent)
    if absent:
        pytest.skip(absent)


def _kinds(documents: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for document in documents:
        found.setdefault(document["kind"], []).append(document)
    return found


def _deployment(values: dict[str, Any]) -> dict[str, Any]:
    [deployment] = _kinds(manifests(values))["Deployment"]
    return deployment


def _container(values: dict[str, Any]) -> dict[str, Any]:
    return dict(_deployment(values)["spec"]["template"]["spec"]["containers"][0])


@pytest.mark.parametrize("name", SITES)
def test_helm_finds_nothing_wrong(name: str) -> None:
    done = helm("lint", "--strict", str(CHART), values=site_values(name))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout


def test_helm_refuses_what_the_schema_refuses() -> None:
    done = helm("template", "x", str(CHART), values=site_values("kubernetes", {"replicas": 2}))
    assert done.returncode != 0
    assert "replicas" in done.stderr


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["site", "everything"])
@pytest.mark.parametrize("name", SITES)
def test_kubernetes_schemas_take_every_object(
    name: str, changes: dict[str, Any], version: str
) -> None:
    import kubernetes_validate

    documents = manifests(site_values(name, changes), "--api-versions", "policy/v1")
    pod = yaml.safe_load((GOLDEN / name / "pod.json").read_text())
    job = run_job(load_site(name)[0], "0.0.0", "mine", ["fitserve", "run", "example"])
    for document in [*documents, pod, job, namespace_manifest("fits")]:
        kubernetes_validate.validate(document, version, strict=True)
    if changes:
        kinds = _kinds(documents)
        assert {"Secret", "PersistentVolumeClaim", "PodDisruptionBudget"} <= set(kinds)
        [deployment] = kinds["Deployment"]
        assert deployment["spec"]["template"]["spec"]["priorityClassName"] == "high"


def test_the_oldest_schema_is_the_oldest() -> None:
    from kubernetes_validate.utils import all_versions, major_minor

    known = sorted({major_minor(one) for one in all_versions()}, key=lambda v: int(v.split(".")[1]))
    assert [known[0], known[-1]] == VERSIONS


@pytest.mark.parametrize("name", SITES)
def test_every_pod_keeps_to_the_restricted_profile(name: str) -> None:
    found = [pod for document in manifests(site_values(name)) for pod in pod_specs(document)]
    assert {which.partition("/")[0] for which, _ in found} == {"Deployment", "Pod"}
    for which, spec in found:
        assert violations(spec) == [], which


@pytest.mark.parametrize(
    ("changes", "violation"),
    [
        ({"securityContext": {}}, "privileges may be gained"),
        ({"image": "fitserve/endpoint:latest"}, "no version"),
        ({"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}, "no limits"),
        ({"ports": [{"containerPort": 80, "hostPort": 80}]}, "port of the node"),
    ],
)
def test_the_policy_finds_what_it_is_for(changes: dict[str, Any], violation: str) -> None:
    spec = _deployment(site_values("kubernetes"))["spec"]["template"]["spec"]
    spec["containers"][0] |= changes
    assert any(violation in one for one in violations(spec))
    assert violations({**spec, "hostNetwork": True})
    assert violations({**spec, "volumes": [{"name": "x", "hostPath": {"path": "/"}}]})


@pytest.mark.parametrize("name", SITES)
def test_files_reach_the_cluster_unchanged(name: str) -> None:
    maps = {
        one["metadata"]["name"]: one["data"]
        for one in _kinds(manifests(site_values(name)))["ConfigMap"]
    }
    for file in FILES:
        text = (GOLDEN / name / file).read_text()
        assert maps[f"fitserve-{name}-configuration"][file] == text
    assert set(maps[f"fitserve-{name}-site"]) == {"engine.json", "site-card.json"}
    for path in (CHART / "files").iterdir():
        assert maps[f"fitserve-{name}-commands"][path.name] == path.read_text()


def test_the_role_has_three_verbs_on_pods_and_workers_have_none() -> None:
    kinds = _kinds(manifests(site_values("kubernetes")))
    [role] = kinds["Role"]
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "get", "delete"]}
    ]
    [binding] = kinds["RoleBinding"]
    assert [one["name"] for one in binding["subjects"]] == ["fitserve-kubernetes"]
    assert "ClusterRole" not in kinds
    accounts = {one["metadata"]["name"]: one for one in kinds["ServiceAccount"]}
    assert set(accounts) == {"fitserve-kubernetes", "fitserve-kubernetes-worker"}
    assert not any(one["automountServiceAccountToken"] for one in accounts.values())


def test_an_account_that_the_namespace_has_is_not_made() -> None:
    account = {"name": "fitters", "create": False}
    kinds = _kinds(manifests(site_values("kubernetes", {"worker": {"serviceAccount": account}})))
    assert "fitters" not in {one["metadata"]["name"] for one in kinds["ServiceAccount"]}


def test_there_is_one_endpoint_at_a_time_and_a_new_configuration_restarts_it() -> None:
    values = site_values("kubernetes")
    deployment = _deployment(values)
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    other = merged(values, {"configuration": {"config.yaml": "heartbeat_period: 5\n"}})
    before, after = (
        one["spec"]["template"]["metadata"]["annotations"]
        for one in (deployment, _deployment(other))
    )
    assert before["checksum/configuration"] != after["checksum/configuration"]
    assert before["checksum/commands"] == after["checksum/commands"]


def test_probes_are_the_selftest_and_heartbeats() -> None:
    container = _container(site_values("kubernetes", {"endpoint": {"heartbeatSeconds": 20}}))
    start = (CHART / "files" / "start").read_text()
    assert start.index("\nfitserve-worker selftest\n") < start.index(
        "\nsetsid globus-compute-endpoint"
    )
    assert container["command"][-1].endswith("/start")
    assert container["startupProbe"]["exec"]["command"][-2:] == ["delivered", "60"]
    assert container["readinessProbe"]["exec"]["command"][-2:] == ["delivered", "60"]
    assert container["livenessProbe"]["exec"]["command"][-2:] == ["sent", "120"]


def test_credentials_come_from_a_secret_and_nowhere_else() -> None:
    values = site_values("kubernetes", EVERYTHING)
    documents = manifests(values)
    [secret] = _kinds(documents)["Secret"]
    assert secret["stringData"]["GLOBUS_COMPUTE_CLIENT_SECRET"] == "not one"  # noqa: S105
    others = [one for one in documents if one["kind"] != "Secret"]
    assert "not one" not in yaml.safe_dump_all(others)
    assert _container(values)["envFrom"] == [{"secretRef": {"name": secret["metadata"]["name"]}}]
    referred = site_values("kubernetes")
    assert "Secret" not in _kinds(manifests(referred))
    assert _container(referred)["envFrom"] == [{"secretRef": {"name": "globus"}}]


def test_policies_admit_workers_to_their_own_endpoint_alone() -> None:
    policies = {
        one["metadata"]["name"]: one["spec"]
        for one in _kinds(manifests(site_values("kubernetes")))["NetworkPolicy"]
    }
    workers, drivers = (
        policies[f"fitserve-kubernetes-{which}"] for which in ("workers", "drivers")
    )
    pod = yaml.safe_load((GOLDEN / "kubernetes" / "pod.json").read_text())
    assert workers["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert "ingress" not in workers
    assert workers["policyTypes"] == ["Ingress", "Egress"]
    [rule] = drivers["ingress"]
    [peer] = rule["from"]
    assert peer["podSelector"]["matchLabels"] == labels("fitserve-kubernetes", "worker")
    ports = {(one["port"], one["protocol"]) for one in drivers["egress"][0]["ports"]}
    assert ports == {(53, "UDP"), (53, "TCP"), (443, "TCP"), (6443, "TCP")}
    assert "NetworkPolicy" not in _kinds(
        manifests(site_values("kubernetes", {"networkPolicy": {"enabled": False}}))
    )


def _policies(changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = _kinds(manifests(site_values("kubernetes", changes)))["NetworkPolicy"]
    return {one["metadata"]["name"].rpartition("-")[2]: one["spec"] for one in found}


def test_policies_let_the_endpoint_through_to_its_proxy() -> None:
    [rule] = _policies({"networkPolicy": {"proxyPorts": [3128, 443]}})["drivers"]["egress"]
    ports = [one["port"] for one in rule["ports"]]
    assert sorted(ports) == [53, 53, 443, 3128, 6443]


def test_policies_let_workers_through_to_clients_outside() -> None:
    [inside] = _policies({})["workers"]["egress"]
    assert not any("ipBlock" in peer for peer in inside["to"])
    [rule] = _policies({"networkPolicy": {"clients": ["192.0.2.0/24"]}})["workers"]["egress"]
    assert rule["to"] == [*inside["to"], {"ipBlock": {"cidr": "192.0.2.0/24"}}]
    # Parsl's ports are chosen when a run begins.
    assert "ports" not in rule


def test_state_lasts_as_long_as_its_volume() -> None:
    def state(values: dict[str, Any]) -> dict[str, Any]:
        volumes = _deployment(values)["spec"]["template"]["spec"]["volumes"]
        [found] = [one for one in volumes if one["name"] == "state"]
        return dict(found)

    assert "emptyDir" in state(site_values("kubernetes"))
    kept = site_values("kubernetes", EVERYTHING)
    [claim] = _kinds(manifests(kept))["PersistentVolumeClaim"]
    assert state(kept)["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["storageClassName"] == "fast"


def test_without_an_endpoint_only_what_clients_need_is_left() -> None:
    values = helm_values(load_site("kubernetes")[0], RENDERING, endpoint=False)
    kinds = set(_kinds(manifests(values)))
    assert {"Role", "ServiceAccount", "ConfigMap", "NetworkPolicy"} <= kinds
    assert not {"Deployment", "Secret", "PersistentVolumeClaim"} & kinds


def test_sidecars_are_an_escape_hatch() -> None:
    sidecar = {"name": "tunnel", "image": "tunnel:1"}
    spec = _deployment(site_values("kubernetes", {"endpoint": {"sidecars": [sidecar]}}))
    assert spec["spec"]["template"]["spec"]["containers"][1] == sidecar


def test_an_old_cluster_gets_the_disruption_budget_that_it_knows() -> None:
    budget = {"endpoint": {"disruptionBudget": True}}
    [old] = _kinds(manifests(site_values("kubernetes", budget), "--kube-version", "1.20.2"))[
        "PodDisruptionBudget"
    ]
    assert old["apiVersion"] in {"policy/v1beta1", "policy/v1"}
    assert "PodDisruptionBudget" not in _kinds(manifests(site_values("kubernetes")))
