"""The Auto Scaling API over HTTP, as botocore speaks it, with a world of fakes behind it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import get_session
from moto.server import ThreadedMotoServer

from localcloud.autoscaling import Groups, Launched, LaunchFailed, LaunchInstance, install

numbers = itertools.count(1)


@dataclass
class World:
    """Everything outside the groups, remembered instead of done."""

    time: float = 1_800_000_000.0
    refuse: str = ""
    orders: list[LaunchInstance] = field(default_factory=list)
    terminated: list[str] = field(default_factory=list)
    disowned: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    sent: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def launch(self, order: LaunchInstance) -> Launched:
        if self.refuse:
            raise LaunchFailed(self.refuse)
        self.orders.append(order)
        return Launched(f"i-{next(numbers):017x}", "ami-00000001", "m7i.large", "1")

    def send(self, arn: str, body: dict[str, Any]) -> None:
        self.sent.append((arn, body))

    def forget(self) -> None:
        self.refuse = ""
        for kept in (self.orders, self.terminated, self.disowned, self.events, self.sent):
            kept.clear()


@dataclass
class Cloud:
    world: World
    groups: Groups
    api: Any
    ec2: Any

    def create(self, name: str = "web", desired: int = 2, **more: Any) -> None:
        self.api.create_auto_scaling_group(
            **{
                "AutoScalingGroupName": name,
                "MinSize": 0,
                "MaxSize": 5,
                "DesiredCapacity": desired,
                "AvailabilityZones": ["us-east-1a", "us-east-1b"],
                "LaunchTemplate": {"LaunchTemplateName": "web"},
                **more,
            }
        )

    def describe(self, name: str = "web") -> Any:
        (group,) = self.api.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
        return group

    def instances(self, name: str = "web") -> list[str]:
        return [instance["InstanceId"] for instance in self.describe(name)["Instances"]]

    def states(self, name: str = "web") -> list[str]:
        return [instance["LifecycleState"] for instance in self.describe(name)["Instances"]]

    def run_all(self, name: str = "web") -> list[str]:
        for instance in self.instances(name):
            self.groups.instance_running(instance)
        return self.instances(name)


LAUNCH_HOOK = {
    "LifecycleHookName": "launch",
    "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING",
    "HeartbeatTimeout": 60,
}
TERMINATE_HOOK = {
    "LifecycleHookName": "terminate",
    "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
    "HeartbeatTimeout": 60,
}


@pytest.fixture(scope="module")
def shared() -> Iterator[Cloud]:
    world = World()
    groups = Groups(
        launch=world.launch,
        terminate=world.terminated.append,
        disown=world.disowned.append,
        publish=world.events.append,
        send=world.send,
        now=lambda: world.time,
    )
    install(groups)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    where: dict[str, Any] = {
        "region_name": "us-east-1",
        "endpoint_url": f"http://{host}:{port}",
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
        "config": Config(retries={"total_max_attempts": 1}),
    }
    clients: list[Any] = [get_session().create_client(name, **where) for name in ("autoscaling", "ec2")]
    clients[1].create_launch_template(LaunchTemplateName="web", LaunchTemplateData={"ImageId": "ami-00000001"})
    yield Cloud(world, groups, *clients)
    server.stop()


@pytest.fixture
def cloud(shared: Cloud) -> Iterator[Cloud]:
    shared.world.forget()
    yield shared
    shared.world.refuse = ""
    for group in shared.groups.all():
        shared.api.delete_auto_scaling_group(AutoScalingGroupName=group.name, ForceDelete=True)
        for instance in shared.instances(group.name) if group.members else ():
            shared.groups.instance_terminated(instance)
    assert not shared.groups.all()


def refusal(error: pytest.ExceptionInfo[ClientError]) -> tuple[str, str]:
    answer = error.value.response["Error"]
    return answer["Code"], answer["Message"]


def test_a_new_group_launches_into_its_zones_with_its_tags(cloud: Cloud) -> None:
    tags = [
        {"Key": "autoprovisioner:fleet", "Value": "web", "PropagateAtLaunch": True},
        {"Key": "cost", "Value": "42", "PropagateAtLaunch": False},
    ]
    cloud.create(Tags=tags)
    group = cloud.describe()
    assert [instance["LifecycleState"] for instance in group["Instances"]] == ["Pending", "Pending"]
    assert [order.zone for order in cloud.world.orders] == ["us-east-1a", "us-east-1b"]
    assert dict(cloud.world.orders[0].tags) == {"autoprovisioner:fleet": "web", "aws:autoscaling:groupName": "web"}
    assert group["LaunchTemplate"]["LaunchTemplateName"] == "web"
    assert group["LaunchTemplate"]["LaunchTemplateId"].startswith("lt-")
    assert group["Instances"][0]["LaunchTemplate"]["Version"] == "1"
    assert [tag["Key"] for tag in group["Tags"]] == ["autoprovisioner:fleet", "cost"]


def test_launch_hooks_announce_wait_and_are_completed_by_token(cloud: Cloud) -> None:
    queue = "arn:aws:sqs:us-east-1:000000000000:launches"
    hook = {**LAUNCH_HOOK, "NotificationTargetARN": queue, "NotificationMetadata": "m"}
    cloud.create(desired=1, LifecycleHookSpecificationList=[hook])
    (instance,) = cloud.run_all()
    assert cloud.states() == ["Pending:Wait"]
    (event,) = cloud.world.events
    assert event["detail-type"] == "EC2 Instance-launch Lifecycle Action"
    assert event["detail"]["EC2InstanceId"] == instance
    assert event["detail"]["NotificationMetadata"] == "m"
    (test, notification) = cloud.world.sent
    assert (test[0], test[1]["Event"]) == (queue, "autoscaling:TEST_NOTIFICATION")
    assert notification[1]["LifecycleActionToken"] == event["detail"]["LifecycleActionToken"]
    meant = {"AutoScalingGroupName": "web", "LifecycleHookName": "launch"}
    token = event["detail"]["LifecycleActionToken"]
    cloud.api.record_lifecycle_action_heartbeat(**meant, LifecycleActionToken=token)
    cloud.api.complete_lifecycle_action(**meant, LifecycleActionToken=token, LifecycleActionResult="CONTINUE")
    assert cloud.states() == ["Pending:Proceed"]
    cloud.groups.tick()
    assert cloud.states() == ["InService"]
    assert cloud.world.events[-1]["detail-type"] == "EC2 Instance Launch Successful"


def test_completing_twice_is_answered_as_aws_does(cloud: Cloud) -> None:
    cloud.create(desired=1, LifecycleHookSpecificationList=[LAUNCH_HOOK])
    (instance,) = cloud.run_all()
    meant = {"AutoScalingGroupName": "web", "LifecycleHookName": "launch", "InstanceId": instance}
    cloud.api.complete_lifecycle_action(**meant, LifecycleActionResult="CONTINUE")
    with pytest.raises(ClientError) as error:
        cloud.api.complete_lifecycle_action(**meant, LifecycleActionResult="CONTINUE")
    assert refusal(error) == ("ValidationError", f"No active Lifecycle Action found with instance ID {instance}")
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_a_hook_times_out_with_the_tick(cloud: Cloud) -> None:
    cloud.create(desired=1, LifecycleHookSpecificationList=[LAUNCH_HOOK])
    cloud.run_all()
    cloud.world.time += 60
    cloud.groups.tick()
    assert cloud.states() == ["Terminating"]
    assert len(cloud.world.terminated) == 1
    cloud.world.time += 1
    cloud.groups.tick()
    assert cloud.states() == ["Terminating", "Pending"]


def test_a_group_name_is_taken_once(cloud: Cloud) -> None:
    cloud.create(desired=0)
    with pytest.raises(ClientError) as error:
        cloud.create(desired=0)
    assert refusal(error)[0] == "AlreadyExists"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"DesiredCapacity": 9}, "between the specified min size:0 and max size:5"),
        ({"MinSize": 6}, "must be greater than or equal to min bound"),
        ({"LaunchTemplate": {"LaunchTemplateName": "nope"}}, "template name nope, does not exist"),
        ({"AvailabilityZones": []}, "At least one Availability Zone"),
        ({"LifecycleHookSpecificationList": [{**LAUNCH_HOOK, "HeartbeatTimeout": 5}]}, "between 30 and 7200"),
    ],
)
def test_a_group_that_aws_would_not_take_is_refused(cloud: Cloud, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ClientError) as error:
        cloud.create(**more)
    assert refusal(error)[0] == "ValidationError"
    assert words in refusal(error)[1]
    assert not cloud.groups.all()


def test_zones_follow_from_subnets(cloud: Cloud) -> None:
    subnets = cloud.ec2.describe_subnets()["Subnets"][:2]
    names = ",".join(subnet["SubnetId"] for subnet in subnets)
    cloud.create(AvailabilityZones=[], VPCZoneIdentifier=names)
    assert cloud.describe()["AvailabilityZones"] == [subnet["AvailabilityZone"] for subnet in subnets]
    assert cloud.world.orders[0].subnets == names


def test_update_clamps_desired_and_moves_to_another_template_version(cloud: Cloud) -> None:
    cloud.create()
    template = {"LaunchTemplateName": "web", "Version": "$Latest"}
    cloud.api.update_auto_scaling_group(AutoScalingGroupName="web", MinSize=3, LaunchTemplate=template)
    group = cloud.describe()
    assert (group["DesiredCapacity"], len(group["Instances"])) == (3, 3)
    assert cloud.world.orders[-1].template.version == "$Latest"


def test_desired_capacity_rises_and_is_held_within_bounds(cloud: Cloud) -> None:
    cloud.create(desired=0)
    cloud.api.set_desired_capacity(AutoScalingGroupName="web", DesiredCapacity=1)
    assert cloud.states() == ["Pending"]
    with pytest.raises(ClientError) as error:
        cloud.api.set_desired_capacity(AutoScalingGroupName="web", DesiredCapacity=6)
    assert refusal(error) == (
        "ValidationError",
        "New SetDesiredCapacity value 6 is above max value 5 for the AutoScalingGroup.",
    )


def test_pages_are_complete_and_do_not_overlap(cloud: Cloud) -> None:
    for name in ("a", "b", "c"):
        cloud.create(name, desired=1)
    pages = cloud.api.get_paginator("describe_auto_scaling_groups").paginate(PaginationConfig={"PageSize": 1})
    assert [[group["AutoScalingGroupName"] for group in page["AutoScalingGroups"]] for page in pages] == [
        ["a"],
        ["b"],
        ["c"],
    ]
    pages = cloud.api.get_paginator("describe_auto_scaling_instances").paginate(PaginationConfig={"PageSize": 2})
    assert [len(page["AutoScalingInstances"]) for page in pages] == [2, 1]
    with pytest.raises(ClientError) as error:
        cloud.api.describe_auto_scaling_groups(NextToken="stale")
    assert refusal(error)[0] == "InvalidNextToken"


def test_groups_are_found_by_name_and_tag_and_may_come_without_instances(cloud: Cloud) -> None:
    cloud.create("a", desired=1, Tags=[{"Key": "k", "Value": "v", "PropagateAtLaunch": False}])
    cloud.create("b", desired=0)
    found = cloud.api.describe_auto_scaling_groups(Filters=[{"Name": "tag:k", "Values": ["v"]}], IncludeInstances=False)
    assert [(group["AutoScalingGroupName"], group["Instances"]) for group in found["AutoScalingGroups"]] == [("a", [])]
    assert cloud.api.describe_auto_scaling_groups(AutoScalingGroupNames=["c"])["AutoScalingGroups"] == []


def test_hooks_are_put_described_and_deleted(cloud: Cloud) -> None:
    cloud.create(desired=0)
    cloud.api.put_lifecycle_hook(AutoScalingGroupName="web", **TERMINATE_HOOK, DefaultResult="CONTINUE")
    cloud.api.put_lifecycle_hook(
        AutoScalingGroupName="web", LifecycleHookName="terminate", NotificationTargetARN="arn:aws:sqs:::q", RoleARN="r"
    )
    (hook,) = cloud.api.describe_lifecycle_hooks(AutoScalingGroupName="web")["LifecycleHooks"]
    assert hook == {
        "LifecycleHookName": "terminate",
        "AutoScalingGroupName": "web",
        "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
        "NotificationTargetARN": "arn:aws:sqs:::q",
        "RoleARN": "r",
        "HeartbeatTimeout": 60,
        "GlobalTimeout": 6000,
        "DefaultResult": "CONTINUE",
    }
    assert [body["Event"] for _, body in cloud.world.sent] == ["autoscaling:TEST_NOTIFICATION"]
    cloud.api.delete_lifecycle_hook(AutoScalingGroupName="web", LifecycleHookName="terminate")
    assert cloud.api.describe_lifecycle_hooks(AutoScalingGroupName="web")["LifecycleHooks"] == []


def test_an_unhealthy_instance_is_replaced_and_seen_leaving(cloud: Cloud) -> None:
    cloud.create(LifecycleHookSpecificationList=[TERMINATE_HOOK])
    first, _ = cloud.run_all()
    cloud.api.set_instance_health(InstanceId=first, HealthStatus="Unhealthy")
    assert cloud.states() == ["Terminating:Wait", "InService", "Pending"]
    (seen,) = cloud.api.describe_auto_scaling_instances(InstanceIds=[first])["AutoScalingInstances"]
    assert (seen["HealthStatus"], seen["AutoScalingGroupName"]) == ("UNHEALTHY", "web")
    assert cloud.world.events[-1]["detail-type"] == "EC2 Instance-terminate Lifecycle Action"
    cloud.api.complete_lifecycle_action(
        AutoScalingGroupName="web", LifecycleHookName="terminate", InstanceId=first, LifecycleActionResult="CONTINUE"
    )
    assert cloud.world.terminated == [first]
    cloud.groups.instance_terminated(first)
    assert first not in cloud.instances()
    assert cloud.world.events[-1]["detail-type"] == "EC2 Instance Terminate Successful"


def test_an_instance_that_ec2_lost_is_replaced_without_hooks(cloud: Cloud) -> None:
    cloud.create(desired=1, LifecycleHookSpecificationList=[TERMINATE_HOOK])
    (first,) = cloud.run_all()
    cloud.groups.instance_terminated(first)
    assert cloud.states() == ["Pending"]
    assert first not in cloud.instances()


def test_terminate_answers_with_the_activity_for_one_and_for_several(cloud: Cloud) -> None:
    cloud.create(desired=3)
    first, second, third = cloud.run_all()
    activity = cloud.api.terminate_instance_in_auto_scaling_group(
        InstanceId=first, ShouldDecrementDesiredCapacity=True
    )["Activity"]
    assert first in activity["Description"]
    assert activity["StatusCode"] == "InProgress"
    activities = cloud.api.terminate_instance_in_auto_scaling_group(
        AutoScalingGroupName="web", InstanceIds=[second, third], ShouldDecrementDesiredCapacity=False
    )["Activities"]
    assert len(activities) == 2
    assert cloud.describe()["DesiredCapacity"] == 2
    assert sorted(cloud.states()) == ["Pending"] * 2 + ["Terminating"] * 3


def test_an_unknown_instance_is_refused(cloud: Cloud) -> None:
    with pytest.raises(ClientError) as error:
        cloud.api.terminate_instance_in_auto_scaling_group(InstanceId="i-0", ShouldDecrementDesiredCapacity=False)
    assert refusal(error)[0] == "ValidationError"
    assert "i-0" in refusal(error)[1]


def test_a_detached_instance_runs_on_and_is_replaced(cloud: Cloud) -> None:
    cloud.create(desired=1)
    (first,) = cloud.run_all()
    answer = cloud.api.detach_instances(
        AutoScalingGroupName="web", InstanceIds=[first], ShouldDecrementDesiredCapacity=False
    )
    assert answer["Activities"][0]["StatusCode"] == "Successful"
    assert cloud.world.disowned == [first]
    assert cloud.world.terminated == []
    assert first not in cloud.instances()
    assert cloud.states() == ["Pending"]


def test_standby_and_back(cloud: Cloud) -> None:
    cloud.create(desired=1)
    (first,) = cloud.run_all()
    meant = {"AutoScalingGroupName": "web", "InstanceIds": [first]}
    assert cloud.api.enter_standby(**meant, ShouldDecrementDesiredCapacity=True)["Activities"]
    assert (cloud.states(), cloud.describe()["DesiredCapacity"]) == (["Standby"], 0)
    assert cloud.api.exit_standby(**meant)["Activities"]
    assert (cloud.states(), cloud.describe()["DesiredCapacity"]) == (["InService"], 1)


def test_protected_instances_survive_scale_in(cloud: Cloud) -> None:
    cloud.create()
    first, second = cloud.run_all()
    cloud.api.set_instance_protection(AutoScalingGroupName="web", InstanceIds=[first], ProtectedFromScaleIn=True)
    cloud.api.set_desired_capacity(AutoScalingGroupName="web", DesiredCapacity=0)
    assert cloud.world.terminated == [second]
    assert cloud.describe()["Instances"][0]["ProtectedFromScaleIn"]


def test_policies_are_put_described_executed_and_fired_by_alarms(cloud: Cloud) -> None:
    cloud.create(desired=1)
    arn = cloud.api.put_scaling_policy(
        AutoScalingGroupName="web", PolicyName="up", AdjustmentType="ChangeInCapacity", ScalingAdjustment=2, Cooldown=60
    )["PolicyARN"]
    (policy,) = cloud.api.describe_policies(AutoScalingGroupName="web")["ScalingPolicies"]
    assert (policy["PolicyARN"], policy["ScalingAdjustment"], policy["Cooldown"]) == (arn, 2, 60)
    cloud.groups.alarm_fired(arn, "busy")
    assert cloud.describe()["DesiredCapacity"] == 3
    cloud.groups.alarm_fired(arn, "busy")
    assert cloud.describe()["DesiredCapacity"] == 3
    with pytest.raises(ClientError) as error:
        cloud.api.execute_policy(AutoScalingGroupName="web", PolicyName="up", HonorCooldown=True)
    assert refusal(error)[0] == "ScalingActivityInProgress"
    cloud.api.execute_policy(PolicyName=arn)
    assert cloud.describe()["DesiredCapacity"] == 5
    cloud.api.delete_policy(AutoScalingGroupName="web", PolicyName="up")
    assert cloud.api.describe_policies()["ScalingPolicies"] == []
    cloud.groups.alarm_fired(arn, "busy")


def test_activities_say_why_newest_first(cloud: Cloud) -> None:
    cloud.world.refuse = "Launch template web has no image"
    cloud.create(desired=1)
    (failed,) = cloud.api.describe_scaling_activities(AutoScalingGroupName="web")["Activities"]
    assert (failed["StatusCode"], failed["StatusMessage"]) == ("Failed", cloud.world.refuse)
    assert "increasing the capacity from 0 to 1" in failed["Cause"]
    assert cloud.world.events[-1]["detail-type"] == "EC2 Instance Launch Unsuccessful"
    cloud.world.refuse = ""
    cloud.world.time += 1
    cloud.groups.tick()
    newest, _ = cloud.api.describe_scaling_activities(AutoScalingGroupName="web")["Activities"]
    assert newest["StatusCode"] == "InProgress"
    assert newest["StartTime"].timestamp() == cloud.world.time


def test_suspended_launches_wait_for_resume(cloud: Cloud) -> None:
    cloud.create(desired=0)
    cloud.api.suspend_processes(AutoScalingGroupName="web", ScalingProcesses=["Launch"])
    cloud.api.set_desired_capacity(AutoScalingGroupName="web", DesiredCapacity=1)
    assert cloud.instances() == []
    assert [process["ProcessName"] for process in cloud.describe()["SuspendedProcesses"]] == ["Launch"]
    cloud.api.resume_processes(AutoScalingGroupName="web")
    assert cloud.states() == ["Pending"]


def test_tags_are_put_filtered_and_deleted(cloud: Cloud) -> None:
    cloud.create(desired=0)
    tag = {"ResourceId": "web", "ResourceType": "auto-scaling-group", "Key": "k"}
    cloud.api.create_or_update_tags(Tags=[{**tag, "Value": "v", "PropagateAtLaunch": True}])
    by_group = [{"Name": "auto-scaling-group", "Values": ["web"]}]
    assert cloud.api.describe_tags(Filters=by_group)["Tags"] == [{**tag, "Value": "v", "PropagateAtLaunch": True}]
    assert cloud.api.describe_tags(Filters=[{"Name": "key", "Values": ["other"]}])["Tags"] == []
    cloud.api.delete_tags(Tags=[tag])
    assert cloud.api.describe_tags()["Tags"] == []


def test_a_group_with_instances_is_deleted_only_by_force(cloud: Cloud) -> None:
    cloud.create(desired=1, LifecycleHookSpecificationList=[TERMINATE_HOOK])
    (first,) = cloud.run_all()
    with pytest.raises(ClientError) as error:
        cloud.api.delete_auto_scaling_group(AutoScalingGroupName="web")
    assert refusal(error)[0] == "ResourceInUse"
    cloud.api.delete_auto_scaling_group(AutoScalingGroupName="web", ForceDelete=True)
    assert cloud.describe()["Status"] == "Delete in progress"
    assert cloud.world.terminated == [first]
    cloud.groups.instance_terminated(first)
    assert cloud.api.describe_auto_scaling_groups()["AutoScalingGroups"] == []


def test_news_of_an_instance_before_its_launch_returned_is_not_lost(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quick(order: LaunchInstance) -> Launched:
        what = cloud.world.launch(order)
        cloud.groups.instance_running(what.instance)
        return what

    monkeypatch.setattr(cloud.groups, "_launch", quick)
    cloud.create(desired=1)
    assert cloud.states() == ["InService"]


def test_an_action_that_is_not_there_is_refused(cloud: Cloud) -> None:
    with pytest.raises(ClientError) as error:
        cloud.api.describe_warm_pool(AutoScalingGroupName="web")
    assert refusal(error) == ("ValidationError", "The local cloud does not have the action DescribeWarmPool.")
