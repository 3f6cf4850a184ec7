"""What the service and endpoints say when something is wrong, in a user's terms."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import Future
from typing import TYPE_CHECKING

import globus_sdk
import msgspec
import pytest
import requests

from fitserve.endpoints.base import Accepted
from fitserve.endpoints.cards import read_card
from fitserve.endpoints.globus.ledger import Ledger, judge_remote
from fitserve.endpoints.globus.service import explain, judge
from fitserve.errors import BackendError

if TYPE_CHECKING:
    from fitserve.endpoints.base import Outcome

CARD = read_card("11111111-2222-4333-8444-555555555555")


def _answer(status: int, **body: object) -> Exception:
    response = requests.Response()
    response.status_code = status
    response._content = json.dumps(body).encode()
    response.headers["Content-Type"] = "application/json"
    response.request = requests.Request("POST", "https://service.example/v3/submit").prepare()
    return globus_sdk.ComputeAPIError(response)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "refused"),
        (401, "refused"),
        (403, "refused"),
        (404, "gone"),
        (413, "large"),
        (422, "refused"),
        (429, "later"),
        (500, "later"),
        (503, "later"),
    ],
)
def test_every_status_has_a_meaning(status: int, kind: str) -> None:
    failure = judge(_answer(status, reason="because"))
    assert failure.kind == kind
    assert failure.error.evidence == f"{status}: because"
    assert failure.error.cause


def test_the_way_to_the_service_is_not_the_users_fault() -> None:
    assert judge(ConnectionRefusedError("no")).kind == "later"
    lost = globus_sdk.GlobusConnectionError("lost", requests.ConnectionError())
    assert judge(lost).kind == "later"
    assert "network" in judge(lost).error.hint


def test_a_login_that_cannot_be_used_says_what_to_do() -> None:
    failure = judge(globus_sdk.GlobusError("no token"))
    assert failure.kind == "refused"
    assert "fitserve endpoints login" in failure.error.hint


def test_explain_leaves_our_own_errors_alone() -> None:
    with pytest.raises(BackendError, match="ours"), explain("x"):
        raise BackendError("ours")
    with pytest.raises(BackendError, match="does not know the endpoint"), explain("the endpoint"):
        raise _answer(404)
    with pytest.raises(BackendError, match="counting failed"), explain("counting"):
        raise ValueError("7")


@pytest.mark.parametrize(
    ("told", "kind", "cause"),
    [
        ("ModuleNotFoundError: No module named 'fitserve_worker'", "stop", "fitserve-worker"),
        ("Identity failed to map to a local user name.  (LookupError)", "stop", "no account"),
        (
            "mapped to a local user name, but local user does not exist.\n  Local user name: ada",
            "stop",
            "no account",
        ),
        ("Ignoring start request for untrusted identity.", "stop", "only the identity"),
        ("jsonschema ValidationError: 7 is greater than the maximum", "stop", "options"),
        ("Function 1234 not permitted on endpoint 5678", "stop", "does not run this function"),
        ("Code serializer X disabled by current\n configuration.", "stop", "does not take"),
        ("Unable to start user endpoint process for ada", "stop", "cannot start"),
        ("MaxResultSizeExceeded: Task result of 11B", "suspect", "too large"),
        ("parsl.executors.x.errors.WorkerLost: Task failure", "suspect", "worker was lost"),
        ("parsl.executors.x.errors.ManagerLost: Task failure", "again", "node was lost"),
        ("Failed to set result or exception", "again", "dropped"),
        ("Segmentation something", "suspect", "returned an error"),
    ],
)
def test_what_an_endpoint_says_has_a_meaning(told: str, kind: str, cause: str) -> None:
    verdict = judge_remote(f"Traceback (most recent call last):\n  ...\n{told}", CARD)
    assert verdict.kind == kind
    assert cause in verdict.cause
    assert verdict.evidence.endswith(told.rsplit("\n", maxsplit=1)[-1].strip())
    assert (verdict.kind == "stop") == bool(verdict.hint)


# As an endpoint tells it of a task that waited, and of one that came afterwards.
_LATE = """Traceback from attempt: final attempt
parsl.jobs.errors.TooManyJobFailuresError: Error 1:
\tJob is marked as MISSING since the workers failed to register to the executor.
\tEXIT CODE: 78
\tSTDERR: no virtual environment in /home/ada/venv
slurmstepd: error: task 0 failed

--------------------------------------------------------------------"""
_WAITED = "Traceback from attempt: 0\nparsl.errors.BadStateException: Executor failed\n" + _LATE


def test_a_failed_block_is_told_by_its_own_words() -> None:
    for told in (_LATE, _WAITED):
        verdict = judge_remote(told, CARD)
        assert verdict.kind == "blocks"
        assert "before a worker has reported" in verdict.cause
        wanted = "no virtual environment in /home/ada/venv slurmstepd: error: task 0 failed"
        assert verdict.evidence == wanted
        assert "administrator" in verdict.hint


def test_a_first_bad_block_is_survived_and_the_third_in_a_row_is_not() -> None:
    ledger = Ledger(CARD)
    tickets = (f"t{number}" for number in itertools.count())

    def blocks(told: str, tasks: int = 2) -> list[Outcome]:
        """Send tasks and have all of them end by a failed block."""
        sent = list(itertools.islice(tickets, tasks))
        for ticket in sent:
            ledger.take(ticket, {"group": "g", "child": "c"}, Future())
        for ticket in sent:
            ledger.failed(ticket, told)
        return [ledger.ended.get_nowait() for _ in range(ledger.ended.qsize())]

    for _ in range(2):
        assert [outcome.again for outcome in blocks(_WAITED)] == [True, True]
        # Those that an endpoint on its way out refuses tell nothing of another block.
        assert [outcome.again for outcome in blocks(_LATE, 5)] == [True] * 5
    ledger.take("good", {"group": "g", "child": "c"}, Future())
    ledger.answer("good", "an answer")
    assert ledger.ended.get_nowait().result == "an answer"
    for _ in range(2):
        assert len(blocks(_WAITED)) == 2
    assert ledger.failure is None
    assert blocks(_WAITED) == []
    assert ledger.failure is not None
    assert "no virtual environment" in ledger.failure.evidence


def test_an_endpoint_that_gave_up_after_three_blocks_is_not_asked_again() -> None:
    ledger = Ledger(CARD)
    ledger.take("t", {"group": "g", "child": "c"}, Future())
    block = _LATE[_LATE.index("\tJob") : _LATE.index("\n-----")]
    told = f"parsl.jobs.errors.TooManyJobFailuresError: Error 1:\n{block}\nError 2:\n{block}\n"
    ledger.failed("t", f"parsl.errors.BadStateException: failed\n{told}Error 3:\n{block}\n")
    assert ledger.failure is not None
    assert "no virtual environment" in ledger.failure.evidence


def test_what_ended_before_a_run_was_resumed_does_not_stop_it() -> None:
    ledger = Ledger(CARD)
    ledger.collect([Accepted("t", {"group": "g", "child": "c"})])
    ledger.failed("t", _WAITED.replace("Error 1:", "Error 3:"))
    assert ledger.failure is None
    assert ledger.ended.get_nowait().again


def test_a_lost_node_names_the_time_limit() -> None:
    card = msgspec.structs.replace(
        CARD, limits=msgspec.structs.replace(CARD.limits, walltime="01:00:00")
    )
    assert "at its time limit of 01:00:00" in judge_remote("ManagerLost", card).cause
