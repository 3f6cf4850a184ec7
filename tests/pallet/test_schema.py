"""The compiled validator accepts and refuses what pyhf does, and explains better."""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from typing import Any

import pyhf
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fitserve.errors import InputError
from fitserve.pallet.schema import locate, shorten, validate

EXAMPLE = {
    kind: json.loads((files("fitserve") / "data" / "example" / name).read_text())
    for kind, name in (("workspace", "BkgOnly.json"), ("patchset", "patchset.json"))
}
EXAMPLE["patchset"]["patches"] = EXAMPLE["patchset"]["patches"][:3]
EXAMPLE["jsonpatch"] = EXAMPLE["patchset"]["patches"][0]["patch"]

names = st.sampled_from(
    ["name", "data", "type", "normsys", "staterror", "1.0.0", "op", "add", "ins1234567", "a b", ""]
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    names,
    # A line break at the end is the known difference: see fitserve.pallet.schema.
    st.text(max_size=6).filter(lambda text: not text.endswith("\n")),
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


def _places(content: Any) -> list[tuple[Any, Any]]:
    """Return every container in the content with each of its keys or positions."""
    found = []
    stack = [content]
    while stack:
        inner = stack.pop()
        keys = range(len(inner)) if isinstance(inner, list) else list(inner)
        for key in keys:
            found.append((inner, key))
            if isinstance(inner[key], list | dict):
                stack.append(inner[key])
    return found


@st.composite
def mutated(draw: st.DrawFn, kind: str) -> Any:
    """Return an example file with up to three changes anywhere in it."""
    content = copy.deepcopy(EXAMPLE[kind])
    for _ in range(draw(st.integers(0, 3))):
        places = _places(content)
        if not places:
            break
        container, key = places[draw(st.integers(0, len(places) - 1))]
        match draw(st.sampled_from(["alike", "alike", "replace", "remove", "add", "copy"])):
            case "alike" if isinstance(container[key], int | float):
                container[key] = draw(st.integers(-9, 9) | st.floats(-1e9, 1e9))
            case "alike":
                container[key] = copy.deepcopy(container[key])
            case "replace":
                container[key] = draw(json_values)
            case "remove":
                del container[key]
            case "add" if isinstance(container, list):
                container.insert(key, draw(json_values))
            case "add":
                container[draw(names)] = draw(json_values)
            case _:
                other, there = places[draw(st.integers(0, len(places) - 1))]
                container[key] = copy.deepcopy(other[there])
    return content


def _pyhf_accepts(content: Any, kind: str) -> bool:
    # As for the files that pyhf reads, whose numbers are no tensors.
    try:
        pyhf.schema.validate(content, f"{kind}.json", allow_tensors=False)
    except pyhf.exceptions.InvalidSpecification:
        return False
    return True


def _accepts(content: Any, kind: Any) -> bool:
    try:
        validate(content, kind, "file")
    except InputError as error:
        told = error.evidence
    else:
        return True
    assert len(told) < 400
    return False


@pytest.mark.parametrize("kind", EXAMPLE)
def test_the_example_is_accepted(kind: str) -> None:
    assert _accepts(EXAMPLE[kind], kind)
    assert _pyhf_accepts(EXAMPLE[kind], kind)


relaxed = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@given(content=mutated("workspace"))
@relaxed
def test_workspaces_are_judged_as_by_pyhf(content: Any) -> None:
    assert _accepts(content, "workspace") == _pyhf_accepts(content, "workspace")


@given(content=mutated("patchset"))
@relaxed
def test_patchsets_are_judged_as_by_pyhf(content: Any) -> None:
    assert _accepts(content, "patchset") == _pyhf_accepts(content, "patchset")


@given(content=mutated("jsonpatch"))
@example(content=[{"op": "add", "path": "/x"}])
@example(content=[{"op": "move", "path": "/x", "from": "/y"}])
@relaxed
def test_patches_are_judged_as_by_pyhf(content: Any) -> None:
    assert _accepts(content, "jsonpatch") == _pyhf_accepts(content, "jsonpatch")


def test_mutations_are_neither_all_valid_nor_all_broken() -> None:
    """Without both, the comparisons above would show nothing."""
    verdicts: list[bool] = []

    @given(content=mutated("workspace"))
    @relaxed
    def judge(content: Any) -> None:
        verdicts.append(_pyhf_accepts(content, "workspace"))

    judge()
    assert 0.1 < sum(verdicts) / len(verdicts) < 0.9


def test_known_differences() -> None:
    """What the docstring of the module says of booleans and line breaks holds."""
    workspace = copy.deepcopy(EXAMPLE["workspace"])
    workspace["observations"][0]["data"] = [True]
    pyhf.schema.validate(workspace, "workspace.json")
    assert not _accepts(workspace, "workspace")
    patchset = copy.deepcopy(EXAMPLE["patchset"])
    patchset["patches"][0]["metadata"]["name"] = "name\n"
    assert _pyhf_accepts(patchset, "patchset")
    assert not _accepts(patchset, "patchset")


@pytest.mark.parametrize("content", [None, 1, "text", [], {}])
def test_anything_is_judged(content: Any) -> None:
    assert not _accepts(content, "workspace")
    assert not _accepts(content, "patchset")


def test_places_are_named() -> None:
    patchset = EXAMPLE["patchset"]
    assert locate(patchset, ["patches", 0, "patch", 1]) == "/patches/0 'X_200_0'/patch/1"
    assert locate(patchset, []) == "at the top level"
    assert locate({"a": [{"name": 1}]}, ["a", 0]) == "/a/0"


def test_long_texts_are_shortened() -> None:
    text = "".join(map(str, range(1000)))
    assert shorten(text) == f"{text[:140]} ... {text[-15:]}"
    assert shorten("short") == "short"


def test_the_schema_is_that_of_the_installed_pyhf() -> None:
    ours, theirs = files("fitserve") / "data" / "schemas", files("pyhf") / "schemas"
    versions = sorted(one.name for one in theirs.iterdir() if one.is_dir())
    assert sorted(one.name for one in ours.iterdir()) == versions
    for version in versions:
        read = [json.loads((one / version / "defs.json").read_text()) for one in (ours, theirs)]
        assert read[0] == read[1]
    assert pyhf.schema.version in versions
