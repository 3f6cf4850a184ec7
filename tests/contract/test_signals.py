"""Signals as arrays: what goes in comes out, and what is not sound is refused."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitserve_contract import (
    SIGNALS_VERSION,
    ContractError,
    HypotestRequest,
    Hypothesis,
    SignalPatch,
    Signals,
    Task,
    Template,
    decode_task,
    digest,
    encode_task,
    hypothesis_key,
    split_signals,
)
from fitserve_contract.codec import MAX_DECODED_BYTES

finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | finite | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=15,
)
patches = st.lists(st.dictionaries(st.text(max_size=5), values, max_size=4), max_size=3)


def _numbers(value: object) -> list[float]:
    """Return the numbers of JSON in their order, another way than the template."""
    if isinstance(value, dict):
        return [number for one in value.values() for number in _numbers(one)]
    if isinstance(value, list):
        return [number for one in value for number in _numbers(one)]
    return [float(value)] if isinstance(value, float) else []


def _signal(name: str, patch: list[dict]) -> Hypothesis:
    numbers = np.array(_numbers(patch), dtype="<f8").tobytes()
    return Hypothesis(name=name, values=(1.0, "a"), patch=SignalPatch(Template(patch), numbers))


@given(first=patches, second=patches)
def test_any_patch_comes_back_from_its_array(first: list[dict], second: list[dict]) -> None:
    sent = [_signal("one", first), _signal("two", second), _signal("three", first)]
    task = Task(
        workspace_digest="0" * 64, workspace=None, hypotheses=sent, request=HypotestRequest()
    )
    arrived = {one.name: one for one in decode_task(encode_task(task)).hypotheses}
    for one, patch in zip(sent, (first, second, first), strict=True):
        assert arrived[one.name] == one
        assert list(arrived[one.name].patch) == patch
        assert len(arrived[one.name].patch) == len(patch)


def test_signals_of_one_template_are_one_array_of_eight_bytes_a_number() -> None:
    rows = np.arange(300.0).reshape(100, 3)
    patch = [{"op": "add", "path": "/a", "value": {"data": [0.0, 0.0], "of": 1.5}}]
    template = Template(patch)
    sent = [
        Hypothesis(name=f"S{at}", values=(), patch=SignalPatch(template, row.tobytes()))
        for at, row in enumerate(rows)
    ]
    others, [signals] = split_signals(sent)
    assert not others
    assert np.frombuffer(signals.numbers, "<f8").reshape(100, 3).tolist() == rows.tolist()
    assert list(sent[7].patch) == [
        {"op": "add", "path": "/a", "value": {"data": [21.0, 22.0], "of": 23.0}}
    ]


def test_keys_tell_signals_apart_by_template_and_numbers() -> None:
    request = digest(HypotestRequest())

    def key(name: str, patch: list[dict]) -> str:
        return hypothesis_key("0" * 64, _signal(name, patch), request)

    assert key("one", [{"value": [1.0, 2.0]}]) == key("two", [{"value": [1.0, 2.0]}])
    others = [[{"value": [2.0, 1.0]}], [{"value": [1.0, 2.0], "of": 0.0}], [{"other": [1.0, 2.0]}]]
    keys = {key("one", patch) for patch in [[{"value": [1.0, 2.0]}], *others]}
    assert len(keys) == 1 + len(others)


_SOUND = Signals(names=["S"], values=[()], template=[{"value": 0}], numbers=bytes(8))
_BROKEN = {
    "another version": {"version": SIGNALS_VERSION + 1},
    "are not those of": {"numbers": bytes(7)},
    "bytes and 2 mass values": {"values": [(), ()]},
    "not zero": {"template": [{"value": 3}]},
    "not finite": {"numbers": np.array([np.nan]).tobytes()},
    "operations": {"template": [{}] * 100_001, "numbers": b""},
}


@pytest.mark.parametrize("said", _BROKEN)
def test_a_broken_array_is_refused_with_the_reason(said: str) -> None:
    broken = msgspec.structs.replace(_SOUND, **_BROKEN[said])
    task = Task(workspace_digest="0" * 64, workspace=None, hypotheses=[], request=HypotestRequest())
    # Past `encode_task`, which makes sound arrays only.
    from fitserve_contract import codec

    text = codec._encode("task", msgspec.structs.replace(task, signals=[broken]))
    words = "version" if said == "another version" else said
    with pytest.raises(ContractError) as caught:
        decode_task(text, MAX_DECODED_BYTES)
    assert words in caught.value.evidence


def test_numbers_that_are_not_those_of_the_template_make_no_patch() -> None:
    with pytest.raises(ValueError, match="8 bytes are not 2 numbers"):
        SignalPatch(Template([{"value": [1.0, 2.0]}]), bytes(8))
