"""What breaks between a client and its results, one thing after the other: nothing is lost."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from fitserve.runs.store import read_run
from globusrig.client import FIT, MANY, Client, complete, events, wait_for_events
from globusrig.rig import wait_for

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from globusrig.rig import Endpoint, Rig

pytestmark = [pytest.mark.globus, pytest.mark.timeout(240)]


@pytest.fixture
def running(
    client: Client, tmp_path: Path, mu: tuple[str, str]
) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts a run and waits until its tasks are at the service."""

    def start(
        *options: str, accepted: bool = True, fit: tuple[str, ...] = FIT
    ) -> subprocess.Popen[str]:
        process = client.start(
            "run", "example", *fit, *mu, *options, "-e", "rig", "-o", tmp_path / "run"
        )
        if accepted:
            wait_for_events(tmp_path / "run", "accepted", 2)
        return process

    return start


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def _sent(run: Path) -> int:
    return len(events(run, "submitted"))


# -- the service and the way to it ---------------------------------------------------------


@pytest.mark.parametrize(("status", "count"), [(503, 8), (429, 2)])
def test_submissions_that_the_service_refuses_for_a_while(
    client: Client, rig: Rig, run: Path, running: Callable, status: int, count: int
) -> None:
    """503 more often than the SDK tries again by itself: its Executor is dead and made anew."""
    with rig.fault("status", status=status, count=count, route="/submit"):
        output = client.finish(running(accepted=False))
    complete(run)
    assert events(run, "lost") == []
    begun = read_run(run).events()[0].time
    assert [one["status"] for one in rig.submissions(begun)] == [*[status] * count, 200]
    assert ("trying again" in output) == (status == 503)


def test_a_slow_service(client: Client, rig: Rig, run: Path, running: Callable) -> None:
    with rig.fault("slow", seconds=3):
        client.finish(running(accepted=False))
    complete(run)
    assert events(run, "lost") == []


def test_a_submission_that_is_too_large_is_made_smaller(
    client: Client, rig: Rig, run: Path, running: Callable
) -> None:
    begun = time.time()
    try:
        rig.stop_service()
        rig.start_service(payload=7_000)
        client.finish(running("--max-task-hypotheses", "2", accepted=False))
    finally:
        rig.stop_service()
        rig.start_service(payload=10_000_000)
    complete(run)
    statuses = [one["status"] for one in rig.submissions(begun)]
    assert statuses.count(413) >= 1
    assert statuses.count(200) >= 2
    assert all(one["bytes"] <= 7_000 for one in rig.submissions(begun) if one["status"] == 200)


def test_the_service_is_gone_for_a_while(
    client: Client, rig: Rig, run: Path, running: Callable
) -> None:
    process = running()
    rig.stop_service()
    time.sleep(10)
    rig.start_service()
    client.finish(process)
    complete(run)


def test_a_token_that_expires(client: Client, rig: Rig, run: Path, running: Callable) -> None:
    process = running()
    rig.ask("expire", {})
    client.finish(process)
    complete(run)
    rig.ask("expire", {})
    assert rig.admin.username in client("endpoints", "whoami").stdout


def test_a_result_whose_message_is_lost(
    client: Client, rig: Rig, run: Path, mu: tuple[str, str]
) -> None:
    """The service has it and never says so: overdue tasks are asked about."""
    sooner = (
        "import fitserve.endpoints.globus.courier as r; r._OVERDUE_SECONDS = r._ASK_SECONDS = 3"
    )
    with rig.fault("mute"):
        client("run", "example", *FIT, *mu, "-e", "rig", "-o", run, prelude=sooner)
    complete(run)
    assert events(run, "lost") == []


def test_a_broker_that_is_restarted(client: Client, rig: Rig, run: Path, running: Callable) -> None:
    process = running()
    rig.broker.stop()
    rig.broker.start()
    client.finish(process)
    complete(run)


# -- the endpoint ----------------------------------------------------------------------------


def _child(rig: Rig, run: Path) -> list[psutil.Process]:
    """Return the main processes of the child endpoints that have tasks of a run."""
    children = {event.details["child"] for event in events(run, "accepted")}
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.info["cmdline"] or [])
            if title.startswith("Globus Compute Endpoint") and any(
                one in title for one in children
            ):
                found.append(process)
    return found


def test_a_worker_that_is_killed(
    client: Client, endpoint: Endpoint, run: Path, running: Callable
) -> None:
    process = running()
    workers = wait_for(lambda: _busy(endpoint), 60, "a busy worker")
    workers[0].kill()
    client.finish(process)
    complete(run)
    assert _sent(run) == len(events(run, "accepted"))


def _busy(endpoint: Endpoint) -> list[psutil.Process]:
    """Return worker processes that use a core."""
    found = endpoint.processes("multiprocessing.spawn")
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.cpu_percent()
    time.sleep(0.3)
    busy = []
    for process in found:
        with contextlib.suppress(psutil.Error):
            if process.cpu_percent() > 20:
                busy.append(process)
    return busy


def test_a_child_endpoint_that_is_killed(
    client: Client, rig: Rig, endpoint: Endpoint, run: Path, running: Callable
) -> None:
    """Nothing would start another: its tasks are sent again, which does."""
    process = running()
    wait_for(lambda: _busy(endpoint), 60, "a busy worker")
    assert "orphan" not in endpoint.worker("processes", str(endpoint.id))
    for child in wait_for(lambda: _child(rig, run), 60, "the child endpoint"):
        child.kill()
    # Its interchange and workers live on, until the site's administrator ends them.
    left = wait_for(lambda: _orphans(endpoint), 20, "orphans")
    assert any("process_worker_pool" in line for line in left)
    endpoint.worker("processes", str(endpoint.id), "--end")
    assert _orphans(endpoint) == []
    output = client.finish(process)
    complete(run)
    assert "has ended (sending it again)" in " ".join(output.split())


def _orphans(endpoint: Endpoint) -> list[str]:
    listed = endpoint.worker("processes", str(endpoint.id)).splitlines()
    return [line for line in listed if " orphan " in line]


def test_an_endpoint_that_is_stopped_and_started(
    client: Client, endpoint: Endpoint, run: Path, running: Callable
) -> None:
    # So many that some are still to be done when it has stopped.
    process = running(fit=MANY)
    endpoint.stop()
    time.sleep(3)
    endpoint.start()
    output = client.finish(process, timeout=200)
    complete(run)
    assert "rig is offline" in output
