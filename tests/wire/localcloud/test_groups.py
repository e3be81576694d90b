"""Auto Scaling groups with real instances behind them, and alarms that move them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.wire.localcloud import helpers
from tests.wire.running import RunningCloud, until

Members = dict[str, str]


@pytest.fixture
def group(local_cloud: RunningCloud) -> str:
    """A group with a launch hook and nothing wanted yet; its template has the group's name."""
    name = helpers.unique("web")
    local_cloud.client("ec2").create_launch_template(
        LaunchTemplateName=name,
        LaunchTemplateData={
            "ImageId": helpers.stock_image(local_cloud),
            "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "of", "Value": "template"}]}],
        },
    )
    local_cloud.client("autoscaling").create_auto_scaling_group(
        AutoScalingGroupName=name,
        MinSize=0,
        DesiredCapacity=0,
        MaxSize=5,
        AvailabilityZones=["us-east-1a"],
        LaunchTemplate={"LaunchTemplateName": name, "Version": "$Default"},
        Tags=[{"Key": "of", "Value": "group", "PropagateAtLaunch": True}],
        LifecycleHookSpecificationList=[
            {"LifecycleHookName": "launch", "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING"}
        ],
    )
    return name


def want(cloud: RunningCloud, group: str, desired: int) -> None:
    cloud.client("autoscaling").set_desired_capacity(AutoScalingGroupName=group, DesiredCapacity=desired)


def members(cloud: RunningCloud, group: str) -> Members:
    found = cloud.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[group])
    return {each["InstanceId"]: each["LifecycleState"] for each in found["AutoScalingGroups"][0]["Instances"]}


def until_members(cloud: RunningCloud, group: str, *states: str) -> Members:
    def seen() -> Members | None:
        found = members(cloud, group)
        return found if sorted(found.values()) == sorted(states) else None

    found = until(seen)
    assert found
    return found


def complete(cloud: RunningCloud, group: str, instance: str) -> None:
    cloud.client("autoscaling").complete_lifecycle_action(
        AutoScalingGroupName=group,
        LifecycleHookName="launch",
        InstanceId=instance,
        LifecycleActionResult="CONTINUE",
    )


def lifecycle_queue(cloud: RunningCloud, group: str) -> str:
    return helpers.queue_for_events(cloud, {"source": ["aws.autoscaling"], "detail": {"AutoScalingGroupName": [group]}})


def test_instances_wait_for_the_launch_hook_and_serve_once_it_is_completed(
    local_cloud: RunningCloud, group: str
) -> None:
    queue = lifecycle_queue(local_cloud, group)

    want(local_cloud, group, 2)
    waiting = until_members(local_cloud, group, "Pending:Wait", "Pending:Wait")

    asked = [helpers.next_body(local_cloud, queue) for _ in waiting]
    assert {event["detail-type"] for event in asked} == {"EC2 Instance-launch Lifecycle Action"}
    assert {event["detail"]["EC2InstanceId"] for event in asked} == set(waiting)
    for instance in waiting:
        assert helpers.describe(local_cloud, instance)["State"]["Name"] == "running"
        helpers.run(local_cloud, instance, "echo provisioned > srv/done")
        complete(local_cloud, group, instance)
    until_members(local_cloud, group, "InService", "InService")
    done = {event["detail-type"] for event in helpers.bodies(local_cloud, queue)}
    assert done == {"EC2 Instance Launch Successful"}


def test_a_groups_instances_carry_the_templates_tags_and_then_the_groups(local_cloud: RunningCloud, group: str) -> None:
    want(local_cloud, group, 1)
    [instance] = until_members(local_cloud, group, "Pending:Wait")

    tags = {tag["Key"]: tag["Value"] for tag in helpers.describe(local_cloud, instance)["Tags"]}

    assert tags["aws:autoscaling:groupName"] == group
    assert tags["of"] == "group"


def test_a_member_whose_hardware_fails_is_replaced(local_cloud: RunningCloud, group: str) -> None:
    want(local_cloud, group, 1)
    [first] = until_members(local_cloud, group, "Pending:Wait")
    complete(local_cloud, group, first)
    until_members(local_cloud, group, "InService")

    helpers.kill_init(local_cloud, first)

    until(lambda: first not in members(local_cloud, group))
    [second] = until_members(local_cloud, group, "Pending:Wait")
    assert second != first
    assert helpers.describe(local_cloud, first)["State"]["Name"] == "terminated"


