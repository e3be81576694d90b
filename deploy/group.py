"""Makes a fleet's launch template, Auto Scaling group, hooks, scaling policies and alarms from its description.

Names, hooks and tags are ours (``shared.names``, ``shared.ids``). What AWS or the registry decides afterwards, how many
servers there are and which image they start from, is left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared.aws.errors import translated
from shared.aws.objects import Objects
from shared.aws.servers import Servers
from shared.aws.session import Clients, open_clients
from shared.cloud import NotFound, ObjectsPort, ServersPort
from shared.fleet import Fleet, Scaling
from shared.ids import FLEET_TAG, MANAGED_TAG
from shared.names import LAUNCH_HOOK, TERMINATE_HOOK
from shared.records import config_key, pointer_key

if TYPE_CHECKING:
    from types_aiobotocore_autoscaling.type_defs import AutoScalingGroupTypeDef, LifecycleHookSpecificationTypeDef


async def apply_group(fleet: Fleet, bucket: str = "autoprovisioner") -> list[str]:
    """Make the fleet in AWS what its description says; return a sentence for each thing that was changed.

    Safe to repeat: the second time it changes nothing.

    Raises:
        CloudError: AWS did not answer, or refused; apply again to go on from there.
    """
    async with open_clients() as clients:
        objects = Objects(clients.s3, bucket)
        servers = Servers(clients.ec2, clients.ssm)
        changes = [
            await _describe(fleet, objects),
            await _template(fleet, clients, servers, objects),
            *await _group(fleet, clients),
            *await _scaling(fleet, clients),
        ]
    return [change for change in changes if change]


async def _describe(fleet: Fleet, objects: ObjectsPort) -> str:
    """Store the description first: services meet the fleet's first server seconds after the group is there."""
    body = fleet.model_dump_json(by_alias=True, exclude_defaults=False).encode()
    stored = await objects.get(config_key(fleet.fleet))
    if stored is not None and stored.body == body:
        return ""
    await objects.put(config_key(fleet.fleet), body)
    return f"{fleet.fleet}: stored its description"


# The launch template.


@translated
async def _template(fleet: Fleet, clients: Clients, servers: ServersPort, objects: ObjectsPort) -> str:
    """The stock image counts until there is a pointer; from then on the image is the registry's to set."""
    ec2 = await clients.ec2()
    stock = await servers.stock_image(fleet.stock)
    try:
        versions = await servers.templates(fleet.fleet)
    except NotFound:
        await ec2.create_launch_template(
            LaunchTemplateName=fleet.fleet,
            LaunchTemplateData=template_data(fleet, stock),
            TagSpecifications=[{"ResourceType": "launch-template", "Tags": _tags(fleet)}],
        )
        return f"{fleet.fleet}: made its launch template, with the stock image {stock}"
    default = next(version for version in versions if version.default)
    promoted = await objects.get(pointer_key(fleet.fleet)) is not None
    wanted = template_data(fleet, default.image if promoted else stock)
    return await _new_version(fleet, clients, wanted, default.version)


async def _new_version(fleet: Fleet, clients: Clients, wanted: Any, default: int) -> str:
    ec2 = await clients.ec2()
    found = await ec2.describe_launch_template_versions(LaunchTemplateName=fleet.fleet, Versions=[str(default)])
    if _agrees(wanted, found["LaunchTemplateVersions"][0]["LaunchTemplateData"]):
        return ""
    made = await ec2.create_launch_template_version(LaunchTemplateName=fleet.fleet, LaunchTemplateData=wanted)
    number = made["LaunchTemplateVersion"]["VersionNumber"]
    await ec2.modify_launch_template(LaunchTemplateName=fleet.fleet, DefaultVersion=str(number))
    return f"{fleet.fleet}: its launch template is at version {number}"


