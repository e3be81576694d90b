"""Small steps that tests of the local cloud take again and again."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.wire.running import RunningCloud, until

Fields = Mapping[str, Any]

FINAL = ("Success", "Failed", "TimedOut", "Cancelled")


def unique(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def stock_image(cloud: RunningCloud) -> str:
    return str(cloud.client("ssm").get_parameter(Name="/autoprovisioner/stock-image")["Parameter"]["Value"])


def launch(cloud: RunningCloud, image: str = "", **options: Any) -> str:
    """Launch an instance, wait until it runs, and return its id."""
    asked = {"ImageId": image or stock_image(cloud), "MinCount": 1, "MaxCount": 1, **options}
    instance = str(cloud.client("ec2").run_instances(**asked)["Instances"][0]["InstanceId"])
    until_state(cloud, instance, "running")
    return instance


def describe(cloud: RunningCloud, instance: str) -> Any:
    found = cloud.client("ec2").describe_instances(InstanceIds=[instance])
    return found["Reservations"][0]["Instances"][0]


def until_state(cloud: RunningCloud, instance: str, state: str) -> None:
    until(lambda: describe(cloud, instance)["State"]["Name"] == state)


def root(cloud: RunningCloud, instance: str) -> Path:
    return cloud.state / "instances" / instance / "root"


def kill_init(cloud: RunningCloud, instance: str) -> None:
    """What a hardware failure looks like."""
    os.kill(int((cloud.state / "instances" / instance / "init.pid").read_text()), signal.SIGKILL)


def send(cloud: RunningCloud, instance: str, *lines: str, **parameters: list[str]) -> str:
    """Send a shell script and return the command's id."""
    sent = cloud.client("ssm").send_command(
        InstanceIds=[instance],
        DocumentName="AWS-RunShellScript",
        Parameters={"commands": list(lines), **parameters},
        Comment=f"for {instance}",
    )
    return str(sent["Command"]["CommandId"])


def outcome(cloud: RunningCloud, instance: str, command: str) -> Any:
    """Wait for a command's end and return its invocation."""

    def ended() -> Any:
        found = cloud.client("ssm").get_command_invocation(CommandId=command, InstanceId=instance)
        return found if found["Status"] in FINAL else None

    return until(ended)


def run(cloud: RunningCloud, instance: str, *lines: str) -> str:
    """Run a shell script that has to succeed, and return what it printed."""
    done = outcome(cloud, instance, send(cloud, instance, *lines))
    assert done["Status"] == "Success", done
    return str(done["StandardOutputContent"])


def image_of(cloud: RunningCloud, instance: str, **options: Any) -> str:
    """Make an image of an instance, wait until it is available, and return its id."""
    ec2 = cloud.client("ec2")
    image = ec2.create_image(InstanceId=instance, **{"Name": unique("image"), **options})["ImageId"]
    until(lambda: ec2.describe_images(ImageIds=[image])["Images"][0]["State"] == "available")
    return str(image)


def queue_for_events(cloud: RunningCloud, pattern: Fields) -> str:
    """Make a queue that gets the events that match, and return its URL."""
    name = unique("events")
    url = str(cloud.client("sqs").create_queue(QueueName=name)["QueueUrl"])
    cloud.client("events").put_rule(Name=name, EventPattern=json.dumps(pattern))
    target = {"Id": "queue", "Arn": f"arn:aws:sqs:us-east-1:000000000000:{name}"}
    cloud.client("events").put_targets(Rule=name, Targets=[target])
    return url


def bodies(cloud: RunningCloud, queue: str, *, wait_s: int = 1) -> list[Any]:
    """Take what is in a queue."""
    found = []
    sqs = cloud.client("sqs")
    while got := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=wait_s).get("Messages"):
        for message in got:
            found.append(json.loads(message["Body"]))
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    return found


def next_body(cloud: RunningCloud, queue: str) -> Any:
    """Wait for the next message in a queue and take it."""
    sqs = cloud.client("sqs")
    [message] = until(lambda: sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=2).get("Messages"))
    sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    return json.loads(message["Body"])
