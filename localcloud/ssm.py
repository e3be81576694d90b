"""Systems Manager over moto's dispatch: Run Command and managed instances are ours, the rest is moto's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.models import ec2_backends
from moto.ssm.models import ssm_backends
from moto.ssm.responses import SimpleSystemManagerResponse

from localcloud.account import ACCOUNT, REGION, arn
from localcloud.commands import FINAL, Command, Commands, Invocation, NotOnline
from localcloud.documents import (
    RUN_SHELL_SCRIPT,
    SHELL_SCRIPT,
    InvalidDocument,
    InvalidParameters,
    Step,
    steps,
)
from localcloud.events import Events
from localcloud.overlay import Refusal, replace

DELIVERY_S = 3600
"""TimeoutSeconds when nobody says."""

MOST_INSTANCES = 50
PAGE = 50

_Answer = Mapping[str, Any]


class SystemsManager:
    """The actions of Run Command."""

    def __init__(self, commands: Commands):
        self._commands = commands

    def install(self) -> None:
        """Put the actions on moto's response class."""
        for action in (
            self.send_command,
            self.get_command_invocation,
            self.list_command_invocations,
            self.list_commands,
            self.cancel_command,
            self.describe_instance_information,
        ):
            replace(SimpleSystemManagerResponse, _as_method(action))

    def send_command(self, asked: Any) -> _Answer:
        """SendCommand. Raises InvalidInstanceId, InvalidDocument, InvalidParameters, DuplicateInstanceId."""
        instances = list(asked("InstanceIds", [])) + _targets(asked("Targets", []))
        _check_instances(instances)
        parameters = asked("Parameters", {})
        document = asked("DocumentName")
        try:
            command = self._commands.send(
                instances,
                document,
                parameters,
                _steps(document, asked("DocumentVersion"), parameters),
                comment=asked("Comment", ""),
                timeout_s=asked("TimeoutSeconds", DELIVERY_S),
            )
        except NotOnline as wrong:
            raise Refusal("InvalidInstanceId", f"Instances not in a valid state for account: {wrong}") from wrong
        return {"Command": _command(command)}

    def get_command_invocation(self, asked: Any) -> _Answer:
        """GetCommandInvocation. Raises InvocationDoesNotExist."""
        command = self._commands.get(asked("CommandId"))
        for invocation in command.invocations if command else ():
            if command and invocation.instance == asked("InstanceId"):
                return _invocation_in_full(command, invocation)
        raise Refusal("InvocationDoesNotExist", "The command ID and managed node ID did not match.")

    def list_command_invocations(self, asked: Any) -> _Answer:
        """ListCommandInvocations, by command and instance, the newest first."""
        wanted = asked("InstanceId")
        found = [
            _invocation(command, invocation, asked("Details", False))
            for command in self._wanted(asked)
            for invocation in command.invocations
            if wanted in (None, invocation.instance)
        ]
        return _page("CommandInvocations", found, asked)

    def list_commands(self, asked: Any) -> _Answer:
        """ListCommands, by command and instance, the newest first."""
        wanted = asked("InstanceId")
        found = [
            _command(command)
            for command in self._wanted(asked)
            if wanted is None or any(invocation.instance == wanted for invocation in command.invocations)
        ]
        return _page("Commands", found, asked)

    def cancel_command(self, asked: Any) -> _Answer:
        """CancelCommand: asks; the command becomes Cancelled when its processes have ended."""
        self._commands.cancel(self._existing(asked("CommandId")), asked("InstanceIds", []))
        return {}

    def describe_instance_information(self, asked: Any) -> _Answer:
        """DescribeInstanceInformation: the machines whose agent answers."""
        wanted = _wanted_instances(asked)
        found = [
            _managed(instance)
            for instance in ec2_backends[ACCOUNT][REGION].all_instances()
            if self._commands.online(instance.id) and (wanted is None or instance.id in wanted)
        ]
        return _page("InstanceInformationList", found, asked)

    def _wanted(self, asked: Any) -> list[Command]:
        name = asked("CommandId")
        return self._commands.all() if name is None else [self._existing(name)]

    def _existing(self, name: str) -> Command:
        command = self._commands.get(name)
        if command is None:
            raise Refusal("InvalidCommandId", f"There is no command {name}.")
        return command


def announcing(events: Events) -> Any:
    """Return a listener that tells EventBridge of every change of a command."""

    def announce(command: Command, invocation: Invocation) -> None:
        common = {
            "command-id": command.name,
            "document-name": command.document,
            "requested-date-time": _time(command.requested),
        }
        resources = [arn("ec2", f"instance/{invocation.instance}")]
        detail = {**common, "instance-id": invocation.instance, "status": invocation.status}
        events.emit("aws.ssm", "EC2 Command Invocation Status-change Notification", resources, detail)
        if invocation.status not in FINAL or command.status in FINAL:
            whole = {
                **common,
                "expire-after": _time(command.expires),
                "parameters": {name: list(values) for name, values in command.parameters.items()},
                "status": command.status,
            }
            events.emit("aws.ssm", "EC2 Command Status-change Notification", resources, whole)

    return announce


