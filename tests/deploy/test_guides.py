"""The site admin's guides: their site files are in order, and their commands were run."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import click
import pytest
import yaml

from deployrig.admin import ROOT, copy_checkout, python_path
from deployrig.guides import GUIDES, Shown, known, read_site, shown
from deployrig.tower import VENV, Tower, other_version
from globusrig.client import Client, complete
from globusrig.processes import AMQP_PORT
from globusrig.rig import wait_for
from schedulerrig import users
from sitekit.cli import commands

if TYPE_CHECKING:
    from pathlib import Path

    from globusrig.rig import Rig as Service
    from schedulerrig.rig import Rig

LIFE = {
    *("check", "deploy", "doctor", "status", "smoke"),
    *("upgrade", "rollback", "logs", "stop", "destroy"),
}
each_guide = pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)


@each_guide
def test_the_site_file_of_a_guide_is_in_order(
    page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `make check` is shown to say is what it says."""
    path = tmp_path / "mysite.yaml"
    path.write_text(read_site(page))
    commands.main(["check", str(path)], standalone_mode=False)
    [check] = [one for one in shown(page) if one.words[:2] == ["make", "check"]]
    assert check.output == capsys.readouterr().out.splitlines()


@each_guide
def test_a_guide_shows_commands_that_exist(page: Path) -> None:
    found = shown(page)
    for one in found:
        known(one)
    assert {one.words[1] for one in found if one.words[0] == "make"} == LIFE
    typed = [one.words[1] for one in found if one.where == "user"]
    assert typed == ["endpoints", "endpoints", "run"]


def test_what_does_not_exist_would_be_noticed() -> None:
    for words, error in (
        (["make", "deploi", "SITE=mysite"], AssertionError),
        (["make", "smoke", "SITE=mysite", "ARGS=--drain-seconds 3"], click.NoSuchOption),
        (["fitserve", "runn"], AssertionError),
    ):
        with pytest.raises(error):
            known(Shown("", words, [], credentials=False, pulled=False))


def test_guides_are_found() -> None:
    pages = {
        place: (ROOT / place).read_text(encoding="utf-8")
        for place in ("mkdocs.yml", "docs/admin.md")
    }
    for page in GUIDES:
        for place, text in pages.items():
            assert f"guides/{page.name}" in text, place


# -- on the rig --------------------------------------------------------------------------------


class Reader:
    """Somebody who does what a page shows, with the rig's names put in.

    Parameters
    ----------
    tower
        The site's login node, its administrator and its user.
    fields
        Of the site file.
    tree, pulled
        A checkout, and the same after `git pull` brought a new version.
    place
        Where a user works.
    """

    def __init__(
        self, tower: Tower, fields: dict[str, Any], tree: Path, pulled: Path, place: Path
    ) -> None:
        self.tower = tower
        self.tree = tree
        self.pulled = pulled
        tower.name = "mysite"
        tower.site = tower.admin.write_site(tower.name, fields)
        self.client = Client(tower.service, tower.service.admin, place)

    def does(self, one: Shown) -> None:
        if one.pulled:
            self.tree = self.pulled
        if one.words[0] == "export":
            self.tower.admin.environment["FITSERVE_SITE_PATH"] = str(self.tower.site.parent)
        elif one.where == "user":
            self._types(one.words[1:])
        elif one.where == "login" and one.words[0] == "make":
            self._asks_there(one)
        elif one.where == "login":
            self.tower.run_there(*one.words[1:])
            complete(self.tower.home / "first")
            shutil.rmtree(self.tower.home / "first")
        else:
            self._makes(one)

    def _makes(self, one: Shown) -> None:
        tower = self.tower
        options = one.options
        if one.words[1] != "check":
            options = ["--ssh-config", str(tower.rig.ssh_config), *options]
        given = {**tower.admin.environment, **(tower.secrets if one.credentials else {})}
        done = subprocess.run(
            # A checkout's own environment, which would be installed at first.
            [
                *("make", "-o", "install", f"BIN={ROOT / '.venv' / 'bin'}"),
                f"SITEKIT=PYTHONPATH={python_path(self.tree)} $(BIN)/python -m sitekit",
                *(one.words[1], "SITE=mysite", f"ARGS={shlex.join(options)}"),
            ],
            cwd=self.tree,
            env=given,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=840,
        )
        said = f"{shlex.join(one.words)}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        assert done.returncode == 0, said
        assert "Traceback" not in said
        card = self.tree / "build" / "deploy" / "mysite" / "site-card.json"
        if one.credentials:
            shutil.copyfile(card, self.client.place / card.name)

    def _asks_there(self, one: Shown) -> None:
        host, user = self.tower.host, self.tower.user
        home = "/root" if user == "root" else f"/home/{user}"
        script = f"mkdir -p {home}/sites; cat > {home}/sites/mysite.yaml"
        host.run("bash", "-c", script, user=user, stdin=self.tower.site.read_text())
        done = host.run(
            *("make", "-o", "install", "BIN=/srv/venv/bin", *one.words[1:]),
            user=user,
            cwd="/srv/fitserve",
            environment={"FITSERVE_SITE_PATH": f"{home}/sites"},
            timeout=300,
        )
        host.run("rm", "-r", f"{home}/sites", user=user)
        assert "FAILED" not in done.stdout

    def _types(self, words: list[str]) -> None:
        if words[:2] == ["endpoints", "add"]:
            words = [*words, "--amqp-port", AMQP_PORT]
        self.client(*words, timeout=600)
        if words[0] == "run":
            complete(self.client.place / "first")


def _fields(page: Path, tower: Tower) -> dict[str, Any]:
    """Return a page's site file with the rig's names, sizes and times put in."""
    fields = yaml.safe_load(read_site(page))
    there = users.site(
        tower.scheduler,
        login={"host": tower.host.name, "user": tower.user},
        environment={"container": None, "venv": VENV},
        network={"interface": "eth0"},
        endpoint={
            "venv": VENV,
            "heartbeat_seconds": 5,
            "idle_minutes": 1,
            "amqp_port": AMQP_PORT,
        },
    )
    del there["extends"], there["description"]
    fields.pop("directories", None)
    return {**fields, **there}


@pytest.mark.deploy
@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("name", "scheduler"),
    [("slurm-apptainer", "slurm"), ("pbspro", "pbspro"), ("torque-shifter", "torque")],
)
def test_a_guide_from_its_site_file_to_destroy(
    rig: Rig, service_there: Service, tmp_path: Path, name: str, scheduler: str
) -> None:
    [page] = [page for page in GUIDES if page.stem == name]
    tree = copy_checkout(tmp_path / "checkout")
    pulled = other_version(tree, tmp_path / "pulled", "0.2.0")
    tower = Tower(rig, service_there, tree, tmp_path / "admin", scheduler)
    tower.admin.environment |= tower.elsewhere
    place = tmp_path / "user"
    place.mkdir()
    reader = Reader(tower, _fields(page, tower), tree, pulled, place)
    try:
        for one in shown(page):
            reader.does(one)
        assert tower.files() == tower.before
        wait_for(lambda: tower.jobs() == [], 20, "the end of all jobs")
    finally:
        reader.client.close()
        tower.end()
