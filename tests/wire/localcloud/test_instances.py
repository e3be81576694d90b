"""EC2 instances that are folders and processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud import processes
from tests.wire.localcloud import helpers
from tests.wire.running import RunningCloud, until


def refusal(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def test_an_instance_boots_from_the_stock_image_with_an_address_and_tags_of_its_own(local_cloud: RunningCloud) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "role", "Value": "builder"}]}]

    one = helpers.describe(local_cloud, helpers.launch(local_cloud, TagSpecifications=tags))
    other = helpers.describe(local_cloud, helpers.launch(local_cloud))

    assert one["PrivateIpAddress"].startswith("127.")
    assert one["PrivateIpAddress"] != other["PrivateIpAddress"]
    assert one["Tags"] == [{"Key": "role", "Value": "builder"}]
    assert "Ubuntu" in (helpers.root(local_cloud, one["InstanceId"]) / "etc" / "os-release").read_text()


def test_instances_are_found_by_tag(local_cloud: RunningCloud) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "fleet", "Value": helpers.unique("fleet")}]}]
    instance = helpers.launch(local_cloud, TagSpecifications=tags)

    filters = [{"Name": "tag:fleet", "Values": [tags[0]["Tags"][0]["Value"]]}]  # type: ignore[index]
    found = local_cloud.client("ec2").describe_instances(Filters=filters)

    assert [each["InstanceId"] for each in found["Reservations"][0]["Instances"]] == [instance]


@pytest.mark.fault(25)
def test_the_same_client_token_gives_the_same_instance(local_cloud: RunningCloud) -> None:
    token = helpers.unique("token")

    first = helpers.launch(local_cloud, ClientToken=token)

    assert helpers.launch(local_cloud, ClientToken=token) == first


@pytest.mark.fault(25)
def test_a_client_token_with_other_parameters_is_refused(local_cloud: RunningCloud) -> None:
    token = helpers.unique("token")
    helpers.launch(local_cloud, ClientToken=token)

    with pytest.raises(ClientError) as error:
        helpers.launch(local_cloud, ClientToken=token, InstanceType="t3.large")

    assert refusal(error) == "IdempotentParameterMismatch"


def test_unknown_images_and_instances_are_refused(local_cloud: RunningCloud) -> None:
    ec2 = local_cloud.client("ec2")
    calls: dict[str, Callable[[], object]] = {
        "InvalidAMIID.NotFound": lambda: helpers.launch(local_cloud, "ami-00000000"),
        "InvalidInstanceID.NotFound": lambda: ec2.describe_instances(InstanceIds=["i-00000000"]),
    }
    for code, call in calls.items():
        with pytest.raises(ClientError) as error:
            call()
        assert refusal(error) == code


def template(cloud: RunningCloud, **data: Any) -> str:
    name = helpers.unique("template")
    cloud.client("ec2").create_launch_template(
        LaunchTemplateName=name, LaunchTemplateData={"ImageId": helpers.stock_image(cloud), **data}
    )
    return name


def from_template(cloud: RunningCloud, name: str, version: str) -> Any:
    asked = {"LaunchTemplateName": name, "Version": version}
    [instance] = cloud.client("ec2").run_instances(LaunchTemplate=asked, MinCount=1, MaxCount=1)["Instances"]
    return instance


def test_a_launch_template_gives_image_type_and_tags_by_version(local_cloud: RunningCloud) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "from", "Value": "template"}]}]
    name = template(local_cloud, InstanceType="t3.small", TagSpecifications=tags)
    local_cloud.client("ec2").create_launch_template_version(
        LaunchTemplateName=name, SourceVersion="1", LaunchTemplateData={"InstanceType": "t3.large"}
    )

    for version, kind in {"$Default": "t3.small", "$Latest": "t3.large", "1": "t3.small", "2": "t3.large"}.items():
        instance = from_template(local_cloud, name, version)
        assert instance["InstanceType"] == kind
        assert {"Key": "from", "Value": "template"} in instance["Tags"]


def test_a_repeated_client_token_makes_no_second_template_version(local_cloud: RunningCloud) -> None:
    ec2, name = local_cloud.client("ec2"), template(local_cloud)

    for _ in range(2):
        made = ec2.create_launch_template_version(
            LaunchTemplateName=name, LaunchTemplateData={"InstanceType": "t3.large"}, ClientToken="once"
        )
        assert made["LaunchTemplateVersion"]["VersionNumber"] == 2

    assert len(ec2.describe_launch_template_versions(LaunchTemplateName=name)["LaunchTemplateVersions"]) == 2


def test_a_listing_of_template_versions_is_complete(local_cloud: RunningCloud) -> None:
    ec2, name = local_cloud.client("ec2"), template(local_cloud)
    for _ in range(17):
        ec2.create_launch_template_version(LaunchTemplateName=name, LaunchTemplateData={"InstanceType": "t3.large"})

    assert len(ec2.describe_launch_template_versions(LaunchTemplateName=name)["LaunchTemplateVersions"]) == 18


def test_terminating_ends_daemons_and_deletes_the_disk(local_cloud: RunningCloud) -> None:
    instance = helpers.launch(local_cloud)
    helpers.run(local_cloud, instance, "(setsid sleep 300 &) >/dev/null 2>&1")
    assert len(processes.marked(local_cloud.state, instance)) == 2

    local_cloud.client("ec2").terminate_instances(InstanceIds=[instance])

    helpers.until_state(local_cloud, instance, "terminated")
    assert not processes.marked(local_cloud.state, instance)
    assert not helpers.root(local_cloud, instance).exists()


def test_an_instance_whose_init_is_killed_is_terminated_and_the_event_says_so(local_cloud: RunningCloud) -> None:
    queue = helpers.queue_for_events(local_cloud, {"source": ["aws.ec2"], "detail": {"state": ["terminated"]}})
    instance = helpers.launch(local_cloud)
    helpers.run(local_cloud, instance, "(setsid sleep 300 &) >/dev/null 2>&1")

    helpers.kill_init(local_cloud, instance)

    event = helpers.next_body(local_cloud, queue)
    assert event["detail"] == {"instance-id": instance, "state": "terminated"}
    assert event["account"] == "000000000000"
    assert event["resources"] == [f"arn:aws:ec2:us-east-1:000000000000:instance/{instance}"]
    assert helpers.describe(local_cloud, instance)["StateReason"]["Code"] == "Server.InternalError"
    assert not processes.marked(local_cloud.state, instance)


def with_boot_script(cloud: RunningCloud) -> str:
    """Launch an instance and give it an ``rc.local`` that starts a daemon and writes down what it finds."""
    instance = helpers.launch(cloud)
    helpers.run(
        cloud,
        instance,
        "cat > etc/rc.local <<'END'",
        "#!/bin/sh",
        'echo "$ADDRESS $SERVER_ROOT" > "$SERVER_ROOT/srv/booted"',
        "setsid sleep 300 &",
        "END",
        "chmod +x etc/rc.local",
    )
    return instance


def test_stop_and_start_keep_the_disk_and_run_the_boot_script(local_cloud: RunningCloud) -> None:
    ec2, instance = local_cloud.client("ec2"), with_boot_script(local_cloud)
    (helpers.root(local_cloud, instance) / "run" / "app.pid").write_text("1")

    ec2.stop_instances(InstanceIds=[instance])
    helpers.until_state(local_cloud, instance, "stopped")
    assert not processes.marked(local_cloud.state, instance)
    ec2.start_instances(InstanceIds=[instance])
    helpers.until_state(local_cloud, instance, "running")

    root = helpers.root(local_cloud, instance)
    address = helpers.describe(local_cloud, instance)["PrivateIpAddress"]
    assert (root / "srv" / "booted").read_text() == f"{address} {root}\n"
    assert len(processes.marked(local_cloud.state, instance)) == 2
    assert not (root / "run" / "app.pid").exists()


def test_a_reboot_is_no_failure(local_cloud: RunningCloud) -> None:
    instance = with_boot_script(local_cloud)
    before = processes.marked(local_cloud.state, instance)

    local_cloud.client("ec2").reboot_instances(InstanceIds=[instance])

    until((helpers.root(local_cloud, instance) / "srv" / "booted").exists)
    assert helpers.describe(local_cloud, instance)["State"]["Name"] == "running"
    assert not before & processes.marked(local_cloud.state, instance)


def test_a_boot_never_empties_a_folder_outside_the_disk(local_cloud: RunningCloud, tmp_path: Any) -> None:
    instance = helpers.launch(local_cloud)
    (tmp_path / "precious").write_text("keep")
    run = helpers.root(local_cloud, instance) / "var" / "run"
    os.symlink(tmp_path, run)

    local_cloud.client("ec2").stop_instances(InstanceIds=[instance])
    helpers.until_state(local_cloud, instance, "stopped")
    local_cloud.client("ec2").start_instances(InstanceIds=[instance])
    helpers.until_state(local_cloud, instance, "running")

    assert (tmp_path / "precious").exists()
