"""The schema refuses what a site file must not hold, and says file, line, field and remedy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sitekit.load import load_site, shipped_sites
from sitekit.problems import SiteError
from sitekit.schema import fill_defaults, resolve, schema, schema_problems
from sitekit.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def test_the_schema_is_one_of_draft_2020_12() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def _objects(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if node.get("type") == "object":
            yield path, node
        for key, below in node.items():
            yield from _objects(below, f"{path}/{key}")
    elif isinstance(node, list):
        for below in node:
            yield from _objects(below, path)


def test_every_object_is_closed() -> None:
    objects = list(_objects(schema()))
    assert len(objects) > 20
    for path, node in objects:
        closed = node.get("additionalProperties")
        assert closed is False or "propertyNames" in node, path


def test_every_field_is_described() -> None:
    for path, node in _objects(schema()):
        for name, field in node.get("properties", {}).items():
            assert len(resolve(field).get("description", "")) > 3, f"{path}/{name}"


@pytest.mark.parametrize(
    ("changes", "field", "expected", "write"),
    [
        ({"scheduler": {"partion": "x"}}, "scheduler.partion", "no such field", "partition"),
        ({"node": {"cores": 0}}, "node.cores", "at least 1", "cores: 1"),
        ({"node": {"cores": 8.5}}, "node.cores", "whole number", "cores"),
        ({"workers": {"device": "gpu"}}, "workers.device", '"cuda12"', '"cpu"'),
        ({"contact": None}, "contact", "missing", "contact"),
        ({"contact": "me"}, "contact", "https://", "contact"),
        ({"verified": "yes"}, "verified", "not verified", "verified"),
        ({"blocks": {"parallelism": 0}}, "blocks.parallelism", "more than 0", "parallelism"),
        ({"blocks": {"walltime": "2 hours"}}, "blocks.walltime", "HH:MM:SS", "02:00:00"),
        ({"blocks": {"max_blocks": 2}}, "blocks.max_blocks", "no such field", "blocks.max"),
        ({"node": {"tolerations": []}}, "node.tolerations", "no such", "kubernetes.tolerations"),
        ({"environment": {"inherit": False}}, "environment.inherit", "true", "true"),
        ({"scheduler": "slurm"}, "scheduler", "fields below", "scheduler"),
        ({"description": "x" * 401}, "description", "at most 400", "description"),
    ],
)
def test_an_error_names_the_field_and_what_to_write(
    write_site: Callable[..., Path],
    changes: dict[str, Any],
    field: str,
    expected: str,
    write: str,
) -> None:
    path = write_site("slurm", **changes)
    with pytest.raises(SiteError) as refused:
        load_site(path)
    [problem] = [one for one in refused.value.problems if one.field == field]
    assert problem.file.endswith("mine.yaml")
    name = field.rpartition(".")[2]
    text = path.read_text(encoding="utf-8").splitlines()[problem.line - 1]
    assert problem.line == 1 or name in text
    assert expected in problem.expected
    assert write in problem.write
    assert f"{problem.file}:{problem.line}" in str(refused.value)


HOSTILE = [
    "a; rm -rf /",
    "$(id)",
    "`id`",
    "a\nb",
    "a\n",
    'a"b',
    "a'b",
    "a|b",
    "a&b",
    "a>b",
    "a#b",
    "${IFS}",
    "$((1))",
    "a\\b",
    "a b\tc",
    "\x00",
    "é",
    "",
]
# Fields that people read, and addresses that no shell sees.
_FOR_PEOPLE = {"description", "encrypted_reason", "says", "kind", "url", "contact", "verified"}
_SHELL_SAFE = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.,:/+@=%~*&|() -")


def _strings(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    node = resolve(node)
    if node.get("type") == "string" and "enum" not in node:
        yield path, node
    for name, below in node.get("properties", {}).items():
        yield from _strings(below, f"{path}.{name}" if path else name)
    if "items" in node:
        yield from _strings(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from _strings(node["additionalProperties"], f"{path}{{}}")


STRINGS = [
    (path, node)
    for path, node in _strings(schema())
    if path.rpartition(".")[2] not in _FOR_PEOPLE and not path.startswith("kubernetes.annot")
]


@pytest.mark.parametrize(("path", "node"), STRINGS, ids=[path for path, _ in STRINGS])
def test_no_field_that_reaches_a_script_takes_what_a_shell_reads(
    path: str, node: dict[str, Any]
) -> None:
    validator = jsonschema.Draft202012Validator(node)
    for text in HOSTILE:
        if path == "environment.variables{}" and not text:
            continue
        # Slurm's constraints have their own & and |, which are passed on as one argument.
        if path == "scheduler.constraint" and text in {"a|b", "a&b"}:
            continue
        assert not validator.is_valid(text), text


@pytest.mark.parametrize(("path", "node"), STRINGS, ids=[path for path, _ in STRINGS])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_a_field_takes_is_plain(
    path: str, node: dict[str, Any], data: st.DataObject
) -> None:
    text = data.draw(st.from_regex(node["pattern"]))
    if not jsonschema.Draft202012Validator(node).is_valid(text):
        return
    allowed = _SHELL_SAFE | ({"$"} if "$" in node["pattern"].replace("$(?!", "") else set())
    allowed |= {"{", "}"} if "version" in node["pattern"] else set()
    assert set(text) <= allowed
    assert "$(" not in text
    assert "${" not in text


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=6), below, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_mutilated_site_gives_problems_and_never_a_traceback(data: st.DataObject) -> None:
    given_fields = json.loads(
        json.dumps(load_site(data.draw(st.sampled_from(shipped_sites())))[0].given)
    )
    node: Any = given_fields
    while True:
        key = data.draw(st.sampled_from(sorted(node)))
        if isinstance(node[key], dict) and node[key] and data.draw(st.booleans()):
            node = node[key]
            continue
        node[key] = data.draw(json_values)
        break
    problems = schema_problems(Site("x", given_fields, given_fields, {}, "x.yaml"))
    if not problems:
        from sitekit.rules import check_site

        filled = fill_defaults(given_fields)
        check_site(Site("x", filled, given_fields, {}, "x.yaml"))
