"""An ordinary user's endpoint on a login node of Slurm, deployed over SSH, to its end.

The tests are in the order of an endpoint's life, and each goes on from the one before.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from deployrig.admin import Admin
from deployrig.tower import FIT, Tower, other_version
from fitserve import __version__
from globusrig.client import Client, complete, events, wait_for_events
from globusrig.rig import wait_for
from schedulerrig.pallets import staus

if TYPE_CHECKING:
    from deployrig.tunnel import Tunnels

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]

WORKERS = ("-f", "spawn_main|HTEX-Worker", "-u", "ada")


# -- without credentials -----------------------------------------------------------------------


def test_check_changes_nothing(tower: Tower) -> None:
    said = tower("deploy", "--check", "--diff")
    assert said.changed > 0
    assert tower.files() == tower.before


def test_without_credentials_the_site_is_for_direct_use(tower: Tower) -> None:
    said = tower("deploy")
    assert "GLOBUS_COMPUTE_CLIENT_ID=... GLOBUS_COMPUTE_CLIENT_SECRET=... make deploy" in said.out
    assert f"--endpoint parsl:{tower.name}" in said.out
    assert not tower.configuration.exists()
    tower.run_there("run", "example", "-e", f"parsl:{tower.name}", *FIT, "-o", "direct")
    complete(tower.home / "direct")
    shutil.rmtree(tower.home / "direct")
    assert tower.jobs() == []
    again = tower("deploy")
    assert again.changed == 0, again.err


# -- with credentials --------------------------------------------------------------------------


def test_with_credentials_the_endpoint_is_up_and_tried(tower: Tower) -> None:
    tower.give_vault()
    tower.first = tower("deploy")
    card = json.loads(tower.admin.card(tower.name).read_text())
    assert card["endpoint_id"]
    assert card["endpoint_id"] in tower.first.out
    assert "another function is refused" in tower.first.err
    configured = (tower.configuration / "config.yaml").read_text()
    assert f'allowed_functions: ["{card["function_id"]}"]' in configured


def test_the_same_again_changes_nothing(tower: Tower) -> None:
    said = tower("deploy", "--diff")
    assert said.changed == 0, said.err


def test_secrets_are_in_one_private_file(tower: Tower) -> None:
    """Neither in what was said or rendered, nor on a command line, nor readable by others."""
    assert tower.first is not None
    secret = tower.service.admin.secret
    assert secret not in tower.first.all
    # All releases too, by a program that is faster at it.
    places = (str(tower.home), str(tower.admin.place))
    found = subprocess.run(
        ["grep", "-r", "-l", "-F", "-e", secret, *places],
        check=True,
        capture_output=True,
        text=True,
    )
    [holder] = map(Path, found.stdout.split())
    assert holder == tower.home / ".config" / "fitserve" / f"fitserve-{tower.name}.env"
    assert holder.stat().st_mode & 0o777 == 0o600
    assert not any(secret in command for command in tower.processes())


def test_status_and_smoke(tower: Tower) -> None:
    found = tower.status()
    assert found["endpoint"]["pid"]
    assert found["endpoint"]["kept_by"] == "supervisor"
    assert found["orphans"] == []
    assert found["versions"]["globus-compute-endpoint"] == "4.19.0"
    said = tower("smoke")
    for stage in ("identity", "endpoint", "function", "workers", "fit", "refusal"):
        assert f" {stage} " in said.out, said.out


def test_it_is_reached_through_a_jump_host(tower: Tower) -> None:
    fields = yaml.safe_load(tower.site.read_text())
    fields["login"]["jump_host"] = "pbs"
    path = tower.admin.place / "behind" / tower.site.name
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(fields))
    log = tower.rig.directory / "log" / "sshd.pbs"
    before = log.read_text().count("Accepted publickey for root")
    # Not by a connection that is still open.
    alone = {**tower.admin.environment, "ANSIBLE_SSH_ARGS": "-o ControlMaster=no"}
    admin = Admin(tower.admin.tree, tower.admin.place, alone)
    found = admin.status(path, "--ssh-config", tower.rig.ssh_config)
    assert found["endpoint"]["id"] == tower.status()["endpoint"]["id"]
    assert log.read_text().count("Accepted publickey for root") > before


def test_a_physicist_runs_through_the_endpoint(tower: Tower, client: Client) -> None:
    run = client.place / "run"
    client("run", staus(tower.home), "-e", tower.name, "-o", run, timeout=600)
    assert len(complete(run)) == 57
    found = tower.status()
    assert found["children"]
    assert all(job["of_endpoint"] for job in found["jobs"])


def test_a_killed_endpoint_comes_back_and_what_it_left_is_ended(tower: Tower) -> None:
    before = tower.kill_endpoint()
    left = tower.status()
    assert left["endpoint"]["pid"] is None
    said = tower("deploy")
    assert said.changed > 0
    after = tower.status()
    assert after["orphans"] == []
    assert after["endpoint"]["id"] == before["endpoint"]["id"]
    alive = {one["pid"] for one in after["processes"]} | {after["endpoint"]["pid"]}
    assert not alive & {one["pid"] for one in left["orphans"]}


def test_a_login_node_that_was_rebooted_has_its_endpoint_again(
    tower: Tower, tunnels: Tunnels
) -> None:
    """By cron, and nobody does anything."""
    before = tower.status()
    assert before["endpoint"]["at_boot"] == "cron"
    tower.host.kill()
    tower.rig.restart_login(tower.host)
    tunnels.open(tower.host)
    wait_for(lambda: tower.status()["endpoint"]["pid"], 150, "the endpoint")
    after = tower.status()
    assert after["endpoint"]["id"] == before["endpoint"]["id"]
    tower("smoke")


# -- versions ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_tree(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return other_version(tree, tmp_path_factory.mktemp("other") / "tree", "0.2.0")


def test_a_release_that_fails_its_trial_does_not_serve(
    tower: Tower, other_tree: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(other_tree, broken)
    entry = broken / "worker" / "src" / "fitserve_worker" / "entry.py"
    text = entry.read_text()
    assert "def answer(text: str)" in text
    entry.write_text(text + "\n\ndef answer(text):\n    raise RuntimeError('broken on purpose')\n")
    before = tower.status()
    said = tower("upgrade", tree=broken, status=5)
    assert "broken on purpose" in said.err
    after = tower.status()
    assert after["versions"]["release"] == before["versions"]["release"]
    assert after["endpoint"]["pid"] == before["endpoint"]["pid"]


def test_a_release_that_fails_once_it_serves_makes_way_again(
    tower: Tower, other_tree: Path, tmp_path: Path, client: Client
) -> None:
    """It fits well; what is broken is what only the service's own test sees."""
    broken = tmp_path / "broken"
    shutil.copytree(other_tree, broken)
    smoke = broken / "deploy" / "sitekit" / "target" / "smoke.py"
    text = smoke.read_text()
    assert "_NOT_OURS, " in text
    smoke.write_text(text.replace("client.register_source_code(_NOT_OURS, ", "client.nothing("))
    before = tower.status()
    kept = (tower.configuration / "user_config_template.yaml.j2").read_text()
    manifest = tower.home / ".local/share/fitserve" / f"fitserve-{tower.name}" / "manifest.json"
    known = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**known, "refused_id": None}))
    said = tower("upgrade", tree=broken, status=5)
    assert "not tried" in said.err
    after = tower.status()
    assert after["versions"]["release"] == before["versions"]["release"]
    # Nor does a rollback lead to what has just failed.
    assert after["versions"]["previous"] == before["versions"]["previous"]
    assert after["endpoint"]["pid"] == before["endpoint"]["pid"]
    assert (tower.configuration / "user_config_template.yaml.j2").read_text() == kept
    client("run", "example", "--patch", "X_600_0", "-e", tower.name, "-o", "run", timeout=600)
    complete(client.place / "run")


