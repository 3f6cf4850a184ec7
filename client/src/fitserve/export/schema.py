"""The JSON schema of results.json, derived from the types that write it."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from fitserve.contract import HypothesisResult

__all__ = ["results_schema"]


def results_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of ``results.json``.

    Examples
    --------
    >>> from fitserve.export import results_schema
    >>> schema = results_schema()
    >>> schema["additionalProperties"]
    {'$ref': '#/$defs/HypothesisResult'}
    >>> "CLs_obs" in schema["$defs"]["HypothesisResult"]["required"]
    True
    """
    schema = msgspec.json.schema(dict[str, HypothesisResult])
    for definition in schema["$defs"].values():
        # msgspec leaves docstrings indented before version 0.23.
        definition["description"] = inspect.cleandoc(definition["description"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fitserve results.json",
        "description": "Results by hypothesis name, in the order of the patchset.",
        **schema,
    }
