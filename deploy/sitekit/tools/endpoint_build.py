"""Build what an endpoint builds from rendered sites, and show what it would submit.

Usage: ENDPOINT_VENV/bin/python endpoint_build.py < JOBS

JOBS is a JSON list of ``{"directory": a rendered site, "options": what a user sets}``. Each is
rendered and loaded by globus-compute-endpoint's own functions; then one block is submitted to
commands that only pretend to be a scheduler, or to a Kubernetes client that only records. A
JSON list with what was built, or the ``error``, goes to stdout. Nothing leaves this machine.
"""

from __future__ import annotations

import importlib
import json
import os
import pwd
import re
import sys
import tempfile
import uuid
from pathlib import Path
from types import ModuleType
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
PODS = Path(__file__).resolve().parents[3] / "client" / "src" / "fitserve" / "onsite" / "pods.py"
PRETEND = {
    "sacct": "exit 1",
    "sbatch": "echo Submitted batch job 1",
    "qsub": "echo 1.pretend",
}


def main() -> None:
    """Print, for each job, the engine's and provider's types and what one block would be."""
    jobs = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        _pretend(place)
        os.chdir(place)
        _register_provider()
        json.dump([_job(job, place) for job in jobs], sys.stdout, indent=2)


def _loading() -> Any:
    # The Kubernetes client, which this imports, reads its environment when imported.
    return importlib.import_module("globus_compute_endpoint.endpoint.config.utils")


def _register_provider() -> None:
    """Do what an endpoint's pod does when it starts.

    Neither fitserve nor what it needs is installed here: bare packages with its directories let
    this one module be found, and nothing else of it is imported.
    """
    for name, place in (("fitserve", PODS.parents[1]), ("fitserve.onsite", PODS.parent)):
        package = ModuleType(name)
        package.__path__ = [str(place)]
        sys.modules[name] = package
    importlib.import_module("fitserve.onsite.pods").register()


def _job(job: dict[str, Any], place: Path) -> dict[str, Any]:
    directory = Path(job["directory"])
    try:
        core = _core(directory)
        text = _render(directory, job["options"])
        return {**_build(text, place), "config": text, "core": core}
    except Exception as error:  # noqa: BLE001 -- whatever the endpoint raises is its answer
        return {"error": f"{type(error).__name__}: {error}"}


def _core(directory: Path) -> dict[str, Any]:
    """Load the endpoint's own configuration, and return what decides who may do what."""
    text = (directory / "config.yaml").read_text(encoding="utf-8")
    # The mapping is looked for where the endpoint will be, which is not this machine.
    text = re.sub(r"(?m)^(identity_mapping_config_path: ).*$", r"\1/dev/null", text)
    core = _loading().load_config_yaml(text)
    return {
        "type": type(core).__name__,
        "allowed_functions": core.allowed_functions,
        "authentication_policy": core.authentication_policy,
        "heartbeat_period": core.heartbeat_period,
        "high_assurance": core.high_assurance,
    }


def _render(directory: Path, options: dict[str, Any] | None) -> str:
    config = importlib.import_module("globus_compute_endpoint.endpoint.config")
    mapper = importlib.import_module("globus_compute_endpoint.endpoint.identity_mapper")
    user = pwd.getpwuid(os.getuid())
    template = directory / "user_config_template.yaml.j2"
    rendered: str = _loading().render_config_user_template(
        config.CoreEndpointConfig(),
        _loading().load_user_config_template(template),
        template,
        mapper.MappedPosixIdentity(user, [[{"test": []}]], str(uuid.uuid4())),
        _loading().load_user_config_schema(directory / "user_config_schema.json"),
        options,
        {},
    )
    return rendered


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
    # The interface is the site's, not this machine's.
    with (
        mock.patch("parsl.addresses.address_by_interface", return_value="192.0.2.10"),
        mock.patch("parsl.addresses.address_by_route", return_value="192.0.2.10"),
        mock.patch("parsl.addresses.address_by_hostname", return_value="192.0.2.10"),
    ):
        engine = _loading().load_config_yaml(text).engine
    executor = engine.executor
    # What GlobusComputeEngine.start and HighThroughputExecutor.start set before a block.
    engine.run_dir = executor.run_dir = "/RUN"
    executor.provider.script_dir = str(place)
    if engine.container_type:
        executor.launch_cmd = engine.containerized_launch_cmd()
    executor.worker_port, executor.cert_dir = 54321, "/RUN/certificates"
    executor.logconf_path = "/RUN/log_config"
    executor.initialize_scaling()
    # The engine makes it when it starts, and only then is a wrong strategy noticed.
    poller = importlib.import_module("parsl.jobs.job_status_poller")
    poller.JobStatusPoller(**engine._job_status_kwargs)  # noqa: SLF001
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
    if result["provider"] == "PodProvider":
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
    library = importlib.import_module("kubernetes.client")
    client = executor.provider.kube_client
    with mock.patch.object(client, "create_namespaced_pod") as create:
        executor.provider.submit(executor.launch_cmd.format(block_id="0"), 1, "parsl.block-0")
    body = create.call_args.kwargs["body"]
    pod: dict[str, Any] = library.ApiClient().sanitize_for_serialization(body)
    job = pod["metadata"]["labels"]["parsl-job-id"]
    loaded: dict[str, Any] = json.loads(json.dumps(pod).replace(job, "JOB"))
    return loaded


if __name__ == "__main__":
    main()
