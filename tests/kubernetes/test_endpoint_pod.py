"""On a real Kubernetes: the endpoint's pod, registered with the stand-in for Globus' service."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml

from fitserve import __version__
from fitserve.onsite.pod_fields import container_security
from globusrig.client import Client
from globusrig.processes import AMQP_PORT, RabbitMQ, listens
from globusrig.rig import Rig
from kuberig.charts import manifests, merged
from kuberig.jobs import local_cls, same_results, staus
from kuberig.notebooks import Notebook, code_cells, notebook_pod
from sitekit.deployment.release import namespace_manifest
from sitekit.deployment.targets import CREDENTIALS
from sitekit.helm_values import hub_values
from sitekit.load import load_site
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kuberig.cluster import Cluster
    from kuberig.fixtures import Admin

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(1800)]

SPACE = "cloud"
NAME = "fitserve-cloud"
ENDPOINT = "app.kubernetes.io/component=endpoint"
WORKERS = "app.kubernetes.io/component=worker"
PORTS = (5000, AMQP_PORT)
# pyhf's engine takes some seconds for these on one worker: long enough to break something.
LONG = ("--engine", "pyhf", "--patch", "X_700_*", "--max-task-hypotheses", "2")
# The stand-in is at `localhost`, as the SDK's environment `local` has it: a tunnel leads there.
TUNNEL = """
import asyncio, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data); await writer.drain()
    finally:
        writer.close()
async def serve(port):
    async def client(reader, writer):
        there = await asyncio.open_connection(sys.argv[1], port)
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer), return_exceptions=True)
    return await asyncio.start_server(client, "127.0.0.1", port)
async def main():
    servers = [await serve(int(port)) for port in sys.argv[2:]]
    await asyncio.gather(*(server.serve_forever() for server in servers))
asyncio.run(main())
"""


PLAIN = "plain"
# All that the container's first process has started stands still, as if it hung.
STOP = """
import os, pathlib, signal
for place in pathlib.Path("/proc").iterdir():
    if place.name.isdigit() and (place / "stat").read_text().rsplit(")", 1)[1].split()[1] == "1":
        os.kill(int(place.name), signal.SIGSTOP)
