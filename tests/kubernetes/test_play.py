"""The endpoint's Deployment run by podman, with a fit in it: no cluster is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from kuberig.charts import manifests, site_values
from kuberig.images import fitserve_image
from kuberig.tools import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1200)]

ROOT = Path(__file__).resolve().parents[2]
CONTAINERS = ROOT / "tests" / "containers" / "containers.conf"


def _podman(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["podman", *words],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CONTAINERS_CONF": str(CONTAINERS)},
    )


@pytest.fixture(scope="module")
def played() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Return a function that runs a command in the endpoint's container.

    Podman knows neither Globus nor secrets that are not there, and the endpoint would end without
    them: the container waits instead, everything else is the chart's.
    """
    absent = missing() or (None if os.geteuid() == 0 and shutil.which("podman") else "no podman")
    if absent:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(absent)
    image = fitserve_image(ROOT)
    changes = {"endpoint": {"image": image, "imagePullPolicy": "Never"}}
    documents = manifests(site_values("kubernetes", changes))
    [deployment] = [one for one in documents if one["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    container["command"] = ["sleep", "900"]
    for field in ("envFrom", "startupProbe", "readinessProbe", "livenessProbe"):
        del container[field]
    container["env"] = [one for one in container["env"] if "value" in one]
    kept = [one for one in documents if one["kind"] in {"ConfigMap", "Deployment"}]
    pod = f"{deployment['metadata']['name']}-pod-0"
    _podman("pod", "rm", "--force", "--ignore", pod)
    done = _podman("play", "kube", "--network", "none", "-", stdin=yaml.safe_dump_all(kept))
    assert done.returncode == 0, done.stderr
    try:
        yield lambda *words: _podman("exec", f"{pod}-endpoint", *words)
    finally:
        _podman("pod", "rm", "--force", pod)


def test_it_fits_a_known_model(played: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = played("fitserve-worker", "selftest")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "float64" in done.stdout


def test_it_is_locked_down(played: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert played("id", "-u").stdout.strip() == "1000"
    assert "Read-only" in played("touch", "/opt/fitserve/x").stderr
    assert played("sh", "-c", "touch $HOME/x /tmp/x").returncode == 0
    status = played("cat", "/proc/self/status").stdout
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status


def test_probes_want_a_heartbeat_of_late(
    played: Callable[..., subprocess.CompletedProcess[str]],
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
    played: Callable[..., subprocess.CompletedProcess[str]],
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
    assert done.stdout.split() == ["fitserve.backends.pods", "noted"], done.stderr