def test_an_upgrade_leaves_running_fits_alone(
    tower: Tower, other_tree: Path, client: Client
) -> None:
    wait_for(lambda: not tower.jobs(), 150, "the end of the idle blocks of runs before")
    run = client.place / "run"
    options = ("--engine", "pyhf", "--max-task-hypotheses", "1", "--set", "max_blocks=1")
    running = client.start("run", "example", *options, "-e", tower.name, "-o", run)
    wait_for_events(run, "finished", 1, 400)
    nodes = [tower.rig.hosts[name] for name in ("c1", "c2")]
    for node in nodes:  # before the last of its fits is done
        node.run("pkill", "-STOP", *WORKERS, status=None)
    try:
        before = tower.status()
        [job] = [job for job in before["jobs"] if job["state"] == "running" and job["of_endpoint"]]
        tower("upgrade", tree=other_tree)
        after = tower.status()
    finally:
        for node in nodes:
            node.run("pkill", "-CONT", *WORKERS, status=None)
    client.finish(running, 600)
    complete(run)
    assert not events(run, "lost")
    assert after["versions"]["previous"] == before["versions"]["release"]
    assert after["versions"]["fitserve"] == "0.2.0"
    # The same endpoint package and configuration: it went on, with its users' tasks.
    assert after["endpoint"]["pid"] == before["endpoint"]["pid"]
    assert job["id"] in [one["id"] for one in after["jobs"]]
    link = tower.home / ".local" / "share" / "fitserve" / "venv"
    assert link.readlink().name == after["versions"]["release"]


def test_rollback(tower: Tower) -> None:
    before = tower.status()
    tower("rollback")
    back = tower.status()
    assert back["versions"]["release"] == before["versions"]["previous"]
    assert back["versions"]["fitserve"] == __version__


# -- the end -----------------------------------------------------------------------------------


def test_nothing_is_left(tower: Tower) -> None:
    tower("destroy", "--yes")
    assert tower.files() == tower.before
    assert tower.jobs() == []
    assert tower.host.run("crontab", "-l", user="ada", status=1).stdout == ""
    wait_for(
        lambda: not any("fitserve" in one or "parsl" in one for one in tower.processes()),
        10,
        "the end of all processes",
    )
