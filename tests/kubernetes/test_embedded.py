"""On a real Kubernetes: a site without the cloud service, driven from pods of the cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import fitserve
from fitserve import __version__
from kuberig.fixtures import NAMESPACE, Admin
from kuberig.jobs import Run, local_cls, same_results, staus
from kuberig.notebooks import Notebook, code_cells, notebook_pod
from sitekit.helm_values import hub_values
from sitekit.load import load_site
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kuberig.cluster import Cluster

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(1200)]

WORKERS = "app.kubernetes.io/component=worker"
# pyhf's engine takes some seconds for these on one worker: long enough to break something.
LONG = (
    "--engine",
    "pyhf",
    "--patch",
    "'X_700_*'",
    "--patch",
    "'X_600_*'",
    "--max-task-hypotheses",
    "2",
)


@pytest.fixture(scope="module")
def site(admin: Admin) -> Iterator[Path]:
    """Deploy a site; at the end it is destroyed, and nothing of it may be left."""
    path = admin.site()
    said = admin("deploy", path)
    assert "the example was fitted by a worker pod" in said
    assert "parsl:rig" in said
    assert "GLOBUS_COMPUTE_CLIENT_ID" in said
    yield path
    admin("destroy", path, "--yes")
    # Namespace and all: deploying had made it.
    assert admin.kube.answers("get", "namespace", NAMESPACE) is None


@pytest.fixture(scope="module")
def undisturbed(kube: Cluster, site: Path) -> dict[str, float]:
    """Return the CLs of a long run in which nothing is killed.

    pyhf's minimizer ends at its tolerance, which more threads or another build of Python show in
    the fifth digit of a CLs of 1e-7; within one image, it is the same to the last.
    """
    found = Run(kube, site, "undisturbed", "example", LONG).results(400)
    same_results(found, local_cls("example", [word.strip("'") for word in LONG]), rel=1e-4)
    return {name: one["CLs_obs"] for name, one in found.items()}


def _workers(kube: Cluster, job: str = "") -> list[dict[str, Any]]:
    """Return the worker pods of a Job's client, or all."""
    return [
        one
        for one in kube.get("pods", NAMESPACE, WORKERS)
        if not job or _owner(one).startswith(job)
    ]


def _owner(pod: dict[str, Any]) -> str:
    """Return the name of the pod that drives this one; a client outside the cluster has none."""
    owners = pod["metadata"].get("ownerReferences", [])
    return owners[0]["name"] if owners else ""


def _running(kube: Cluster, job: str) -> list[str]:
    return [
        one["metadata"]["name"]
        for one in _workers(kube, job)
        if one["status"]["phase"] == "Running"
    ]


def test_the_examples_cls_are_those_of_this_machine(kube: Cluster, site: Path) -> None:
    run = Run(kube, site, "example", "example")
    worker = wait_for("a worker pod", lambda: _workers(kube, "example-"), 120)[0]
    assert worker["spec"]["restartPolicy"] == "Never"
    assert not any("token" in one["name"] for one in worker["spec"]["volumes"])
    found = run.results(300)
    same_results(found, local_cls("example"))
    # The host of each fit is the pod that did it.
    assert {one["host"].partition(".")[0] for one in found.values()} == {"fitserve-rig"}
    wait_for("no worker pods", lambda: not _workers(kube), 60)


def test_staus_cls_are_those_of_this_machine(kube: Cluster, site: Path) -> None:
    pallet = staus()
    found = Run(kube, site, "staus", pallet).results(480)
    assert len(found) == 57
    same_results(found, local_cls(pallet))