def template_data(fleet: Fleet, image: str) -> Any:
    """Return the launch template's data: RequestLaunchTemplateData. Pure."""
    return {
        "ImageId": image,
        "InstanceType": fleet.type,
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
        "TagSpecifications": [{"ResourceType": kind, "Tags": _tags(fleet)} for kind in ("instance", "volume")],
    }


def _tags(fleet: Fleet) -> Any:
    return [{"Key": MANAGED_TAG, "Value": "true"}, {"Key": FLEET_TAG, "Value": fleet.fleet}]


def _agrees(wanted: Any, found: Any) -> bool:
    """Whether everything wanted is found; AWS fills in more than was asked for. Pure."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(_agrees(part, found.get(name)) for name, part in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and all(any(_agrees(part, one) for one in found) for part in wanted)
    return bool(wanted == found)


# The group and its hooks.


@translated
async def _group(fleet: Fleet, clients: Clients) -> list[str]:
    autoscaling = await clients.autoscaling()
    answer = await autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[fleet.fleet])
    if answer["AutoScalingGroups"]:
        return [await _place(fleet, clients, answer["AutoScalingGroups"][0]), *await _hooks(fleet, clients)]
    await autoscaling.create_auto_scaling_group(
        AutoScalingGroupName=fleet.fleet,
        LaunchTemplate={"LaunchTemplateName": fleet.fleet, "Version": "$Default"},
        MinSize=fleet.capacity.min,
        DesiredCapacity=fleet.capacity.desired,
        MaxSize=fleet.capacity.max,
        HealthCheckType="EC2",
        LifecycleHookSpecificationList=hooks(fleet),
        Tags=[{"Key": tag["Key"], "Value": tag["Value"], "PropagateAtLaunch": True} for tag in _tags(fleet)],
        **_where(fleet),
    )
    return [f"{fleet.fleet}: made its group, {fleet.capacity.desired} servers wanted"]


def _where(fleet: Fleet) -> Any:
    """Subnets when the description names some, else the default subnets of its zones. Pure."""
    return {"VPCZoneIdentifier": ",".join(fleet.subnets)} if fleet.subnets else {"AvailabilityZones": list(fleet.zones)}


async def _place(fleet: Fleet, clients: Clients, group: AutoScalingGroupTypeDef) -> str:
    subnets = sorted(filter(None, group.get("VPCZoneIdentifier", "").split(",")))
    placed = (
        sorted(fleet.subnets) == subnets if fleet.subnets else sorted(fleet.zones) == sorted(group["AvailabilityZones"])
    )
    if placed:
        return ""
    await (await clients.autoscaling()).update_auto_scaling_group(AutoScalingGroupName=fleet.fleet, **_where(fleet))
    return f"{fleet.fleet}: its group is in {', '.join(fleet.subnets or fleet.zones)}"


def hooks(fleet: Fleet) -> list[LifecycleHookSpecificationTypeDef]:
    """Return both hooks. A launch that nobody vouches for is given up; a server that leaves may always go. Pure."""
    return [
        {
            "LifecycleHookName": LAUNCH_HOOK,
            "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING",
            "HeartbeatTimeout": fleet.policies.launch.heartbeat,
            "DefaultResult": "ABANDON",
        },
        {
            "LifecycleHookName": TERMINATE_HOOK,
            "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
            "HeartbeatTimeout": fleet.policies.drain.heartbeat,
            "DefaultResult": "CONTINUE",
        },
    ]


async def _hooks(fleet: Fleet, clients: Clients) -> list[str]:
    autoscaling = await clients.autoscaling()
    answer = await autoscaling.describe_lifecycle_hooks(AutoScalingGroupName=fleet.fleet)
    present = {hook["LifecycleHookName"]: hook for hook in answer["LifecycleHooks"]}
    changes = []
    for hook in hooks(fleet):
        name = hook["LifecycleHookName"]
        if _agrees(hook, present.get(name)):
            continue
        await autoscaling.put_lifecycle_hook(
            AutoScalingGroupName=fleet.fleet,
            LifecycleHookName=name,
            LifecycleTransition=hook["LifecycleTransition"],
            HeartbeatTimeout=hook["HeartbeatTimeout"],
            DefaultResult=hook["DefaultResult"],
        )
        changes.append(f"{fleet.fleet}: set its hook {name}")
    return changes


# Scaling.


@translated
async def _scaling(fleet: Fleet, clients: Clients) -> list[str]:
    if fleet.scaling is None:
        return await _unscaled(fleet, clients)
    return [
        await _rule(fleet, fleet.scaling, clients, "high"),
        await _rule(fleet, fleet.scaling, clients, "low"),
    ]


async def _rule(fleet: Fleet, scaling: Scaling, clients: Clients, side: str) -> str:
    """Make one policy and the alarm that sets it off."""
    autoscaling = await clients.autoscaling()
    cloudwatch = await clients.cloudwatch()
    wanted = policy(scaling, side)
    found = await autoscaling.describe_policies(AutoScalingGroupName=fleet.fleet, PolicyNames=[_rule_name(fleet, side)])
    present = found["ScalingPolicies"]
    arn = present[0]["PolicyARN"] if present else ""
    changed = not present or not _agrees(wanted, present[0])
    if changed:
        made = await autoscaling.put_scaling_policy(
            AutoScalingGroupName=fleet.fleet, PolicyName=_rule_name(fleet, side), **wanted
        )
        arn = made["PolicyARN"]
    trigger = alarm(fleet.fleet, scaling, side, arn)
    alarms = await cloudwatch.describe_alarms(AlarmNames=[trigger["AlarmName"]])
    if not alarms["MetricAlarms"] or not _agrees(trigger, alarms["MetricAlarms"][0]):
        await cloudwatch.put_metric_alarm(**trigger)
        changed = True
    return f"{fleet.fleet}: set its scaling for {side} load" if changed else ""


async def _unscaled(fleet: Fleet, clients: Clients) -> list[str]:
    autoscaling = await clients.autoscaling()
    ours = [_rule_name(fleet, side) for side in ("high", "low")]
    found = await autoscaling.describe_policies(AutoScalingGroupName=fleet.fleet)
    present = [policy["PolicyName"] for policy in found["ScalingPolicies"] if policy["PolicyName"] in ours]
    for name in present:
        await autoscaling.delete_policy(AutoScalingGroupName=fleet.fleet, PolicyName=name)
    if present:
        await (await clients.cloudwatch()).delete_alarms(AlarmNames=present)
    return [f"{fleet.fleet}: removed its scaling"] if present else []


def _rule_name(fleet: Fleet, side: str) -> str:
    return f"autoprovisioner-{fleet.fleet}-load-{side}"


def policy(scaling: Scaling, side: str) -> Any:
    """Return the policy for one side of the load: PutScalingPolicy. Pure."""
    return {
        "PolicyType": "SimpleScaling",
        "AdjustmentType": "ChangeInCapacity",
        "ScalingAdjustment": scaling.step if side == "high" else -scaling.step,
        "Cooldown": scaling.cooldown,
    }


def alarm(fleet: str, scaling: Scaling, side: str, action: str) -> Any:
    """Return the alarm for one side of the load: PutMetricAlarm. No data means neither high nor low. Pure."""
    return {
        "AlarmName": f"autoprovisioner-{fleet}-load-{side}",
        "AlarmDescription": f"The load of {fleet} is {side}: its group changes by {scaling.step}.",
        "Namespace": scaling.namespace,
        "MetricName": scaling.metric,
        "Dimensions": [{"Name": "AutoScalingGroupName", "Value": fleet}],
        "Statistic": "Average",
        "Period": scaling.period,
        "EvaluationPeriods": 1,
        "Threshold": scaling.high if side == "high" else scaling.low,
        "ComparisonOperator": "GreaterThanThreshold" if side == "high" else "LessThanThreshold",
        "TreatMissingData": "notBreaching",
        "AlarmActions": [action],
    }
