"""Ordinary users run the image by Apptainer, Podman and Charliecloud, and fit by site files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from containerrig.sif import SIF
from fitserve import __version__
from sitekit.load import load_site
from sitekit.render import Rendering, render_site, write_files
from sitekit.rules import require_valid

if TYPE_CHECKING:
    from containerrig.users import User

pytestmark = pytest.mark.containers

PATCHES = "X_600_*"


def _site(user: User, kind: str, image: str) -> Path:
    """Render a site whose workers run in a container, as a site admin would."""
    given = dict(load_site("local")[0].origin.given)
    given["environment"] = {"container": {"type": kind, "image": image}}
    given["directories"] = {"run": "~/run", "cache": f"~/cache-{kind}", "scratch": "/tmp"}  # noqa: S108
    given["blocks"] = {**given["blocks"], "strategy_seconds": 1}
    given["node"] = {"cores": 1}
    file = user.home / f"{kind}.yaml"
    file.write_text(yaml.safe_dump(given))
    site, _ = load_site(file)
    assert require_valid(site) == []
    files, problems = render_site(site, Rendering(version=__version__, home=user.home))
    assert problems == []
    directory = user.home / "sites" / kind
    write_files(files, directory)
    for path in (directory, *directory.rglob("*"), directory.parent):
        path.chmod(0o755)
    return directory


def test_the_image_file_tests_itself_as_an_ordinary_user(user: User, sif: Path) -> None:
    found = json.loads(user.must("apptainer", "run", sif, "fitserve-worker", "selftest", "--json"))
    assert found["passed"]
    assert found["image"] == __version__
    assert "CLs" in user.must("apptainer", "run", sif)
    labels = json.loads(user.must("apptainer", "inspect", "--json", sif))
    attributes = labels["data"]["attributes"]["labels"]
    assert attributes["org.fitserve.version"] == __version__
    assert attributes["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_the_image_file_for_a_gpu_without_one_stops(user: User, sif: Path) -> None:
    # The image's own variables go before those of the user.
    words = ("apptainer", "run", "--env", "JAX_PLATFORMS=cuda", sif, "fitserve-worker", "selftest")
    done = user.run(*words)
    assert done.returncode == 5
    assert "JAX finds no device" in done.stderr


@pytest.mark.parametrize("kind", ["apptainer", "podman"])
def test_a_site_fits_in_containers_by_parsl(
    kind: str, user: User, endpoint: Path, request: pytest.FixtureRequest
) -> None:
    image = _image(kind, request)
    site = _site(user, kind, image)
    output = user.home / f"run-{kind}"
    user.must(
        *(endpoint, "-m", "fitserve", "run", "example", "--endpoint", f"parsl:{site}", "--refit"),
        *("--patch", PATCHES, "--output", output),
    )
    results = json.loads((output / "results.json").read_text())
    assert len(results) == 7
    assert {one["status"] for one in results.values()} == {"ok"}
    # A container that was not locked down would leave files of another account.
    assert {path.stat().st_uid for path in (user.home / "run").rglob("*")} == {user.uid}


@pytest.mark.parametrize("kind", ["apptainer", "podman"])
def test_a_site_fits_in_containers_by_globus_computes_engine(
    kind: str, user: User, endpoint: Path, request: pytest.FixtureRequest
) -> None:
    site = _site(user, kind, _image(kind, request))
    driver = Path(shutil.copy(Path(__file__).parent / "globus_engine.py", user.home))
    driver.chmod(0o644)
    lines = user.must(endpoint, driver, site, user.home / f"globus-{kind}").splitlines()
    found = json.loads(lines[-1])
    assert found["engine"] == "GlobusComputeEngine"
    assert found["status"] == "ok"
    assert found["CLs_obs"] == pytest.approx(0.0525155255, abs=1e-6)
    assert found["image"] == __version__
    # Compiled programs have their place where the site says, not in the image.
    assert list((user.home / f"cache-{kind}" / "jit").glob("*/*-cache"))


def test_charliecloud_runs_it_too(user: User, unpacked: Path) -> None:
    given = ("JAX_PLATFORMS=cpu", "HOME=/tmp", f"FITSERVE_IMAGE_VERSION={__version__}")
    done = user.must(
        *("ch-run", "--unset-env=*", *(f"--set-env={one}" for one in given)),
        *(unpacked, "--", "/opt/fitserve/bin/fitserve-worker", "selftest", "--json"),
    )
    assert json.loads(done)["passed"]


def _image(kind: str, request: pytest.FixtureRequest) -> str:
    if kind == "podman":
        return str(request.getfixturevalue("loaded"))
    request.getfixturevalue("sif")
    return f"~/fitserve/{SIF}"
