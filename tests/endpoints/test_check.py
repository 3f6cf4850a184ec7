"""A small fit says step by step whether an endpoint works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fitserve.endpoints.base import BackendStatus, Outcome
from fitserve.endpoints.check import small_fit
from fitserve.endpoints.inline import InlineBackend
from fitserve.errors import BackendError, Check
from sitekit.target.smoke import direct

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Answering(InlineBackend):
    """Answers as it is told, and does the rest itself."""

    def __init__(self, *outcomes: Outcome, state: str = "running") -> None:
        super().__init__()
        self.answers, self.tickets, self._state = list(outcomes), [], state
        self.start()

    def submit(self, ticket: str, task: str) -> None:
        self.tickets.append(ticket)
        super().submit(ticket, task)

    def outcomes(self, timeout: float) -> Sequence[Outcome]:
        return [self.answers.pop(0)] if self.answers else super().outcomes(timeout)

    def status(self) -> BackendStatus:
        return BackendStatus(self._state, 1, "one of 2 blocks")


def test_a_small_fit_is_timed_step_by_step() -> None:
    checks = list(direct("inline", 60))
    assert [one.what for one in checks] == ["workers", "worker", "fit", "stop"]
    assert all(one.ok for one in checks), checks
    assert checks[2].as_data().keys() == {"what", "told", "next", "ok", "seconds"}
    assert checks[2].seconds > 0


def test_an_unknown_endpoint_is_no_start() -> None:
    [check] = direct("nowhere", 60)
    assert (check.what, check.ok) == ("start", False)
    assert check.hint


def test_a_lost_fit_is_reported_with_its_reason() -> None:
    backend = _Answering(Outcome("check 1", None, "killed"))
    *_, last = small_fit(backend, 60)
    assert (last.what, last.level, last.evidence) == ("fit", "failure", "killed")


def test_a_fit_whose_way_ended_is_sent_again() -> None:
    backend = _Answering(Outcome("check 1", None, "idle for too long", again=True))
    *_, last = small_fit(backend, 60)
    assert last.ok
    assert backend.tickets == ["check 1", "check 2"]


def test_workers_that_were_never_seen_are_there_with_their_answer() -> None:
    first, *_ = small_fit(_Answering(state="starting"), 60)
    assert first == Check("workers", "ok", "workers answer")


def test_a_fit_that_does_not_come_back_says_what_the_endpoint_does() -> None:
    [last] = small_fit(_Answering(state="starting"), 0.0)
    assert (last.ok, last.evidence) == (False, "one of 2 blocks")
    assert "--timeout" in last.hint


@pytest.mark.parametrize(
    ("level", "ok", "word"),
    [("ok", True, "ok "), ("warning", True, "WARNING"), ("failure", False, "FAILED")],
)
def test_a_check_as_text(level: str, ok: bool, word: str) -> None:
    check = Check("fit", level, "it took 1 s", "seen it", "wait")
    assert check.ok == ok
    said = check.as_text()
    assert said.startswith(word)
    assert said.endswith("next: wait")
    assert ("seen: seen it" in said) == (level != "ok")


def test_the_check_of_an_error_has_all_of_it() -> None:
    check = Check.failed("fit", BackendError("it is lost", evidence="killed", hint="again"))
    data = {"what": "fit", "told": "it is lost (killed)", "next": "again", "ok": False}
    assert check.as_data() == data
