"""What pyhf makes of the parameters of a workspace is known without pyhf."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyhf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitserve.pallet.checks import Findings, check_workspace
from fitserve.pallet.parameters import Outline

BINS = {"CR": 1, "SR": 2, "VR": 2}
NAMES = {
    "normfactor": ["mu", "mu_top"],
    "normsys": ["jes", "jer"],
    "histosys": ["jes", "shape"],
    "lumi": ["lumi"],
    "staterror": ["stat", "stat_SR", "stat/VR"],
    "shapefactor": ["free"],
    "shapesys": ["uncorrelated", "mc"],
}
ARRAYS = ("inits", "auxdata", "factors", "sigmas")


@st.composite
def modifiers(draw: st.DrawFn, bins: int) -> dict[str, Any]:
    """Return a modifier of any type."""
    type_ = draw(st.sampled_from(sorted(NAMES)))
    yields = st.lists(st.sampled_from([0.0, 0.5, 3.0]), min_size=bins, max_size=bins)
    data = {
        "normsys": st.just({"lo": 0.9, "hi": 1.1}),
        "histosys": st.just({"lo_data": [4.0] * bins, "hi_data": [6.0] * bins}),
        "staterror": yields,
        "shapesys": yields,
    }.get(type_, st.none())
    return {"type": type_, "name": draw(st.sampled_from(NAMES[type_])), "data": draw(data)}


@st.composite
def workspaces(draw: st.DrawFn) -> dict[str, Any]:
    """Return workspaces whose modifiers share names as they please, configured or not."""
    channels = []
    for name in draw(st.lists(st.sampled_from(sorted(BINS)), min_size=1, max_size=3, unique=True)):
        samples = [
            {
                "name": sample,
                "data": draw(
                    st.lists(st.sampled_from([0.0, 5.0]), min_size=BINS[name], max_size=BINS[name])
                ),
                "modifiers": draw(
                    st.lists(
                        modifiers(BINS[name]),
                        max_size=4,
                        unique_by=lambda one: (one["type"], one["name"]),
                    )
                ),
            }
            for sample in ("signal", "top")
        ]
        samples[0]["modifiers"].append({"type": "normfactor", "name": "mu", "data": None})
        channels.append({"name": name, "samples": samples})
    known = {
        modifier["name"]
        for channel in channels
        for sample in channel["samples"]
        for modifier in sample["modifiers"]
    }
    parameters = []
    for name in draw(st.lists(st.sampled_from(sorted(known)), max_size=3, unique=True)):
        sizes = st.integers(1, 3)
        parameter: dict[str, Any] = {"name": name}
        for key in draw(st.lists(st.sampled_from(ARRAYS), max_size=4, unique=True)):
            parameter[key] = [draw(st.sampled_from([0.5, 1.0, 20.0]))] * draw(sizes)
        if draw(st.booleans()):
            parameter["bounds"] = [[draw(st.sampled_from([0.0, 0.9])), 30.0]] * draw(sizes)
        if draw(st.booleans()):
            parameter["fixed"] = draw(st.booleans())
        parameters.append(parameter)
    return {
        "channels": channels,
        "observations": [
            {"name": one["name"], "data": [5.0] * BINS[one["name"]]} for one in channels
        ],
        "measurements": [{"name": "main", "config": {"poi": "mu", "parameters": parameters}}],
        "version": "1.0.0",
    }


def _checked(workspace: dict[str, Any]) -> tuple[Findings, Outline]:
    findings = Findings()
    base = check_workspace(workspace, findings)
    findings.take(base.configured)
    return findings, Outline(workspace["measurements"], base.parameters.by_name())


def _by_pyhf(workspace: dict[str, Any]) -> Any:
    """Return the configuration of pyhf's model, None if it makes none or cannot fit it."""
    try:
        config = pyhf.Workspace(workspace).model().config
        starts = zip(config.suggested_init(), config.suggested_bounds(), strict=True)
    except (pyhf.exceptions.InvalidModel, pyhf.exceptions.InvalidNameReuse):
        return None
    except (TypeError, AssertionError, KeyError):
        # A luminosity without settings, a staterror that is shared unevenly or has a slash.
        return None
    return config if all(low <= init <= high for init, (low, high) in starts) else None


