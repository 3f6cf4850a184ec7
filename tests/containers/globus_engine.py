"""Fit one hypothesis through the engine of Globus Compute that a rendered site describes.

Usage: python globus_engine.py SITE_DIRECTORY RUN_DIRECTORY

The endpoint's own functions render and load the configuration; only the cloud service is left
out. The answer goes to standard output as JSON.
"""

from __future__ import annotations

import json
import os
import pwd
import sys
import uuid
from pathlib import Path

from globus_compute_common import messagepack
from globus_compute_common.messagepack.message_types import Task as Message
from globus_compute_endpoint.endpoint.config import CoreEndpointConfig
from globus_compute_endpoint.endpoint.config.utils import (
    load_config_yaml,
    load_user_config_schema,
    load_user_config_template,
    render_config_user_template,
)
from globus_compute_endpoint.endpoint.identity_mapper import MappedPosixIdentity
from globus_compute_endpoint.engines.base import GCFuture
from globus_compute_sdk.serialize import (
    ComputeSerializer,
    JSONData,
    PureSourceTextInspect,
)

from fitserve_contract import (
    EngineOptions,
    HypotestRequest,
    Hypothesis,
    Task,
    decode_result,
    digest,
    encode_task,
)
from fitserve_worker import selftest


def fitserve_run(task):  # as it is registered: fitserve_contract.FUNCTION_SOURCE
    import os

    from fitserve_worker import run

    return [run(task), os.environ["FITSERVE_IMAGE_VERSION"]]


def main(site: Path, run_directory: Path) -> None:
    """Start the engine, fit, print, and stop."""
    engine = load_config_yaml(_configuration(site)).engine
    # The endpoint's own command names the interpreter of the image, which this machine lacks.
    interchange = "parsl.executors.high_throughput.interchange"
    engine.executor.interchange_launch_cmd = [sys.executable, "-m", interchange]
    run_directory.mkdir()
    engine.start(endpoint_id=uuid.uuid4(), run_dir=str(run_directory))
    serializer = ComputeSerializer(strategy_code=PureSourceTextInspect(), strategy_data=JSONData())
    buffer = serializer.pack_buffers(
        [
            serializer.serialize(fitserve_run),
            serializer.serialize([_task()]),
            serializer.serialize({}),
        ]
    )
    future = GCFuture(uuid.uuid4())
    message = messagepack.pack(Message(task_id=future.gc_task_id, task_buffer=buffer))
    engine.submit(future, message, resource_specification={})
    answer = messagepack.unpack(future.result(timeout=240))
    if answer.is_error:
        sys.exit(f"error: {answer.data}")
    text, image = serializer.deserialize(answer.data)
    result = decode_result(text).results[0]
    found = {
        "engine": type(engine).__name__,
        "status": result.status,
        "CLs_obs": result.CLs_obs,
        "image": image,
    }
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    engine.shutdown()


def _configuration(site: Path) -> str:
    template = site / "user_config_template.yaml.j2"
    user = pwd.getpwuid(os.getuid())
    return render_config_user_template(
        CoreEndpointConfig(),
        load_user_config_template(template),
        template,
        MappedPosixIdentity(user, [[{"test": []}]], str(uuid.uuid4())),
        load_user_config_schema(site / "user_config_schema.json"),
        {},
        {},
    )


def _task() -> str:
    workspace = selftest._WORKSPACE
    return encode_task(
        Task(
            workspace_digest=digest(workspace),
            workspace=workspace,
            hypotheses=[Hypothesis(name="signal", values=(), patch=[selftest._SIGNAL])],
            request=HypotestRequest(engine=EngineOptions(engine="kernel")),
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    # Threads of the endpoint's library would keep the process alive.
    os._exit(0)
