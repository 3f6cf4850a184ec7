"""The schema of a site file: errors in an administrator's terms, defaults, secrets."""

from __future__ import annotations

import copy
import difflib
import functools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import jsonschema

from sitekit.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sitekit.site import Origin

__all__ = ["fill_defaults", "resolve", "schema", "schema_problems", "secret_problems"]

SCHEMA_FILE = Path(__file__).resolve().parents[2] / "endpoint_configs" / "site.schema.json"

# Names of no field that people may try, and what to use instead.
_NOT_HERE = {
    "node_selector": "use kubernetes.node_selector",
    "tolerations": "use kubernetes.tolerations",
    "worker_init": "use environment.modules, environment.variables and environment.venv",
    "scheduler_options": "use scheduler.directives, one option each",
    "ifname": "use network.interface",
    "container_uri": "use environment.container.image, or kubernetes.image",
    "walltime": "use blocks.walltime, or limits.walltime for the facility's own limit",
    "max_blocks": "use blocks.max",
    "min_blocks": "use blocks.min",
    "init_blocks": "use blocks.init",
    "nodes_per_block": "use blocks.nodes",
}
_SECRET_NAME = re.compile(
    r"secret|token|passw|passphrase|api_?key|private_?key|credential", re.IGNORECASE
)
_LONGEST_SHOWN = 60
_NO_SECRET = {"pull_secret", "credentials_secret"}


@functools.cache
def schema() -> dict[str, Any]:
    """Return the schema, a JSON Schema of draft 2020-12."""
    loaded: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return loaded


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    """Return a schema node with its ``$ref`` into ``$defs`` followed; its own keys win."""
    reference = node.get("$ref")
    if reference is None:
        return node
    target = schema()["$defs"][reference.removeprefix("#/$defs/")]
    return {**resolve(target), **{key: value for key, value in node.items() if key != "$ref"}}


@functools.cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema())


def secret_problems(file: str, text: str) -> list[Problem]:
    """Return a problem for every line of a file that holds what looks like a secret."""
    problems = []
    patterns = [
        (re.compile(kind["pattern"]), kind["title"])
        for kind in schema()["$defs"]["secret"]["anyOf"]
    ]
    for number, line in enumerate(text.splitlines(), start=1):
        for pattern, title in patterns:
            if pattern.search(line):
                problems.append(
                    Problem(
                        file,
                        number,
                        "(secret)",
                        f"expected no secrets, found what looks like {title}",
                        "nothing here: put it in the endpoint's environment file",
                    )
                )
                break
    return problems


def schema_problems(origin: Origin) -> list[Problem]:
    """Return what the schema finds wrong with the fields that a site gives, by line."""
    secret = [
        origin.problem(
            field,
            "expected no secrets, found a field that is named like one",
            "nothing here: put it in the endpoint's environment file",
        )
        for field in _secret_fields(origin.given, "")
    ]
    if secret:
        return secret
    problems = [
        problem
        for error in _validator().iter_errors(origin.given)
        for problem in _translate(origin, error)
    ]
    return sorted(
        dict.fromkeys(problems), key=lambda problem: (problem.file, problem.line, problem.field)
    )


def _secret_fields(value: Any, field: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, below in value.items():
            dotted = f"{field}.{key}" if field else str(key)
            if _SECRET_NAME.search(str(key)) and key not in _NO_SECRET:
                yield dotted
            else:
                yield from _secret_fields(below, dotted)


def _translate(origin: Origin, error: jsonschema.ValidationError) -> Iterator[Problem]:
    field = ".".join(str(part) for part in error.absolute_path)
    rule: Any = error.validator
    node: Any = error.schema
    bound: Any = error.validator_value
    if rule == "required":
        yield from _missing(origin, field, error)
    elif rule == "additionalProperties":
        yield from _unknown(origin, field, error)
    else:
        expected = _expected(rule, node, bound)
        yield origin.problem(
            field, f"expected {expected}, found {_short(error.instance)}", _write(field, node)
        )


def _missing(origin: Origin, field: str, error: jsonschema.ValidationError) -> Iterator[Problem]:
    node: Any = error.schema
    for name in node["required"]:
        if name not in cast("dict[str, Any]", error.instance):
            about = resolve(node["properties"][name])
            yield origin.problem(
                f"{field}.{name}" if field else name,
                "expected this field, it is missing",
                f"{name}: {_example(about)}",
            )


def _unknown(origin: Origin, field: str, error: jsonschema.ValidationError) -> Iterator[Problem]:
    node: Any = error.schema
    names = list(node.get("properties", {}))
    for name in cast("dict[str, Any]", error.instance):
        if name not in names:
            dotted = f"{field}.{name}" if field else name
            yield origin.problem(dotted, "there is no such field", _instead(name, names))


_BOUNDS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "uniqueItems": "each item once",
}
_KINDS = {
    "object": "fields below it",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "boolean": "true or false",
}


def _expected(rule: str, node: dict[str, Any], bound: Any) -> str:
    if rule in _BOUNDS:
        return _BOUNDS[rule].format(bound)
    if rule == "pattern":
        return str(node.get("title") or f"text like {bound}")
    if rule == "const":
        return json.dumps(bound)
    if rule == "enum":
        return "one of " + ", ".join(json.dumps(value) for value in bound)
    text = _KINDS.get(str(bound), f"a {bound}")
    return f"{text}: {node['title']}" if "title" in node else text


def _write(field: str, node: dict[str, Any]) -> str:
    name = field.rpartition(".")[2]
    return f"{name}: {_example(node)}" if not name.isdigit() else f"- {_example(node)}"


def _example(node: dict[str, Any]) -> str:
    for key in ("examples", "enum"):
        if node.get(key):
            return json.dumps(node[key][0])
    if "default" in node:
        return json.dumps(node["default"])
    if "const" in node:
        return json.dumps(node["const"])
    if "minimum" in node:
        return str(node["minimum"])
    if node.get("type") == "boolean":
        return "true or false"
    return f"<{node.get('title') or str(node.get('description', 'a value')).partition('.')[0]}>"


def _instead(name: str, names: list[str]) -> str:
    if name in _NOT_HERE and name not in names:
        return _NOT_HERE[name]
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"{close[0]}: (did you mean that?)"
    return "one of " + ", ".join(names) if names else "nothing"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def fill_defaults(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with the schema's defaults filled in.

    Examples
    --------
    >>> fill_defaults({"blocks": {"init": 0, "min": 0, "max": 1}})["blocks"]["nodes"]
    1
    """
    return _fill(schema(), fields)


def _fill(node: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    filled: dict[str, Any] = {}
    for name, below in node.get("properties", {}).items():
        below_resolved = resolve(below)
        if name in fields:
            value = fields[name]
            if below_resolved.get("type") == "integer":
                value = int(value)  # 8.0 is one to JSON Schema
        elif "default" in below_resolved:
            value = copy.deepcopy(below_resolved["default"])
        else:
            continue
        nested = isinstance(value, dict) and "properties" in below_resolved
        filled[name] = _fill(below_resolved, value) if nested else value
    # Free-form mappings (variables, annotations) have no properties of their own.
    return {**filled, **{name: value for name, value in fields.items() if name not in filled}}
