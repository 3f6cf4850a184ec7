"""Building as a site admin does: the same twice, and each thing that is wrong is said."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from containerrig.users import checkout
from fitserve import __version__
from imagekit.check import LOCKED_DOWN
from imagekit.names import image_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from containerrig.users import User
    from imagekit.engine import Engine

pytestmark = pytest.mark.containers

ROOT = Path(__file__).parents[2]
OTHER = {"x86_64": "arm64", "aarch64": "amd64"}[platform.machine()]
HERE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
# What `make image-check` runs.
CHECK = ("python3", "-m", "imagekit", "check", "worker", "--engine", "podman")


def _check(**environment: str) -> subprocess.CompletedProcess[str]:
    given = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}/containers:{ROOT}/contract/src:{ROOT}/client/src",
        **environment,
    }
    return subprocess.run(CHECK, env=given, capture_output=True, text=True, check=False)


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("image")
def test_a_second_build_gives_the_same_layers(podman: Engine, build: Callable[..., None]) -> None:
    first = podman.inspect("worker")
    created = first["Labels"]["org.opencontainers.image.created"]
    # Nothing of the first build is used again: libraries are installed and compiled anew.
    epoch = str(int(datetime.fromisoformat(created).timestamp()))
    build("worker", "--no-cache", SOURCE_DATE_EPOCH=epoch)
    second = podman.inspect("worker")
    assert second["RootFS"]["Layers"] == first["RootFS"]["Layers"]
    # The digest has the times of steps too, which are an earlier build's where they were cached.
    changed = "org.opencontainers.image.revision"  # where somebody has committed in between
    assert second["Labels"] | {changed: ""} == first["Labels"] | {changed: ""}
    assert second["Config"]["Env"] == first["Config"]["Env"]


def test_an_image_of_another_targets_libraries_is_not_built(
    podman: Engine, image: str, endpoint_image: str, build: Callable[..., None]
) -> None:
    with pytest.raises(AssertionError, match=r"worker\.lock"):
        build("worker", "--build-arg", "LOCK=worker-endpoint")


def test_the_image_is_in_order(image: str) -> None:
    done = _check()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{image_name('worker')} is in order: ")
    assert "cpu: cpu" in done.stdout


def _storage(directory: Path, graph: Path) -> dict[str, str]:
    file = directory / "storage.conf"
    file.write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{graph}"\nrunroot = "{directory}/run"\n'
    )
    return {"CONTAINERS_STORAGE_CONF": str(file)}


@pytest.fixture
def storage(machine: None, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return the environment of an image storage of its own."""
    environment = _storage(tmp_path, tmp_path / "graph")
    yield environment
    subprocess.run(["podman", "rmi", "--all", "--force"], env=os.environ | environment, check=False)
    # Podman leaves its own directory mounted.
    subprocess.run(["umount", tmp_path / "graph" / "overlay"], check=False)


@pytest.mark.parametrize(
    ("architecture", "version", "seen"),
    [
        (OTHER, __version__, f"it is for {OTHER}, this machine is {HERE}"),
        (HERE, "0.0.1", f"the image says 0.0.1, the checkout {__version__}"),
        (HERE, __version__, "does not start"),
    ],
)
def test_an_image_that_cannot_run_here(
    storage: dict[str, str], tmp_path: Path, architecture: str, version: str, seen: str
) -> None:
    (tmp_path / "Dockerfile").write_text(
        f"FROM scratch\nLABEL org.opencontainers.image.version={version}\nCOPY Dockerfile /x\n"
    )
    words = ("podman", "build", "--quiet", "--platform", f"linux/{architecture}")
    subprocess.run(
        [*words, "--tag", image_name("worker"), tmp_path], env=os.environ | storage, check=True
    )
    done = _check(**storage)
    assert done.returncode == 5
    assert seen in done.stderr
    assert "Traceback" not in done.stderr


def test_no_image(storage: dict[str, str]) -> None:
    done = _check(**storage)
    assert done.returncode == 5
    assert f"podman has no image {image_name('worker')}" in done.stderr
    assert "make images TARGET=worker" in done.stderr


def test_a_full_disk(machine: None, tmp_path: Path) -> None:
    with _mounted(tmp_path / "small") as graph:
        done = _check(**_storage(tmp_path, graph))
    assert done.returncode == 5
    assert "too little room" in done.stderr
    assert f"0.1 GiB free in {graph}, a build needs 4" in done.stderr


@contextmanager
def _mounted(place: Path) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "none", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--recursive", place], check=True)


def test_a_user_without_subordinate_ids(system_user: User) -> None:
    place = checkout(system_user)
    done = system_user.run("make", "-C", place, "image-check", "ENGINE=podman")
    assert f"{system_user.name} has too few subordinate ids" in done.stderr
    assert "usermod --add-subuids" in done.stderr
    assert "Error 5" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_endpoints_image_runs_locked_down(podman: Engine, endpoint_image: str) -> None:
    place = "/home/fitserve/.globus_compute"
    script = """
fitserve-worker selftest > /dev/null
globus-compute-endpoint configure demo > /dev/null
python -c "import kubernetes, fitserve.onsite.pods; print(kubernetes.__version__)"
ls .globus_compute/demo
"""
    podman.run("volume", "rm", "--force", "fitserve-test-endpoint", check=False)
    try:
        done = podman.run(
            *("run", *LOCKED_DOWN, f"--volume=fitserve-test-endpoint:{place}"),
            *(endpoint_image, "sh", "-e", "-c", script),
        )
    finally:
        podman.run("volume", "rm", "--force", "fitserve-test-endpoint", check=False)
    kubernetes, *files = done.stdout.splitlines()
    assert int(kubernetes.split(".")[0]) >= 29
    assert "user_config_template.yaml.j2" in files


def test_the_endpoints_image_is_a_demonstration_by_itself(
    podman: Engine, endpoint_image: str
) -> None:
    """Client and workers are in it: a run needs no service, and no second container."""
    words = ("fitserve", "run", "example", "--patch", "X_600_500", "--output", "/tmp/demo")  # noqa: S108
    show = f"{' '.join(words)} > /dev/null && cat /tmp/demo/results.json"
    done = podman.run("run", *LOCKED_DOWN, endpoint_image, "sh", "-c", show)
    [result] = json.loads(done.stdout).values()
    assert (result["status"], result["CLs_obs"]) == ("ok", pytest.approx(0.2837, abs=1e-4))
