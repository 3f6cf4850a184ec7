"""A site deployed by somebody who is logged in on its login node: no SSH.

The tests are in the order of an endpoint's life, and each goes on from the one before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from deployrig.resident import Resident
from deployrig.tower import FIT, Tower
from globusrig.client import complete

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from globusrig.client import Client
    from globusrig.rig import Rig as Service
    from schedulerrig.rig import Rig

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def tower(
    rig: Rig, service_there: Service, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tower]:
    tower = Tower(rig, service_there, tree, tmp_path_factory.mktemp("admin"))
    fields = yaml.safe_load(tower.site.read_text())
    tower.admin = Resident(rig, tower.host, tower.user)
    # Where one is logged in needs no name.
    del fields["login"]
    tower.site = tower.admin.write_site(tower.name, fields)
    tower.reach = ("--here",)
    tower.give_credentials()
    yield tower
    tower.end()


def test_it_is_deployed_and_the_same_again_changes_nothing(tower: Tower) -> None:
    log = tower.rig.directory / "log" / "sshd.login"
    before = log.read_text().count("Accepted publickey")
    said = tower("deploy")
    assert "another function is refused" in said.err
    again = tower("deploy", "--diff")
    assert again.changed == 0, again.err
    endpoint = tower.status()["endpoint"]
    assert (endpoint["kept_by"], endpoint["at_boot"]) == ("supervisor", "cron")
    assert log.read_text().count("Accepted publickey") == before


def test_users_fit_through_it_and_beside_it(tower: Tower, client: Client) -> None:
    client("run", "example", *FIT, "-e", tower.name, "-o", "run", timeout=600)
    complete(client.place / "run")
    tower.run_there("run", "example", "-e", f"parsl:{tower.name}", *FIT, "-o", ".cache/direct")
    complete(tower.home / ".cache" / "direct")


def test_nothing_is_left(tower: Tower) -> None:
    tower("destroy", "--yes")
    assert tower.files() == tower.before
    assert tower.jobs() == []
    assert tower.host.run("crontab", "-l", user="ada", status=1).stdout == ""