"""


class Card(NamedTuple):
    """What a client is handed."""

    card: Path
    name: str = NAME


class Site(NamedTuple):
    """A deployed site, and with what it was deployed."""

    path: Path
    words: tuple[str, ...]
    environment: dict[str, str]
    card: Card


@pytest.fixture(scope="module")
def globus(kube: Cluster) -> Iterator[Rig]:
    """Return the stand-in, which the cluster's pods reach at this machine's address."""
    if not RabbitMQ.installed():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no rabbitmq-server")
    rig = Rig()
    tunnels = []
    try:
        rig.start()
        for port in PORTS:
            listen = f"TCP-LISTEN:{port},bind={kube.node.outside},fork,reuseaddr"
            tunnels.append(subprocess.Popen(["socat", listen, f"TCP:127.0.0.1:{port}"]))
        yield rig
    finally:
        for tunnel in tunnels:
            tunnel.kill()
            tunnel.wait()
        rig.stop()
    assert not listens(5000)


def _tunnel(kube: Cluster) -> dict[str, Any]:
    """Return a container by which a pod finds the stand-in at its `localhost`."""
    amount = {"cpu": "0.1", "memory": "64Mi"}
    return {
        "name": "tunnel",
        "image": f"fitserve/endpoint:{__version__}",
        "command": ["python", "-c", TUNNEL, kube.node.outside, *map(str, PORTS)],
        "resources": {"requests": amount, "limits": {"cpu": "0.5", "memory": "256Mi"}},
        "securityContext": container_security(),
    }


def _values(kube: Cluster, **more: Any) -> dict[str, Any]:
    service = "http://localhost:5000/"
    variables = {"GLOBUS_SDK_ENVIRONMENT": "local", "GLOBUS_SDK_SERVICE_URL_AUTH": service}
    return {"endpoint": {"env": variables, "sidecars": [_tunnel(kube)], **more}}


@pytest.fixture(scope="module")
def site(kube: Cluster, admin: Admin, globus: Rig) -> Iterator[Site]:
    """Deploy an endpoint; at the end it is destroyed, and nothing of it may be left."""
    environment = globus.admin.environment()
    path = admin.site(
        "cloud",
        kubernetes={"namespace": SPACE},
        endpoint={"heartbeat_seconds": 5, "amqp_port": AMQP_PORT},
    )
    values = admin.place / "values.yaml"
    values.write_text(yaml.safe_dump(_values(kube)))
    words = ("--seconds", "600", "--no-smoke")
    secrets = {name: said for name, said in environment.items() if name.startswith("GLOBUS_")}
    said = admin("deploy", path, "--seconds", 600, "--values", values, environment=secrets)
    assert secrets["GLOBUS_COMPUTE_CLIENT_SECRET"] not in said
    # A fit through the endpoint, and a function that is not fitserve's.
    assert "a fit took" in said
    assert "another function is refused" in said
    card = admin.place / "build" / "deploy" / "cloud" / "site-card.json"
    assert "hand to users: build/deploy/cloud/site-card.json" in said
    yield Site(path, words, secrets, Card(card))
    admin("destroy", path, "--yes")
    assert kube.answers("get", "namespace", SPACE) is None


@pytest.fixture
def client(globus: Rig, site: Site, tmp_path: Path) -> Iterator[Client]:
    """Return a client that has added the endpoint by its card."""
    client = Client(globus, globus.admin, tmp_path)
    client("endpoints", "add", "cloud", "--card", site.card.card, "--amqp-port", AMQP_PORT)
    yield client
    client.close()


def _endpoint(kube: Cluster) -> dict[str, Any]:
    [pod] = [
        one
        for one in kube.get("pods", SPACE, ENDPOINT)
        if not one["metadata"].get("deletionTimestamp")
    ]
    return dict(pod)


def _ready(kube: Cluster) -> bool:
    pods = kube.get("pods", SPACE, ENDPOINT)
    return len(pods) == 1 and all(
        one["ready"] for one in pods[0]["status"].get("containerStatuses", [{"ready": False}])
    )


def _runs(kube: Cluster) -> list[str]:
    """Return the worker pods that run."""
    pods = kube.get("pods", SPACE, WORKERS)
    return [one["metadata"]["name"] for one in pods if one["status"]["phase"] == "Running"]


def _registered(kube: Cluster, space: str = SPACE, name: str = NAME) -> str:
    """Return the id under which the endpoint's pod is registered."""
    path = f"/var/lib/fitserve/.globus_compute/{name}/endpoint.json"
    where = (f"deployment/{name}", "--namespace", space, "--container", "endpoint")
    return str(json.loads(kube.kubectl("exec", *where, "--", "cat", path))["endpoint_id"])


