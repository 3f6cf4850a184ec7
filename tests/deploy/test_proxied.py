"""A login node whose only way to Globus' web services is the site's proxy.

Messages (AMQPS) go directly: the endpoint's library for them knows of no proxy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deployrig.tower import FIT, Tower
from deployrig.tunnel import SERVICE_PORT
from deployrig.webproxy import WebProxy
from globusrig.client import complete
from globusrig.processes import AMQP_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deployrig.tunnel import Tunnels
    from globusrig.client import Client
    from globusrig.rig import Rig as Service
    from schedulerrig.rig import Rig

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def proxy(rig: Rig, tunnels: Tunnels) -> Iterator[WebProxy]:
    if not WebProxy.installed():
        pytest.fail("tinyproxy is not installed: apt-get install tinyproxy-bin")
    proxy = WebProxy(rig)
    tunnels.open(rig.login, [AMQP_PORT])
    yield proxy
    tunnels.open(rig.login)
    proxy.close()


@pytest.fixture(scope="module")
def tower(
    rig: Rig,
    service_there: Service,
    proxy: WebProxy,
    tree: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Tower]:
    # What is localhost to the proxy is the machine of the service.
    network = {
        "interface": "eth0",
        "proxy": {"https": proxy.address, "http": proxy.address, "none_for": ["site.example"]},
    }
    place = tmp_path_factory.mktemp("admin")
    tower = Tower(rig, service_there, tree, place, network=network)
    tower.give_credentials()
    yield tower
    tower.end()


def test_it_is_deployed_and_tried_through_the_proxy(tower: Tower, proxy: WebProxy) -> None:
    reach = ("bash", "-c", f"exec 3<> /dev/tcp/127.0.0.1/{SERVICE_PORT}")
    assert tower.host.run(*reach, status=None).returncode != 0
    said = tower("deploy")
    assert "another function is refused" in said.err
    asked = proxy.asked()
    # The function and the endpoint were registered by it.
    for part in ("/functions", "/endpoints"):
        assert any(part in one for one in asked), asked


def test_users_fit_through_the_endpoint(tower: Tower, client: Client) -> None:
    client("run", "example", *FIT, "-e", tower.name, "-o", "run", timeout=600)
    complete(client.place / "run")


def test_nothing_is_left(tower: Tower) -> None:
    tower("destroy", "--yes")
    assert tower.files() == tower.before
