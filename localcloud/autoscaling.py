"""The Auto Scaling HTTP API over moto's dispatch.

The groups live in ``groups.py``, which states the seam with the server; moto's own Auto Scaling is not used. moto
parses requests and writes answers by botocore's model of the service; each action here is a function from a call to the
answer's fields. Actions that are not here are refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from botocore.session import get_session
from moto.autoscaling.exceptions import AutoscalingClientError
from moto.autoscaling.responses import AutoScalingResponse
from moto.core.responses import ActionResult
from moto.core.utils import camelcase_to_underscores
from moto.ec2.models import ec2_backends

from localcloud import group as machine
from localcloud.groups import Groups, LaunchFailed
from localcloud.groupstep import After
from localcloud.groupvalues import (
    Activity,
    Changes,
    Group,
    Hook,
    HookChanges,
    Launched,
    LaunchInstance,
    Member,
    Policy,
    Refused,
    Tag,
    TemplateRef,
)

__all__ = ["Groups", "LaunchFailed", "LaunchInstance", "Launched", "install"]

T = TypeVar("T")
Answer = dict[str, Any] | None

HOOK_FIELDS = {
    "LifecycleTransition": "transition",
    "HeartbeatTimeout": "heartbeat_s",
    "DefaultResult": "default_result",
    "NotificationTargetARN": "target",
    "RoleARN": "role",
    "NotificationMetadata": "metadata",
}
SETTING_FIELDS = {
    "MinSize": "minimum",
    "MaxSize": "maximum",
    "DesiredCapacity": "desired",
    "DefaultCooldown": "default_cooldown_s",
    "HealthCheckType": "health_check_type",
    "HealthCheckGracePeriod": "grace_s",
    "NewInstancesProtectedFromScaleIn": "protect_new",
    "VPCZoneIdentifier": "subnets",
}


@dataclass(frozen=True)
class Call:
    """A request as it came in: its fields by AWS's names, the groups, and moto's EC2 of the caller's account."""

    params: Mapping[str, Any]
    groups: Groups
    ec2: Any

    @property
    def name(self) -> str:
        """The group's name."""
        return str(self.params["AutoScalingGroupName"])

    @property
    def instances(self) -> tuple[str, ...]:
        """The instances that the request names."""
        return tuple(self.params.get("InstanceIds") or ())


def install(groups: Groups) -> None:
    """Have moto answer Auto Scaling requests from these groups."""
    model = get_session().get_service_model("autoscaling")
    for operation in model.operation_names:
        shape = model.operation_model(operation).input_shape
        required = shape.required_members if shape else ()
        action = ACTIONS.get(operation, functools.partial(_unknown, operation))
        setattr(AutoScalingResponse, camelcase_to_underscores(operation), _method(groups, action, required))


def _method(groups: Groups, action: Callable[[Call], Answer], required: Sequence[str]) -> Callable[[Any], Any]:
    def method(response: Any) -> Any:
        call = Call(response.params, groups, ec2_backends[response.current_account][response.region])
        try:
            for name in required:
                if call.params.get(name) is None:
                    raise _invalid(f"1 validation error detected: {name} must not be null")
            return ActionResult(action(call))
        except Refused as refused:
            raise AutoscalingClientError(refused.code, refused.message) from refused

    return method


def _unknown(operation: str, _: Call) -> Answer:
    raise _invalid(f"The local cloud does not have the action {operation}.")


# Groups.


def create_group(call: Call) -> Answer:
    """CreateAutoScalingGroup."""
    params = call.params
    if "LaunchTemplate" not in params:
        raise _invalid("Valid requests must contain a LaunchTemplate; the local cloud launches from nothing else.")
    settings = _renamed(params, SETTING_FIELDS)
    call.groups.create(
        Group(
            **{"desired": params["MinSize"], **settings},
            name=call.name,
            identity="",
            region="",
            account="",
            created=0,
            template=_template(call),
            zones=_zones(call),
            tags=tuple(_tag(tag) for tag in params.get("Tags") or ()),
            hooks=tuple(
                Hook(name=hook["LifecycleHookName"], **_renamed(hook, HOOK_FIELDS))
                for hook in params.get("LifecycleHookSpecificationList") or ()
            ),
        )
    )
    return None