@given(workspace=workspaces())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_pyhf_makes_a_model_of_what_passes_and_of_nothing_else(workspace: dict[str, Any]) -> None:
    findings, outline = _checked(workspace)
    config = _by_pyhf(workspace)
    # Of a shapefactor with too few components pyhf makes a model, but another one; of a
    # luminosity without sigmas one with an uncertainty of 1.
    told = str(findings.errors)
    if "shapefactor is shared" in told or "'lumi'" in told:
        return
    assert bool(findings.errors) == (config is None), findings.errors
    if config is None:
        return
    assert set(outline.parameters) == set(config.par_order)
    for name, parameter in outline.parameters.items():
        made = config.param_set(name)
        found = outline.settings(workspace["measurements"][0], name)
        assert parameter.size == made.n_parameters
        assert np.array_equal(found.inits, made.suggested_init)
        assert np.array_equal(found.bounds, made.suggested_bounds)
        if parameter.type not in ("staterror", "shapesys"):
            assert [found.fixed] * parameter.size == made.suggested_fixed


def _one_bin(*samples: tuple[str, float, list[tuple[str, str, Any]]]) -> dict[str, Any]:
    content = [
        {
            "name": name,
            "data": [value],
            "modifiers": [{"type": t, "name": n, "data": d} for t, n, d in modifiers],
        }
        for name, value, modifiers in samples
    ]
    return {
        "channels": [{"name": "SR", "samples": content}],
        "observations": [{"name": "SR", "data": [5.0]}],
        "measurements": [{"name": "main", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }


@pytest.mark.parametrize(
    ("samples", "dropped"),
    [
        ([("a", -3.0, [("staterror", "st", [1.0])])], "staterror 'st' of 'a' with -3"),
        ([("a", -3.0, [("staterror", "st", [0.0])])], None),
        ([("a", 0.0, [("shapesys", "sh", [1.0])])], "shapesys 'sh' of 'a' with 0"),
        (
            [("a", -3.0, [("staterror", "st", [1.0])]), ("b", 9.0, [("staterror", "st", [2.0])])],
            None,
        ),
    ],
)
def test_an_uncertainty_that_pyhf_drops_is_noted(samples: list, dropped: str | None) -> None:
    workspace = _one_bin(("sum", 40.0, [("normfactor", "mu", None)]), *samples)
    findings, _ = _checked(workspace)
    told = [
        place for kind, places in findings.notes.items() if "dropped" in kind for place in places
    ]
    assert not findings.errors
    assert told == ([f"channel 'SR', bin 0, {dropped}"] if dropped else [])
    model = pyhf.Workspace(workspace).model()
    held = dict(zip(model.config.par_names, model.config.suggested_fixed(), strict=True))
    # A parameter without an uncertainty is held too, but nothing is lost.
    if dropped:
        assert held[f"{samples[0][2][0][1]}[0]"]


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        (
            [("a", 4.0, [("histosys", "h", {"lo_data": [9.0], "hi_data": [-1.5]})])],
            "4 becomes -1.5 with 'h' at +1",
        ),
        (
            [
                ("a", 4.0, [("histosys", "h", {"lo_data": [1.0], "hi_data": [5.0]})]),
                ("b", 4.0, [("histosys", "h", {"lo_data": [-2.0], "hi_data": [5.0]})]),
            ],
            "8 becomes -1 with 'h' at -1",
        ),
        (
            [("a", 9.0, []), ("b", -8.0, [("normsys", "n", {"lo": 0.8, "hi": 1.2})])],
            "1 becomes -0.6 with 'n' at +1",
        ),
        ([("a", 4.0, [("histosys", "h", {"lo_data": [0.0], "hi_data": [8.0]})])], None),
    ],
)
def test_a_systematic_that_makes_a_bin_negative_is_noted(samples: list, told: str | None) -> None:
    findings, _ = _checked(_one_bin(*samples))
    found = [
        place for kind, places in findings.notes.items() if "below zero" in kind for place in places
    ]
    assert not findings.errors
    assert found == ([f"channel 'SR', bin 0: {told} standard deviation"] if told else [])
