"""The fleet description's schema for people and for editors, made from the models in ``shared.fleet``."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

import shared.fleet
from shared.fleet import Fleet

_HEAD = """\
# The fleet description

One YAML file a fleet, checked by `python -m deploy.fleet FILE`; `examples/web/fleet.yaml` is an example. All durations
are in seconds. This page is made by `python -m deploy.fleet --reference` from `shared/fleet.py`.
"""
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "minItems": "at least"}


def fleet_schema() -> dict[str, Any]:
    """Return the JSON Schema of a fleet's description, with the docstrings of its fields."""
    schema = Fleet.model_json_schema(by_alias=True)
    notes = _notes()
    for name, definition in {**schema["$defs"], "Fleet": schema}.items():
        definition.get("properties", {}).pop("script", None)
        for name_of_field, described in definition.get("properties", {}).items():
            if note := notes.get((name, name_of_field)):
                described["description"] = note
    return schema


def _notes() -> dict[tuple[str, str], str]:
    """Return the docstring under each field of the models, by class and field."""
    notes: dict[tuple[str, str], str] = {}
    classes = [node for node in ast.parse(inspect.getsource(shared.fleet)).body if isinstance(node, ast.ClassDef)]
    pairs = ((owner.name, *pair) for owner in classes for pair in zip(owner.body, owner.body[1:], strict=False))
    for owner, before, after in pairs:
        if not (isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name)):
            continue
        if isinstance(after, ast.Expr):
            notes[owner, before.target.id] = " ".join(str(ast.literal_eval(after.value)).split())
    return notes


def fleet_reference() -> str:
    """Return the reference page: one table for each part of a description."""
    schema = fleet_schema()
    parts = {"Fleet": schema, **schema["$defs"]}
    return "\n".join([_HEAD, *(_table(name, part) for name, part in parts.items())])


def _table(name: str, part: Mapping[str, Any]) -> str:
    rows = [_row(field, about, field in part.get("required", ())) for field, about in part["properties"].items()]
    head = ["| Field | What it is | Default | |", "|---|---|---|---|"]
    return "\n".join([f"## {name}", "", " ".join(part["description"].split()), "", *head, *rows, ""])


def _row(field: str, about: Mapping[str, Any], required: bool) -> str:
    default = "required" if required else _default(about.get("default"))
    kind = ", ".join([_kind(about), *_bounds(about)])
    return f"| `{field}` | {kind} | {_cell(default)} | {about.get('description', '')} |"


def _default(value: object) -> str:
    if value is None:
        return "none"
    return "see there" if isinstance(value, dict) and value else f"`{json.dumps(value)}`"


def _kind(about: Mapping[str, Any]) -> str:
    """Return what goes there, in a few words."""
    if "$ref" in about:
        name = about["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in about:
        return " or ".join(_kind(one) for one in about["anyOf"])
    if "const" in about:
        return f"`{json.dumps(about['const'])}`"
    if about["type"] == "array":
        return f"list of {_kind(about['items'])}" if "items" in about else "list"
    if about["type"] == "object":
        # pydantic puts a mapping whose keys have a pattern under patternProperties
        (value,) = about.get("patternProperties", {"": about.get("additionalProperties")}).values()
        return f"mapping of name to {_kind(value)}"
    words = {
        "string": "text",
        "integer": "whole number",
        "number": "number",
        "boolean": "true or false",
        "null": "nothing",
    }
    return words[about["type"]] + (f" like `{_cell(about['pattern'])}`" if "pattern" in about else "")


def _bounds(about: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{words} {about[bound]}" for bound, words in _BOUNDS.items() if bound in about)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
