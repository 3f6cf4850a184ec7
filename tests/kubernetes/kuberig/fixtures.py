"""One cluster for all tests, and its administrator; conftest.py registers them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from fitserve import __version__
from kuberig.cluster import Cluster, missing
from kuberig.images import NAMES, fitserve_archive

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NAMESPACE", "ROOT", "Admin", "admin", "kube"]

ROOT = Path(__file__).resolve().parents[3]
NAMESPACE = "fits"
SITE: dict[str, Any] = {
    "extends": "kubernetes",
    "description": "a cluster of one node, for tests",
    "blocks": {"init": 0, "min": 0, "max": 2, "idle_seconds": 10, "strategy_seconds": 1},
    "network": {"heartbeat_seconds": 5, "lost_after_seconds": 20},
    "kubernetes": {
        "namespace": NAMESPACE,
        # It holds all that a worker's image holds, so that one image is enough.
        "image": "fitserve/endpoint:{version}",
        "cpu": {"request": 0.1, "limit": 2},
        "memory": {"request": "256Mi", "limit": "3Gi"},
        "scratch": "1Gi",
        "endpoint_pod": {
            "cpu": {"request": 0.1, "limit": 2},
            "memory": {"request": "256Mi", "limit": "3Gi"},
        },
    },
    "user_options": {"max_blocks": {"minimum": 1, "maximum": 2}},
}


class Admin:
    """A site's administrator at a machine from which the cluster is reached, with a checkout."""

    def __init__(self, kube: Cluster, place: Path) -> None:
        self.kube = kube
        self.place = place
        # What is made lies below the administrator's own directory, not in this checkout.
        (place / "deploy").symlink_to(ROOT / "deploy")
        mine = {**kube.environment(), "PYTHONWARNINGS": "ignore"}
        self.environment = {
            name: value
            for name, value in mine.items()
            if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
        }

    def site(self, name: str = "rig", **changes: Any) -> Path:
        """Write a site file: the rig's, with other fields."""
        from kuberig.charts import merged

        path = self.place / f"{name}.yaml"
        path.write_text(yaml.safe_dump(merged(SITE, changes)))
        return path

    def __call__(
        self,
        verb: str,
        site: Path,
        *options: object,
        status: int = 0,
        environment: dict[str, str] | None = None,
    ) -> str:
        """Run ``make VERB SITE=SITE``, with the environment that this Python is; returns its words.

        Parameters
        ----------
        options
            What goes into ``ARGS``.
        status
            With which status the command behind it ends.
        """
        # The environment is made already.
        words = ["make", "--silent", f"--file={ROOT}/Makefile", "-o", "install"]
        words += [f"BIN={Path(sys.executable).parent}", verb]
        words += [f"SITE={site}", f"ARGS={shlex.join(map(str, options))}"]
        done = subprocess.run(
            words,
            env={**self.environment, **(environment or {})},
            cwd=self.place,
            capture_output=True,
            text=True,
            check=False,
        )
        told = f"{done.stdout}\n{done.stderr}"
        if status:
            assert f"Error {status}" in done.stderr, told
        else:
            assert done.returncode == 0, told
        return done.stdout + done.stderr

    def status(self, site: Path) -> dict[str, Any]:
        """Return what ``status`` says as data."""
        found: dict[str, Any]
        found, _ = json.JSONDecoder().raw_decode(self("status", site, "--json"))
        return found


@pytest.fixture(scope="session")
def kube() -> Iterator[Cluster]:
    """Return a cluster with fitserve's images; without what it needs, tests are skipped."""
    absent = missing()
    if absent:
        if os.environ.get("CI"):
            pytest.fail(absent)
        pytest.skip(absent)
    archive = fitserve_archive(ROOT)
    cluster = Cluster()
    try:
        cluster.up()
        cluster.load(archive, *(f"docker.io/{name}:{__version__}" for name in NAMES))
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="session")
def admin(kube: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Admin:
    return Admin(kube, tmp_path_factory.mktemp("admin"))
