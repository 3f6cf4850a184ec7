"""What `make status` finds: workers, disk and last fits, on directories made for it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from fitserve_worker.outbox import Outbox
from sitekit.deployment.host import Host
from sitekit.load import load_site
from sitekit.target.deployed import Deployed, Manifest, write_manifest
from sitekit.target.places import places_of
from sitekit.target.status import status

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RELEASE = "0.1.0-0123456789ab"
SHAPE = {"node": {"cores": 4}, "workers": {"per_node": 2}, "blocks": {"nodes": 3, "max": 2}}
SQUEUE = """#!/bin/sh
cat <<'END'
11|parsl.fitserve-mine-HighThroughputExecutor.block-0.1|RUNNING|None|1:02|3|c[1-3]
12|parsl.fitserve-mine-HighThroughputExecutor.block-1.1|PENDING|Resources|0:00|3|
13|analysis|RUNNING|None|9:00|1|c2
END
"""
ENDPOINT, CHILD = (f"{digit * 8}-2222-4333-8444-555555555555" for digit in "56")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Deployed]:
    """Return a function that makes a site for direct use, deployed into a home of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))

    def made(**fields: Any) -> Deployed:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"extends": "slurm", **fields}))
        deployed = Deployed(load_site(str(path))[0])
        deployed.state.mkdir(parents=True)
        manifest = Manifest(endpoint=deployed.name, site="mine", current=RELEASE)
        write_manifest(deployed.path(deployed.places.manifest), manifest, previous="0.0.9-ab")
        return deployed

    return made


def test_workers_of_jobs_are_expected_and_not_counted(
    make: Callable[..., Deployed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "squeue").write_text(SQUEUE)
    (commands / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    found = status(make(**SHAPE))
    # One running job of three nodes with two workers each; the one that waits has none.
    assert found["workers"] == {"of_running_jobs": 6, "most": 12}
    said = Host.status_text(found)
    assert "workers    6 expected from the running jobs, at most 12" in said
    assert "job        12 queued: Resources" in said


def test_workers_here_are_counted(make: Callable[..., Deployed]) -> None:
    deployed = make(extends="local")
    deployed.configuration.mkdir(parents=True)
    (deployed.configuration / "config.yaml").write_text("")
    (deployed.configuration / "endpoint.json").write_text(json.dumps({"endpoint_id": ENDPOINT}))
    named = f"uep.{ENDPOINT}.{CHILD}"
    titles = [
        f"Globus Compute Endpoint ({CHILD}, {named})",
        *("parsl.executors.high_throughput.process_worker_pool",) * 2,
        "parsl.executors.high_throughput.interchange",
    ]
    with contextlib.ExitStack() as ending:
        for title in titles:
            process = subprocess.Popen(
                ["bash", "-c", 'exec -a "$0" sleep 60', title],
                env={"PATH": os.environ["PATH"], "NAME": named},
            )
            ending.callback(process.wait)
            ending.callback(process.kill)
        # Until each has its title: before, it is the test's own, the shell's, or none at all.
        seen: list[str] = []
        while sorted(seen) != sorted(f"{title} 60"[:120] for title in titles):
            found = status(deployed)
            seen = [one["command"] for one in found["processes"]]
    assert found["workers"]["processes"] == 2
    assert found["children"] == [CHILD]
    assert "workers    2 processes on this machine" in Host.status_text(found)


def test_disk_is_told_of_each_place_that_is_there(
    make: Callable[..., Deployed], tmp_path: Path
) -> None:
    run = tmp_path / "scratch" / "run"
    run.mkdir(parents=True)
    deployed = make(directories={"run": str(run), "cache": str(tmp_path / "no" / "cache")})
    disk = status(deployed)["disk"]
    assert {name: one["path"] for name, one in disk.items()} == {
        "root": str(deployed.path(deployed.places.root)),
        "run": str(run),
    }
    there = os.statvfs(run)
    free = there.f_bavail * there.f_frsize / 2**30
    # Others write to the same disk.
    assert disk["run"]["free_gb"] == pytest.approx(free, abs=5)


def test_the_last_fits_are_the_newest_answers_kept(
    make: Callable[..., Deployed], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    deployed = make(directories={"cache": str(cache)})
    assert status(deployed)["last_fits"] == []
    outbox = Outbox(cache / "outbox", "0.1.0")
    for number in range(7):
        digest = f"{number:064x}"
        assert outbox.put(digest, "x" * (number + 1))
        written = time.time() - 1000 * (7 - number)
        os.utime(cache / "outbox" / f"{digest}-0.1.0.json", (written, written))
    found = status(deployed)
    fits = found["last_fits"]
    assert [int(fit["task"], 16) for fit in fits] == [6, 5, 4, 3, 2]
    assert [fit["bytes"] for fit in fits] == [7, 6, 5, 4, 3]
    assert [round(fit["ago_seconds"], -3) for fit in fits] == [1000, 2000, 3000, 4000, 5000]
    assert Host.status_text(found).count("fitted ") == 5


def test_of_a_multi_user_endpoint_the_last_fits_are_not_known(
    make: Callable[..., Deployed], tmp_path: Path
) -> None:
    deployed = make(
        contact="mailto:help@site.example",
        access={"mode": "multi-user", "domains": ["site.example"]},
        endpoint={"venv": str(tmp_path / "opt" / "venv")},
    )
    assert places_of(deployed.site).state.startswith(str(tmp_path / "opt"))
    found = status(deployed)
    assert found["last_fits"] is None
    assert "not known here" in Host.status_text(found)
