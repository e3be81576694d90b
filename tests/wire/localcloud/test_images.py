"""EC2 images whose disks are copies."""

from __future__ import annotations

import os

import pytest
from botocore.exceptions import ClientError

from tests.wire.localcloud import helpers
from tests.wire.running import RunningCloud, until

FILL = """
mkdir -p srv/app && cd srv/app
echo '#!/bin/sh' > run.sh && chmod 750 run.sh && touch -d 2020-01-01T00:00:00Z run.sh
ln -s run.sh current
"""


def test_an_image_is_a_copy_that_keeps_modes_times_and_links(local_cloud: RunningCloud) -> None:
    instance = helpers.launch(local_cloud)
    helpers.run(local_cloud, instance, FILL)

    copy = helpers.launch(local_cloud, helpers.image_of(local_cloud, instance))
    helpers.run(local_cloud, instance, "echo changed > srv/app/run.sh")

    script = helpers.root(local_cloud, copy) / "srv" / "app" / "run.sh"
    assert script.read_text() == "#!/bin/sh\n"
    assert script.stat().st_mode & 0o777 == 0o750
    assert script.stat().st_mtime == 1577836800
    assert os.readlink(script.with_name("current")) == "run.sh"


def test_making_an_image_reboots_the_server_unless_told_not_to(local_cloud: RunningCloud) -> None:
    instance = helpers.launch(local_cloud)
    pid_file = local_cloud.state / "instances" / instance / "init.pid"
    before = pid_file.read_text()

    helpers.image_of(local_cloud, instance, NoReboot=True)
    assert pid_file.read_text() == before
    helpers.image_of(local_cloud, instance)

    assert until(lambda: pid_file.read_text() != before)
    assert helpers.describe(local_cloud, instance)["State"]["Name"] == "running"


def test_an_image_and_its_snapshot_carry_their_tags(local_cloud: RunningCloud) -> None:
    def tags(kind: str) -> dict[str, object]:
        return {"ResourceType": kind, "Tags": [{"Key": "is", "Value": kind}]}

    ec2, instance = local_cloud.client("ec2"), helpers.launch(local_cloud)

    image = helpers.image_of(local_cloud, instance, TagSpecifications=[tags("image"), tags("snapshot")])

    filters = [{"Name": "tag:is", "Values": ["image"]}]
    assert [found["ImageId"] for found in ec2.describe_images(Owners=["self"], Filters=filters)["Images"]] == [image]
    filters = [{"Name": "tag:is", "Values": ["snapshot"]}]
    [snapshot] = ec2.describe_snapshots(OwnerIds=["self"], Filters=filters)["Snapshots"]
    [device] = ec2.describe_images(ImageIds=[image])["Images"][0]["BlockDeviceMappings"]
    assert device["Ebs"]["SnapshotId"] == snapshot["SnapshotId"]


def test_the_event_says_when_an_image_is_available_and_when_it_is_gone(local_cloud: RunningCloud) -> None:
    queue = helpers.queue_for_events(local_cloud, {"detail-type": ["EC2 AMI State Change"]})

    image = helpers.image_of(local_cloud, helpers.launch(local_cloud))
    local_cloud.client("ec2").deregister_image(ImageId=image)

    told = [(event["detail"]["ImageId"], event["detail"]["State"]) for event in helpers.bodies(local_cloud, queue)]
    assert sorted(told) == [(image, "available"), (image, "deregistered")]


@pytest.mark.fault(26)
def test_a_name_is_taken_only_once(local_cloud: RunningCloud) -> None:
    instance, name = helpers.launch(local_cloud), helpers.unique("image")
    helpers.image_of(local_cloud, instance, Name=name)

    with pytest.raises(ClientError) as error:
        helpers.image_of(local_cloud, instance, Name=name)

    assert error.value.response["Error"]["Code"] == "InvalidAMIName.Duplicate"


def test_a_deregistered_image_is_not_found_any_more_nor_is_its_snapshot(local_cloud: RunningCloud) -> None:
    ec2 = local_cloud.client("ec2")
    image = helpers.image_of(local_cloud, helpers.launch(local_cloud))

    gone = ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)

    [snapshot] = gone["DeleteSnapshotResults"]
    assert snapshot["ReturnCode"] == "success"
    for call in (
        lambda: ec2.describe_images(ImageIds=[image]),
        lambda: ec2.deregister_image(ImageId=image),
        lambda: helpers.launch(local_cloud, image),
    ):
        with pytest.raises(ClientError) as error:
            call()
        assert error.value.response["Error"]["Code"] == "InvalidAMIID.NotFound"
    with pytest.raises(ClientError):
        ec2.describe_snapshots(SnapshotIds=[snapshot["SnapshotId"]])
    until(lambda: not (local_cloud.state / "images" / image).exists())
