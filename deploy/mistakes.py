"""What is wrong with a field, and how to mend it, in plain sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from shared import ids
from shared.fleet import CheckStep, RunStep, SyncStep

_TITLES: Mapping[type[BaseModel], str] = {RunStep: "a run step", SyncStep: "a sync step", CheckStep: "a check step"}

_NAME = "must be lower-case letters, digits and dashes, and begin with a letter"
_PATTERNS = {
    ids.FLEET_PATTERN: _NAME,
    r"^[a-z_][a-z0-9_-]{0,31}$": "must be the name of a user of the server, such as www-data",
    r"^https?://": "must begin with http:// or https://",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "must be letters, digits and underscores, and not begin with a digit",
    r"^[a-z0-9-]+\.[a-z0-9-]+$": "must be an instance type, such as m7i.large",
    r"^[^:]{1,255}$": "must be 1 to 255 characters without a colon",
    r"^.{1,255}$": "must be 1 to 255 characters on one line",
}
_RULES = {
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be {expected}",
    "too_short": "must have at least {min_length}",
    "too_long": "must have at most {max_length}",
    "string_too_long": "must be at most {max_length} characters",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping of fields",
    "model_attributes_type": "must be a mapping of fields",
}


def sentence(model: type[BaseModel], detail: ErrorDetails) -> str:
    """Return what is wrong with a field and how to mend it, to go after the field's name."""
    kind, loc, context = detail["type"], detail["loc"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        owner, what = _owner(model, loc)
        known = _fields(owner)
        otherwise = f"remove it ({what} has {', '.join(known)})"
        return f"is not a field of {what}{meant(str(loc[-1]), known, otherwise)}"
    if kind == "missing":
        return "is missing; add it"
    if kind == "value_error":
        return cause(detail)
    return f"{_rule(kind, context, detail['msg'])}, but is {_shown(detail['input'])}"


def _rule(kind: str, context: Mapping[str, Any], message: str) -> str:
    """Return what pydantic demands, in words."""
    if kind == "string_pattern_mismatch":
        return _pattern(context["pattern"])
    return _RULES[kind].format(**context) if kind in _RULES else message[:1].lower() + message[1:]


def _pattern(pattern: str) -> str:
    if pattern in _PATTERNS:
        return _PATTERNS[pattern]
    if "ami-" in pattern:
        return "must be an image id (ami-0123456789abcdef0) or the name of a parameter (/path/to/it)"
    return "must be a relative path of plain letters, digits and ._@+- without .. (such as scripts/build.sh)"


def _owner(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[type[BaseModel], str]:
    """Return the model that a field would belong to, and what to call it."""
    names: list[str] = []
    for part in loc[:-1]:
        below = model.model_fields.get(str(part))
        inner = [kind for kind in (below.annotation, *get_args(below.annotation)) if _is_model(kind)] if below else []
        if inner:
            model, names = inner[0], [*names, str(part)]
    return model, ".".join(names) or _TITLES.get(model, "a fleet")


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _fields(model: type[BaseModel]) -> list[str]:
    """Return the names as they are written in YAML."""
    return [info.alias or name for name, info in model.model_fields.items() if name != "script"]


def near(word: str, known: Sequence[str]) -> str | None:
    """Return the known word that was probably meant, if there is one."""
    return next(iter(get_close_matches(word, known, n=1, cutoff=0.6)), None)


def meant(word: str, known: Sequence[str], otherwise: str) -> str:
    """Return the mend, to go after a mistake: the word that was probably meant, or something else to do."""
    probably = near(word, known)
    return f"; did you mean {probably}?" if probably else f"; {otherwise}"


def cause(detail: ErrorDetails) -> str:
    """Return what a validator of ours said."""
    return str(detail.get("ctx", {}).get("error", detail["msg"]))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
