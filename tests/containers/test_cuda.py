"""The images for GPUs, built in full: what they hold and say, and that they stop without a GPU."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from containerrig import images
from imagekit.check import LOCKED_DOWN, check_image
from imagekit.names import image_name, required_driver
from imagekit.sif import save_archive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from imagekit.engine import Engine
    from imagescan import Finding

pytestmark = [pytest.mark.cuda, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module", params=["worker-cuda12", "worker-cuda13"])
def target(
    request: pytest.FixtureRequest, build: Callable[..., None], engine: Engine
) -> Iterator[str]:
    """Build a target, and leave none of its 5 GB behind, nor twice that of its steps."""
    kept = images.kept()
    if not kept:
        build(request.param, "--layers=false")
    yield request.param
    if not kept:
        engine.run("rmi", image_name(request.param))


def _selftest(engine: Engine, target: str, *options: str) -> tuple[int, dict, str]:
    done = engine.run(
        *("run", *LOCKED_DOWN, *options, image_name(target), "fitserve-worker", "selftest"),
        "--json",
        check=False,
    )
    return done.returncode, json.loads(done.stdout), done.stderr


def test_it_says_that_it_is_for_a_gpu(engine: Engine, target: str) -> None:
    found = check_image(engine, target)
    variables = dict(one.split("=", 1) for one in found["Config"]["Env"])
    assert variables["JAX_PLATFORMS"] == "cuda"
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert variables["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert "LD_LIBRARY_PATH" not in variables
    assert found["Labels"]["org.fitserve.driver"] == str(required_driver(target))
    assert found["Config"]["User"] == "1000:1000"


def test_it_stops_without_a_gpu_and_says_so(engine: Engine, target: str) -> None:
    status, found, said = _selftest(engine, target)
    assert (status, found["passed"]) == (5, False)
    assert "JAX finds no device to fit on" in said
    assert "JAX_PLATFORMS=cuda" in found["evidence"]
    assert "next:" in said
    assert "Traceback" not in said


def test_it_fits_on_a_cpu_where_it_is_told_to(engine: Engine, target: str) -> None:
    status, found, said = _selftest(engine, target, "--env=JAX_PLATFORMS=cpu")
    assert (status, found["passed"]) == (0, True), said
    assert found["device"] == "cpu: cpu"
    assert f"jax-{target.removeprefix('worker-')}-plugin" in found["versions"]


def test_it_has_nothing_of_the_machine_that_built_it(
    engine: Engine, target: str, found_of_here: Callable[[Path], list[Finding]], tmp_path: Path
) -> None:
    archive = save_archive(engine, target, tmp_path)
    try:
        assert found_of_here(archive) == []
    finally:
        archive.unlink()
