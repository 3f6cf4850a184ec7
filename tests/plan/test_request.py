"""Requests: what does not fit the pallet is told before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fitserve.api import make_request
from fitserve.errors import RequestError
from fitserve.request import check_request, select_hypotheses

if TYPE_CHECKING:
    from fitserve.contract import Hypothesis


def test_patterns_select_in_the_patchset_s_order(hypotheses: list[Hypothesis]) -> None:
    names = [one.name for one in select_hypotheses(hypotheses, ["S_3*", "S_100"])]
    assert names == ["S_100", "S_300"]
    assert select_hypotheses(hypotheses, []) == hypotheses


def test_a_pattern_without_a_match_names_what_is_close(hypotheses: list[Hypothesis]) -> None:
    with pytest.raises(RequestError, match="matches 'S_10'") as caught:
        select_hypotheses(hypotheses, ["S_10"])
    assert "S_100" in caught.value.evidence


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"measurement": "other"}, "no measurement 'other'"),
        ({"poi": "mu_SIG"}, "no parameter of interest 'mu_SIG'"),
        ({"mu": []}, "no signal strength"),
        ({"mu": 11.0}, "outside the bounds of mu"),
        ({"mu": -0.1}, "outside the bounds"),
        ({"mu": float("nan")}, "outside the bounds"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(
    workspace: dict, hypotheses: list[Hypothesis], asked: dict, match: str
) -> None:
    with pytest.raises(RequestError, match=match) as caught:
        check_request(workspace, hypotheses, make_request(**asked))
    assert caught.value.hint


def test_the_measurement_s_own_bounds_count(workspace: dict, hypotheses: list[Hypothesis]) -> None:
    config = workspace["measurements"][0]["config"]
    config["parameters"] = [{"name": "mu", "bounds": [[0.0, 50.0]]}]
    check_request(workspace, hypotheses, make_request(mu=11.0))


def test_a_wider_bound_counts_and_is_what_the_hint_offers(
    workspace: dict, hypotheses: list[Hypothesis]
) -> None:
    with pytest.raises(RequestError, match="outside the bounds") as caught:
        check_request(workspace, hypotheses, make_request(mu=11.0))
    assert caught.value.hint.endswith("--mu-max 11")
    check_request(workspace, hypotheses, make_request(mu=11.0, mu_max=11.0))
    with pytest.raises(RequestError, match="may go beyond --mu-max 5 already") as lower:
        check_request(workspace, hypotheses, make_request(mu_max=5.0))
    assert "10" in lower.value.evidence
    for bad in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(RequestError, match="not understood"):
            make_request(mu_max=bad)


@pytest.mark.parametrize(
    "asked", [{"test_stat": "q0"}, {"normsys": "code7"}, {"backend": "torch"}, {"mu": "one"}]
)
def test_what_the_contract_does_not_know_is_a_request_error(asked: dict) -> None:
    with pytest.raises(RequestError, match="not understood"):
        make_request(**asked)
