"""What Auto Scaling tells others, field by field as AWS sends it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from localcloud import notices
from localcloud.groupvalues import (
    LAUNCHING,
    TERMINATING,
    Activity,
    GroupEvent,
    Hook,
    NotifyHook,
    TryTarget,
)

ARN = "arn:aws:autoscaling:us-east-1:000000000000:autoScalingGroup:u:autoScalingGroupName/web"
LAUNCH = NotifyHook(
    group="web",
    arn=ARN,
    account="000000000000",
    region="us-east-1",
    at=1_800_000_000.25,
    hook=Hook("launch", LAUNCHING, metadata="m"),
    instance="i-1",
    token="t",
    origin="EC2",
    destination="AutoScalingGroup",
)
TERMINATE = replace(LAUNCH, hook=Hook("terminate", TERMINATING), origin="AutoScalingGroup", destination="EC2")


def test_a_launching_instance_is_announced_on_the_bus() -> None:
    event = notices.lifecycle_event(LAUNCH)
    assert len(str(event.pop("id"))) == 36
    assert event == {
        "version": "0",
        "detail-type": "EC2 Instance-launch Lifecycle Action",
        "source": "aws.autoscaling",
        "account": "000000000000",
        "time": "2027-01-15T08:00:00.250Z",
        "region": "us-east-1",
        "resources": [ARN],
        "detail": {
            "LifecycleActionToken": "t",
            "AutoScalingGroupName": "web",
            "LifecycleHookName": "launch",
            "EC2InstanceId": "i-1",
            "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING",
            "NotificationMetadata": "m",
            "Origin": "EC2",
            "Destination": "AutoScalingGroup",
        },
    }


def test_a_terminating_instance_is_announced_on_the_bus_without_metadata_that_was_not_set() -> None:
    event = notices.lifecycle_event(TERMINATE)
    assert event["detail-type"] == "EC2 Instance-terminate Lifecycle Action"
    assert isinstance(event["detail"], dict)
    assert event["detail"]["LifecycleTransition"] == "autoscaling:EC2_INSTANCE_TERMINATING"
    assert (event["detail"]["Origin"], event["detail"]["Destination"]) == ("AutoScalingGroup", "EC2")
    assert "NotificationMetadata" not in event["detail"]


def test_a_hooks_target_is_sent_the_flat_form() -> None:
    body = notices.lifecycle_notification(LAUNCH)
    assert len(str(body.pop("RequestId"))) == 36
    assert body == {
        "Origin": "EC2",
        "Destination": "AutoScalingGroup",
        "LifecycleHookName": "launch",
        "AccountId": "000000000000",
        "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING",
        "AutoScalingGroupName": "web",
        "Service": "AWS Auto Scaling",
        "Time": "2027-01-15T08:00:00.250Z",
        "EC2InstanceId": "i-1",
        "LifecycleActionToken": "t",
        "NotificationMetadata": "m",
    }


def test_a_test_notification_names_neither_hook_nor_instance() -> None:
    body = notices.target_test(TryTarget("web", ARN, "000000000000", 1_800_000_000.25, "arn:q"))
    assert len(str(body.pop("RequestId"))) == 36
    assert body == {
        "AccountId": "000000000000",
        "AutoScalingGroupARN": ARN,
        "AutoScalingGroupName": "web",
        "Service": "AWS Auto Scaling",
        "Event": "autoscaling:TEST_NOTIFICATION",
        "Time": "2027-01-15T08:00:00.250Z",
    }


@pytest.mark.parametrize("failed", [False, True])
def test_outcomes_carry_the_activity_and_a_failed_one_no_description(failed: bool) -> None:
    activity = Activity("id", "Launching a new EC2 instance: i-1", "cause", 1_800_000_000, "a", "i-1", message="why")
    outcome = GroupEvent(
        kind="Launch Unsuccessful" if failed else "Launch Successful",
        group="web",
        arn=ARN,
        account="000000000000",
        region="us-east-1",
        at=1_800_000_001,
        activity=activity,
        origin="EC2",
        destination="AutoScalingGroup",
    )
    event = notices.outcome_event(outcome)
    assert event["detail-type"] == f"EC2 Instance {outcome.kind}"
    assert event["resources"] == [ARN, "arn:aws:ec2:us-east-1:000000000000:instance/i-1"]
    described = {} if failed else {"Description": "Launching a new EC2 instance: i-1"}
    assert event["detail"] == {
        "StatusCode": "Failed" if failed else "InProgress",
        "StatusMessage": "why",
        "AutoScalingGroupName": "web",
        "ActivityId": "id",
        "Details": {"Availability Zone": "a"},
        "RequestId": "id",
        "StartTime": "2027-01-15T08:00:00.000Z",
        "EndTime": "2027-01-15T08:00:01.000Z",
        "EC2InstanceId": "i-1",
        "Cause": "cause",
        "Origin": "EC2",
        "Destination": "AutoScalingGroup",
        **described,
    }