def update_group(call: Call) -> Answer:
    """UpdateAutoScalingGroup."""
    moved = "AvailabilityZones" in call.params or "VPCZoneIdentifier" in call.params
    changes = Changes(
        **_renamed(call.params, SETTING_FIELDS),
        template=_template(call) if "LaunchTemplate" in call.params else None,
        zones=_zones(call) if moved else None,
    )
    call.groups.ask(call.name, lambda group, now: machine.update(group, changes, now))
    return None


def delete_group(call: Call) -> Answer:
    """DeleteAutoScalingGroup."""
    force = bool(call.params.get("ForceDelete"))
    call.groups.ask(call.name, lambda group, now: machine.delete(group, now, force=force))
    return None


def describe_groups(call: Call) -> Answer:
    """DescribeAutoScalingGroups."""
    names = call.params.get("AutoScalingGroupNames")
    filters = call.params.get("Filters") or ()
    found = [
        group
        for group in call.groups.all()
        if (not names or group.name in names) and all(_passes(group, condition) for condition in filters)
    ]
    page, token = _page(found, lambda group: group.name, call.params)
    instances = call.params.get("IncludeInstances", True)
    return {"AutoScalingGroups": [_group_shape(group, instances) for group in page], "NextToken": token}


def describe_instances(call: Call) -> Answer:
    """DescribeAutoScalingInstances. Here AWS writes the health in capitals."""
    found = [
        (group, member)
        for group in call.groups.all()
        for member in group.members
        if member.instance and (not call.instances or member.instance in call.instances)
    ]
    page, token = _page(found, lambda pair: pair[1].instance, call.params)
    shapes = [
        {
            **_member_shape(member),
            "AutoScalingGroupName": group.name,
            "HealthStatus": "HEALTHY" if member.healthy else "UNHEALTHY",
        }
        for group, member in page
    ]
    return {"AutoScalingInstances": shapes, "NextToken": token}


def set_desired_capacity(call: Call) -> Answer:
    """SetDesiredCapacity."""
    desired, honor = call.params["DesiredCapacity"], bool(call.params.get("HonorCooldown"))
    call.groups.ask(call.name, lambda group, now: machine.set_desired(group, desired, now, honor_cooldown=honor))
    return None


def suspend_processes(call: Call) -> Answer:
    """SuspendProcesses."""
    processes = call.params.get("ScalingProcesses") or ()
    call.groups.ask(call.name, lambda group, now: machine.suspend(group, processes, now))
    return None


def resume_processes(call: Call) -> Answer:
    """ResumeProcesses."""
    processes = call.params.get("ScalingProcesses") or ()
    call.groups.ask(call.name, lambda group, now: machine.resume(group, processes, now))
    return None


def describe_activities(call: Call) -> Answer:
    """DescribeScalingActivities, the newest first."""
    if call.params.get("Filters"):
        raise _invalid("The local cloud does not filter scaling activities.")
    name, ids = call.params.get("AutoScalingGroupName"), call.params.get("ActivityIds")
    groups = [call.groups.get(name)] if name else call.groups.all()
    found = [
        (group, activity)
        for group in groups
        for activity in reversed(group.activities)
        if not ids or activity.id in ids
    ]
    page, token = _page(found, lambda pair: pair[1].id, call.params)
    return {"Activities": [_activity_shape(group, activity) for group, activity in page], "NextToken": token}


# Lifecycle hooks.


def put_hook(call: Call) -> Answer:
    """PutLifecycleHook."""
    request = HookChanges(name=call.params["LifecycleHookName"], **_renamed(call.params, HOOK_FIELDS))
    call.groups.ask(call.name, lambda group, now: machine.put_hook(group, request, now))
    return {}


def delete_hook(call: Call) -> Answer:
    """DeleteLifecycleHook."""
    hook = call.params["LifecycleHookName"]
    call.groups.ask(call.name, lambda group, now: machine.delete_hook(group, hook, now))
    return {}