def _results(place: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((place / "results.json").read_text())
    return found


def test_the_example_is_fitted_through_the_service_and_workers_go_when_idle(
    kube: Cluster, site: Site, client: Client, tmp_path: Path
) -> None:
    # Those of the smoke test go first.
    wait_for("no worker pods", lambda: not kube.get("pods", SPACE, WORKERS), 120)
    run = tmp_path / "run"
    words = ("--patch", "X_200_*", "--engine", "kernel")
    client("run", "example", "--endpoint", "cloud", "--output", run, *words, timeout=400)
    found = _results(run)
    workers = kube.get("pods", SPACE, WORKERS)
    assert workers
    assert (
        workers[0]["metadata"]["ownerReferences"][0]["name"]
        == (_endpoint(kube)["metadata"]["name"])
    )
    same_results(found, local_cls("example", words))
    wait_for("no worker pods", lambda: not kube.get("pods", SPACE, WORKERS), 120)
    assert _endpoint(kube)["status"]["containerStatuses"][0]["restartCount"] == 0


def test_staus_through_the_endpoint_has_the_cls_of_this_machine(
    kube: Cluster, site: Site, client: Client, tmp_path: Path
) -> None:
    pallet, run = staus(), tmp_path / "run"
    client("run", pallet, "--endpoint", "cloud", "--output", run, timeout=600)
    found = _results(run)
    assert len(found) == 57
    same_results(found, local_cls(pallet))


def test_a_notebook_uses_the_endpoint_by_its_card(
    kube: Cluster, site: Site, tmp_path: Path
) -> None:
    image = f"fitserve/endpoint:{__version__}"
    pod = notebook_pod(hub_values(load_site(str(site.path))[0]), "notebook", image)
    pod["spec"]["containers"][0]["env"] += [
        {"name": name, "value": value} for name, value in site.environment.items()
    ]
    pod["spec"]["containers"].append(_tunnel(kube))
    notebook = Notebook(kube, SPACE, pod)
    adding = f"""
import pathlib, subprocess
pathlib.Path("site-card.json").write_text({site.card.card.read_text()!r})
words = ["fitserve", "endpoints", "add", "cloud", "--card", "site-card.json"]
subprocess.run([*words, "--amqp-port", "{AMQP_PORT}"], check=True, stdout=subprocess.DEVNULL)
"""
    try:
        settings, fit, *_ = code_cells()
        fit = fit.replace('f"parsl:{SITE}"', '"cloud"')
        said = notebook(f"{adding}\n{settings}\n{fit}\nprint('path', run.path.resolve())")
        place = notebook.fetch(said.split()[-1], tmp_path)
    finally:
        notebook.close()
    same_results(_results(place), local_cls("example"))


def test_a_worker_and_a_kubelet_that_are_killed_lose_nothing(
    kube: Cluster, site: Site, client: Client, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    started = client.start("run", "example", "--endpoint", "cloud", "--output", run, *LONG)
    [killed, *_] = wait_for("a running worker", lambda: _runs(kube), 200)
    kube.kubectl("delete", "pod", killed, "-n", SPACE, "--grace-period=0", "--force")
    wait_for("another worker", lambda: set(_runs(kube)) - {killed}, 200)
    kube.node.kill("kubelet")
    kube.start_kubelet()
    assert started.wait(timeout=600) == 0
    same_results(_results(run), local_cls("example", LONG))


def test_an_endpoints_pod_that_is_killed_loses_nothing(
    kube: Cluster, site: Site, client: Client, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = LONG
    started = client.start("run", "example", "--endpoint", "cloud", "--output", run, *words)
    wait_for("a running worker", lambda: _runs(kube), 200)
    before = _endpoint(kube)["metadata"]["name"]
    kube.kubectl("delete", "pod", before, "-n", SPACE, "--grace-period=0", "--force")
    assert started.wait(timeout=600) == 0
    same_results(_results(run), local_cls("example", words))
    assert _endpoint(kube)["metadata"]["name"] != before


def test_an_upgrade_that_fails_is_undone_and_rollback_goes_back(
    kube: Cluster, admin: Admin, site: Site, client: Client, tmp_path: Path
) -> None:
    wait_for("an endpoint that is ready", lambda: _ready(kube), 200)
    before = int(admin.status(site.path)["release"]["revision"])
    ident = json.loads(site.card.card.read_text())["endpoint_id"]
    # The first revision did not know its endpoint's id yet: under another, cards would break.
    said = admin("rollback", site.path, status=5, environment=site.environment)
    assert "nothing to go back to" in said
    bad = admin.place / "bad.yaml"
    bad.write_text(yaml.safe_dump(_values(kube, image="fitserve/endpoint:0.0.0-none")))
    words = ("--seconds", "150", "--no-smoke", "--values", bad)
    said = admin("upgrade", site.path, *words, status=5, environment=site.environment)
    assert "what served before serves again" in said
    wait_for("an endpoint that is ready", lambda: _ready(kube), 200)
    image = _endpoint(kube)["spec"]["containers"][0]["image"]
    assert image == f"fitserve/endpoint:{__version__}"

    # A user's run goes on through an upgrade.
    run = tmp_path / "run"
    started = client.start("run", "example", "--endpoint", "cloud", "--output", run, *LONG)
    wait_for("a running worker", lambda: _runs(kube), 200)
    good = admin.place / "good.yaml"
    more = {**_values(kube)["endpoint"]["env"], "COLOUR": "green"}
    good.write_text(yaml.safe_dump(_values(kube, env=more)))
    words = (*site.words, "--values", good)
    admin("upgrade", site.path, *words, environment=site.environment)
    assert "COLOUR" in json.dumps(_endpoint(kube))
    assert started.wait(timeout=600) == 0
    same_results(_results(run), local_cls("example", LONG))

    said = admin("rollback", site.path, "--seconds", "300", environment=site.environment)
    assert "a fit took" in said
    assert "COLOUR" not in json.dumps(_endpoint(kube))
    assert int(admin.status(site.path)["release"]["revision"]) > before
    # Users keep what they were handed: it is the same endpoint.
    assert _registered(kube) == ident


def test_stop_ends_it_and_deploying_starts_it_again(
    kube: Cluster, admin: Admin, site: Site
) -> None:
    admin("stop", site.path)
    wait_for("no pods", lambda: not kube.get("pods", SPACE), 120)
    values = admin.place / "values.yaml"
    words = (*site.words, "--values", values)
    admin("deploy", site.path, *words, environment=site.environment)
    assert _ready(kube)
    shown = yaml.safe_load(kube.kubectl("get", "deployment", NAME, "-n", SPACE, "-o", "yaml"))
    containers = shown["spec"]["template"]["spec"]["containers"]
    [endpoint] = [one for one in containers if one["name"] == "endpoint"]
    assert "sent" in endpoint["livenessProbe"]["exec"]["command"]
    assert admin("logs", site.path)
    # Once more, with what the release's own secret holds.
    without = {name: word for name, word in site.environment.items() if name not in CREDENTIALS}
    said = admin("deploy", site.path, *words, environment=without)
    assert "nothing was changed" in said
    assert "hand to users" in said


def _manifests(kube: Cluster, admin: Admin, function: str) -> list[dict[str, Any]]:
    """Return the objects that an administrator keeps in a repository, from `make values`."""
    path = admin.site(
        "plain",
        kubernetes={
            "namespace": PLAIN,
            "endpoint_pod": {"state": "1Gi", "storage_class": "rig"},
            "credentials_secret": "globus",
        },
        endpoint={"heartbeat_seconds": 5, "amqp_port": AMQP_PORT},
    )
    values = yaml.safe_load(admin("values", path, "--function-id", function))
    return manifests(merged(values, _values(kube)), "--namespace", PLAIN, "--skip-tests")


@pytest.fixture
def plain(kube: Cluster, admin: Admin, site: Site, globus: Rig) -> Iterator[str]:
    """Apply plain manifests, with the endpoint's state on a volume; returns the endpoint's id."""
    place = kube.directory / "state"
    place.mkdir()
    os.chown(place, 1000, 1000)
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "state"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "rig",
            "hostPath": {"path": str(place)},
        },
    }
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "globus"},
        "stringData": {name: site.environment[name] for name in CREDENTIALS},
    }
    function = json.loads(site.card.card.read_text())["function_id"]
    objects = [volume, secret, *_manifests(kube, admin, function)]
    [deployment] = [one for one in objects if one["kind"] == "Deployment"]
    # As the chart has it, but for its patience: that of a test is short.
    pod = deployment["spec"]["template"]["spec"]
    pod["terminationGracePeriodSeconds"] = 5
    probe = pod["containers"][0]["livenessProbe"]
    probe["exec"]["command"][-1] = "45"
    probe["periodSeconds"] = 5
    kube.kubectl("apply", "--filename", "-", stdin=json.dumps(namespace_manifest(PLAIN)))
    here = ("--namespace", PLAIN)
    try:
        kube.kubectl("apply", *here, "--filename", "-", stdin=yaml.safe_dump_all(objects))
        kube.kubectl("rollout", "status", "deployment/fitserve-plain", *here, "--timeout=300s")
        yield _registered(kube, PLAIN, "fitserve-plain")
    finally:
        kube.kubectl("delete", "namespace", PLAIN)
        kube.kubectl("delete", "persistentvolume", "state")


