"""Systems Manager Run Command behind CommandsPort."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from shared.aws.errors import collect, error_code, translated
from shared.cloud import CommandState, CommandStatus

if TYPE_CHECKING:
    from types_aiobotocore_ssm import SSMClient

_STATES = {
    "Pending": CommandState.RUNNING,
    "InProgress": CommandState.RUNNING,
    "Delayed": CommandState.RUNNING,
    "Cancelling": CommandState.RUNNING,
    "Success": CommandState.SUCCEEDED,
    "Failed": CommandState.FAILED,
    "TimedOut": CommandState.TIMED_OUT,
    "Cancelled": CommandState.CANCELLED,
}


class Commands:
    """Commands on servers that run Systems Manager's agent."""

    def __init__(self, client: Callable[[], Awaitable[SSMClient]]) -> None:
        self._client = client

    @translated
    async def online(self, server: str) -> bool:
        """Whether the server's agent answers, so that a command can be sent."""
        paginator = (await self._client()).get_paginator("describe_instance_information")
        pages = await collect(paginator.paginate(Filters=[{"Key": "InstanceIds", "Values": [server]}]))
        known = [found for page in pages for found in page["InstanceInformationList"]]
        return any(found["InstanceId"] == server and found["PingStatus"] == "Online" for found in known)

    @translated
    async def send(
        self, server: str, document: str, parameters: Mapping[str, str], comment: str, timeout_s: int
    ) -> str:
        """Run a document on the server and return the command's id. Not idempotent: see ``find``.

        ``timeout_s`` (at least 30) is how long the server may take to pick it up; the document bounds the run itself.
        ``comment`` has at most 100 characters.
        """
        client = await self._client()
        answer = await client.send_command(
            InstanceIds=[server],
            DocumentName=document,
            Parameters={name: [value] for name, value in parameters.items()},
            Comment=comment,
            TimeoutSeconds=timeout_s,
        )
        return answer["Command"]["CommandId"]

    @translated
    async def find(self, server: str, comment: str) -> str | None:
        """Return the id of the command with this comment on the server: a lost reply to ``send`` is found here."""
        paginator = (await self._client()).get_paginator("list_command_invocations")
        pages = await collect(paginator.paginate(InstanceId=server))
        invocations = [found for page in pages for found in page["CommandInvocations"]]
        return next((found["CommandId"] for found in invocations if found.get("Comment") == comment), None)

    @translated
    async def status(self, server: str, command: str) -> CommandStatus:
        """Return where the command stands."""
        client = await self._client()
        try:
            answer = await client.get_command_invocation(CommandId=command, InstanceId=server)
        except ClientError as error:
            if error_code(error) == "InvocationDoesNotExist":
                return CommandStatus(state=CommandState.UNKNOWN)
            raise
        return CommandStatus(
            state=_STATES.get(answer["Status"], CommandState.UNKNOWN),
            code=answer.get("ResponseCode", -1),
            output=answer.get("StandardOutputContent", ""),
            errors=answer.get("StandardErrorContent", ""),
            detail=answer.get("StatusDetails", ""),
        )

    @translated
    async def cancel(self, server: str, command: str) -> None:
        """Ask for the command to be stopped."""
        await (await self._client()).cancel_command(CommandId=command, InstanceIds=[server])
