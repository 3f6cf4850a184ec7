"""From `fitserve run PALLET --endpoint NAME` to results, and what survives its client."""

from __future__ import annotations

import json
import shutil
import signal
import time
from typing import TYPE_CHECKING

import pytest

from fitserve.runs.store import read_run
from globusrig.client import FIT, MANY, Client, complete, events, wait_for_events
from globusrig.rig import wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from globusrig.rig import Endpoint, Rig

pytestmark = [pytest.mark.globus, pytest.mark.timeout(240)]

FIRST_RESULT_SECONDS = 60.0
"""On an endpoint that has just been started, on a busy machine."""


def _most_in_window(times: Sequence[float], seconds: float) -> int:
    return max(sum(0 <= other - time < seconds for other in times) for time in times)


def test_results_are_those_of_this_machine(client: Client, rig: Rig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    begun = time.time()
    client("run", "example", *FIT, "-e", "rig", "-o", run)
    complete(run)
    saved = read_run(run)
    client("run", "example", *FIT, "-e", "local", "--refit", "-o", tmp_path / "here")
    here = read_run(tmp_path / "here").results
    assert list(saved.results) == list(here)
    for name, found in saved.results.items():
        assert found.CLs_obs == here[name].CLs_obs
        assert found.CLs_exp == here[name].CLs_exp
        assert found.status == "ok"
    accepted = {event.details["task"]: event.time for event in events(run, "accepted")}
    finished = {event.details["task"]: event.time for event in events(run, "finished")}
    assert accepted.keys() == finished.keys()
    assert all(accepted[task] <= finished[task] for task in finished)
    for record in saved.records.values():
        assert record.submitted <= record.accepted <= record.arrived
        assert record.arrived - record.submitted < FIRST_RESULT_SECONDS
    requests = [one for one in rig.ask("requests") if one["at"] >= begun]
    assert {one["status"] for one in requests} == {200}
    assert _most_in_window([one["at"] for one in requests], 10.0) <= 20
    [submission] = rig.submissions(begun)
    tasks = events(run, "submitted")
    assert submission["bytes"] < sum(event.details["bytes"] for event in tasks) + 5000


def test_check_says_that_all_is_well(client: Client, rig: Rig, endpoint: Endpoint) -> None:
    findings = json.loads(client("endpoints", "check", "rig", "--json").stdout)
    assert [one["what"] for one in findings] == [
        *("identity", "service", "endpoint", "function", "workers", "worker", "fit"),
    ]
    assert all(one["ok"] for one in findings)
    assert findings[0]["told"].startswith(rig.admin.username)
    assert endpoint.id is not None
    assert endpoint.id in findings[2]["told"]


def test_a_killed_client_is_resumed_elsewhere_and_nothing_is_sent_again(
    client: Client, rig: Rig, tmp_path: Path, mu: tuple[str, str]
) -> None:
    run = tmp_path / "run"
    process = client.start("run", "example", *FIT, *mu, "-e", "rig", "-o", run)
    wait_for_events(run, "accepted", 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    sent = len(rig.submissions())
    # Killed in the middle of it, the client has not noted of all tasks that the service has them.
    accepted = {event.details["task"] for event in events(run, "accepted")}
    unknown = {event.details["task"] for event in events(run, "submitted")} - accepted
    # Another machine has nothing but the run directory, and the site's card.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(run, elsewhere / "run")
    shutil.rmtree(run)
    other = Client(rig, rig.admin, elsewhere)
    missing = other("resume", "run", status=5)
    assert "fitserve endpoints add rig --card" in missing.stderr
    shutil.copytree(client.place / "xdg_config_home", elsewhere / "xdg_config_home")
    other("resume", "run")
    complete(elsewhere / "run")
    assert len(rig.submissions()) == sent + bool(unknown)
    again = {
        event.details["task"] for event in events(elsewhere / "run", "accepted")[len(accepted) :]
    }
    assert not again & accepted
    assert not any(record.kept for record in read_run(elsewhere / "run").records.values())


def test_ctrl_c_leaves_at_once_and_says_what_goes_on(
    client: Client, tmp_path: Path, mu: tuple[str, str]
) -> None:
    run = tmp_path / "run"
    process = client.start("run", "example", *MANY, *mu, "-e", "rig", "-o", run)
    wait_for_events(run, "accepted", 2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 130, output
    assert "which cannot cancel them: they go on there" in output
    told = client("cancel", run).stderr
    assert "tasks are at the service" in told
    client("resume", run)
    complete(run)
    assert "no service has tasks of it" in client("cancel", run).stderr


def test_cancel_stops_the_process_that_works_on_a_run(
    client: Client, tmp_path: Path, mu: tuple[str, str]
) -> None:
    run = tmp_path / "run"
    process = client.start("run", "example", *MANY, *mu, "-e", "rig", "-o", run)
    wait_for_events(run, "accepted", 2)
    assert "asked the process that works on it to stop" in client("cancel", run).stderr
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 130, output
    assert "cancelled; nothing that was finished is lost" in output
    client("resume", run)
    complete(run)


def test_what_the_service_drops_costs_no_fit(
    client: Client, rig: Rig, tmp_path: Path, mu: tuple[str, str]
) -> None:
    """Results that nobody fetched are gone; the worker has kept what it answered."""
    run = tmp_path / "run"
    with rig.fault("drop"):
        process = client.start("run", "example", *FIT, *mu, "-e", "rig", "-o", run)
        wait_for_events(run, "accepted")
        tasks = len(events(run, "submitted"))
        wait_for_events(run, "accepted", tasks)
        process.send_signal(signal.SIGKILL)
        process.wait()
        sent = {event.details["service_task"] for event in events(run, "accepted")}
        wait_for(lambda: sent.isdisjoint(rig.ask("tasks")), 60, "dropped results")
    client("resume", run)
    complete(run)
    lost = events(run, "lost")
    assert len(lost) == tasks
    assert {event.details["reason"] for event in lost} == {"the service has dropped its result"}
    assert all(record.kept for record in read_run(run).records.values())


def test_the_same_question_is_answered_from_the_site_unless_a_refit_is_asked_for(
    client: Client, tmp_path: Path, mu: tuple[str, str]
) -> None:
    few = ("--patch", "X_600_[0-1]*", "--engine", "pyhf", "--verify", "0", *mu, "-e", "rig")
    client("run", "example", *few, "-o", tmp_path / "first")
    shutil.rmtree(tmp_path / "xdg_state_home")  # no memory of earlier runs
    client("run", "example", *few, "-o", tmp_path / "second")
    assert all(record.kept for record in read_run(tmp_path / "second").records.values())
    client("run", "example", *few, "-o", tmp_path / "second", "--refit")
    assert not any(record.kept for record in read_run(tmp_path / "second").records.values())


def test_options_are_checked_before_anything_is_sent(client: Client, rig: Rig) -> None:
    sent = len(rig.submissions())
    wrong = client("run", "example", "-e", "rig", "--set", "max_blocks=9", status=4)
    assert "max_blocks=9" in wrong.stderr
    unknown = client("run", "example", "-e", "rig", "--set", "max_block=1", status=4)
    assert "next: --set max_blocks=" in unknown.stderr
    assert len(rig.submissions()) == sent