def test_plain_manifests_keep_the_endpoint_on_a_volume_and_liveness_starts_it_again(
    kube: Cluster, plain: str
) -> None:
    def ready() -> dict[str, Any] | None:
        pods = kube.get("pods", PLAIN, ENDPOINT)
        if len(pods) != 1:
            return None
        states = pods[0]["status"].get("containerStatuses", [])
        return pods[0] if states and all(one["ready"] for one in states) else None

    before = wait_for("the endpoint", ready, 60)["metadata"]["name"]
    kube.kubectl("delete", "pod", before, "--namespace", PLAIN)
    pod = wait_for("a new pod", ready, 300)
    assert pod["metadata"]["name"] != before
    assert _registered(kube, PLAIN, "fitserve-plain") == plain

    def restarts() -> int:
        states = kube.get("pods", PLAIN, ENDPOINT)[0]["status"]["containerStatuses"]
        return sum(one["restartCount"] for one in states if one["name"] == "endpoint")

    known = restarts()
    where = (pod["metadata"]["name"], "--namespace", PLAIN, "--container", "endpoint")
    kube.kubectl("exec", *where, "--", "python", "-c", STOP)
    wait_for("another start", lambda: restarts() > known, 300)
    wait_for("an endpoint that is ready", ready, 300)
    assert _registered(kube, PLAIN, "fitserve-plain") == plain
