"""Build what an endpoint builds from a rendered configuration, and show what it would submit.

Usage: ENDPOINT_VENV/bin/python endpoint_build.py CONFIG

CONFIG is a rendered user configuration. The engine and its provider are made by
globus-compute-endpoint's own loader; then one block is submitted to commands that only pretend
to be a scheduler, or to a Kubernetes client that only records. JSON goes to stdout. Nothing
leaves this machine.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: none
contexts: [{name: none, context: {cluster: none, user: none}}]
clusters: [{name: none, cluster: {server: "https://192.0.2.1"}}]
users: [{name: none, user: {}}]
"""
PRETEND = {
    "sacct": "exit 1",
    "sbatch": "echo Submitted batch job 1",
    "qsub": "echo 1.pretend",
}


def main(config: str) -> None:
    """Print the engine's and provider's types and what one block would be."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        _pretend(place)
        os.chdir(place)
        json.dump(_build(Path(config).read_text(encoding="utf-8"), place), sys.stdout, indent=2)


def _pretend(place: Path) -> None:
    binaries = place / "bin"
    binaries.mkdir()
    for name, line in PRETEND.items():
        command = binaries / name
        command.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        command.chmod(0o755)
    (place / "kubeconfig").write_text(KUBECONFIG, encoding="utf-8")
    os.environ["PATH"] = f"{binaries}:{os.environ['PATH']}"
    os.environ["KUBECONFIG"] = str(place / "kubeconfig")


def _build(text: str, place: Path) -> dict[str, Any]:
    loading = importlib.import_module("globus_compute_endpoint.endpoint.config.utils")

    # The interface is the site's, not this machine's.
    with (
        mock.patch("parsl.addresses.address_by_interface", return_value="192.0.2.10"),
        mock.patch("parsl.addresses.address_by_route", return_value="192.0.2.10"),
        mock.patch("parsl.addresses.address_by_hostname", return_value="192.0.2.10"),
    ):
        engine = loading.load_config_yaml(text).engine
    executor = engine.executor
    # What GlobusComputeEngine.start and HighThroughputExecutor.start set before a block.
    engine.run_dir = executor.run_dir = "/RUN"
    executor.provider.script_dir = str(place)
    if engine.container_type:
        executor.launch_cmd = engine.containerized_launch_cmd()
    executor.worker_port, executor.cert_dir = 54321, "/RUN/certificates"
    executor.logconf_path = "/RUN/log_config"
    executor.initialize_scaling()
    result = {
        "engine": type(engine).__name__,
        "provider": type(executor.provider).__name__,
        "launcher": type(getattr(executor.provider, "launcher", None)).__name__,
        "address": executor.address,
        "drain_period": executor.drain_period,
        "workers_per_node": executor.workers_per_node,
        "serializers": sorted(
            kind.__name__ for kind in engine.serde.allowed_deserializer_types or ()
        ),
        "retries": engine.max_retries_on_system_failure,
    }
    if result["provider"] == "KubernetesProvider":
        return {**result, "pod": _pod(executor)}
    return {**result, "script": _script(executor, place)}


def _script(executor: Any, place: Path) -> str:
    """Return the submit script, without the parts that differ each time."""
    if type(executor.provider).__name__ == "LocalProvider":
        return str(executor.launch_cmd)
    before = set(place.iterdir())
    executor.provider.submit(executor.launch_cmd.format(block_id="0"), 1, "parsl.block-0")
    [script] = [
        path for path in set(place.iterdir()) - before if path.suffix not in {".stdout", ".stderr"}
    ]
    text = script.read_text(encoding="utf-8").replace(str(place), "/RUN")
    return re.sub(r"(parsl\.block-0)\.[0-9.]+[0-9]", r"\1.TIME", text)


def _pod(executor: Any) -> dict[str, Any]:
    client = importlib.import_module("kubernetes.client")
    client_ = executor.provider.kube_client
    with mock.patch.object(client_, "create_namespaced_pod") as create:
        executor.provider.submit(executor.launch_cmd.format(block_id="0"), 1, "parsl.block-0")
    body = create.call_args.kwargs["body"]
    pod: dict[str, Any] = client.ApiClient().sanitize_for_serialization(body)
    job = pod["metadata"]["labels"]["parsl-job-id"]
    loaded: dict[str, Any] = json.loads(json.dumps(pod).replace(job, "JOB"))
    return loaded


if __name__ == "__main__":
    main(sys.argv[1])
