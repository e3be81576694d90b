"""The janitor as a process: it retires a real image and reaps a real builder, whoever holds messages and documents."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.group import apply_group
from localcloud.images import STOCK_PARAMETER
from shared.fleet import Fleet
from shared.ids import BAKE_TAG, FLEET_TAG, MANAGED_TAG, ROLE_TAG
from shared.records import Launch, Pointer, Record, history_key, launch_key, pointer_key, report_key
from tests.fakes import START
from tests.wire.localcloud import helpers
from tests.wire.messaging.helpers import BUCKET, heard_from, queue_url, take
from tests.wire.running import Endpoint, RunningCloud, service_running, until

FORGOTTEN = "i-0000000000000f0f0"
MOMENT = 0.0001
"""Hours: a third of a second."""


def described(name: str) -> Fleet:
    """Return a fleet of no servers, whose images are old at once."""
    retention = {"days": MOMENT / 24, "keep": 1, "quarantine_hours": MOMENT, "builder_hours": MOMENT}
    return Fleet.model_validate(
        {
            "fleet": name,
            "stock": STOCK_PARAMETER,
            "capacity": {"min": 0, "desired": 0, "max": 1},
            "plan": [{"step": "alive", "check": "http://{address}/"}],
            "health": {"url": "http://{address}/"},
            "policies": {"retention": retention},
        }
    )


class Old:
    """A fleet whose pointer is at one of its two images, and which somebody's builder was left over of.

    There is a record of a launch of long ago, too.
    """

    def __init__(self, plane: Endpoint, cloud: RunningCloud) -> None:
        self.plane, self.cloud, self.name = plane, cloud, helpers.unique("old")
        asyncio.run(apply_group(described(self.name)))
        self.builder = helpers.launch(cloud, TagSpecifications=self._tagged("instance", {ROLE_TAG: "builder"}))
        self.kept, self.due = self._image(), self._image()
        pointer = Pointer(image=self.kept, since=START, by="ada", generation=1, write_id="first")
        launch = Launch(fleet=self.name, server=FORGOTTEN, image=self.kept, claimed=START, ended=START)
        documents: dict[str, Record] = {
            pointer_key(self.name): pointer,
            history_key(self.name, 1): pointer,
            launch_key(self.name, FORGOTTEN): launch,
            report_key(self.name, f"{FORGOTTEN}-1"): launch,
        }
        for key, document in documents.items():
            plane.client("s3").put_object(Bucket=BUCKET, Key=key, Body=document.model_dump_json(by_alias=True).encode())

    def _image(self) -> str:
        return helpers.image_of(self.cloud, self.builder, TagSpecifications=self._tagged("image", {}))

    def _tagged(self, kind: str, more: dict[str, str]) -> list[dict[str, Any]]:
        tags = {MANAGED_TAG: "true", FLEET_TAG: self.name, BAKE_TAG: f"{self.name}-20260101t020000", **more}
        return [{"ResourceType": kind, "Tags": [{"Key": name, "Value": value} for name, value in tags.items()]}]

    def images(self) -> set[str]:
        ours = [{"Name": f"tag:{FLEET_TAG}", "Values": [self.name]}]
        return {each["ImageId"] for each in self.cloud.client("ec2").describe_images(Filters=ours)["Images"]}

    def tick(self) -> None:
        body = json.dumps({"type": "tick", "fleet": self.name})
        self.plane.client("sqs").send_message(QueueUrl=queue_url(self.plane, "janitor"), MessageBody=body)

    def forgotten(self) -> list[str]:
        """What there is about the launch of long ago."""
        listed = self.plane.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=f"fleets/{self.name}/")
        return [each["Key"] for each in listed["Contents"] if FORGOTTEN in each["Key"]]


@pytest.fixture
def machines(message_plane: Endpoint, local_cloud: RunningCloud, monkeypatch: pytest.MonkeyPatch) -> RunningCloud:
    """Where the machines are: LocalStack has none that are real."""
    cloud = message_plane if isinstance(message_plane, RunningCloud) else local_cloud
    for service in ("EC2", "AUTO_SCALING", "SSM", "CLOUDWATCH"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", cloud.url)
    return cloud


@pytest.fixture
def told(message_plane: Endpoint) -> Iterator[str]:
    """A queue on the topic of facts."""
    with heard_from(message_plane, "events") as queue:
        yield queue


def test_images_and_builders_that_nobody_needs_go_and_are_told_of_and_old_records_go(
    message_plane: Endpoint, machines: RunningCloud, told: str
) -> None:
    old = Old(message_plane, machines)
    with service_running("janitor", machines.state):
        assert len(old.forgotten()) == 2
        old.tick()  # sets the image aside, and reaps the builder
        until(lambda: helpers.describe(machines, old.builder)["State"]["Name"] in ("shutting-down", "terminated"))
        assert old.images() == {old.kept, old.due}
        said: list[Any] = []

        def retired() -> bool:
            old.tick()
            said.extend(json.loads(message["Body"]) for message in take(message_plane, told, wait_s=1))
            return {"image.retired", "builder.reaped"} <= {each["type"] for each in said}

        until(retired, 40)
        until(lambda: old.forgotten() == [])
    assert old.images() == {old.kept}
    snapshots = machines.client("ec2").describe_snapshots(OwnerIds=["self"])["Snapshots"]
    assert not [each for each in snapshots if old.due in each["Description"]]
    assert {each["image"] for each in said if each["type"] == "image.retired"} == {old.due}
    assert {each["server"] for each in said if each["type"] == "builder.reaped"} == {old.builder}
