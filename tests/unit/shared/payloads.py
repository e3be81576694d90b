"""What AWS sends, shape by shape, as its documentation and captured messages have it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from shared.events import (
    AlarmChanged,
    AwsEvent,
    CommandChanged,
    Ignorable,
    ImageStateChanged,
    InstanceStateChanged,
    LifecycleAction,
    ObjectChanged,
)

SERVER = "i-0598c7d356eba48d7"
IMAGE = "ami-0123456789abcdef0"
TOKEN = "71514b9d-6a40-4b26-8523-05e7ee35fa40"
COMMAND = "e8d3c0e4-71f7-4491-898f-c9b35bee5f3b"
ACCOUNT = "123456789012"
GROUP_ARN = f"arn:aws:autoscaling:us-west-2:{ACCOUNT}:autoScalingGroup:b4f6:autoScalingGroupName/my-asg"

Payload = dict[str, Any]


def event(source: str, kind: str, detail: Mapping[str, Any], resources: tuple[str, ...] = ()) -> Payload:
    """Return an event as EventBridge hands it to a queue."""
    return {
        "version": "0",
        "id": "468fe059-f4b7-445f-bb22-2a271b94974d",
        "detail-type": kind,
        "source": source,
        "account": ACCOUNT,
        "time": "2021-01-13T00:12:37.214Z",
        "region": "us-west-2",
        "resources": list(resources),
        "detail": dict(detail),
    }


def wrapped(body: str, subject: str | None = None) -> str:
    """Return a body in the envelope that SNS adds where raw delivery is off."""
    envelope = {
        "Type": "Notification",
        "MessageId": "63f5b5c2-58b3-0574-b7d5-b3162d0268f0",
        "TopicArn": f"arn:aws:sns:us-west-2:{ACCOUNT}:my-topic",
        "Message": body,
        "Timestamp": "2024-03-23T03:26:43.936Z",
        "SignatureVersion": "1",
        "Signature": "bm8gc2lnbmF0dXJl",
        "SigningCertURL": "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-1.pem",
        "UnsubscribeURL": "https://sns.us-west-2.amazonaws.com/?Action=Unsubscribe",
        "MessageAttributes": {},
    }
    return json.dumps(envelope | ({"Subject": subject} if subject else {}))


def _direct(transition: str, **more: str) -> Payload:
    return {
        "LifecycleHookName": "my-hook",
        "AccountId": ACCOUNT,
        "RequestId": "63f5b5c2-58b3-0574-b7d5-b3162d0268f0",
        "LifecycleTransition": f"autoscaling:EC2_INSTANCE_{transition}",
        "AutoScalingGroupName": "my-asg",
        "Service": "AWS Auto Scaling",
        "Time": "2021-01-19T00:36:26.533Z",
        "EC2InstanceId": SERVER,
        "LifecycleActionToken": TOKEN,
        **more,
    }


def _hook(word: str, transition: str, origin: str, destination: str, **more: str) -> Payload:
    detail = {
        "LifecycleActionToken": TOKEN,
        "AutoScalingGroupName": "my-asg",
        "LifecycleHookName": "my-hook",
        "EC2InstanceId": SERVER,
        "LifecycleTransition": f"autoscaling:EC2_INSTANCE_{transition}",
        "Origin": origin,
        "Destination": destination,
        **more,
    }
    return event("aws.autoscaling", f"EC2 Instance-{word} Lifecycle Action", detail, (GROUP_ARN,))


def _activity(kind: str, **more: str) -> Payload:
    detail = {
        "StatusCode": "InProgress",
        "Description": "Launching a new EC2 instance: i-12345678",
        "AutoScalingGroupName": "my-asg",
        "ActivityId": "b4f6",
        "Details": {"Availability Zone": "us-west-2b", "Subnet ID": "subnet-12345678"},
        "RequestId": "b4f6",
        "StatusMessage": "",
        "EndTime": "2021-01-13T00:12:37.214Z",
        "EC2InstanceId": SERVER,
        "StartTime": "2021-01-13T00:12:30.214Z",
        "Cause": "text",
        "Origin": "EC2",
        "Destination": "AutoScalingGroup",
        **more,
    }
    return event("aws.autoscaling", kind, detail, (GROUP_ARN, f"arn:aws:ec2:us-west-2:{ACCOUNT}:instance/{SERVER}"))


def _refresh(word: str, **more: str) -> Payload:
    detail = {"InstanceRefreshId": "c613620e-07e2-4ed2-a9e2-ef8258911ade", "AutoScalingGroupName": "my-asg", **more}
    return event("aws.autoscaling", f"EC2 Auto Scaling Instance Refresh {word}", detail, (GROUP_ARN,))


def _s3(key: str) -> Payload:
    record = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "us-west-2",
        "eventTime": "1970-01-01T00:00:00.000Z",
        "eventName": "ObjectCreated:Put",
        "userIdentity": {"principalId": "AIDAJDPLRKLG7UEXAMPLE"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "testConfigRule",
            "bucket": {"name": "amzn-s3-demo-bucket", "arn": "arn:aws:s3:::amzn-s3-demo-bucket"},
            "object": {"key": key, "size": 1024, "eTag": "d41d8cd9", "sequencer": "0055AED6DCD90281E5"},
        },
    }
    return {"Records": [record]}


_STATE = {
    "reason": "Threshold Crossed",
    "reasonData": '{"version":"1.0"}',
    "timestamp": "2019-10-02T17:04:40.985+0000",
    "value": "ALARM",
}
_METRIC = {"dimensions": {"InstanceId": SERVER}, "name": "CPUUtilization", "namespace": "AWS/EC2"}
_ALARM = {
    "alarmName": "ServerCpuTooHigh",
    "configuration": {
        "description": "high",
        "metrics": [
            {"id": "b5", "metricStat": {"metric": _METRIC, "period": 300, "stat": "Average"}, "returnData": True}
        ],
    },
    "previousState": _STATE | {"value": "OK"},
    "state": _STATE,
    "muteDetail": {"mutedByArn": "arn", "muteWindowStart": "2019", "muteWindowEnd": "2020"},
}
_ALARM_ARN = f"arn:aws:cloudwatch:us-east-1:{ACCOUNT}:alarm:ServerCpuTooHigh"

ALARM_BY_SNS: Payload = {
    "AlarmName": "ServerCpuTooHigh",
    "AlarmDescription": None,
    "AWSAccountId": ACCOUNT,
    "AlarmConfigurationUpdatedTimestamp": "2024-03-08T14:05:02.761+0000",
    "NewStateValue": "ALARM",
    "NewStateReason": "Threshold Crossed: 1 datapoint [0.0 (08/03/24 13:56:00)] was less than the threshold (20.0).",
    "StateChangeTime": "2024-03-08T14:06:01.853+0000",
    "Region": "US East (N. Virginia)",
    "AlarmArn": _ALARM_ARN,
    "OldStateValue": "INSUFFICIENT_DATA",
    "OKActions": [],
    "AlarmActions": [f"arn:aws:sns:us-east-1:{ACCOUNT}:my-topic"],
    "InsufficientDataActions": [],
    "Trigger": {
        "MetricName": "M",
        "Namespace": "N",
        "StatisticType": "Statistic",
        "Statistic": "AVERAGE",
        "Unit": None,
        "Dimensions": [{"value": "v", "name": "k"}],
        "Period": 60,
        "EvaluationPeriods": 1,
        "DatapointsToAlarm": 1,
        "ComparisonOperator": "GreaterThanThreshold",
        "Threshold": 5.0,
        "TreatMissingData": "missing",
        "EvaluateLowSampleCountPercentile": "",
    },
}

_COMPOSITE: Payload = {name: value for name, value in ALARM_BY_SNS.items() if name != "Trigger"} | {
    "AlarmRule": 'ALARM("a") OR ALARM("b")',
    "TriggeringChildren": [{"Arn": _ALARM_ARN, "State": {"Value": "ALARM", "Timestamp": "2024"}}],
    "NewStateValue": "OK",
}

_SSM: Payload = {
    "command-id": COMMAND,
    "document-name": "AWS-RunShellScript",
    "requested-date-time": "2016-07-10T21:51:30.049Z",
    "status": "Success",
}

TEST_NOTIFICATION: Payload = {
    "AccountId": ACCOUNT,
    "RequestId": "b36d6757-57c7-11e8-a9ca-b3409db76d91",
    "AutoScalingGroupARN": GROUP_ARN,
    "AutoScalingGroupName": "my-asg",
    "Service": "AWS Auto Scaling",
    "Event": "autoscaling:TEST_NOTIFICATION",
    "Time": "2018-05-14T22:39:45.555Z",
}

_GROUP_NOTIFICATION: Payload = TEST_NOTIFICATION | {
    "Event": "autoscaling:EC2_INSTANCE_LAUNCH_ERROR",
    "ActivityId": "b4f6",
    "Description": "Launching a new EC2 instance",
    "Cause": "text",
    "StartTime": "2018-05-14T22:39:45.555Z",
    "EndTime": "2018-05-14T22:39:45.555Z",
    "StatusCode": "Failed",
    "StatusMessage": "no capacity",
    "Progress": 50,
    "EC2InstanceId": SERVER,
    "Details": {"Subnet ID": "subnet-12345678", "Availability Zone": "us-west-2b"},
}

_S3_TEST: Payload = {
    "Service": "Amazon S3",
    "Event": "s3:TestEvent",
    "Time": "2014-10-13T15:57:02.089Z",
    "Bucket": "amzn-s3-demo-bucket",
    "RequestId": "5582815E1AEA5ADF",
    "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR+YstdA6Knx4Ip8EXAMPLE",
}

LAUNCHING = LifecycleAction("my-asg", SERVER, "my-hook", TOKEN, "launching")
TERMINATING = LifecycleAction("my-asg", SERVER, "my-hook", TOKEN, "terminating")

SHAPES: dict[str, tuple[Payload, AwsEvent]] = {
    "launch, direct": (
        _direct("LAUNCHING", Origin="EC2", Destination="AutoScalingGroup", NotificationMetadata="hook metadata"),
        LAUNCHING,
    ),
    "launch, direct, before 2020": (_direct("LAUNCHING"), LAUNCHING),
    "terminate, direct": (_direct("TERMINATING", Origin="AutoScalingGroup", Destination="EC2"), TERMINATING),
    "launch": (
        _hook("launch", "LAUNCHING", "EC2", "AutoScalingGroup", NotificationMetadata="additional-info"),
        LAUNCHING,
    ),
    "launch into the warm pool": (_hook("launch", "LAUNCHING", "EC2", "WarmPool"), LAUNCHING),
    "launch out of the warm pool": (_hook("launch", "LAUNCHING", "WarmPool", "AutoScalingGroup"), LAUNCHING),
    "back into the warm pool": (_hook("terminate", "TERMINATING", "AutoScalingGroup", "WarmPool"), TERMINATING),
    "terminate": (_hook("terminate", "TERMINATING", "AutoScalingGroup", "EC2"), TERMINATING),
    "root volume, begin": (
        _hook("terminate", "TERMINATING", "AutoScalingGroup", "AutoScalingGroup", Action="ReplaceRootVolume"),
        Ignorable("a root volume is about to be replaced; nothing terminates"),
    ),
    "root volume, end": (
        _hook("launch", "LAUNCHING", "AutoScalingGroup", "AutoScalingGroup", Action="ReplaceRootVolume"),
        LAUNCHING,
    ),
    "launch successful": (_activity("EC2 Instance Launch Successful"), Ignorable("EC2 Instance Launch Successful")),
    "launch unsuccessful": (
        _activity("EC2 Instance Launch Unsuccessful", StatusCode="Failed", StatusMessage="no capacity"),
        Ignorable("EC2 Instance Launch Unsuccessful"),
    ),
    "terminate successful": (
        _activity("EC2 Instance Terminate Successful", Origin="AutoScalingGroup", Destination="EC2"),
        Ignorable("EC2 Instance Terminate Successful"),
    ),
    "terminate unsuccessful": (
        _activity("EC2 Instance Terminate Unsuccessful", StatusCode="Failed"),
        Ignorable("EC2 Instance Terminate Unsuccessful"),
    ),
    **{
        f"refresh {word}": (_refresh(word), Ignorable(f"EC2 Auto Scaling Instance Refresh {word}"))
        for word in (
            "Started",
            "Succeeded",
            "Failed",
            "Cancelled",
            "Rollback Started",
            "Rollback Succeeded",
            "Rollback Failed",
        )
    },
    "refresh checkpoint": (
        _refresh("Checkpoint Reached", CheckpointPercentage="50", CheckpointDelay="300"),
        Ignorable("EC2 Auto Scaling Instance Refresh Checkpoint Reached"),
    ),
    "instance state": (
        event(
            "aws.ec2", "EC2 Instance State-change Notification", {"instance-id": "i-abcd1111", "state": "shutting-down"}
        ),
        InstanceStateChanged("i-abcd1111", "shutting-down"),
    ),
    "spot interruption": (
        event(
            "aws.ec2",
            "EC2 Spot Instance Interruption Warning",
            {"instance-id": SERVER, "instance-action": "terminate"},
            (f"arn:aws:ec2:us-east-2a:instance/{SERVER}",),
        ),
        Ignorable("EC2 Spot Instance Interruption Warning"),
    ),
    "rebalance": (
        event("aws.ec2", "EC2 Instance Rebalance Recommendation", {"instance-id": SERVER}),
        Ignorable("EC2 Instance Rebalance Recommendation"),
    ),
    "image available": (
        event(
            "aws.ec2",
            "EC2 AMI State Change",
            {"RequestId": "b4f6", "ImageId": IMAGE, "State": "available", "ErrorMessage": ""},
            (f"arn:aws:ec2:us-east-1::image/{IMAGE}",),
        ),
        ImageStateChanged(IMAGE, "available", ""),
    ),
    "image failed": (
        event("aws.ec2", "EC2 AMI State Change", {"ImageId": IMAGE, "State": "failed", "ErrorMessage": "no disk"}),
        ImageStateChanged(IMAGE, "failed", "no disk"),
    ),
    "command": (
        event(
            "aws.ssm",
            "EC2 Command Status-change Notification",
            _SSM
            | {
                "expire-after": "2016-07-14T22:01:30.049Z",
                "parameters": {"executionTimeout": ["3600"], "commands": ["date"]},
            },
        ),
        CommandChanged(COMMAND, "", "Success"),
    ),
    "invocation": (
        event("aws.ssm", "EC2 Command Invocation Status-change Notification", _SSM | {"instance-id": "i-9bb89e2b"}),
        CommandChanged(COMMAND, "i-9bb89e2b", "Success"),
    ),
    "command by SNS": (
        {
            "commandId": COMMAND,
            "documentName": "AWS-RunShellScript",
            "instanceIds": [SERVER],
            "requestedDateTime": "2016-07-10T21:51:30.049Z",
            "expiresAfter": "2016-07-14T22:01:30.049Z",
            "outputS3BucketName": "",
            "outputS3KeyPrefix": "",
            "status": "InProgress",
            "eventTime": "2016-07-10T21:51:31.049Z",
        },
        CommandChanged(COMMAND, "", "InProgress"),
    ),
    "invocation by SNS": (
        {"commandId": COMMAND, "documentName": "AWS-RunShellScript", "instanceId": SERVER, "status": "Failed"},
        CommandChanged(COMMAND, SERVER, "Failed"),
    ),
    "alarm": (
        event("aws.cloudwatch", "CloudWatch Alarm State Change", _ALARM, (_ALARM_ARN,)),
        AlarmChanged("ServerCpuTooHigh", "ALARM", "Threshold Crossed"),
    ),
    "alarm contributor": (
        event("aws.cloudwatch", "CloudWatch Alarm Contributor State Change", _ALARM, (_ALARM_ARN,)),
        Ignorable("CloudWatch Alarm Contributor State Change"),
    ),
    "alarm configuration": (
        event("aws.cloudwatch", "CloudWatch Alarm Configuration Change", _ALARM | {"operation": "update"}),
        Ignorable("CloudWatch Alarm Configuration Change"),
    ),
    "alarm by SNS": (ALARM_BY_SNS, AlarmChanged("ServerCpuTooHigh", "ALARM", ALARM_BY_SNS["NewStateReason"])),
    "composite alarm by SNS": (_COMPOSITE, AlarmChanged("ServerCpuTooHigh", "OK", ALARM_BY_SNS["NewStateReason"])),
    "test of a hook": (TEST_NOTIFICATION, Ignorable("autoscaling:TEST_NOTIFICATION")),
    "test of a hook, as a transition": (
        {"LifecycleTransition": "autoscaling:TEST_NOTIFICATION", "AutoScalingGroupName": "my-asg"},
        Ignorable("test notification of a lifecycle hook"),
    ),
    "notification of a group": (_GROUP_NOTIFICATION, Ignorable("autoscaling:EC2_INSTANCE_LAUNCH_ERROR")),
    "test of a bucket": (_S3_TEST, Ignorable("s3:TestEvent")),
    "object": (_s3("fleets/web/image.json"), ObjectChanged("amzn-s3-demo-bucket", "fleets/web/image.json")),
    "object with an odd name": (
        _s3("red+flower%2B%C3%A9.jpg"),
        ObjectChanged("amzn-s3-demo-bucket", "red flower+é.jpg"),
    ),
}
"""Every shape by its name: as AWS sends it, and what it means."""

SCHEDULED: Payload = event("aws.events", "Scheduled Event", {}, (f"arn:aws:events:us-west-2:{ACCOUNT}:rule/nightly",))
