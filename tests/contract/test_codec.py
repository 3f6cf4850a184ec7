"""The codec: what goes in comes out, and what is not ours is refused."""

from __future__ import annotations

import base64
import json
import math

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from fitserve_contract import (
    ContractError,
    HypotestRequest,
    Hypothesis,
    HypothesisResult,
    Task,
    TaskResult,
    Timing,
    WorkerInfo,
    decode_result,
    decode_task,
    digest,
    encode_refusal,
    encode_result,
    encode_task,
    envelope_digest,
    hypothesis_key,
    request_digest,
)
from fitserve_contract.codec import compress, decompress

finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | finite | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)
objects = st.dictionaries(st.text(max_size=8), json_values, max_size=5)
hypothesis_structs = st.builds(
    Hypothesis,
    name=st.text(max_size=20),
    values=st.lists(finite | st.text(max_size=5), max_size=3).map(tuple),
    patch=st.lists(objects, max_size=3),
)


@given(workspace=objects | st.none(), hypotheses=st.lists(hypothesis_structs, max_size=3))
def test_any_task_survives_the_wire(workspace: dict | None, hypotheses: list[Hypothesis]) -> None:
    task = Task(
        workspace_digest=digest(workspace),
        workspace=workspace,
        hypotheses=hypotheses,
        request=HypotestRequest(mu=(0.5, 1.0)),
    )
    assert decode_task(encode_task(task)) == task


@given(text=st.text() | objects.map(json.dumps))
def test_any_text_is_refused_with_a_reason(text: str) -> None:
    for decode in (decode_task, decode_result):
        with pytest.raises(ContractError):
            decode(text)


@given(data=st.data())
def test_any_change_of_a_message_is_noticed(data: st.DataObject) -> None:
    task = Task(workspace_digest="0" * 64, workspace={}, hypotheses=[], request=HypotestRequest())
    text = encode_task(task)
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.characters(codec="ascii")) + text[at + 1 :]
    try:
        assert decode_task(changed) == task
    except ContractError:
        return


def test_encoding_is_the_same_every_time(task: Task) -> None:
    assert encode_task(task) == encode_task(decode_task(encode_task(task)))
    assert envelope_digest(encode_task(task)) == json.loads(encode_task(task))["digest"]


def test_numbers_that_are_not_finite_become_null() -> None:
    result = TaskResult(
        task="t",
        results=[
            HypothesisResult(
                name="h",
                key="k",
                mass_hypotheses=(1.0,),
                status="failed",
                reason="NaN",
                CLs_obs=math.nan,
                CLs_exp=[math.inf, 0.1, 0.2, 0.3, math.nan],
                fit_time=1.0,
                setup_time=1.0,
                engine="e",
                points=[],
            )
        ],
        worker=WorkerInfo(host="h", pid=1, python="3", device="cpu", versions={}),
        timing=Timing(started=0.0, decode=0.0, total=0.0),
    )
    decoded = decode_result(encode_result(result)).results[0]
    assert decoded.CLs_obs is None
    assert decoded.CLs_exp == [None, 0.1, 0.2, 0.3, None]


def test_another_contract_version_is_named(task: Task) -> None:
    envelope = json.loads(encode_task(task)) | {"contract": 99}
    with pytest.raises(ContractError, match="version 99") as caught:
        decode_task(json.dumps(envelope))
    assert "same release" in caught.value.hint


def test_a_result_is_not_a_task(task: Task) -> None:
    with pytest.raises(ContractError, match="not a result"):
        decode_result(encode_task(task))


def test_a_refusal_arrives_with_its_own_words() -> None:
    refusal = encode_refusal(ContractError("too big", evidence="9 bytes", hint="send less"))
    with pytest.raises(ContractError, match="refuses the task: too big") as caught:
        decode_result(refusal)
    assert (caught.value.evidence, caught.value.hint) == ("9 bytes", "send less")


def _with_body(text: str, body: bytes) -> str:
    return json.dumps(json.loads(text) | {"body": base64.b64encode(body).decode()})


def test_a_bomb_is_stopped_at_the_limit(task: Task) -> None:
    bomb = zstandard.ZstdCompressor().compress(b" " * 50_000_000)
    assert len(bomb) < 10_000
    with pytest.raises(ContractError, match="larger than allowed"):
        decode_task(_with_body(encode_task(task), bomb), limit=1_000_000)


def test_a_bomb_that_lies_about_its_size_is_stopped() -> None:
    writer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    bomb = writer.compress(b" " * 50_000_000) + writer.flush()
    with pytest.raises(ContractError, match="larger than allowed"):
        decompress(bomb, limit=1_000_000)


@pytest.mark.parametrize("body", [b"", b"not zstd", compress(b"x" * 10_000)[:-20]])
def test_damaged_bodies_are_refused(task: Task, body: bytes) -> None:
    with pytest.raises(ContractError):
        decode_task(_with_body(encode_task(task), body))


def test_a_changed_body_has_another_digest(task: Task) -> None:
    changed = compress(msgspec.json.encode(task).replace(b"50.0", b"51.0"))
    with pytest.raises(ContractError, match="digest"):
        decode_task(_with_body(encode_task(task), changed))


def test_keys_depend_on_everything_that_decides_a_result(
    task: Task, hypotheses: list[Hypothesis]
) -> None:
    request = request_digest(task.request)
    keys = {
        hypothesis_key(task.workspace_digest, hypotheses[0], request),
        hypothesis_key("1" * 64, hypotheses[0], request),
        hypothesis_key(task.workspace_digest, hypotheses[1], request),
        hypothesis_key(
            task.workspace_digest, hypotheses[0], request_digest(HypotestRequest(mu=(2.0,)))
        ),
    }
    assert len(keys) == 4
    renamed = msgspec.structs.replace(hypotheses[0], name="another", values=(7.0,))
    assert hypothesis_key(task.workspace_digest, renamed, request) in keys


def test_the_schema_of_the_contract_names_its_fields() -> None:
    schema = msgspec.json.schema(Task)
    assert set(schema["$defs"]["Hypothesis"]["required"]) == {"name", "values", "patch"}
    assert schema["$defs"]["HypotestRequest"]["additionalProperties"] is False
