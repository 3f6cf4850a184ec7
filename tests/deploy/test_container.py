"""A site whose workers run in an image: sent, examined, served from, taken away.

The tests are in the order of an endpoint's life, and each goes on from the one before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from containerrig.sif import SIF
from deployrig.tower import Tower, other_version
from fitserve import __version__
from fitserve.runs.store import read_run
from globusrig.client import complete
from globusrig.rig import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deployrig.apptainer import Apptainer
    from globusrig.rig import Rig as Service
    from schedulerrig.rig import Rig

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(900)]


class Boxed(Tower):
    """A site of Slurm with Apptainer on its nodes."""

    def __init__(self, rig: Rig, service: Service, tree: Path, place: Path) -> None:
        super().__init__(
            rig,
            service,
            tree,
            place,
            environment={
                "container": {"type": "apptainer", "image": "~/fitserve/worker-{version}.sif"},
                "venv": None,
            },
            # Workers are still there when they are looked at.
            blocks={"idle_seconds": 60},
        )

    @property
    def image(self) -> Path:
        """The image on the site."""
        return self.home / "fitserve" / SIF


@pytest.fixture(scope="module")
def boxed(
    rig: Rig,
    service_there: Service,
    tree: Path,
    apptainer: Apptainer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Boxed]:
    boxed = Boxed(rig, service_there, tree, tmp_path_factory.mktemp("admin"))
    yield boxed
    boxed.end()


def test_a_missing_image_is_said_before_anything_is_touched(boxed: Boxed) -> None:
    said = boxed("deploy", status=5)
    assert f"the workers' image /home/ada/fitserve/{SIF} is not there" in said.err
    assert "make sif" in said.err
    assert f"make deploy SITE={boxed.name} ARGS=" in said.err
    assert f"--image build/images/{SIF}" in said.err
    assert boxed.files() == boxed.before


def test_the_image_is_sent_and_the_endpoint_is_tried_in_it(boxed: Boxed, sif: Path) -> None:
    boxed.give_credentials()
    said = boxed("deploy", "--image", sif)
    assert boxed.image.read_bytes() == sif.read_bytes()
    assert "another function is refused" in said.err


def test_the_same_again_changes_nothing(boxed: Boxed, sif: Path) -> None:
    said = boxed("deploy", "--diff", "--image", sif)
    assert said.changed == 0, said.err


def test_fits_run_in_the_image(boxed: Boxed, apptainer: Apptainer, tmp_path: Path) -> None:
    client = boxed.client(tmp_path)
    client("run", "example", "-e", boxed.name, "-o", "run", timeout=600)
    complete(tmp_path / "run")
    records = read_run(tmp_path / "run").records.values()
    workers = {(record.worker.host, record.worker.pid) for record in records}
    assert workers
    for name, pid in workers:
        assert apptainer.image_of(boxed.rig.hosts[name], pid) == __version__


def test_an_upgrade_needs_an_image_of_its_version(
    boxed: Boxed, sif: Path, tree: Path, tmp_path: Path
) -> None:
    other = other_version(tree, tmp_path / "tree", "0.2.0")
    image = tmp_path / SIF.replace(__version__, "0.2.0")
    template = boxed.configuration / "user_config_template.yaml.j2"
    before, kept = boxed.status(), template.read_text()
    said = boxed("upgrade", tree=other, status=5)
    assert f"the workers' image /home/ada/fitserve/{image.name} is not there" in said.err
    # What is in it is looked at by a job, whatever its name.
    image.symlink_to(sif)
    said = boxed("upgrade", "--image", image, tree=other, status=5)
    assert f"fitserve-worker is {__version__}, and this release is 0.2.0" in said.err
    after = boxed.status()
    assert after["versions"] == before["versions"]
    assert after["endpoint"]["pid"] == before["endpoint"]["pid"]
    assert template.read_text() == kept


def test_upgrade_and_rollback(boxed: Boxed, tree: Path, tmp_path: Path) -> None:
    """To a release with the same version, which has its image there."""
    other = other_version(tree, tmp_path / "tree", __version__)
    module = other / "client" / "src" / "fitserve" / "__main__.py"
    module.write_text(f"{module.read_text()}# another release\n")
    before = boxed.status()
    boxed("upgrade", tree=other)
    after = boxed.status()
    assert after["versions"]["previous"] == before["versions"]["release"]
    assert after["endpoint"]["pid"] == before["endpoint"]["pid"]
    boxed("rollback")
    assert boxed.status()["versions"]["release"] == before["versions"]["release"]


def test_nothing_is_left(boxed: Boxed) -> None:
    boxed("destroy", "--yes")
    assert boxed.files() == boxed.before
    assert boxed.jobs() == []
    hosts = (boxed.host, *(boxed.rig.hosts[name] for name in ("c1", "c2")))

    def left() -> list[str]:
        said = (host.run("ps", "-u", "ada", "-o", "args=", status=None).stdout for host in hosts)
        return [one for one in "".join(said).splitlines() if "fitserve" in one or "parsl" in one]

    wait_for(lambda: not left(), 20, "the end of all processes")
