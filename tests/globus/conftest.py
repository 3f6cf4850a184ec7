"""Fixtures around the rig: one broker, service and endpoint for all tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from fitserve.errors import BackendError
from globusrig.client import Client
from globusrig.processes import RabbitMQ
from globusrig.rig import Endpoint, Rig, make_environment
from sitekit.golden import endpoint_venv

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _missing() -> str | None:
    if not RabbitMQ.installed():
        return "RabbitMQ is not installed: apt-get install rabbitmq-server"
    try:
        endpoint_venv()
    except BackendError as error:
        return f"{error.cause}: make endpoint-venv"
    return None


@pytest.fixture(scope="session")
def rig() -> Iterator[Rig]:
    missing = _missing()
    if missing:
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    rig = Rig()
    try:
        rig.start()
        yield rig
    finally:
        rig.stop()


@pytest.fixture(scope="session")
def venv(rig: Rig) -> Path:
    return make_environment(rig.directory / "venv", endpoint_venv())


@pytest.fixture(scope="session")
def function(rig: Rig) -> str:
    """Return the id of the function, registered as a site's administrator does it."""
    done = subprocess.run(
        [sys.executable, "-m", "fitserve_worker", "function", "register", "--public"],
        env=rig.admin.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture(scope="session")
def endpoint(rig: Rig, venv: Path, function: str) -> Iterator[Endpoint]:
    """Return an endpoint in the bare environment that systemd gives a service."""
    endpoint = Endpoint(rig, venv, "rig", functions=[function], path="/usr/local/bin:/usr/bin:/bin")
    try:
        endpoint.start()
        yield endpoint
    finally:
        endpoint.stop()


@pytest.fixture
def client(rig: Rig, endpoint: Endpoint, tmp_path: Path) -> Iterator[Client]:
    """Return a client that has added the endpoint as ``rig``."""
    client = Client(rig, rig.admin, tmp_path)
    client.add("rig", endpoint)
    yield client
    client.close()


_mu = iter(range(1, 1000))


@pytest.fixture
def mu() -> tuple[str, str]:
    """Return a signal strength that no other test asks for: the endpoint keeps what it fitted."""
    return ("--mu", f"{1 + next(_mu) / 1000:.3f}")