def describe_hooks(call: Call) -> Answer:
    """DescribeLifecycleHooks."""
    names = call.params.get("LifecycleHookNames")
    group = call.groups.get(call.name)
    return {"LifecycleHooks": [_hook_shape(group, hook) for hook in group.hooks if not names or hook.name in names]}


def complete_action(call: Call) -> Answer:
    """CompleteLifecycleAction."""
    hook, result = call.params["LifecycleHookName"], call.params["LifecycleActionResult"]
    if result not in ("CONTINUE", "ABANDON"):
        raise _invalid(f"Invalid LifecycleActionResult {result!r}: CONTINUE or ABANDON")
    meant = _action_meant(call)
    call.groups.ask(call.name, lambda group, now: machine.complete_action(group, hook, result, now, **meant))
    return {}


def record_heartbeat(call: Call) -> Answer:
    """RecordLifecycleActionHeartbeat."""
    hook, meant = call.params["LifecycleHookName"], _action_meant(call)
    call.groups.ask(call.name, lambda group, now: machine.heartbeat(group, hook, now, **meant))
    return {}


def _action_meant(call: Call) -> dict[str, str]:
    token, instance = call.params.get("LifecycleActionToken"), call.params.get("InstanceId")
    if not token and not instance:
        raise _invalid("LifecycleActionToken or InstanceId is required.")
    return {"token": token or "", "instance": instance or ""}


# Instances.


def set_instance_health(call: Call) -> Answer:
    """SetInstanceHealth."""
    instance, status = call.params["InstanceId"], call.params["HealthStatus"]
    if status not in ("Healthy", "Unhealthy"):
        raise _invalid(f"Invalid HealthStatus {status!r}: Healthy or Unhealthy")
    grace = call.params.get("ShouldRespectGracePeriod", True)
    call.groups.ask(
        call.groups.owner(instance).name,
        lambda group, now: machine.set_health(group, instance, now, healthy=status == "Healthy", respect_grace=grace),
    )
    return None


def terminate_instances(call: Call) -> Answer:
    """TerminateInstanceInAutoScalingGroup, for one instance or for several of a named group."""
    decrement = call.params["ShouldDecrementDesiredCapacity"]
    single = call.params.get("InstanceId")
    if bool(single) == bool(call.instances):
        raise _invalid("Give either InstanceId, or AutoScalingGroupName and InstanceIds.")
    if call.instances and "AutoScalingGroupName" not in call.params:
        raise _invalid("AutoScalingGroupName is required with InstanceIds.")
    name = call.groups.owner(single).name if single else call.name
    instances = (single,) if single else call.instances
    group = call.groups.ask(
        name, lambda group, now: machine.terminate_instances(group, instances, now, decrement=decrement)
    )
    shapes = [_activity_shape(group, group.activity_of(instance)) for instance in instances]
    return {"Activity": shapes[0]} if single else {"Activities": shapes}


def detach_instances(call: Call) -> Answer:
    """DetachInstances."""
    decrement = call.params["ShouldDecrementDesiredCapacity"]
    return _with_activities(call, lambda group, now: machine.detach(group, call.instances, now, decrement=decrement))


def enter_standby(call: Call) -> Answer:
    """EnterStandby."""
    decrement = call.params["ShouldDecrementDesiredCapacity"]
    return _with_activities(
        call, lambda group, now: machine.enter_standby(group, call.instances, now, decrement=decrement)
    )


def exit_standby(call: Call) -> Answer:
    """ExitStandby."""
    return _with_activities(call, lambda group, now: machine.exit_standby(group, call.instances, now))


def set_instance_protection(call: Call) -> Answer:
    """SetInstanceProtection."""
    protected = call.params["ProtectedFromScaleIn"]
    call.groups.ask(
        call.name, lambda group, now: machine.set_protection(group, call.instances, now, protected=protected)
    )
    return {}


def _with_activities(call: Call, request: Callable[[Group, float], After]) -> Answer:
    group = call.groups.ask(call.name, request)
    return {"Activities": [_activity_shape(group, group.activity_of(instance)) for instance in call.instances]}


# Scaling policies.


