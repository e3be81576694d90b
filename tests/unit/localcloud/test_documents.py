"""From a document and parameters to scripts."""

from __future__ import annotations

from typing import Any

import pytest

from localcloud.documents import SHELL_SCRIPT, InvalidDocument, InvalidParameters, Step, steps


def document(inputs: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    step = {"action": "aws:runShellScript", "name": "step", "inputs": inputs}
    return {"schemaVersion": "2.2", "parameters": parameters, "mainSteps": [step]}


def test_a_shell_scripts_commands_become_its_lines() -> None:
    given = {"commands": ["cd /", "ls"], "executionTimeout": ["60"], "workingDirectory": ["/srv/app"]}

    assert steps(SHELL_SCRIPT, given) == (Step("runShellScript", "cd /\nls\n", 60, "srv/app"),)


def test_defaults_fill_in() -> None:
    assert steps(SHELL_SCRIPT, {"commands": ["ls"]}) == (Step("runShellScript", "ls\n", 3600, ""),)


def test_parameters_are_put_in_wherever_they_are_named() -> None:
    asked = document({"runCommand": ["echo '{{ A }}' {{A}}{{B}}"]}, A={"type": "String"}, B={"type": "String"})

    assert steps(asked, {"A": ["1"], "B": ["2"]})[0].script == "echo '1' 12\n"


def test_a_parameters_value_is_not_looked_at_for_placeholders() -> None:
    asked = document({"runCommand": ["{{ A }}"]}, A={"type": "String"}, B={"type": "String"})

    assert steps(asked, {"A": ["{{ B }}"], "B": ["2"]})[0].script == "{{ B }}\n"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "the parameter A is missing"),
        ({"A": ["x"], "B": ["y"]}, "the document has no parameter B"),
        ({"A": ["x", "y"]}, "the parameter A takes one value"),
        ({"A": ["x; y"]}, "does not match its allowedPattern"),
        ({"A": ["x\n"]}, "does not match its allowedPattern"),
        ({"A": ["z"]}, "is not one of its allowedValues"),
    ],
)
def test_parameters_that_the_document_does_not_allow_are_refused(given: dict[str, list[str]], reason: str) -> None:
    about = {"type": "String", "allowedPattern": "^[a-z]$", "allowedValues": ["x", "y", "x\n", "x; y"]}

    with pytest.raises(InvalidParameters, match=reason):
        steps(document({"runCommand": ["{{ A }}"]}, A=about), given)


@pytest.mark.parametrize("timeout", ["soon", "1.5"])
def test_a_time_limit_that_is_no_number_is_refused(timeout: str) -> None:
    with pytest.raises(InvalidParameters):
        steps(document({"runCommand": ["ls"], "timeoutSeconds": timeout}), {})


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"schemaVersion": "2.2", "mainSteps": []},
        {"schemaVersion": "1.2", "mainSteps": [{"action": "aws:runShellScript"}]},
        {"schemaVersion": "2.2", "mainSteps": [{"action": "aws:runPowerShellScript"}]},
    ],
)
def test_documents_that_cannot_run_here_are_refused(content: dict[str, Any]) -> None:
    with pytest.raises(InvalidDocument):
        steps(content, {})
