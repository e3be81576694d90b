"""What is told when CloudFormation gives up: what failed, why, and what to type next."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from botocore.exceptions import ClientError

from deploy import messaging
from deploy.messaging import STACK, DeployError, apply_messaging

Event = dict[str, str]


def event(resource: str, status: str, reason: str = "") -> Event:
    return {"LogicalResourceId": resource, "ResourceStatus": status, "ResourceStatusReason": reason}


BEGUN = event(STACK, "CREATE_IN_PROGRESS", "User Initiated")
FAILED = event("JanitorTick", "CREATE_FAILED", "Rate exceeded")
CANCELLED = event("BakerTick", "CREATE_FAILED", "Resource creation cancelled")


class CloudFormation:
    """One stack that goes through these states, one a look; the last stays."""

    def __init__(self, *states: str | None, events: Sequence[Sequence[Event]] = (), refuses: str = "") -> None:
        self._states = list(states)
        self._events = events
        self._refuses = refuses
        self.asked: list[str] = []

    async def describe_stacks(self, StackName: str) -> Any:  # noqa: N803  as AWS has it
        state = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        if state is None:
            raise refusal(f"Stack with id {StackName} does not exist")
        outputs = [{"OutputKey": "Bucket", "OutputValue": "another"}]
        return {"Stacks": [{"StackStatus": state, "StackStatusReason": "it was in the way", "Outputs": outputs}]}

    async def get_template(self, **_: str) -> Any:
        return {"TemplateBody": ""}

    async def describe_stack_resources(self, **_: str) -> Any:
        return {"StackResources": []}

    async def create_stack(self, **_: Any) -> None:
        self.asked.append("create")
        if self._refuses:
            raise refusal(self._refuses)

    async def update_stack(self, **_: Any) -> None:
        self.asked.append("update")
        if self._refuses:
            raise refusal(self._refuses)

    def get_paginator(self, operation: str) -> CloudFormation:
        assert operation == "describe_stack_events"
        return self

    async def paginate(self, **_: str) -> AsyncIterator[Any]:
        for page in self._events:
            yield {"StackEvents": list(page)}


def refusal(sentence: str) -> ClientError:
    return ClientError({"Error": {"Code": "ValidationError", "Message": sentence}}, "an operation")


def install(monkeypatch: pytest.MonkeyPatch, stack: CloudFormation) -> None:
    class Clients:
        async def cloudformation(self) -> CloudFormation:
            return stack

    @asynccontextmanager
    async def opened() -> AsyncIterator[Clients]:
        yield Clients()

    monkeypatch.setattr(messaging, "open_clients", opened)
    monkeypatch.setattr(messaging, "POLL_S", 0)


async def trouble(monkeypatch: pytest.MonkeyPatch, stack: CloudFormation) -> str:
    install(monkeypatch, stack)
    with pytest.raises(DeployError) as error:
        await apply_messaging(say=lambda _: None)
    return str(error.value)


async def test_a_stack_that_could_not_be_made_names_the_first_failure_and_says_to_delete_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pages = [[event(STACK, "ROLLBACK_COMPLETE"), CANCELLED], [FAILED, BEGUN, event("Old", "DELETE_FAILED", "older")]]
    told = await trouble(monkeypatch, CloudFormation(None, "CREATE_IN_PROGRESS", "ROLLBACK_COMPLETE", events=pages))
    assert "JanitorTick: Rate exceeded" in told
    assert "ROLLBACK_COMPLETE" in told
    assert told.endswith(f"aws cloudformation delete-stack --stack-name {STACK}, and apply again")


async def test_an_update_that_was_rolled_back_says_that_everything_is_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pages = [[FAILED, event(STACK, "UPDATE_IN_PROGRESS"), event("Old", "CREATE_FAILED", "an earlier one")]]
    states = ("CREATE_COMPLETE", "UPDATE_IN_PROGRESS", "UPDATE_ROLLBACK_COMPLETE")
    told = await trouble(monkeypatch, CloudFormation(*states, events=pages))
    assert "JanitorTick: Rate exceeded" in told
    assert "everything is as it was before" in told


@pytest.mark.parametrize(
    "state", ["ROLLBACK_COMPLETE", "CREATE_FAILED", "ROLLBACK_FAILED", "DELETE_FAILED", "REVIEW_IN_PROGRESS"]
)
async def test_a_stack_that_never_was_whole_is_not_touched_and_has_to_be_deleted(
    monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    stack = CloudFormation(state)
    told = await trouble(monkeypatch, stack)
    assert state in told
    assert f"aws cloudformation delete-stack --stack-name {STACK}" in told
    assert stack.asked == []


async def test_a_rollback_that_failed_has_to_be_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = CloudFormation("UPDATE_ROLLBACK_FAILED")
    assert f"aws cloudformation continue-update-rollback --stack-name {STACK}" in await trouble(monkeypatch, stack)
    assert stack.asked == []


async def test_a_change_that_somebody_else_makes_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    states = ("UPDATE_IN_PROGRESS", "UPDATE_COMPLETE", "UPDATE_IN_PROGRESS", "UPDATE_ROLLBACK_COMPLETE")
    stack = CloudFormation(*states, events=[[FAILED, event(STACK, "UPDATE_IN_PROGRESS")]])
    await trouble(monkeypatch, stack)
    assert stack.asked == ["update"]


async def test_a_failure_without_an_event_gives_the_stacks_own_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    told = await trouble(monkeypatch, CloudFormation(None, "ROLLBACK_COMPLETE", events=[[BEGUN]]))
    assert "it was in the way" in told


def test_the_command_ends_with_the_sentence_and_not_with_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["messaging"])
    for stack in (
        CloudFormation("ROLLBACK_COMPLETE"),
        CloudFormation(None, refuses="Template format error: unresolved"),
    ):
        install(monkeypatch, stack)
        with pytest.raises(SystemExit) as end:
            messaging.main()
        assert str(end.value.code).startswith("messages were not deployed: ")
