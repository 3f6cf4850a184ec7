"""Clients of fitserve in pods of the cluster, and what their runs gave."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fitserve import __version__
from sitekit.load import load_site
from sitekit.pods import run_job
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kuberig.cluster import Cluster

__all__ = ["Run", "local_cls", "same_results", "staus"]

_MARK = "== results"


class Run:
    """`fitserve run --endpoint parsl:SITE` as a Job.

    Parameters
    ----------
    site
        The site's file; it is deployed.
    pallet
        What is fitted, as the command line takes it; a file goes along in a ConfigMap.
    """

    def __init__(
        self, kube: Cluster, site: Path, name: str, pallet: str | Path, options: Sequence[str] = ()
    ) -> None:
        loaded, _ = load_site(str(site))
        self._kube = kube
        self._name = name
        self._namespace: str = loaded.pods.namespace
        given = f"/pallet/{pallet.name}" if isinstance(pallet, Path) else pallet
        words = " ".join(["fitserve run", given, f"--endpoint parsl:{loaded.name}", *options])
        script = f"{words} --quiet --output /tmp/run && echo '{_MARK}' && cat /tmp/run/results.json"
        job = run_job(loaded, __version__, name, ["bash", "-c", script])
        if isinstance(pallet, Path):
            self._send(pallet, job["spec"]["template"]["spec"])
        kube.kubectl("create", "-n", self._namespace, "-f", "-", stdin=json.dumps(job))

    def _send(self, pallet: Path, spec: dict[str, Any]) -> None:
        where = ("--namespace", self._namespace)
        self._kube.kubectl("create", "configmap", self._name, *where, f"--from-file={pallet}")
        volume = {"name": "pallet", "configMap": {"name": self._name}}
        spec["volumes"].append(volume)
        mount = {"name": "pallet", "mountPath": "/pallet"}
        spec["containers"][0]["volumeMounts"].append(mount)

    def logs(self) -> str:
        """Return what the client has said."""
        words = ("logs", f"job/{self._name}", "--namespace", self._namespace)
        return self._kube.answers(*words) or ""

    def ended(self) -> str | None:
        """Return ``Complete`` or ``Failed`` once the client has ended."""
        text = self._kube.kubectl(
            "get", "job", self._name, "--namespace", self._namespace, "--output", "json"
        )
        for condition in json.loads(text)["status"].get("conditions", []):
            if condition["type"] in {"Complete", "Failed"} and condition["status"] == "True":
                return str(condition["type"])
        return None

    def results(self, seconds: float) -> dict[str, dict[str, Any]]:
        """Wait for the end; returns the results by hypothesis."""
        ended = wait_for(f"the end of {self._name}", self.ended, seconds)
        said = self.logs()
        self._kube.kubectl(
            *("delete", "configmap", self._name, "--namespace", self._namespace),
            "--ignore-not-found",
        )
        assert ended == "Complete", said
        found: dict[str, dict[str, Any]] = json.loads(said.partition(_MARK)[2])
        return found


def same_results(
    found: dict[str, dict[str, Any]], expected: dict[str, float], rel: float = 1e-5
) -> None:
    """Require that every hypothesis was fitted, with the CLs that are expected."""
    assert {name: one["status"] for name, one in found.items()} == dict.fromkeys(expected, "ok")
    for name, cls in expected.items():
        assert found[name]["CLs_obs"] == pytest.approx(cls, rel=rel, abs=1e-12), name


def local_cls(pallet: str | Path, options: Sequence[str] = ()) -> dict[str, float]:
    """Return the CLs of each hypothesis as this machine fits them; once for all tests."""
    return _local_cls(str(pallet), tuple(options))


@functools.cache
def _local_cls(pallet: str, options: tuple[str, ...]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "local"
        words = ["run", pallet, "--endpoint", "inline", "--refit", "--quiet", *options]
        subprocess.run(
            [sys.executable, "-m", "fitserve", *words, "--output", str(output)],
            check=True,
            capture_output=True,
            cwd=place,
        )
        results = json.loads((output / "results.json").read_text())
    return {name: result["CLs_obs"] for name, result in results.items()}


def staus() -> Path:
    """Return the pallet of the search for direct staus; without it tests are skipped."""
    root = Path(__file__).parents[3]
    shared = Path(os.environ.get("FITSERVE_SHARED") or root.parent / "shared")
    pallet = shared / "pallets" / "staus.tar.xz"
    if not pallet.exists() and not os.environ.get("CI"):
        pytest.skip(f"{pallet} is not there")
    return pallet
