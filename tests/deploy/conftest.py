"""Fixtures around deployments: a checkout, and the hosts and the service to deploy to."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from deployrig.admin import ROOT, copy_checkout
from globusrig.processes import AMQP_PORT, RabbitMQ
from globusrig.rig import Rig as Service
from globusrig.rig import wait_for
from schedulerrig.fixtures import rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from schedulerrig.rig import Rig

__all__ = ["rig"]

_PORTS = (5000, AMQP_PORT)


def _require(what: str, there: object) -> None:
    if not there:
        if os.environ.get("CI"):
            pytest.fail(what)
        pytest.skip(what)


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkout that stays as it is while tests run."""
    ansible = ROOT / ".cache" / "ansible-venv" / "bin" / "ansible-playbook"
    _require("Ansible is not installed: make ansible-venv", ansible.is_file())
    return copy_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """Return the stand-in for the Globus Compute service, with its broker."""
    _require("RabbitMQ is not installed: apt-get install rabbitmq-server", RabbitMQ.installed())
    service = Service()
    try:
        service.start()
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="session")
def service_there(rig: Rig, service: Service) -> Iterator[Service]:
    """Return the service, which the login node reaches as its own: the SDK has it on localhost."""
    forwards = [word for port in _PORTS for word in ("-R", f"{port}:127.0.0.1:{port}")]
    command = ("ssh", "-F", str(rig.ssh_config), "-l", "root", "-N", *forwards, "login")
    tunnel = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        for port in _PORTS:
            reach = ("bash", "-c", f"exec 3<> /dev/tcp/127.0.0.1/{port}")
            wait_for(
                lambda asked=reach: rig.login.run(*asked, status=None).returncode == 0,
                20,
                f"port {port} on the login node",
            )
        yield service
    finally:
        tunnel.terminate()
        tunnel.wait(10)
