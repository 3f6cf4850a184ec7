"""The endpoint's Deployment run by podman, with a fit in it: no cluster is needed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from kuberig.charts import manifests, site_values
from kuberig.images import fitserve_image
from kuberig.tools import missing
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1200)]

ROOT = Path(__file__).resolve().parents[2]
IDENT = "11111111-2222-4333-8444-555555555555"
ENDED = "the endpoint's command ended with"
CONTAINERS = ROOT / "tests" / "rigs" / "containerrig" / "containers.conf"


def _podman(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["podman", *words],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CONTAINERS_CONF": str(CONTAINERS)},
    )


class Played:
    """A container that runs."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        return _podman("exec", self._name, *words)

    def logs(self) -> str:
        """Return what its own command has said."""
        done = _podman("logs", self._name)
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def played() -> Iterator[Played]:
    """Return the endpoint's container.

    Its own command has ended by then: there is no way to Globus. The container waits after it.
    Podman gives no modes to files of a ConfigMap, so that probes cannot be run; it reads the keys
    of a secret from JSON. Everything else is the chart's.
    """
    absent = missing() or (None if os.geteuid() == 0 and shutil.which("podman") else "no podman")
    if absent:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(absent)
    image = fitserve_image(ROOT)
    credentials = {"existingSecret": None, "clientId": IDENT, "clientSecret": "not one"}
    changes = {"image": image, "imagePullPolicy": "Never", "credentials": credentials}
    documents = manifests(site_values("kubernetes", {"endpoint": changes}))
    kinds = {one["kind"]: one for one in documents}
    deployment, secret = kinds["Deployment"], kinds["Secret"]
    [endpoint] = deployment["spec"]["template"]["spec"]["containers"]
    waits = f'"$@"; echo "{ENDED} $?"; exec sleep 900'
    endpoint["command"] = ["/bin/bash", "-c", waits, "--", *endpoint["command"]]
    for field in ("startupProbe", "readinessProbe", "livenessProbe"):
        del endpoint[field]
    kept = [one for one in documents if one["kind"] in {"ConfigMap", "Deployment"}]
    pod = f"{deployment['metadata']['name']}-pod-0"
    name = secret["metadata"]["name"]
    keys = {key: base64.b64encode(said.encode()).decode() for key, said in _keys(secret).items()}
    _remove(pod, name)
    try:
        assert _podman("secret", "create", name, "-", stdin=json.dumps(keys)).returncode == 0
        done = _podman("play", "kube", "--network", "none", "-", stdin=yaml.safe_dump_all(kept))
        assert done.returncode == 0, done.stderr
        container = Played(f"{pod}-endpoint")
        wait_for("the endpoint's end", lambda: ENDED in container.logs(), 300)
        yield container
    finally:
        _remove(pod, name)


def _keys(secret: dict[str, Any]) -> dict[str, str]:
    return dict(secret["stringData"])


def _remove(pod: str, secret: str) -> None:
    _podman("pod", "rm", "--force", "--ignore", pod)
    _podman("secret", "rm", secret)


def test_its_own_command_fits_a_known_model_and_goes_on_to_globus(
    played: Played,
) -> None:
    said = played.logs()
    assert said.index("float64") < said.index(ENDED)
    assert f"{ENDED} 0" not in said
    # With the secret's credentials: without them it would want somebody to log in.
    assert "GlobusConnectionError" in said


def test_it_fits_a_known_model(played: Played) -> None:
    done = played("fitserve-worker", "selftest")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "float64" in done.stdout


def test_it_is_locked_down(played: Played) -> None:
    assert played("id", "-u").stdout.strip() == "1000"
    assert "Read-only" in played("touch", "/opt/fitserve/x").stderr
    assert played("sh", "-c", "touch $HOME/x /tmp/x").returncode == 0
    status = played("cat", "/proc/self/status").stdout
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status


def test_probes_want_a_heartbeat_of_late(
    played: Played,
) -> None:
    # Podman gives no modes to files of a ConfigMap.
    probe = ("bash", "/etc/fitserve/bin/probe", "delivered", "90")
    assert "no heartbeat was delivered yet" in played(*probe).stderr
    place = "/tmp/fitserve-heartbeats"  # noqa: S108 - the container's own
    played("mkdir", place)
    played("touch", f"{place}/delivered")
    assert played(*probe).returncode == 0
    played("touch", "-d", "2 minutes ago", f"{place}/delivered")
    assert "more than 90 s" in played(*probe).stderr


def test_the_endpoints_command_finds_pods(
    played: Played,
) -> None:
    """The chart's command adds the provider, and hooks heartbeats of the endpoint that is there."""
    script = """
import runpy, sys
sys.argv = ["/etc/fitserve/bin/globus-compute-endpoint", "start", "x"]
import globus_compute_endpoint.cli as cli
import parsl.providers
cli.cli_run = lambda: None
try:
    runpy.run_path("/etc/fitserve/bin/globus-compute-endpoint", run_name="__main__")
except SystemExit:
    pass
from globus_compute_endpoint.endpoint.core_endpoint import CoreEndpoint
print(parsl.providers.PodProvider.__module__, CoreEndpoint.send_heartbeat.__name__)
"""
    done = played("python", "-c", script)
    assert done.stdout.split() == ["fitserve.onsite.pods", "noted"], done.stderr
