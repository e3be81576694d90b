"""Auto Scaling behind GroupsPort."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from shared.aws.errors import collect, error_code, error_message, translated
from shared.cloud import Group, GroupMember, LifecycleResult, NotFound
from shared.ids import MANAGED_TAG

if TYPE_CHECKING:
    from types_aiobotocore_autoscaling import AutoScalingClient
    from types_aiobotocore_autoscaling.type_defs import AutoScalingGroupTypeDef, InstanceTypeDef

_NO_ACTION = "No active Lifecycle Action found"
"""How AWS says, as a ValidationError, that nobody waits in the hook: completed, timed out, or never there."""

_NOT_A_MEMBER = "is not part of Auto Scaling group"
_UNKNOWN_INSTANCE = "not found"
"""``Instance Id not found - No managed instance found for instance ID: i-...``: a ValidationError as well."""


class Groups:
    """Auto Scaling groups, called by their fleet's name."""

    def __init__(self, client: Callable[[], Awaitable[AutoScalingClient]]) -> None:
        self._client = client

    @translated
    async def describe(self, fleet: str) -> Group:
        """Return the group. NotFound when there is none; Incomplete when the listing failed half way."""
        paginator = (await self._client()).get_paginator("describe_auto_scaling_groups")
        pages = await collect(paginator.paginate(AutoScalingGroupNames=[fleet]))
        for page in pages:
            for group in page["AutoScalingGroups"]:
                return _group(group)
        raise NotFound(f"there is no Auto Scaling group {fleet!r}")

    @translated
    async def complete(self, fleet: str, server: str, hook: str, result: LifecycleResult) -> bool:
        """Complete the server's lifecycle action; False when no action is waiting (already done, or timed out)."""
        client = await self._client()
        try:
            await client.complete_lifecycle_action(
                AutoScalingGroupName=fleet, InstanceId=server, LifecycleHookName=hook, LifecycleActionResult=result
            )
        except ClientError as error:
            if _says(error, _NO_ACTION):
                return False
            raise
        return True

    @translated
    async def heartbeat(self, fleet: str, server: str, hook: str) -> bool:
        """Restart the hook's timeout; False when no action is waiting."""
        client = await self._client()
        try:
            await client.record_lifecycle_action_heartbeat(
                AutoScalingGroupName=fleet, InstanceId=server, LifecycleHookName=hook
            )
        except ClientError as error:
            if _says(error, _NO_ACTION):
                return False
            raise
        return True

    @translated
    async def mark_unhealthy(self, fleet: str, server: str) -> None:
        """Have the group replace the server, its grace period or not. NotFound when no group has the server."""
        client = await self._client()
        try:
            await client.set_instance_health(
                InstanceId=server, HealthStatus="Unhealthy", ShouldRespectGracePeriod=False
            )
        except ClientError as error:
            raise _named(error, server) from error

    @translated
    async def terminate(self, fleet: str, server: str) -> None:
        """Terminate through the group, hooks included; desired capacity stays. NotFound when no group has it."""
        client = await self._client()
        try:
            await client.terminate_instance_in_auto_scaling_group(
                InstanceId=server, ShouldDecrementDesiredCapacity=False
            )
        except ClientError as error:
            raise _named(error, server) from error

    @translated
    async def detach(self, fleet: str, server: str) -> None:
        """Take the server out of the group, running; desired capacity stays. Nothing happens if it is out already."""
        client = await self._client()
        try:
            await client.detach_instances(
                InstanceIds=[server], AutoScalingGroupName=fleet, ShouldDecrementDesiredCapacity=False
            )
        except ClientError as error:
            if not _says(error, _NOT_A_MEMBER):
                raise


def _says(error: ClientError, words: str) -> bool:
    return error_code(error) == "ValidationError" and words in error_message(error)


def _named(error: ClientError, server: str) -> Exception:
    """Auto Scaling has no code of its own for an instance that it does not know."""
    return NotFound(f"no group has {server}: {error_message(error)}") if _says(error, _UNKNOWN_INSTANCE) else error


def _group(group: AutoScalingGroupTypeDef) -> Group:
    tags = {tag["Key"]: tag.get("Value", "") for tag in group.get("Tags", [])}
    return Group(
        fleet=group["AutoScalingGroupName"],
        minimum=group["MinSize"],
        desired=group["DesiredCapacity"],
        maximum=group["MaxSize"],
        members=tuple(_member(instance) for instance in group.get("Instances", [])),
        managed=tags.get(MANAGED_TAG) == "true",
        suspended=tuple(process["ProcessName"] for process in group.get("SuspendedProcesses", [])),
    )


def _member(instance: InstanceTypeDef) -> GroupMember:
    return GroupMember(
        server=instance["InstanceId"],
        state=instance["LifecycleState"],
        healthy=instance["HealthStatus"].lower() == "healthy",
        zone=instance.get("AvailabilityZone", ""),
        template_version=instance.get("LaunchTemplate", {}).get("Version", ""),
    )
