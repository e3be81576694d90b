"""A local cloud whose event bus, queues and topics are another's, as LocalStack's are in compose."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wire.running import RunningCloud, local_cloud_on, until


@pytest.fixture
def clouds(tmp_path: Path) -> Iterator[tuple[RunningCloud, RunningCloud]]:
    """One that has the messages, and one that has the machines."""
    with (
        local_cloud_on(tmp_path / "messages") as messages,
        local_cloud_on(tmp_path / "machines", "--messages-endpoint", messages.url) as machines,
    ):
        yield messages, machines


def _queue(cloud: RunningCloud) -> tuple[str, str]:
    sqs = cloud.client("sqs")
    url = sqs.create_queue(QueueName="heard")["QueueUrl"]
    return url, sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]


def _received(cloud: RunningCloud, url: str) -> Any:
    [message] = until(lambda: cloud.client("sqs").receive_message(QueueUrl=url, WaitTimeSeconds=5).get("Messages"))
    return json.loads(message["Body"])


def test_events_of_machines_reach_rules_on_the_other_bus(clouds: tuple[RunningCloud, RunningCloud]) -> None:
    messages, machines = clouds
    url, arn = _queue(messages)
    pattern = {"source": ["aws.ec2"], "detail": {"state": ["running"]}}
    messages.client("events").put_rule(Name="running", EventPattern=json.dumps(pattern))
    messages.client("events").put_targets(Rule="running", Targets=[{"Id": "heard", "Arn": arn}])

    stock = machines.client("ssm").get_parameter(Name="/autoprovisioner/stock-image")["Parameter"]["Value"]
    [instance] = machines.client("ec2").run_instances(ImageId=stock, MinCount=1, MaxCount=1)["Instances"]

    event = _received(messages, url)
    assert event["detail"] == {"instance-id": instance["InstanceId"], "state": "running"}
    assert event["detail-type"] == "EC2 Instance State-change Notification"
    assert event["resources"] == [f"arn:aws:ec2:us-east-1:000000000000:instance/{instance['InstanceId']}"]


def test_an_alarm_notifies_a_topic_over_there(clouds: tuple[RunningCloud, RunningCloud]) -> None:
    messages, machines = clouds
    url, arn = _queue(messages)
    topic = messages.client("sns").create_topic(Name="alarms")["TopicArn"]
    messages.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    cloudwatch = machines.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName="errors",
        Namespace="Web",
        MetricName="Errors",
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=0,
        ComparisonOperator="GreaterThanThreshold",
        AlarmActions=[topic],
    )

    cloudwatch.set_alarm_state(AlarmName="errors", StateValue="ALARM", StateReason="a test")

    notification = _received(messages, url)
    assert notification["Subject"].startswith("ALARM")
    assert json.loads(notification["Message"])["AlarmName"] == "errors"
