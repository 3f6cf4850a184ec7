"""On a real Kubernetes: the endpoint's pod, registered with the stand-in for Globus' service."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml

from fitserve._version import __version__
from fitserve.backends.pod_fields import container_security
from globusrig.client import Client
from globusrig.processes import AMQP_PORT, RabbitMQ, listens
from globusrig.rig import Rig
from kuberig.jobs import local_cls
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kuberig.cluster import Cluster
    from kuberig.fixtures import Admin

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

SPACE = "cloud"
NAME = "fitserve-cloud"
ENDPOINT = "app.kubernetes.io/component=endpoint"
WORKERS = "app.kubernetes.io/component=worker"
PORTS = (5000, AMQP_PORT)
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


def _values(kube: Cluster, **more: Any) -> dict[str, Any]:
    amount = {"cpu": "0.1", "memory": "64Mi"}
    sidecar = {
        "name": "tunnel",
        "image": f"fitserve/endpoint:{__version__}",
        "command": ["python", "-c", TUNNEL, kube.node.outside, *map(str, PORTS)],
        "resources": {"requests": amount, "limits": {"cpu": "0.5", "memory": "256Mi"}},
        "securityContext": container_security(),
    }
    service = "http://localhost:5000/"
    variables = {"GLOBUS_SDK_ENVIRONMENT": "local", "GLOBUS_SDK_SERVICE_URL_AUTH": service}
    return {"endpoint": {"env": variables, "sidecars": [sidecar], **more}}


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
    said = admin("deploy", path, *words, "--values", values, environment=secrets)
    assert secrets["GLOBUS_COMPUTE_CLIENT_SECRET"] not in said
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


def _results(place: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((place / "results.json").read_text())
    return found


def test_the_example_is_fitted_through_the_service_and_workers_go_when_idle(
    kube: Cluster, site: Site, client: Client, tmp_path: Path
) -> None:
    assert kube.get("pods", SPACE, WORKERS) == []
    run = tmp_path / "run"
    words = ("--patch", "X_200_*")
    client("run", "example", "--endpoint", "cloud", "--output", run, *words, timeout=400)
    found = _results(run)
    workers = kube.get("pods", SPACE, WORKERS)
    assert workers
    assert (
        workers[0]["metadata"]["ownerReferences"][0]["name"]
        == (_endpoint(kube)["metadata"]["name"])
    )
    for name, cls in local_cls(tmp_path, "example", words).items():
        assert found[name]["CLs_obs"] == pytest.approx(cls, rel=1e-5, abs=1e-12), name
    wait_for("no worker pods", lambda: not kube.get("pods", SPACE, WORKERS), 120)
    assert _endpoint(kube)["status"]["containerStatuses"][0]["restartCount"] == 0


def test_an_endpoints_pod_that_is_killed_loses_nothing(
    kube: Cluster, site: Site, client: Client, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ("--engine", "pyhf", "--patch", "X_700_*", "--max-task-hypotheses", "2")
    started = client.start("run", "example", "--endpoint", "cloud", "--output", run, *words)
    wait_for(
        "a running worker",
        lambda: any(p["status"]["phase"] == "Running" for p in kube.get("pods", SPACE, WORKERS)),
        200,
    )
    before = _endpoint(kube)["metadata"]["name"]
    kube.kubectl("delete", "pod", before, "-n", SPACE, "--grace-period=0", "--force")
    assert started.wait(timeout=600) == 0
    found = _results(run)
    expected = local_cls(tmp_path, "example", [*words])
    assert {name: one["status"] for name, one in found.items()} == dict.fromkeys(expected, "ok")
    for name, cls in expected.items():
        assert found[name]["CLs_obs"] == pytest.approx(cls, rel=1e-5, abs=1e-12), name
    assert _endpoint(kube)["metadata"]["name"] != before


def test_an_upgrade_that_fails_is_undone_and_rollback_goes_back(
    kube: Cluster, admin: Admin, site: Site
) -> None:
    wait_for("an endpoint that is ready", lambda: _ready(kube), 200)
    before = admin.status(site.path)["release"]["revision"]
    bad = admin.place / "bad.yaml"
    bad.write_text(yaml.safe_dump(_values(kube, image="fitserve/endpoint:0.0.0-none")))
    words = ("--seconds", "150", "--no-smoke", "--values", bad)
    said = admin("upgrade", site.path, *words, status=5, environment=site.environment)
    assert "what served before serves again" in said
    wait_for("an endpoint that is ready", lambda: _ready(kube), 200)
    image = _endpoint(kube)["spec"]["containers"][0]["image"]
    assert image == f"fitserve/endpoint:{__version__}"

    good = admin.place / "good.yaml"
    more = {**_values(kube)["endpoint"]["env"], "COLOUR": "green"}
    good.write_text(yaml.safe_dump(_values(kube, env=more)))
    words = (*site.words, "--values", good)
    admin("upgrade", site.path, *words, environment=site.environment)
    card = json.loads(site.card.card.read_text())
    assert "COLOUR" in json.dumps(_endpoint(kube))
    admin("rollback", site.path, "--seconds", "300")
    wait_for("an endpoint that is ready", lambda: _ready(kube), 200)
    assert "COLOUR" not in json.dumps(_endpoint(kube))
    assert admin.status(site.path)["release"]["revision"] > before
    # Users keep what they were handed: it is the same endpoint.
    assert card["endpoint_id"] == json.loads(site.card.card.read_text())["endpoint_id"]


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