def _as_method(action: Any) -> Any:
    def method(response: Any) -> Any:
        answer = action(response._get_param)
        return ActionResult(answer) if answer else EmptyResult()

    method.__name__ = action.__name__
    return method


def _targets(targets: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the running instances that targets mean: InstanceIds, or tags."""
    named = [instance for target in targets if target["Key"] == "InstanceIds" for instance in target["Values"]]
    filters = {target["Key"]: target["Values"] for target in targets if target["Key"] != "InstanceIds"}
    if not filters:
        return named
    filters["instance-state-name"] = ["running"]
    found = ec2_backends[ACCOUNT][REGION].describe_instances(filters=filters)
    return named + [instance.id for reservation in found for instance in reservation.instances]


def _check_instances(instances: Sequence[str]) -> None:
    if not instances:
        raise Refusal("InvalidInstanceId", "no instance is named, or none matches the targets")
    if len(set(instances)) < len(instances):
        raise Refusal("DuplicateInstanceId", "an instance is named twice")
    if len(instances) > MOST_INSTANCES:
        raise Refusal("ValidationException", f"more than {MOST_INSTANCES} instances")


def _steps(document: str, version: str | None, parameters: Mapping[str, Sequence[str]]) -> tuple[Step, ...]:
    """Return what a document does. Raises what SendCommand answers when it cannot."""
    if document == RUN_SHELL_SCRIPT:
        content: Any = SHELL_SCRIPT
    else:
        backend = ssm_backends[ACCOUNT][REGION]
        content = json.loads(backend.get_document(document, version, None, "JSON")["Content"])
    try:
        return steps(content, parameters)
    except InvalidParameters as wrong:
        raise Refusal("InvalidParameters", str(wrong)) from wrong
    except InvalidDocument as wrong:
        raise Refusal("InvalidDocument", str(wrong)) from wrong


def _page(name: str, found: Sequence[Mapping[str, Any]], asked: Any) -> _Answer:
    start, size = int(asked("NextToken") or 0), int(asked("MaxResults") or PAGE)
    answer: dict[str, Any] = {name: found[start : start + size]}
    if len(found) > start + size:
        answer["NextToken"] = str(start + size)
    return answer


def _wanted_instances(asked: Any) -> set[str] | None:
    filters = [(each["Key"], each["Values"]) for each in asked("Filters", [])]
    filters += [(each["key"], each["valueSet"]) for each in asked("InstanceInformationFilterList", [])]
    wanted = [set(values) for key, values in filters if key == "InstanceIds"]
    return set.intersection(*wanted) if wanted else None


def _managed(instance: Any) -> _Answer:
    return {
        "InstanceId": instance.id,
        "PingStatus": "Online",
        "LastPingDateTime": instance.launch_time,
        "AgentVersion": "3.3.0.0",
        "IsLatestVersion": True,
        "PlatformType": "Linux",
        "PlatformName": "Ubuntu",
        "PlatformVersion": "24.04",
        "ResourceType": "EC2Instance",
        "IPAddress": instance.private_ip_address,
    }


def _command(command: Command) -> _Answer:
    ended = [invocation for invocation in command.invocations if invocation.status in FINAL]
    return {
        "CommandId": command.name,
        "DocumentName": command.document,
        "Comment": command.comment,
        "ExpiresAfter": command.expires,
        "Parameters": command.parameters,
        "InstanceIds": [invocation.instance for invocation in command.invocations],
        "RequestedDateTime": command.requested,
        "Status": command.status,
        "StatusDetails": command.status,
        "TargetCount": len(command.invocations),
        "CompletedCount": len(ended),
        "ErrorCount": sum(invocation.status == "Failed" for invocation in ended),
        "TimeoutSeconds": command.timeout_s,
    }


def _invocation(command: Command, invocation: Invocation, in_detail: bool) -> _Answer:
    plugin = {
        "Name": command.steps[-1].name,
        "Status": invocation.status,
        "StatusDetails": invocation.details,
        "ResponseCode": invocation.code,
        "ResponseStartDateTime": invocation.started,
        "ResponseFinishDateTime": invocation.ended,
        "Output": invocation.output if in_detail else None,
    }
    return {
        "CommandId": command.name,
        "InstanceId": invocation.instance,
        "Comment": command.comment,
        "DocumentName": command.document,
        "RequestedDateTime": command.requested,
        "Status": invocation.status,
        "StatusDetails": invocation.details,
        "CommandPlugins": [plugin] if in_detail else [],
    }


def _invocation_in_full(command: Command, invocation: Invocation) -> _Answer:
    ends = {"ExecutionStartDateTime": invocation.started, "ExecutionEndDateTime": invocation.ended}
    return {
        "CommandId": command.name,
        "InstanceId": invocation.instance,
        "Comment": command.comment,
        "DocumentName": command.document,
        "PluginName": command.steps[-1].name,
        "ResponseCode": invocation.code,
        "Status": invocation.status,
        "StatusDetails": invocation.details,
        "StandardOutputContent": invocation.output,
        "StandardErrorContent": invocation.errors,
        **{name: _time(value) if value else "" for name, value in ends.items()},
    }


def _time(moment: Any) -> str:
    return str(moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z")