def put_policy(call: Call) -> Answer:
    """PutScalingPolicy, of the simple kind."""
    params = call.params
    if params.get("PolicyType", "SimpleScaling") != "SimpleScaling":
        raise _invalid("The local cloud has simple scaling policies only.")
    if "AdjustmentType" not in params or "ScalingAdjustment" not in params:
        raise _invalid("AdjustmentType and ScalingAdjustment are required for a simple scaling policy.")
    policy = Policy(
        name=params["PolicyName"],
        adjustment_type=params["AdjustmentType"],
        adjustment=params["ScalingAdjustment"],
        cooldown_s=params.get("Cooldown"),
        least_change=params.get("MinAdjustmentMagnitude", 0),
        enabled=params.get("Enabled", True),
    )
    group = call.groups.ask(call.name, lambda group, _: (machine.put_policy(group, policy), ()))
    return {"PolicyARN": group.policy_arn(policy.name), "Alarms": []}


def describe_policies(call: Call) -> Answer:
    """DescribePolicies."""
    params = call.params
    groups = [call.groups.get(call.name)] if "AutoScalingGroupName" in params else call.groups.all()
    names, types = params.get("PolicyNames"), params.get("PolicyTypes")
    found = [
        (group, policy)
        for group in groups
        for policy in group.policies
        if (not names or policy.name in names or group.policy_arn(policy.name) in names)
        and (not types or "SimpleScaling" in types)
    ]
    page, token = _page(found, lambda pair: pair[0].policy_arn(pair[1].name), params)
    return {"ScalingPolicies": [_policy_shape(group, policy) for group, policy in page], "NextToken": token}


def delete_policy(call: Call) -> Answer:
    """DeletePolicy, by name or ARN."""
    policy = call.params["PolicyName"]
    call.groups.ask(_policy_group(call, policy), lambda group, _: (machine.delete_policy(group, policy), ()))
    return None


def execute_policy(call: Call) -> Answer:
    """ExecutePolicy, by name or ARN."""
    policy, honor = call.params["PolicyName"], bool(call.params.get("HonorCooldown"))
    call.groups.ask(
        _policy_group(call, policy),
        lambda group, now: machine.execute_policy(group, policy, now, honor_cooldown=honor),
    )
    return None


def _policy_group(call: Call, policy: str) -> str:
    if "AutoScalingGroupName" in call.params:
        return call.name
    for group in call.groups.all():
        if policy in [group.policy_arn(known.name) for known in group.policies]:
            return group.name
    raise _invalid("AutoScalingGroupName is required unless the policy is named by its ARN.")


# Tags.


def create_tags(call: Call) -> Answer:
    """CreateOrUpdateTags."""
    for tag in call.params["Tags"]:
        _ask_for_tag(call, tag, functools.partial(machine.put_tags, tags=[_tag(tag)]))
    return None


def delete_tags(call: Call) -> Answer:
    """DeleteTags."""
    for tag in call.params["Tags"]:
        _ask_for_tag(call, tag, functools.partial(machine.delete_tags, keys=[tag["Key"]]))
    return None


def describe_tags(call: Call) -> Answer:
    """DescribeTags."""
    found = [
        shape
        for group in call.groups.all()
        for shape in _tag_shapes(group)
        if all(_tag_passes(shape, condition) for condition in call.params.get("Filters") or ())
    ]
    page, token = _page(found, lambda shape: f"{shape['ResourceId']} {shape['Key']}", call.params)
    return {"Tags": page, "NextToken": token}


def _ask_for_tag(call: Call, tag: Mapping[str, Any], change: Callable[[Group], Group]) -> None:
    if not tag.get("ResourceId"):
        raise _invalid("ResourceId, the group's name, is required for a tag.")
    call.groups.ask(tag["ResourceId"], lambda group, _: (change(group), ()))


def _tag_passes(shape: Mapping[str, Any], condition: Mapping[str, Any]) -> bool:
    fields = {
        "auto-scaling-group": shape["ResourceId"],
        "key": shape["Key"],
        "value": shape["Value"],
        "propagate-at-launch": str(shape["PropagateAtLaunch"]).lower(),
    }
    if condition["Name"] not in fields:
        raise _invalid(f"Filter type {condition['Name']} is not correct. Allowed Filter types are: {', '.join(fields)}")
    return fields[condition["Name"]] in condition["Values"]


