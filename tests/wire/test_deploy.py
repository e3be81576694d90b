"""Deploying twice, and what changes in between."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.group import apply_group
from deploy.messaging import apply_messaging, service_environment
from localcloud.images import STOCK_PARAMETER
from shared.cloud import NotFound
from shared.fleet import Fleet
from shared.names import LAUNCH_HOOK, TERMINATE_HOOK
from tests.wire.running import RunningCloud

DESCRIBED: dict[str, Any] = {
    "fleet": "web",
    "stock": STOCK_PARAMETER,
    "capacity": {"min": 0, "desired": 0, "max": 3},
    "plan": [{"step": "alive", "check": "http://{address}/"}],
    "health": {"url": "http://{address}/"},
    "scaling": {"namespace": "web", "metric": "load", "high": 5, "low": 1, "step": 2},
}


@pytest.fixture(scope="module")
def deployed(local_cloud: RunningCloud) -> Iterator[RunningCloud]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in local_cloud.environment.items():
            patch.setenv(name, value)
        with pytest.raises(NotFound):
            asyncio.run(service_environment("registry"))
        asyncio.run(apply_messaging(say=lambda _: None))
        yield local_cloud


def fleet(name: str, **changes: Any) -> Fleet:
    return Fleet.model_validate({**DESCRIBED, "fleet": name, **changes})


async def test_what_the_emulator_passes_over_is_there_all_the_same(deployed: RunningCloud) -> None:
    subscriptions = deployed.client("sns").list_subscriptions()["Subscriptions"]
    assert len(subscriptions) == 11
    for each in subscriptions:
        found = deployed.client("sns").get_subscription_attributes(SubscriptionArn=each["SubscriptionArn"])
        assert found["Attributes"]["RawMessageDelivery"] == "true"
        assert found["Attributes"]["FilterPolicyScope"] == "MessageBody"
    assert len(deployed.client("cloudwatch").describe_alarms()["MetricAlarms"]) >= 12
    url = (await service_environment("registry"))["AUTOPROVISIONER_QUEUE_URL"]
    attributes = deployed.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    policy = json.loads(attributes["Policy"])
    assert {statement["Sid"] for statement in policy["Statement"]} == {
        "OurTopics",
        "OurRules",
        "OurBucket",
        "EncryptedOnly",
    }
    assert json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"].endswith("autoprovisioner-registry-dead")
    versions = deployed.client("s3").get_bucket_versioning(Bucket="autoprovisioner")
    assert versions["Status"] == "Enabled"


async def test_messages_deployed_again_change_nothing(deployed: RunningCloud) -> None:
    said: list[str] = []
    before = deployed.client("sns").list_subscriptions()["Subscriptions"]
    await apply_messaging(say=said.append)
    assert said[0] == "autoprovisioner: nothing to change"
    assert deployed.client("sns").list_subscriptions()["Subscriptions"] == before


async def test_a_group_is_made_whole(deployed: RunningCloud) -> None:
    changes = await apply_group(fleet("whole"))
    assert len(changes) == 5
    autoscaling = deployed.client("autoscaling")
    hooks = {
        hook["LifecycleHookName"]: hook
        for hook in autoscaling.describe_lifecycle_hooks(AutoScalingGroupName="whole")["LifecycleHooks"]
    }
    assert (hooks[LAUNCH_HOOK]["DefaultResult"], hooks[LAUNCH_HOOK]["HeartbeatTimeout"]) == ("ABANDON", 300)
    assert (hooks[TERMINATE_HOOK]["DefaultResult"], hooks[TERMINATE_HOOK]["HeartbeatTimeout"]) == ("CONTINUE", 300)
    [group] = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=["whole"])["AutoScalingGroups"]
    assert group["LaunchTemplate"]["Version"] == "$Default"
    assert {tag["Key"]: (tag["Value"], tag["PropagateAtLaunch"]) for tag in group["Tags"]} == {
        "autoprovisioner:managed": ("true", True),
        "autoprovisioner:fleet": ("whole", True),
    }
    policies = autoscaling.describe_policies(AutoScalingGroupName="whole")["ScalingPolicies"]
    adjustments = {policy["PolicyARN"]: policy["ScalingAdjustment"] for policy in policies}
    alarms = deployed.client("cloudwatch").describe_alarms(AlarmNamePrefix="autoprovisioner-whole-load-")
    assert {
        (alarm["AlarmName"], alarm["Threshold"], adjustments[alarm["AlarmActions"][0]])
        for alarm in alarms["MetricAlarms"]
    } == {("autoprovisioner-whole-load-high", 5.0, 2), ("autoprovisioner-whole-load-low", 1.0, -2)}


async def test_a_group_made_again_is_left_alone(deployed: RunningCloud) -> None:
    await apply_group(fleet("again"))
    assert await apply_group(fleet("again")) == []


async def test_only_what_differs_is_changed_and_never_the_capacity(deployed: RunningCloud) -> None:
    await apply_group(fleet("differs"))
    autoscaling = deployed.client("autoscaling")
    autoscaling.update_auto_scaling_group(AutoScalingGroupName="differs", MaxSize=9)
    changes = await apply_group(
        fleet("differs", type="m7i.xlarge", policies={"launch": {"heartbeat": 60}}, scaling=None)
    )
    assert [change.partition(": ")[2] for change in changes] == [
        "stored its description",
        "its launch template is at version 2",
        f"set its hook {LAUNCH_HOOK}",
        "removed its scaling",
    ]
    [group] = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=["differs"])["AutoScalingGroups"]
    assert group["MaxSize"] == 9
    assert not deployed.client("cloudwatch").describe_alarms(AlarmNamePrefix="autoprovisioner-differs")["MetricAlarms"]


async def test_an_image_that_was_promoted_stays(deployed: RunningCloud) -> None:
    await apply_group(fleet("promoted"))
    ec2 = deployed.client("ec2")
    promoted = "ami-0123456789abcdef0"
    ec2.create_launch_template_version(
        LaunchTemplateName="promoted", SourceVersion="1", LaunchTemplateData={"ImageId": promoted}
    )
    ec2.modify_launch_template(LaunchTemplateName="promoted", DefaultVersion="2")
    deployed.client("s3").put_object(Bucket="autoprovisioner", Key="fleets/promoted/image.json", Body=b"{}")
    assert await apply_group(fleet("promoted")) == []
    await apply_group(fleet("promoted", type="m7i.xlarge"))
    [default] = ec2.describe_launch_template_versions(LaunchTemplateName="promoted", Versions=["$Default"])[
        "LaunchTemplateVersions"
    ]
    assert default["LaunchTemplateData"]["ImageId"] == promoted
    assert default["LaunchTemplateData"]["InstanceType"] == "m7i.xlarge"
