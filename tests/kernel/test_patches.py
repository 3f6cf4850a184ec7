"""What patches make of a workspace: whatever they do, it is what pyhf makes of it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from fitserve_contract import Hypothesis, ModelOptions
from fitserve_worker.kernel.batch import compile_hypotheses
from fitserve_worker.kernel.fits import load
from fitserve_worker.kernel.patches import Background, resolve
from fitserve_worker.kernel.runtime import runtime
from fitserve_worker.kernel.spec import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    Case = Any


class _Case(NamedTuple):
    workspace: dict[str, Any]
    hypotheses: list[Hypothesis]


def _hypothesis(name: str, *operations: dict[str, Any]) -> Hypothesis:
    return Hypothesis(name=name, values=(), patch=list(operations))


def _unusual(signal: list[dict[str, Any]]) -> list[Hypothesis]:
    """Return patches that do more than add samples, besides adding the signal."""
    value = signal[0]["value"]
    replaced = {**value, "data": [30.0, 1.0, 2.0]}
    return [
        _hypothesis(
            "changes a background yield",
            *signal,
            {"op": "replace", "path": "/channels/0/samples/0/data/1", "value": 25.0},
        ),
        _hypothesis(
            "removes a background",
            {"op": "remove", "path": "/channels/0/samples/2"},
            *signal[1:],
            {"op": "add", "path": "/channels/0/samples/2", "value": value},
        ),
        _hypothesis(
            "changes the observation",
            *signal,
            {"op": "replace", "path": "/observations/1/data", "value": [50.0, 10.0, 3.0]},
        ),
        _hypothesis(
            "changes the measurement",
            *signal,
            {
                "op": "replace",
                "path": "/measurements/0/config/parameters/1/bounds",
                "value": [[0.0, 2.5]],
            },
        ),
        _hypothesis(
            "replaces its own sample",
            *signal,
            {"op": "replace", "path": "/channels/0/samples/3", "value": replaced},
        ),
        _hypothesis(
            "adds a channel",
            *signal,
            {
                "op": "add",
                "path": "/channels/-",
                "value": {
                    "name": "new",
                    "samples": [
                        {
                            **value,
                            "data": [1.0],
                            "modifiers": [{"name": "mu", "type": "normfactor", "data": None}],
                        }
                    ],
                },
            },
            {"op": "add", "path": "/observations/-", "value": {"name": "new", "data": [2.0]}},
        ),
        _hypothesis(
            "removes a channel",
            *signal,
            {"op": "remove", "path": "/channels/1"},
            {"op": "remove", "path": "/observations/0"},
        ),
        _hypothesis(
            "tests, and adds", {"op": "test", "path": "/version", "value": "1.0.0"}, *signal
        ),
    ]


def test_unusual_patches_are_what_pyhf_makes_of_them(
    everything: Case, pyhf_model: Callable
) -> None:
    hypotheses = [*everything.hypotheses, *_unusual(everything.hypotheses[0].patch)]
    case = _Case(everything.workspace, hypotheses)
    before = copy.deepcopy(case.workspace)
    compilation = compile_hypotheses(case.workspace, hypotheses, ModelOptions())
    assert compilation.unsupported == {}
    assert case.workspace == before
    names = [hypothesis.name for hypothesis in hypotheses]
    seen = []
    for batch in compilation.batches:
        loaded = load(batch, range(len(batch.members)), runtime())
        for member, hypothesis in enumerate(batch.members):
            model, data = pyhf_model(case, names.index(hypothesis.name), ModelOptions())
            parameters, which = batch.parameters(member), np.array([member])
            vector = np.array(model.config.suggested_init()) * 0.97 + 0.02
            x, local = parameters.split(vector, batch.shape.columns, batch.shape.bins)
            observed = loaded.observed.take(which)
            evaluation, _ = loaded.evaluate(which, x[None], local[None], observed)
            expected = model.expected_actualdata(vector)
            np.testing.assert_allclose(evaluation.yields[0, batch.slots], expected, rtol=1e-10)
            np.testing.assert_array_equal(observed.events[0, batch.slots], data[: len(expected)])
            seen.append(hypothesis.name)
    assert sorted(seen) == sorted(names)


def test_hypotheses_that_differ_in_numbers_share_a_batch(everything: Case) -> None:
    unusual = {one.name: one for one in _unusual(everything.hypotheses[0].patch)}
    together = [
        *everything.hypotheses,
        unusual["changes the observation"],
        unusual["changes the measurement"],
    ]
    assert len(compile_hypotheses(everything.workspace, together, ModelOptions()).batches) == 1
    apart = [*together, unusual["changes a background yield"], unusual["removes a channel"]]
    assert len(compile_hypotheses(everything.workspace, apart, ModelOptions()).batches) == 3


def test_adding_samples_is_recognised_without_touching_the_workspace(everything: Case) -> None:
    background = Background(everything.workspace, ModelOptions())
    # Only looking at the workspace: a copy would have to be encoded.
    background.workspace["never encoded"] = object()
    try:
        patched = resolve(background, everything.hypotheses[0].patch)
    finally:
        del background.workspace["never encoded"]
    assert [channel for channel, _ in patched.added] == ["SR", "VR"]
    assert patched.structure.kept == background.kept


def _broken(everything: Case, change: Callable[[dict[str, Any]], None]) -> str:
    """Return why a changed signal sample is not supported."""
    patch = copy.deepcopy(everything.hypotheses[1].patch)
    change(patch[0]["value"])
    hypothesis = Hypothesis(name="broken", values=(), patch=patch)
    compilation = compile_hypotheses(everything.workspace, [hypothesis], ModelOptions())
    assert not compilation.batches
    return compilation.unsupported["broken"]


def _with(kind: str, name: str, data: Any) -> Callable[[dict[str, Any]], None]:
    modifier = {"name": name, "type": kind, "data": data}
    return lambda sample: sample["modifiers"].append(modifier)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda sample: sample.update(data=[1.0, 2.0], modifiers=[]), "does not have the bins"),
        (lambda sample: sample.update(data=[1.0, float("nan"), 2.0]), "not finite"),
        (lambda sample: sample.update(name="top"), "under a name that its channel has"),
        (lambda sample: sample.pop("modifiers"), "cannot be read"),
        (_with("normsys", "a", {"hi": 1.1, "lo": 0.0}), "not positive"),
        (_with("normsys", "a", {"hi": 1.1}), "cannot be read"),
        (_with("histosys", "a", {"hi_data": [1.0], "lo_data": [1.0]}), "modifier data of shape"),
        (_with("shapesys", "bkg_VR", [0.1, 0.1, 0.1]), "more than once"),
        (_with("shapesys", "JES", [0.1, 0.1, 0.1]), "parameters of two kinds"),
        (_with("normsys", "mu_top", {"hi": 1.1, "lo": 0.9}), "parameters of two kinds"),
        (_with("staterror", "other", [0.1]), "one value for every bin"),
        (_with("morphing", "a", None), "unknown"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_reason(
    everything: Case, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    assert reason in _broken(everything, change)


def test_a_staterror_in_other_channels_than_its_samples_is_refused(everything: Case) -> None:
    """As in pyhf, which fails on it."""
    patch = copy.deepcopy(everything.hypotheses[0].patch)
    modifier = {"name": "stat_SR", "type": "staterror", "data": [0.1, 0.1]}
    patch[1]["value"]["modifiers"].append(modifier)
    hypothesis = Hypothesis(name="one", values=(), patch=patch)
    compilation = compile_hypotheses(everything.workspace, [hypothesis], ModelOptions())
    assert "in other channels" in compilation.unsupported["one"]


@pytest.mark.parametrize(
    ("configured", "reason"),
    [
        ({"name": "mu", "inits": [11.0]}, "starts outside its bounds"),
        ({"name": "mu", "bounds": [[3.0, 1.0]]}, "the wrong way round"),
        ({"name": "mu", "sigmas": [1.0]}, "has no attribute"),
        ({"name": "mu", "fixed": True}, "is fixed"),
        ({"name": "JES", "inits": [0.0, 0.0]}, "not fully defined"),
        ({"name": "lumi", "inits": [1.0], "bounds": [[0.5, 1.5]]}, "not fully defined"),
        ({"name": "mu", "colour": 3}, "is configured with"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(
    everything: Case, configured: dict[str, Any], reason: str
) -> None:
    workspace = copy.deepcopy(everything.workspace)
    parameters = workspace["measurements"][0]["config"]["parameters"]
    parameters[:] = [one for one in parameters if one["name"] != configured["name"]] + [configured]
    compilation = compile_hypotheses(workspace, everything.hypotheses[:1], ModelOptions())
    assert reason in compilation.unsupported["first"]


def test_a_configuration_given_twice_is_refused(everything: Case) -> None:
    workspace = copy.deepcopy(everything.workspace)
    parameters = workspace["measurements"][0]["config"]["parameters"]
    parameters.append(parameters[0])
    compilation = compile_hypotheses(workspace, everything.hypotheses[:1], ModelOptions())
    assert "configured twice" in compilation.unsupported["first"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (ModelOptions(measurement="other"), "no measurement 'other'"),
        (ModelOptions(poi="other"), "'other' is not in the model"),
        (ModelOptions(poi="stat_SR"), "many components"),
        (ModelOptions(poi=""), "no parameter of interest"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    everything: Case, options: ModelOptions, reason: str
) -> None:
    compilation = compile_hypotheses(everything.workspace, everything.hypotheses[:1], options)
    assert reason in compilation.unsupported["first"]


def test_another_parameter_may_be_of_interest(everything: Case, pyhf_model: Callable) -> None:
    options = ModelOptions(poi="mu_top")
    (batch,) = compile_hypotheses(everything.workspace, everything.hypotheses, options).batches
    chunk = batch.chunk(range(2), 2)
    names = [batch.parameters(member).names for member in range(2)]
    for member in range(2):
        marked = np.zeros(batch.shape.columns)
        marked[chunk.poi[member]] = 1.0
        vector = batch.parameters(member).join(marked, np.zeros(batch.shape.bins))
        assert [name for name, value in zip(names[member], vector, strict=True) if value == 1] == [
            "mu_top"
        ]


def test_a_workspace_that_is_none_is_refused_for_every_hypothesis(everything: Case) -> None:
    compilation = compile_hypotheses({"channels": 1}, everything.hypotheses, ModelOptions())
    assert not compilation.batches
    assert set(compilation.unsupported) == {"first", "second"}


def test_a_patch_that_does_not_apply_is_refused(everything: Case) -> None:
    background = Background(everything.workspace, ModelOptions())
    for operation in (
        {"op": "remove", "path": "/channels/7"},
        {"op": "add", "path": "/channels/0/samples/9", "value": {}},
        {"op": "add", "path": "/channels/9/samples/0", "value": {}},
        {"op": "replace", "path": "nonsense", "value": 1},
        {"op": "conjure", "path": "/channels"},
    ):
        with pytest.raises(UnsupportedModelError, match="does not apply"):
            resolve(background, [operation])