# From AWS's shapes and to them.


def _renamed(params: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {ours: params[theirs] for theirs, ours in names.items() if params.get(theirs) is not None}


def _tag(tag: Mapping[str, Any]) -> Tag:
    return Tag(tag["Key"], tag.get("Value") or "", bool(tag.get("PropagateAtLaunch")))


def _template(call: Call) -> TemplateRef:
    """Return the launch template that a request names, with its id and its name; it must exist."""
    asked = call.params["LaunchTemplate"]
    id_, name = asked.get("LaunchTemplateId"), asked.get("LaunchTemplateName")
    if bool(id_) == bool(name):
        raise _invalid("Valid requests must contain either launchTemplateId or launchTemplateName")
    found = [t for t in call.ec2.launch_templates.values() if id_ == t.id or name == t.name]
    if not found:
        what = f"template ID {id_}" if id_ else f"template name {name}"
        raise _invalid(
            "You must use a valid fully-formed launch template. "
            f"The specified launch template, with {what}, does not exist."
        )
    return TemplateRef(found[0].id, found[0].name, asked.get("Version") or "$Default")


def _zones(call: Call) -> tuple[str, ...]:
    """Return the zones that a request names, itself or by its subnets."""
    zones = tuple(call.params.get("AvailabilityZones") or ())
    subnets = [name.strip() for name in (call.params.get("VPCZoneIdentifier") or "").split(",") if name.strip()]
    if not zones:
        zones = tuple(dict.fromkeys(call.ec2.get_subnet(subnet).availability_zone for subnet in subnets))
    if not zones:
        raise _invalid("At least one Availability Zone or VPC Subnet is required.")
    return zones


def _passes(group: Group, condition: Mapping[str, Any]) -> bool:
    name, values = condition["Name"], condition["Values"]
    if name == "tag-key":
        return any(tag.key in values for tag in group.tags)
    if name == "tag-value":
        return any(tag.value in values for tag in group.tags)
    if name.startswith("tag:"):
        return any(tag.key == name.removeprefix("tag:") and tag.value in values for tag in group.tags)
    raise _invalid(f"Filter type {name} is not correct. Allowed Filter types are: tag-key tag-value tag:<key>")


def _page(items: Sequence[T], key: Callable[[T], str], params: Mapping[str, Any]) -> tuple[Sequence[T], str | None]:
    """Return one page and the token of the next: the key of the page's last item."""
    most, after = params.get("MaxRecords") or 50, params.get("NextToken")
    if not 1 <= most <= 100:
        raise _invalid(f"MaxRecords {most} must be between 1 and 100.")
    start = 0
    if after:
        start = next((index for index, item in enumerate(items, 1) if key(item) == after), 0)
        if not start:
            raise Refused("InvalidNextToken", f"The token {after!r} is not valid.")
    page = items[start : start + most]
    return page, key(page[-1]) if start + most < len(items) else None


def _group_shape(group: Group, instances: bool) -> dict[str, Any]:
    return {
        "AutoScalingGroupName": group.name,
        "AutoScalingGroupARN": group.arn,
        "LaunchTemplate": _template_shape(group.template),
        "MinSize": group.minimum,
        "MaxSize": group.maximum,
        "DesiredCapacity": group.desired,
        "DefaultCooldown": group.default_cooldown_s,
        "AvailabilityZones": list(group.zones),
        "LoadBalancerNames": [],
        "TargetGroupARNs": [],
        "HealthCheckType": group.health_check_type,
        "HealthCheckGracePeriod": group.grace_s,
        "Instances": [_member_shape(member) for member in group.members if instances and member.instance],
        "CreatedTime": _datetime(group.created),
        "SuspendedProcesses": [{"ProcessName": name, "SuspensionReason": "User suspended"} for name in group.suspended],
        "VPCZoneIdentifier": group.subnets,
        "EnabledMetrics": [],
        "Status": "Delete in progress" if group.deleting else None,
        "Tags": _tag_shapes(group),
        "TerminationPolicies": ["Default"],
        "NewInstancesProtectedFromScaleIn": group.protect_new,
    }


def _member_shape(member: Member) -> dict[str, Any]:
    return {
        "InstanceId": member.instance,
        "InstanceType": member.type or None,
        "ImageId": member.image or None,
        "AvailabilityZone": member.zone,
        "LifecycleState": str(member.state),
        "HealthStatus": "Healthy" if member.healthy else "Unhealthy",
        "LaunchTemplate": _template_shape(member.template),
        "ProtectedFromScaleIn": member.protected,
    }


def _template_shape(template: TemplateRef) -> dict[str, Any]:
    return {
        "LaunchTemplateId": template.id or None,
        "LaunchTemplateName": template.name or None,
        "Version": template.version,
    }


def _hook_shape(group: Group, hook: Hook) -> dict[str, Any]:
    return {
        "LifecycleHookName": hook.name,
        "AutoScalingGroupName": group.name,
        "LifecycleTransition": hook.transition,
        "NotificationTargetARN": hook.target or None,
        "RoleARN": hook.role or None,
        "NotificationMetadata": hook.metadata or None,
        "HeartbeatTimeout": hook.heartbeat_s,
        "GlobalTimeout": hook.global_s,
        "DefaultResult": hook.default_result,
    }


def _policy_shape(group: Group, policy: Policy) -> dict[str, Any]:
    return {
        "AutoScalingGroupName": group.name,
        "PolicyName": policy.name,
        "PolicyARN": group.policy_arn(policy.name),
        "PolicyType": "SimpleScaling",
        "AdjustmentType": policy.adjustment_type,
        "ScalingAdjustment": policy.adjustment,
        "MinAdjustmentMagnitude": policy.least_change or None,
        "Cooldown": policy.cooldown_s,
        "StepAdjustments": [],
        "Alarms": [],
        "Enabled": policy.enabled,
    }


def _activity_shape(group: Group, activity: Activity) -> dict[str, Any]:
    return {
        "ActivityId": activity.id,
        "AutoScalingGroupName": group.name,
        "AutoScalingGroupARN": group.arn,
        "Description": activity.description,
        "Cause": activity.cause,
        "StartTime": _datetime(activity.start),
        "EndTime": None if activity.end is None else _datetime(activity.end),
        "StatusCode": activity.status,
        "StatusMessage": activity.message or None,
        "Progress": activity.progress,
        "Details": f'{{"Availability Zone":"{activity.zone}"}}',
    }


def _tag_shapes(group: Group) -> list[dict[str, Any]]:
    return [
        {
            "ResourceId": group.name,
            "ResourceType": "auto-scaling-group",
            "Key": tag.key,
            "Value": tag.value,
            "PropagateAtLaunch": tag.propagate,
        }
        for tag in group.tags
    ]


def _datetime(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _invalid(message: str) -> Refused:
    return Refused("ValidationError", message)


ACTIONS: dict[str, Callable[[Call], Answer]] = {
    "CreateAutoScalingGroup": create_group,
    "UpdateAutoScalingGroup": update_group,
    "DeleteAutoScalingGroup": delete_group,
    "DescribeAutoScalingGroups": describe_groups,
    "DescribeAutoScalingInstances": describe_instances,
    "SetDesiredCapacity": set_desired_capacity,
    "SuspendProcesses": suspend_processes,
    "ResumeProcesses": resume_processes,
    "DescribeScalingActivities": describe_activities,
    "PutLifecycleHook": put_hook,
    "DeleteLifecycleHook": delete_hook,
    "DescribeLifecycleHooks": describe_hooks,
    "CompleteLifecycleAction": complete_action,
    "RecordLifecycleActionHeartbeat": record_heartbeat,
    "SetInstanceHealth": set_instance_health,
    "TerminateInstanceInAutoScalingGroup": terminate_instances,
    "DetachInstances": detach_instances,
    "EnterStandby": enter_standby,
    "ExitStandby": exit_standby,
    "SetInstanceProtection": set_instance_protection,
    "PutScalingPolicy": put_policy,
    "DescribePolicies": describe_policies,
    "DeletePolicy": delete_policy,
    "ExecutePolicy": execute_policy,
    "CreateOrUpdateTags": create_tags,
    "DeleteTags": delete_tags,
    "DescribeTags": describe_tags,
}
