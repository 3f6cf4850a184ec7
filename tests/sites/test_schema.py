"""The schema refuses what a site file must not hold, and says file, line, field and remedy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sitekit.fields import Fields
from sitekit.load import load_site, shipped_sites
from sitekit.problems import SiteError
from sitekit.schema import fill_defaults, resolve, schema, schema_problems
from sitekit.site import Origin, Site

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


def _kind(node: dict[str, Any]) -> Any:
    """Return what a schema node takes, as `_kind_of` says it of a type."""
    node = resolve(node)
    if "properties" in node:
        own = {name: below for name, below in node["properties"].items() if name != "extends"}
        # A field with a default is always there, once defaults are filled in.
        always = {name for name in own if "default" in resolve(own[name])}
        always |= set(node.get("required", []))
        return {name: (name in always, _kind(below)) for name, below in own.items()}
    if "enum" in node:
        return sorted(node["enum"])
    if "const" in node:
        return type(node["const"]).__name__
    if node["type"] == "array":
        return [_kind(node["items"])]
    if node["type"] == "object":
        return {str: _kind(node["additionalProperties"])}
    return {"string": "str", "integer": "int", "number": "int or float", "boolean": "bool"}[
        node["type"]
    ]


def _kind_of(known: msgspec.inspect.Type) -> Any:
    inspect = msgspec.inspect
    if isinstance(known, inspect.UnionType):
        some = [_kind_of(one) for one in known.types if not isinstance(one, inspect.NoneType)]
        return some[0] if len(some) == 1 else " or ".join(some)
    if isinstance(known, inspect.StructType):
        return {one.name: (one.required, _kind_of(one.type)) for one in known.fields}
    if isinstance(known, inspect.LiteralType):
        return sorted(known.values)
    if isinstance(known, inspect.ListType):
        return [_kind_of(known.item_type)]
    if isinstance(known, inspect.DictType):
        return {str: _kind_of(known.value_type)}
    return type(known).__name__.removesuffix("Type").lower()


def test_the_typed_fields_are_those_of_the_schema() -> None:
    assert _kind_of(msgspec.inspect.type_info(Fields)) == _kind(schema())


def test_every_default_of_the_schema_fits_its_type() -> None:
    for name in shipped_sites():
        site, _ = load_site(name)
        filled = fill_defaults(dict(site.origin.given))
        assert msgspec.to_builtins(msgspec.convert(filled, Fields)) == filled


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
        json.dumps(load_site(data.draw(st.sampled_from(shipped_sites())))[0].origin.given)
    )
    node: Any = given_fields
    while True:
        key = data.draw(st.sampled_from(sorted(node)))
        if isinstance(node[key], dict) and node[key] and data.draw(st.booleans()):
            node = node[key]
            continue
        node[key] = data.draw(json_values)
        break
    origin = Origin("x.yaml", given_fields, {})
    problems = schema_problems(origin)
    if not problems:
        from sitekit.rules import check_site

        check_site(Site.of("x", fill_defaults(given_fields), origin))
