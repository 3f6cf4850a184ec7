"""Fixtures around deployments: a checkout, and the hosts and the service to deploy to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from containerrig.images import APPTAINER
from containerrig.sif import prepared_sif
from deployrig.admin import ROOT, copy_checkout
from deployrig.apptainer import Apptainer
from deployrig.tower import Tower
from deployrig.tunnel import Tunnels
from globusrig.processes import RabbitMQ
from globusrig.rig import Rig as Service
from schedulerrig.fixtures import rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from globusrig.client import Client
    from schedulerrig.rig import Rig

__all__ = ["rig"]


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
def tunnels(rig: Rig, service: Service) -> Iterator[Tunnels]:
    """Let login nodes reach the service."""
    tunnels = Tunnels(rig)
    try:
        for host in (rig.login, rig.pbs):
            tunnels.open(host)
        yield tunnels
    finally:
        tunnels.close()


@pytest.fixture(scope="session")
def service_there(service: Service, tunnels: Tunnels) -> Service:
    """Return the service, which login nodes reach."""
    return service


@pytest.fixture(scope="module")
def tower(
    rig: Rig, service_there: Service, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tower]:
    """Return an ordinary user's site on Slurm's login node, not deployed and without credentials.

    Modules add to it what they need of it.
    """
    tower = Tower(rig, service_there, tree, tmp_path_factory.mktemp("admin"))
    yield tower
    tower.end()


@pytest.fixture
def client(tower: Tower, tmp_path: Path) -> Iterator[Client]:
    """Return a user's machine that knows the deployed endpoint by its card."""
    client = tower.client(tmp_path)
    yield client
    client.close()


@pytest.fixture(scope="session")
def sif() -> Path:
    """Return the workers' image file, made before: here is no network."""
    file = prepared_sif()
    _require(
        "there is no image file: it is made by `make test-deploy-slow`", file and APPTAINER.is_dir()
    )
    assert file is not None
    return file


@pytest.fixture(scope="session")
def apptainer(rig: Rig, sif: Path) -> Apptainer:
    """Return Slurm's nodes with Apptainer, which login nodes need not have."""
    return Apptainer(rig, [rig.hosts[name] for name in ("c1", "c2")])
