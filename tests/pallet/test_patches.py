"""Patches are checked without applying them as they are when they are applied."""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jsonpatch
import msgspec
import pyhf
from hypothesis import given, settings
from hypothesis import strategies as st

from fitserve.pallet import patches
from fitserve.pallet.checks import Findings, check_workspace
from fitserve_contract import Hypothesis

if TYPE_CHECKING:
    import pytest

    from fitserve.pallet.parameters import Outline

FOLDER = files("fitserve") / "data" / "example"
WORKSPACE = json.loads((FOLDER / "BkgOnly.json").read_text())
PATCHES = [each["patch"] for each in json.loads((FOLDER / "patchset.json").read_text())["patches"]]


def _both_ways(patch: list[dict[str, Any]]) -> tuple[Findings, Findings, Any, Any]:
    base = check_workspace(WORKSPACE, Findings())
    structural, applied = Findings(), Findings()
    found = patches._check_added(copy.deepcopy(patch), base, structural, "")
    packed = msgspec.json.encode(WORKSPACE)
    real = patches._check_applied(copy.deepcopy(patch), packed, applied, "")
    return structural, applied, found, real


def _normfactors(outline: Outline) -> set[str]:
    return {name for name, one in outline.parameters.items() if one.type == "normfactor"}


@st.composite
def signal_patches(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Return patches that add samples, right and wrong."""
    patch = copy.deepcopy(draw(st.sampled_from(PATCHES)))
    for operation in patch:
        if draw(st.booleans()):
            channel, sample = draw(st.integers(0, 5)), draw(st.integers(0, 5) | st.just("-"))
            operation["path"] = f"/channels/{channel}/samples/{sample}"
        value = operation["value"]
        value["name"] = draw(st.sampled_from(["signal", "signal2", "ttbar"]))
        value["data"] = draw(
            st.just(value["data"]) | st.lists(st.floats(-1000, 1000), min_size=0, max_size=3)
        )
        if draw(st.booleans()):
            value["modifiers"].append(
                draw(
                    st.fixed_dictionaries(
                        {
                            "name": st.sampled_from(["lumi", "mu_SIG", "mu_ttbar", "new"]),
                            "type": st.sampled_from(["lumi", "normfactor", "shapesys", "normsys"]),
                            "data": st.none()
                            | st.lists(st.floats(0, 9), max_size=2)
                            | st.just({"lo": 0.9, "hi": 1.1}),
                        }
                    )
                )
            )
    return patch


@given(patch=signal_patches())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_both_checks_agree(patch: list[dict[str, Any]]) -> None:
    structural, applied, found, real = _both_ways(patch)
    assert bool(structural.errors) == bool(applied.errors), (structural.errors, applied.errors)
    if not structural.errors:
        assert structural.doubts.keys() == applied.doubts.keys()
        assert found == real


def test_the_fast_check_is_the_one_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(patches, "_check_applied", refuse)
    hypotheses = [Hypothesis(name="S", values=(), patch=patch) for patch in PATCHES]
    findings = Findings()
    base = check_workspace(WORKSPACE, findings)
    outlines = patches.check_hypotheses(hypotheses, WORKSPACE, base, findings)
    assert all(_normfactors(each) == {"mu_SIG", "mu_ttbar"} for each in outlines.values())
    assert not findings.errors


def test_other_patches_are_applied() -> None:
    """A patch may as well change the measurement or a background."""
    patch = [
        *PATCHES[0],
        {"op": "replace", "path": "/channels/2/samples/0/data", "value": [880.0]},
        {"op": "copy", "from": "/channels/0/samples/3", "path": "/channels/2/samples/-"},
        {"op": "test", "path": "/measurements/0/config/poi", "value": "mu_SIG"},
    ]
    findings = Findings()
    base = check_workspace(WORKSPACE, findings)
    outlines = patches.check_hypotheses(
        [Hypothesis(name="S", values=(), patch=patch)], WORKSPACE, base, findings
    )
    assert _normfactors(outlines["S"]) == {"mu_SIG", "mu_ttbar"}
    assert (findings.errors, findings.doubts, findings.notes) == ({}, {}, {})


def test_the_workspace_is_left_as_it_is() -> None:
    workspace = copy.deepcopy(WORKSPACE)
    base = check_workspace(workspace, Findings())
    patch = [*PATCHES[0], {"op": "remove", "path": "/channels/3/samples/0"}]
    for each in (PATCHES[0], patch):
        before = copy.deepcopy((base.channels, base.parameters.added))
        hypothesis = Hypothesis(name="S", values=(), patch=each)
        patches.check_hypotheses([hypothesis], workspace, base, Findings())
        assert (base.channels, base.parameters.added) == before
    assert workspace == WORKSPACE


def test_what_is_accepted_makes_a_model() -> None:
    """pyhf builds a model from what passes, with a sample of every kind of change."""
    for patch in (PATCHES[0], PATCHES[-1]):
        structural, *_ = _both_ways(patch)
        assert not structural.errors
        workspace = pyhf.Workspace(jsonpatch.apply_patch(WORKSPACE, patch))
        model = workspace.model()
        assert model.config.poi_name == "mu_SIG"
        assert len(workspace.data(model)) == model.config.nmaindata + model.config.nauxdata
