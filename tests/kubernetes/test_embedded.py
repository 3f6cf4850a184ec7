"""On a real Kubernetes: a site without the cloud service, driven from pods of the cluster."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fitserve
from fitserve._version import __version__
from kuberig.fixtures import NAMESPACE, Admin
from kuberig.jobs import Run, local_cls
from kuberig.notebooks import Notebook, code_cells, notebook_pod
from sitekit.cluster.hub import hub_values
from sitekit.load import load_site
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kuberig.cluster import Cluster

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(600)]

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


def _workers(kube: Cluster, job: str = "") -> list[dict[str, Any]]:
    """Return the worker pods of a Job's client, or all."""
    return [
        one
        for one in kube.get("pods", NAMESPACE, WORKERS)
        if one["metadata"]["ownerReferences"][0]["name"].startswith(job)
    ]


def _running(kube: Cluster, job: str) -> list[str]:
    return [
        one["metadata"]["name"]
        for one in _workers(kube, job)
        if one["status"]["phase"] == "Running"
    ]


def _same(found: dict[str, Any], expected: dict[str, float]) -> None:
    assert {name: one["status"] for name, one in found.items()} == dict.fromkeys(expected, "ok")
    for name, cls in expected.items():
        assert found[name]["CLs_obs"] == pytest.approx(cls, rel=1e-5, abs=1e-12), name


def test_the_examples_cls_are_those_of_this_machine(
    kube: Cluster, site: Path, tmp_path: Path
) -> None:
    run = Run(kube, site, "example", "example")
    worker = wait_for("a worker pod", lambda: _workers(kube, "example-"), 120)[0]
    assert worker["spec"]["restartPolicy"] == "Never"
    assert not any("token" in one["name"] for one in worker["spec"]["volumes"])
    found = run.results(300)
    _same(found, local_cls(tmp_path, "example"))
    # The host of each fit is the pod that did it.
    assert {one["host"].partition(".")[0] for one in found.values()} == {"fitserve-rig"}
    wait_for("no worker pods", lambda: not _workers(kube), 60)


def test_staus_cls_are_those_of_this_machine(kube: Cluster, site: Path, tmp_path: Path) -> None:
    shared = Path(os.environ.get("FITSERVE_SHARED") or Path(__file__).parents[3] / "shared")
    pallet = shared / "pallets" / "staus.tar.xz"
    if not pallet.exists() and not os.environ.get("CI"):
        pytest.skip(f"{pallet} is not there")
    found = Run(kube, site, "staus", pallet).results(480)
    assert len(found) == 57
    _same(found, local_cls(tmp_path, pallet))


def test_a_worker_pod_that_is_killed_costs_nothing(
    kube: Cluster, site: Path, tmp_path: Path
) -> None:
    run = Run(kube, site, "killed-worker", "example", LONG)
    [name, *_] = wait_for("a running worker", lambda: _running(kube, "killed-worker-"), 120)
    kube.kubectl("delete", "pod", name, "-n", NAMESPACE, "--grace-period=0", "--force")
    found = run.results(400)
    _same(found, local_cls(tmp_path, "example", [word.strip("'") for word in LONG]))


def test_a_kubelet_that_is_killed_costs_nothing(kube: Cluster, site: Path, tmp_path: Path) -> None:
    run = Run(kube, site, "killed-kubelet", "example", LONG)
    wait_for("a running worker", lambda: _running(kube, "killed-kubelet-"), 120)
    kube.node.kill("kubelet")
    kube.start_kubelet()
    found = run.results(400)
    _same(found, local_cls(tmp_path, "example", [word.strip("'") for word in LONG]))


def test_a_client_that_is_killed_takes_its_workers_along(kube: Cluster, site: Path) -> None:
    Run(kube, site, "killed-client", "example", LONG)
    wait_for("a running worker", lambda: _running(kube, "killed-client-"), 120)
    kube.kubectl("delete", "job", "killed-client", "-n", NAMESPACE)
    wait_for("no worker pods", lambda: not _workers(kube), 60)


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
    expected = local_cls(tmp_path, "example")
    _same(json.loads((place / "results.json").read_text()), expected)
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