def test_a_detached_member_runs_on_without_the_groups_tag(local_cloud: RunningCloud, group: str) -> None:
    want(local_cloud, group, 1)
    [instance] = until_members(local_cloud, group, "Pending:Wait")
    complete(local_cloud, group, instance)
    until_members(local_cloud, group, "InService")

    local_cloud.client("autoscaling").detach_instances(
        AutoScalingGroupName=group, InstanceIds=[instance], ShouldDecrementDesiredCapacity=True
    )

    until(lambda: members(local_cloud, group) == {})
    kept = helpers.describe(local_cloud, instance)
    assert kept["State"]["Name"] == "running"
    assert "aws:autoscaling:groupName" not in {tag["Key"] for tag in kept["Tags"]}


def test_a_launch_that_ec2_refuses_is_a_failed_activity(local_cloud: RunningCloud, group: str) -> None:
    ec2 = local_cloud.client("ec2")
    ec2.create_launch_template_version(LaunchTemplateName=group, LaunchTemplateData={"ImageId": "ami-00000000"})
    ec2.modify_launch_template(LaunchTemplateName=group, DefaultVersion="2")

    want(local_cloud, group, 1)

    def failed() -> list[Any]:
        found = local_cloud.client("autoscaling").describe_scaling_activities(AutoScalingGroupName=group)
        return [each for each in found["Activities"] if each["StatusCode"] == "Failed"]

    assert "InvalidAMIID.NotFound" in until(failed)[0]["StatusMessage"]


def alarm(cloud: RunningCloud, name: str, *actions: str) -> None:
    cloud.client("cloudwatch").put_metric_alarm(
        AlarmName=name,
        Namespace="Web",
        MetricName=name,
        Statistic="Average",
        Period=10,
        EvaluationPeriods=1,
        Threshold=5,
        ComparisonOperator="GreaterThanThreshold",
        AlarmActions=list(actions),
        OKActions=list(actions),
    )


def alarm_state(cloud: RunningCloud, name: str) -> str:
    [found] = cloud.client("cloudwatch").describe_alarms(AlarmNames=[name])["MetricAlarms"]
    return str(found["StateValue"])


def test_an_alarm_scales_the_group_and_tells_topic_and_bus(local_cloud: RunningCloud, group: str) -> None:
    policy = local_cloud.client("autoscaling").put_scaling_policy(
        AutoScalingGroupName=group, PolicyName="out", AdjustmentType="ChangeInCapacity", ScalingAdjustment=2
    )["PolicyARN"]
    topic = local_cloud.client("sns").create_topic(Name=group)["TopicArn"]
    told = local_cloud.client("sqs").create_queue(QueueName=group)["QueueUrl"]
    local_cloud.client("sns").subscribe(
        TopicArn=topic, Protocol="sqs", Endpoint=f"arn:aws:sqs:us-east-1:000000000000:{group}"
    )
    bus = helpers.queue_for_events(local_cloud, {"source": ["aws.cloudwatch"], "detail": {"alarmName": [group]}})
    alarm(local_cloud, group, topic, policy)
    assert alarm_state(local_cloud, group) == "INSUFFICIENT_DATA"

    local_cloud.client("cloudwatch").set_alarm_state(AlarmName=group, StateValue="ALARM", StateReason="tried out")

    until_members(local_cloud, group, "Pending:Wait", "Pending:Wait")
    note = helpers.next_body(local_cloud, told)
    assert note["Subject"].startswith("ALARM: ")
    assert '"NewStateValue": "ALARM"' in note["Message"]
    assert helpers.next_body(local_cloud, bus)["detail"]["state"]["value"] == "ALARM"


def test_a_metric_above_its_threshold_raises_the_alarm(local_cloud: RunningCloud) -> None:
    name = helpers.unique("load")
    alarm(local_cloud, name)

    def loaded() -> bool:
        """Publish as a server does, all the time: each period is looked at once."""
        data = {"MetricName": name, "Value": 9.0, "Timestamp": time.time()}
        local_cloud.client("cloudwatch").put_metric_data(Namespace="Web", MetricData=[data])
        return alarm_state(local_cloud, name) == "ALARM"

    until(loaded, within_s=40)
