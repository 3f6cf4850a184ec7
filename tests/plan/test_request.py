"""Requests: what does not fit the pallet is told before anything is sent."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from fitserve.api import make_request
from fitserve.errors import RequestError
from fitserve.pallet.load import load_pallet
from fitserve.runs.prepare import check_request, select_hypotheses

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fitserve.pallet.load import Pallet
    from fitserve_contract import Hypothesis


def test_patterns_select_in_the_patchset_s_order(hypotheses: list[Hypothesis]) -> None:
    names = [one.name for one in select_hypotheses(hypotheses, ["S_3*", "S_100"])]
    assert names == ["S_100", "S_300"]
    assert select_hypotheses(hypotheses, []) == hypotheses


def test_a_pattern_without_a_match_names_what_is_close(hypotheses: list[Hypothesis]) -> None:
    with pytest.raises(RequestError, match="matches 'S_10'") as caught:
        select_hypotheses(hypotheses, ["S_10"])
    assert "S_100" in caught.value.evidence


@pytest.fixture
def load(workspace: dict, hypotheses: list[Hypothesis], tmp_path: Path) -> Callable[..., Pallet]:
    """Return a function that loads the pallet of the top-level conftest, with changes."""

    def make(change: Callable[[dict, list[dict]], Any] = lambda *_: None) -> Pallet:
        patches = [msgspec.to_builtins(one) for one in hypotheses]
        change(workspace, patches)
        (tmp_path / "BkgOnly.json").write_text(json.dumps(workspace))
        for one in patches:
            (tmp_path / f"patch.{one['name']}.json").write_text(json.dumps(one["patch"]))
        return load_pallet(tmp_path)

    return make


def _parameter(**content: Any) -> Callable[[dict, list[dict]], None]:
    return lambda workspace, _: workspace["measurements"][0]["config"]["parameters"].append(content)


def _poi(name: str) -> Callable[[dict, list[dict]], None]:
    return lambda workspace, _: workspace["measurements"][0]["config"].update(poi=name)


def _signal(index: int, **content: Any) -> Callable[[dict, list[dict]], None]:
    return lambda _, patches: patches[index]["patch"][0]["value"].update(content)


def _refused(pallet: Pallet, **asked: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        check_request(pallet, pallet.hypotheses, make_request(**asked))
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"measurement": "other"}, "no measurement 'other'"),
        ({"poi": "mu_SIG"}, "no parameter of interest 'mu_SIG'"),
        ({"mu": []}, "no signal strength"),
        ({"mu": 11.0}, "outside the bounds of 'mu'"),
        ({"mu": -0.1}, "outside the bounds"),
        ({"mu": float("nan")}, "outside the bounds"),
        ({"kind": "toys", "mu": 11.0}, "outside the bounds"),
        ({"kind": "scan", "mu": [1.0, 11.0]}, "11 is outside the bounds"),
        ({"poi": "uncorr_bkg"}, "'uncorr_bkg' has several components"),
        ({"poi": "uncorr_bkg", "kind": "fit"}, "several components"),
        ({"poi": "uncorr_bkg", "kind": "fit", "background_only": True}, "several components"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(
    load: Callable[..., Pallet], asked: dict, match: str
) -> None:
    assert re.search(match, _refused(load(), **asked).cause)


CLS = [{}, {"kind": "limit"}, {"kind": "scan", "mu": [0.5]}, {"kind": "toys"}]


@pytest.mark.parametrize("asked", CLS)
@pytest.mark.parametrize(
    ("change", "cause", "seen"),
    [
        (_parameter(name="mu", fixed=True), "'mu' cannot vary", "holds it fixed"),
        (
            _parameter(name="mu", bounds=[[0.5, 2.0]]),
            "'mu' cannot be 0",
            "the bounds are 0.5 to 2",
        ),
    ],
)
def test_a_parameter_of_interest_that_cannot_do_it_is_refused(
    load: Callable[..., Pallet], change: Callable[..., None], cause: str, seen: str, asked: dict
) -> None:
    error = _refused(load(change), **asked)
    assert (cause in error.cause, seen in error.evidence) == (True, True), str(error)


def test_a_fit_wants_less_of_the_parameter_of_interest(load: Callable[..., Pallet]) -> None:
    pallet = load(_parameter(name="mu", bounds=[[0.5, 2.0]], fixed=True))
    check_request(pallet, pallet.hypotheses, make_request(kind="fit"))
    assert "cannot vary" in _refused(pallet, kind="ranking").cause


def test_the_luminosity_is_no_parameter_of_interest(load: Callable[..., Pallet]) -> None:
    def with_luminosity(workspace: dict, _: list) -> None:
        lumi = {"inits": [1.0], "bounds": [[0.9, 1.1]], "auxdata": [1.0], "sigmas": [0.02]}
        _parameter(name="lumi", **lumi)(workspace, [])
        modifier = {"name": "lumi", "type": "lumi", "data": None}
        workspace["channels"][0]["samples"][0]["modifiers"].append(modifier)
        _poi("lumi")(workspace, [])

    error = _refused(load(with_luminosity))
    assert "'lumi' cannot be 0" in error.cause
    assert "0.9 to 1.1" in error.evidence
    assert error.hint == "fitserve run PALLET --poi mu"


def test_other_parameters_of_interest_are_normalisations_the_closest_first(
    load: Callable[..., Pallet],
) -> None:
    def change(workspace: dict, patches: list[dict]) -> None:
        _poi("mu_SIG")(workspace, patches)
        modifiers = workspace["channels"][0]["samples"][0]["modifiers"]
        modifiers.append({"name": "mu_top", "type": "normfactor", "data": None})
        factors = {"lo": 0.9, "hi": 1.1}
        modifiers += [
            {"name": f"MUON_{what}", "type": "normsys", "data": factors} for what in ("ID", "ISO")
        ]
        for one in patches:
            one["patch"][0]["value"]["modifiers"][0]["name"] = "mu_Sig"

    pallet = load(change)
    # Of those that are as close, what only the signal has is more likely to be meant.
    as_close = ({"poi": "mu_"}, "mu_Sig, mu_top")
    for asked, first in (
        ({}, "mu_Sig, mu_top"),
        ({"poi": "mu_tpo"}, "mu_top, mu_Sig"),
        as_close,
    ):
        error = _refused(pallet, **asked)
        assert error.evidence == f"its normalisation factors are {first}"
        assert error.hint == f"fitserve run PALLET --poi {first.split(',')[0]}"


def test_a_patch_without_the_parameter_of_interest_is_named(load: Callable[..., Pallet]) -> None:
    pallet = load(_signal(1, modifiers=[]))
    error = _refused(pallet)
    assert "no parameter of interest 'mu'" in error.cause
    assert "patch.S_200" in error.evidence
    assert "normfactor 'mu', or choose the other hypotheses with --patch" in error.hint
    others = [one for one in pallet.hypotheses if one.name != "patch.S_200"]
    check_request(pallet, others, make_request())


def test_an_empty_patch_has_cls_and_nothing_else(load: Callable[..., Pallet]) -> None:
    pallet = load(lambda _, patches: patches[1]["patch"].clear())
    check_request(pallet, pallet.hypotheses, make_request())
    for kind in ("limit", "fit", "ranking", "toys"):
        assert "so there is no signal" in _refused(pallet, kind=kind).evidence
    # A name that no hypothesis has is a mistake.
    empty = [one for one in pallet.hypotheses if not one.patch]
    with pytest.raises(RequestError, match="no parameter of interest 'mu_SIG'"):
        check_request(pallet, empty, make_request(poi="mu_SIG"))


def test_a_background_that_is_no_model_by_itself_is_refused_by_itself(
    load: Callable[..., Pallet],
) -> None:
    """The patches may say what it lacks, and so they do."""

    def change(workspace: dict, patches: list[dict]) -> None:
        modifier = {"name": "lumi", "type": "lumi", "data": None}
        workspace["channels"][0]["samples"][0]["modifiers"].append(modifier)
        lumi = {"inits": [1.0], "bounds": [[0.9, 1.1]], "auxdata": [1.0], "sigmas": [0.02]}
        where = "/measurements/0/config/parameters/-"
        for one in patches:
            one["patch"].append({"op": "add", "path": where, "value": {"name": "lumi", **lumi}})

    pallet = load(change)
    check_request(pallet, pallet.hypotheses, make_request())
    error = _refused(pallet, kind="fit", background_only=True)
    assert error.cause == "the measurement does not say what lumi is"
    assert error.evidence.startswith("parameter 'lumi': there are no inits")


def test_a_background_without_parameters_is_not_fitted(load: Callable[..., Pallet]) -> None:
    pallet = load(lambda workspace, _: workspace["channels"][0]["samples"][0]["modifiers"].clear())
    check_request(pallet, pallet.hypotheses, make_request())
    assert "no parameters" in _refused(pallet, kind="fit", background_only=True).cause


def test_the_measurement_s_own_bounds_count(load: Callable[..., Pallet]) -> None:
    pallet = load(_parameter(name="mu", bounds=[[0.0, 50.0]]))
    check_request(pallet, pallet.hypotheses, make_request(mu=11.0))


def test_the_measurement_that_a_patch_makes_counts(load: Callable[..., Pallet]) -> None:
    """The background's own has another parameter of interest, and no bounds for this one."""

    def change(workspace: dict, patches: list[dict]) -> None:
        _poi("norm")(workspace, patches)
        bounds = {"name": "mu", "bounds": [[0.0, 50.0]]}
        for one in patches:
            where = "/measurements/0/config"
            one["patch"] += [
                {"op": "replace", "path": f"{where}/poi", "value": "mu"},
                {"op": "add", "path": f"{where}/parameters/-", "value": bounds},
            ]
        patches[2]["patch"][-1]["value"] = {"name": "mu", "bounds": [[0.0, 5.0]]}

    pallet = load(change)
    check_request(pallet, pallet.hypotheses, make_request(mu=4.0))
    error = _refused(pallet, mu=11.0)
    assert error.cause == "the signal strength 11 is outside the bounds of 'mu'"
    assert error.evidence == "in patch.S_300; the bounds are 0 to 5"


def test_a_wider_bound_counts_and_is_what_the_hint_offers(load: Callable[..., Pallet]) -> None:
    pallet = load()
    with pytest.raises(RequestError, match="outside the bounds") as caught:
        check_request(pallet, pallet.hypotheses, make_request(mu=11.0))
    assert caught.value.hint.endswith("--mu-max 11")
    check_request(pallet, pallet.hypotheses, make_request(mu=11.0, mu_max=11.0))
    with pytest.raises(RequestError, match="may go beyond --mu-max 5 already") as lower:
        check_request(pallet, pallet.hypotheses, make_request(mu_max=5.0))
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
