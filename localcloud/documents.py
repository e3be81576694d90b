"""Systems Manager documents: from a document and its parameters to the scripts that run. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RUN_SHELL_SCRIPT = "AWS-RunShellScript"

SHELL_SCRIPT: Mapping[str, Any] = {
    "schemaVersion": "2.2",
    "description": "Run a shell script or specify the commands to run.",
    "parameters": {
        "commands": {"type": "StringList"},
        "workingDirectory": {"type": "String", "default": ""},
        "executionTimeout": {"type": "String", "default": "3600", "allowedPattern": r"([1-9][0-9]{0,5})"},
    },
    "mainSteps": [
        {
            "action": "aws:runShellScript",
            "name": "runShellScript",
            "inputs": {
                "timeoutSeconds": "{{ executionTimeout }}",
                "runCommand": "{{ commands }}",
                "workingDirectory": "{{ workingDirectory }}",
            },
        }
    ],
}
"""AWS's own document, as far as it means anything here."""

DEFAULT_TIMEOUT_S = 3600

_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")


class InvalidDocument(Exception):
    """The document is not one that the local cloud can run."""


class InvalidParameters(Exception):
    """The parameters are not what the document asks for."""


@dataclass(frozen=True)
class Step:
    """One script of a document; ``folder`` is relative to the machine's root, or empty for the root itself."""

    name: str
    script: str
    timeout_s: int
    folder: str


def steps(document: Mapping[str, Any], given: Mapping[str, Sequence[str]]) -> tuple[Step, ...]:
    """Return what a document does with these parameters. Raises InvalidDocument and InvalidParameters."""
    if document.get("schemaVersion") != "2.2" or not document.get("mainSteps"):
        raise InvalidDocument("only documents of schemaVersion 2.2 with mainSteps run here")
    values = parameters(document.get("parameters", {}), given)
    return tuple(_step(described, values) for described in document["mainSteps"])


def parameters(described: Mapping[str, Any], given: Mapping[str, Sequence[str]]) -> Mapping[str, Any]:
    """Return every parameter's value: a text, or a list of texts for a StringList. Raises InvalidParameters."""
    if unknown := sorted(set(given) - set(described)):
        raise InvalidParameters(f"the document has no parameter {', '.join(unknown)}")
    return {name: _value(name, about, given.get(name)) for name, about in described.items()}


def _value(name: str, about: Mapping[str, Any], given: Sequence[str] | None) -> Any:
    if given is None:
        if "default" not in about:
            raise InvalidParameters(f"the parameter {name} is missing")
        return about["default"]
    for text in given:
        _check(name, about, text)
    if about.get("type") == "StringList":
        return list(given)
    if len(given) != 1:
        raise InvalidParameters(f"the parameter {name} takes one value")
    return given[0]


def _check(name: str, about: Mapping[str, Any], text: str) -> None:
    """Refuse a value that the document does not allow. A pattern is matched against the whole of it."""
    pattern = about.get("allowedPattern")
    if pattern and not re.fullmatch(pattern, text):
        raise InvalidParameters(f"the parameter {name} does not match its allowedPattern {pattern}")
    allowed = about.get("allowedValues")
    if allowed and text not in allowed:
        raise InvalidParameters(f"the parameter {name} is not one of its allowedValues")


def _step(described: Mapping[str, Any], values: Mapping[str, Any]) -> Step:
    if described.get("action") != "aws:runShellScript":
        raise InvalidDocument(f"the local cloud does not run {described.get('action')}")
    inputs = _filled(described.get("inputs", {}), values)
    lines = inputs.get("runCommand", [])
    try:
        timeout_s = int(inputs.get("timeoutSeconds") or DEFAULT_TIMEOUT_S)
    except ValueError as wrong:
        raise InvalidParameters("timeoutSeconds is not a number of seconds") from wrong
    script = "\n".join([lines] if isinstance(lines, str) else lines) + "\n"
    return Step(described.get("name", ""), script, timeout_s, str(inputs.get("workingDirectory") or "").lstrip("/"))


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    """Return a template with its placeholders filled; a list whose one element is a list's placeholder becomes it."""
    if isinstance(template, dict):
        return {name: _filled(inner, values) for name, inner in template.items()}
    if isinstance(template, list):
        filled = [_filled(inner, values) for inner in template]
        return [line for inner in filled for line in (inner if isinstance(inner, list) else [inner])]
    if not isinstance(template, str):
        return template
    whole = _PLACEHOLDER.fullmatch(template.strip())
    if whole and isinstance(values.get(whole[1]), list):
        return values[whole[1]]
    return _PLACEHOLDER.sub(lambda found: str(values.get(found[1], found[0])), template)
