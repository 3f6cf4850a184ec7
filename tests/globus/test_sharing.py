"""Several endpoints in one run, and client and worker of different versions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import fitserve_worker
from fitserve.runs.store import read_run
from fitserve_contract import CONTRACT_VERSION, ContractError, decode_result, encode_task
from globusrig.client import FIT, MANY, Client, complete, events
from globusrig.other_python import OtherPython, find_other_python
from globusrig.rig import ROOT, Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve_contract import Task
    from globusrig.rig import Rig

pytestmark = [pytest.mark.globus, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def other_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with fitserve and its worker as of another contract version."""
    place = tmp_path_factory.mktemp("other")
    place.chmod(0o755)
    for package in ("contract/src/fitserve_contract", "worker/src/fitserve_worker"):
        shutil.copytree(ROOT / package, place / Path(package).name)
    messages = place / "fitserve_contract" / "messages.py"
    text = messages.read_text()
    ours = f"CONTRACT_VERSION = {CONTRACT_VERSION}\n"
    assert ours in text
    messages.write_text(text.replace(ours, f"CONTRACT_VERSION = {CONTRACT_VERSION + 1}\n"))
    return place


@pytest.fixture(scope="module")
def second(rig: Rig, venv: Path, function: str, other_version: Path) -> Iterator[Endpoint]:
    """Return another endpoint; with ``account: newer`` its workers are of another version."""
    place = rig.directory / "other"
    shutil.copytree(other_version, place)
    fields = {"environment": {"inherit": True, "variables": {"PYTHONPATH": str(place)}}}
    endpoint = Endpoint(rig, venv, "second", functions=[function], fields=fields)
    try:
        endpoint.start()
        yield endpoint
    finally:
        endpoint.stop()


def test_a_worker_of_another_version_is_told_apart(
    client: Client, second: Endpoint, tmp_path: Path
) -> None:
    client.add("second", second)
    run = tmp_path / "run"
    told = client("run", "example", *FIT, "-e", "second", "-o", run, status=5).stderr
    told = " ".join(told.split())
    assert "client and worker speak different versions of the wire contract" in told
    ours, theirs = CONTRACT_VERSION, CONTRACT_VERSION + 1
    assert f"the task is of version {ours}, this side speaks version {theirs}" in told
    assert "next: install the same release of fitserve and fitserve-worker" in told
    assert f"fitserve resume {run}" in told
    client("resume", run, "-e", "rig")
    complete(run)


def test_the_worker_answers_another_version_with_a_refusal(
    other_version: Path, venv: Path, task: Task
) -> None:
    def answer(**environment: str) -> str:
        done = subprocess.run(
            [venv / "bin" / "python", "-m", "fitserve_worker", "run"],
            input=encode_task(task),
            env={"PATH": "/usr/bin:/bin", **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    result = decode_result(answer())
    assert [one.status for one in result.results] == ["ok"] * len(task.hypotheses)
    with pytest.raises(ContractError, match="different versions"):
        decode_result(answer(PYTHONPATH=str(other_version)))


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> OtherPython:
    try:
        return find_other_python(tmp_path_factory.mktemp("python"))
    except RuntimeError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


_CLIENT = """
import sys, time
from fitserve.endpoints import open_backend
from fitserve_contract import decode_result

backend = open_backend("rig")
backend.start()
backend.submit("one", open(sys.argv[1]).read())
outcomes, end = [], time.monotonic() + 100
while not outcomes and time.monotonic() < end:
    outcomes = backend.outcomes(1.0)
backend.stop()
result = decode_result(outcomes[0].result)
print(sys.version_info[:2], result.worker.python, [one.CLs_obs for one in result.results])
"""


def test_client_and_worker_have_different_versions_of_python(
    client: Client, other_python: OtherPython, task: Task, tmp_path: Path
) -> None:
    """The text of a task goes from one through the service to the other, and back."""
    path = tmp_path / "task.json"
    path.write_text(encode_task(task))
    said = other_python.run(_CLIENT, client.environment, str(path))
    here = decode_result(fitserve_worker.run(path.read_text()))
    version, _, rest = said.partition(") ")
    assert version == f"({other_python.version.replace('.', ', ')}"
    worker, _, found = rest.partition(" ")
    assert worker.rpartition(".")[0] != other_python.version
    assert json.loads(found) == pytest.approx([one.CLs_obs for one in here.results])


def test_two_endpoints_share_a_run(client: Client, tmp_path: Path, mu: tuple[str, str]) -> None:
    run = tmp_path / "run"
    options = ("--workers", 2, "--max-task-hypotheses", 1)
    client("run", "example", *MANY, *mu, *options, "-e", "rig", "-e", "local", "-o", run)
    complete(run)
    saved = read_run(run)
    assert saved.manifest.endpoint == "rig,local"
    pythons = [record.worker.python for record in saved.records.values()]
    through_service = len(events(run, "accepted"))
    assert 0 < through_service < len(pythons)
    assert events(run, "lost") == []


def test_one_of_two_endpoints_is_refused_and_the_other_goes_on(
    client: Client, second: Endpoint, tmp_path: Path, mu: tuple[str, str]
) -> None:
    gone = json.loads(second.card.read_text())
    gone["endpoint_id"] = "00000000-0000-4000-8000-000000000000"
    card = tmp_path / "gone.json"
    card.write_text(json.dumps(gone))
    client("endpoints", "add", "gone", "--card", card)
    run = tmp_path / "run"
    output = client("run", "example", *FIT, *mu, "-e", "gone", "-e", "rig", "-o", run).stderr
    complete(run)
    assert "gone: the service does not know the endpoint" in " ".join(output.split())
