"""The page of all fields of a site file, from the schema itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sitekit.schema import resolve, schema

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PAGE", "fields_page"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sites" / "fields.md"

_HEAD = """\
# Fields of a site file

*This page is made from `endpoint_configs/site.schema.json` by `make golden`.*

A site file is YAML, read by the rules of YAML 1.2: `no` is text, and `02:00:00` is a time. There
are no other fields than these. Fields in **bold** must be given, here or in the site that
`extends` names; a field set to `null` is taken away again.

"""


def fields_page() -> str:
    """Return the page, in Markdown.

    Examples
    --------
    >>> "## scheduler" in fields_page()
    True
    """
    root = schema()
    simple = {name: node for name, node in root["properties"].items() if not _fields(resolve(node))}
    lines = [_HEAD, "## At the top\n", *_table(simple, root.get("required", []), "")]
    for name, node in root["properties"].items():
        resolved = resolve(node)
        if _fields(resolved):
            lines += ["", f"## {name}\n", resolved["description"], ""]
            lines += _table(resolved["properties"], resolved.get("required", []), "")
    return "\n".join(lines).rstrip() + "\n"


def _fields(node: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = node.get("properties", {})
    return found


def _table(fields: dict[str, Any], required: list[str], prefix: str) -> list[str]:
    return [
        "| field | what it takes | default | what it is |",
        "|---|---|---|---|",
        *_rows(fields, required, prefix),
    ]


def _rows(fields: dict[str, Any], required: list[str], prefix: str) -> Iterator[str]:
    for name, node in fields.items():
        resolved = resolve(node)
        shown = f"`{prefix}{name}`"
        if name in required:
            shown = f"**{shown}**"
        default = "" if "default" not in resolved else f"`{json.dumps(resolved['default'])}`"
        about = str(resolved.get("description", "")).replace("|", "\\|")
        example = resolved.get("examples")
        if example:
            about += f" Example: `{json.dumps(example[0])}`."
        yield f"| {shown} | {_takes(resolved)} | {default} | {about} |"
        below = resolved
        dotted = f"{prefix}{name}."
        if resolved.get("type") == "array":
            below = resolve(resolved.get("items", {}))
            dotted = f"{prefix}{name}[]."
        if _fields(below):
            yield from _rows(_fields(below), below.get("required", []), dotted)


def _takes(node: dict[str, Any]) -> str:
    if "const" in node:
        return f"`{json.dumps(node['const'])}`"
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    kind = node.get("type")
    if kind == "array":
        return f"list of: {_takes(resolve(node.get('items', {})))}"
    if kind == "object":
        return "fields below" if _fields(node) else "names and values"
    if kind in {"integer", "number"}:
        return _range("whole number" if kind == "integer" else "number", node)
    words = "`true`, `false`" if kind == "boolean" else str(node.get("title", "text"))
    return words.replace("|", "\\|")


def _range(word: str, node: dict[str, Any]) -> str:
    words = (("minimum", "from {}"), ("exclusiveMinimum", "above {}"), ("maximum", "to {}"))
    return " ".join([word, *(text.format(node[key]) for key, text in words if key in node)])