def test_a_client_outside_drives_worker_pods(
    kube: Cluster, admin: Admin, site: Path, tmp_path: Path
) -> None:
    """Where pods reach the client's machine, it needs no pod: here they reach the node's host."""
    (admin.place / "outside").mkdir()
    # Of the same name, for it is the same site but for the address that workers are told.
    directories = {"run": str(tmp_path / "runs")}
    network = {"method": None, "address": kube.node.outside}
    path = admin.site(f"outside/{site.stem}", network=network, directories=directories)
    rendered, run = tmp_path / "rendered", tmp_path / "run"
    admin("render", path, "--out", rendered)
    options = ("--patch", "X_200_*", "--engine", "kernel")
    words = ["run", "example", *options, "--endpoint", f"parsl:{rendered}", "--output", str(run)]
    said = tmp_path / "said"
    kube.kubectl("cordon", "node")
    with said.open("w") as stream:
        client = subprocess.Popen(
            [sys.executable, "-m", "fitserve", *words],
            env=kube.environment(),
            cwd=tmp_path,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            # Why its pods wait is said by the client, as its lines are wrapped.
            reason = "queued: 0/1 nodes are available"
            wait_for("the reason", lambda: reason in " ".join(said.read_text().split()), 120)
            kube.kubectl("uncordon", "node")
            assert client.wait(timeout=400) == 0, said.read_text()
        finally:
            kube.kubectl("uncordon", "node")
            # By itself it deletes its pods, which belong to no other.
            client.terminate()
            client.wait(timeout=60)
    found = json.loads((run / "results.json").read_text())
    same_results(found, local_cls("example", options))
    assert {one["host"].partition(".")[0] for one in found.values()} == {"fitserve-rig"}
    # Nobody but the client itself deletes them.
    wait_for("no worker pods", lambda: not kube.get("pods", NAMESPACE, WORKERS), 60)


def test_a_worker_pod_that_is_killed_costs_nothing(
    kube: Cluster, site: Path, undisturbed: dict[str, float]
) -> None:
    run = Run(kube, site, "killed-worker", "example", LONG)
    [name, *_] = wait_for("a running worker", lambda: _running(kube, "killed-worker-"), 120)
    kube.kubectl("delete", "pod", name, "-n", NAMESPACE, "--grace-period=0", "--force")
    same_results(run.results(400), undisturbed, rel=1e-9)


def test_a_kubelet_that_is_killed_costs_nothing(
    kube: Cluster, site: Path, undisturbed: dict[str, float]
) -> None:
    run = Run(kube, site, "killed-kubelet", "example", LONG)
    wait_for("a running worker", lambda: _running(kube, "killed-kubelet-"), 120)
    kube.node.kill("kubelet")
    kube.start_kubelet()
    same_results(run.results(400), undisturbed, rel=1e-9)


def test_a_client_that_is_killed_takes_its_workers_along(kube: Cluster, site: Path) -> None:
    Run(kube, site, "killed-client", "example", LONG)
    wait_for("a running worker", lambda: _running(kube, "killed-client-"), 120)
    kube.kubectl("delete", "job", "killed-client", "-n", NAMESPACE)
    # The client's pod may take the 30 s that Kubernetes gives it, and a busy node takes its time.
    wait_for("no worker pods", lambda: not _workers(kube), 120)


def test_a_notebook_fits_on_worker_pods(kube: Cluster, site: Path, tmp_path: Path) -> None:
    loaded, _ = load_site(str(site))
    pod = notebook_pod(hub_values(loaded), "notebook", f"fitserve/endpoint:{__version__}")
    notebook = Notebook(kube, NAMESPACE, pod)
    try:
        settings, fit, *looks = code_cells()
        settings = settings.replace('"mysite"', f'"{loaded.name}"')
        said = notebook(f"{settings}\n{fit}\nprint('path', run.path.resolve())")
        place = notebook.fetch(said.split()[-1], tmp_path)
    finally:
        notebook.close()
    # Pods go with the notebook that drives them.
    wait_for("no worker pods", lambda: not _workers(kube), 60)
    run = fitserve.open_run(place)
    expected = local_cls("example")
    same_results(json.loads((place / "results.json").read_text()), expected)
    # What is looked at afterwards needs nothing of the cluster.
    shown: dict[str, Any] = {"run": run}
    for look in looks:
        exec(look, shown)  # noqa: S102 - the notebook's own cells
    assert set(shown["table"].index) == set(expected)


def test_status_says_what_there_is(admin: Admin, site: Path) -> None:
    found = admin.status(site)
    assert found["release"]["status"] == "deployed"
    assert found["endpoint"] == []
    assert "revision 1" in admin("status", site)


def test_deploying_again_changes_nothing_and_there_is_nothing_to_go_back_to(
    kube: Cluster, admin: Admin, site: Path
) -> None:
    assert "nothing was changed" in admin("deploy", site, "--no-smoke")
    assert admin.status(site)["release"]["revision"] == 1
    assert "nothing to go back to" in admin("rollback", site, status=5)
    # What somebody removed is not as it should be.
    kube.kubectl("delete", "configmap", "fitserve-rig-site", "-n", NAMESPACE)
    assert "nothing was changed" not in admin("deploy", site, "--no-smoke")
    assert kube.answers("get", "configmap", "fitserve-rig-site", "-n", NAMESPACE)
