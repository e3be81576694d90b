"""Who gets what: every message through topics and filters, every event of AWS through rules."""

from __future__ import annotations

import json
import time

import pytest

from shared.events import (
    AlarmChanged,
    CommandChanged,
    ImageStateChanged,
    InstanceStateChanged,
    LifecycleAction,
    ObjectChanged,
    Unparseable,
    parse,
)
from shared.messages import Envelope
from shared.names import SERVICES, TopicName
from tests.simulation.machines import event
from tests.wire.conftest import modelled_too
from tests.wire.messaging.helpers import BUCKET, TOPICS, Body, queue_url, take, unique
from tests.wire.modelled import Model
from tests.wire.running import Endpoint, until

GRACE_S = 1.0
"""What comes later than this after the last expected one is not looked for."""

SERVER = "i-0123456789abcdef0"
IMAGE = "ami-0123456789abcdef0"
BAKE = "web-20260131t020000"

COMMANDS: list[tuple[Body, set[str]]] = [
    ({"type": "image.bake.requested"}, {"baker"}),
    ({"type": "image.rollback.requested"}, {"registry"}),
    ({"type": "image.pin.requested", "image": IMAGE}, {"registry"}),
    ({"type": "image.retirement.requested"}, {"janitor"}),
    ({"type": "release.set.requested", "component": "app", "version": "2"}, {"registry"}),
    ({"type": "release.undo.requested", "component": "app"}, {"registry"}),
    ({"type": "server.disable.requested", "server": SERVER}, {"reconciler"}),
    ({"type": "server.kill.requested", "server": SERVER}, {"reconciler"}),
]
FACTS: list[tuple[Body, set[str]]] = [
    (
        {"type": "release.set", "component": "app", "version": "2", "setting": 2, "rollout": True, "by": "me"},
        {"reconciler"},
    ),
    ({"type": "launch.unclaimed", "server": SERVER}, {"provisioner"}),
    ({"type": "server.ready", "server": SERVER, "image": IMAGE, "seconds": 9}, {"reconciler", "registry"}),
    ({"type": "server.provision.failed", "server": SERVER, "reason": "it broke"}, set()),
    ({"type": "server.replaced", "server": SERVER, "how": "terminated", "by": "me", "reason": "old"}, set()),
    ({"type": "fleet.converged", "healthy": 2, "wanted": 2}, {"chaos"}),
    ({"type": "fleet.degraded", "healthy": 1, "wanted": 2, "reason": "one died"}, {"chaos"}),
    ({"type": "image.ready", "image": IMAGE, "bake": BAKE}, {"registry"}),
    ({"type": "image.bake.failed", "bake": BAKE, "reason": "it broke"}, set()),
    ({"type": "image.promoted", "image": IMAGE, "generation": 2, "by": "me"}, set()),
    ({"type": "membership.changed", "generation": 3}, {"reconciler"}),
    ({"type": "rollout.changed", "rollout": 1, "state": "done"}, set()),
    ({"type": "server.update.granted", "server": SERVER, "rollout": 1}, {"provisioner", "registry"}),
    ({"type": "server.updated", "server": SERVER, "rollout": 1, "seconds": 9}, {"reconciler", "registry"}),
    (
        {"type": "server.update.failed", "server": SERVER, "rollout": 1, "restored": True, "reason": "it broke"},
        {"reconciler", "registry"},
    ),
    ({"type": "image.retired", "image": IMAGE}, set()),
    ({"type": "builder.reaped", "server": SERVER}, set()),
]
ALERTS: list[tuple[Body, set[str]]] = [
    ({"type": "alert.raised", "cause": "broken", "reason": "it broke", "next": "look"}, set()),
    ({"type": "alert.cleared", "cause": "broken"}, set()),
    (
        {
            "type": "request.refused",
            "server": SERVER,
            "request": "server.kill.requested",
            "by": "me",
            "reason": "too many",
            "next": "look",
        },
        set(),
    ),
]
UNKNOWN: list[Body] = [
    {"type": "image.bake.requested.not"},
    {"type": "IMAGE.BAKE.REQUESTED"},
    {"type": ""},
]
NOBODYS: list[Body] = [
    {"type": None},
    {"type": {"type": "image.bake.requested"}},
    {"kind": "image.bake.requested"},
    {"message": {"type": "image.bake.requested"}},
]


def collect(plane: Endpoint | Model, mark: str, expected: int) -> dict[str, list[str]]:
    """Take what carries the mark out of every service's queue, until ``expected`` came and a while after."""
    if isinstance(plane, Model):
        return {service: [body for body in plane.taken(service) if mark in body] for service in SERVICES}
    queues = {service: queue_url(plane, service) for service in SERVICES}
    found: dict[str, list[str]] = {service: [] for service in SERVICES}

    def look() -> bool:
        for service, queue in queues.items():
            found[service] += [message["Body"] for message in take(plane, queue) if mark in message["Body"]]
        return sum(map(len, found.values())) >= expected

    until(look)
    time.sleep(GRACE_S)
    look()
    return found


def publish(plane: Endpoint | Model, topic: TopicName, body: str) -> None:
    if isinstance(plane, Model):
        plane.publish(topic, body)
        return
    plane.client("sns").publish(TopicArn=TOPICS + topic, Message=body)


@modelled_too
@pytest.mark.parametrize(("topic", "messages"), [("commands", COMMANDS), ("events", FACTS), ("alerts", ALERTS)])
def test_a_message_typed_by_hand_comes_as_it_was_typed_to_those_who_want_it(
    any_plane: Endpoint | Model, topic: TopicName, messages: list[tuple[Body, set[str]]]
) -> None:
    fleet = unique("web")
    typed = [(json.dumps({**body, "fleet": fleet}), wanted) for body, wanted in messages]
    for body, _ in typed:
        publish(any_plane, topic, body)
    found = collect(any_plane, fleet, sum(len(wanted) for _, wanted in typed))
    for service in SERVICES:
        assert sorted(found[service]) == sorted(body for body, wanted in typed if service in wanted)
        for body in found[service]:
            incoming = parse(body)
            assert isinstance(incoming, Envelope)
            assert (incoming.source, incoming.time) == ("operator", None)


@modelled_too
def test_what_nobody_wants_reaches_nobody(any_plane: Endpoint | Model) -> None:
    fleet = unique("web")
    for body in [*UNKNOWN, *NOBODYS]:
        publish(any_plane, "events", json.dumps({**body, "fleet": fleet}))
    publish(any_plane, "commands", f"{fleet} is no JSON")
    wanted = json.dumps({"type": "image.bake.requested", "fleet": fleet})
    publish(any_plane, "events", wanted)  # a request on the topic of facts
    publish(any_plane, "commands", wanted)
    found = collect(any_plane, fleet, 1)
    assert found == {service: [wanted] if service == "baker" else [] for service in SERVICES}


@modelled_too
def test_a_request_of_a_type_that_nobody_knows_reaches_the_reconciler(any_plane: Endpoint | Model) -> None:
    fleet = unique("web")
    bodies = [json.dumps({**body, "fleet": fleet}) for body in UNKNOWN]
    for body in bodies:
        publish(any_plane, "commands", body)
    found = collect(any_plane, fleet, len(bodies))
    assert {service: sorted(held) for service, held in found.items()} == {
        service: sorted(bodies) if service == "reconciler" else [] for service in SERVICES
    }


def lifecycle(word: str, fleet: str, hook: str) -> tuple[str, str, Body]:
    detail = {
        "LifecycleActionToken": "71514b9d-6a40-4b26-8523-05e7ee35fa40",
        "AutoScalingGroupName": fleet,
        "LifecycleHookName": hook,
        "EC2InstanceId": SERVER,
        "LifecycleTransition": f"autoscaling:EC2_INSTANCE_{'LAUNCHING' if word == 'launch' else 'TERMINATING'}",
        "Origin": "EC2",
        "Destination": "AutoScalingGroup",
    }
    return "aws.autoscaling", f"EC2 Instance-{word} Lifecycle Action", detail


def instance(state: str) -> tuple[str, str, Body]:
    return "aws.ec2", "EC2 Instance State-change Notification", {"instance-id": SERVER, "state": state}


def image(state: str) -> tuple[str, str, Body]:
    return "aws.ec2", "EC2 AMI State Change", {"ImageId": IMAGE, "State": state, "ErrorMessage": ""}


def command(status: str, document: str = "AutoProvisioner-RunPlan") -> tuple[str, str, Body]:
    detail = {"command-id": "e8d3c0e4", "instance-id": SERVER, "document-name": document, "status": status}
    return "aws.ssm", "EC2 Command Invocation Status-change Notification", detail


EVENTS: list[tuple[tuple[str, str, Body], set[str], type | None]] = [
    (lifecycle("launch", "web", "autoprovisioner-launch"), {"provisioner"}, LifecycleAction),
    (lifecycle("terminate", "web", "autoprovisioner-terminate"), {"registry"}, LifecycleAction),
    (lifecycle("launch", "web", "somebody-elses"), set(), None),
    (lifecycle("terminate", "web", "somebody-elses"), set(), None),
    (instance("terminated"), {"reconciler"}, InstanceStateChanged),
    (instance("stopping"), {"reconciler"}, InstanceStateChanged),
    (instance("running"), set(), None),
    (image("available"), {"baker"}, ImageStateChanged),
    (image("failed"), {"baker"}, ImageStateChanged),
    (image("pending"), set(), None),
    (command("Success"), {"provisioner", "baker"}, CommandChanged),
    (command("Failed"), {"provisioner", "baker"}, CommandChanged),
    (command("InProgress"), set(), None),
    (command("Success", "AWS-RunShellScript"), set(), None),
]


def put_events(plane: Endpoint | Model, entries: list[Body]) -> None:
    if isinstance(plane, Model):
        for each in entries:
            detail = json.loads(each["Detail"])
            plane.world.messaging.emit(event(each["Source"], each["DetailType"], detail))
        return
    for start in range(0, len(entries), 10):
        answer = plane.client("events").put_events(Entries=entries[start : start + 10])
        assert answer["FailedEntryCount"] == 0


def write_and_delete(plane: Endpoint | Model, written: list[str], deleted: str) -> None:
    if isinstance(plane, Model):
        for key in written:
            plane.world.bucket.put(key, b"{}")
        plane.world.bucket.delete(deleted)
        return
    s3 = plane.client("s3")
    for key in written:
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"{}")
    s3.delete_object(Bucket=BUCKET, Key=deleted)


@modelled_too
def test_what_aws_says_comes_to_those_whom_it_concerns(any_plane: Endpoint | Model) -> None:
    mark = unique("mark")
    entries = [
        {"Source": source, "DetailType": kind, "Detail": json.dumps({**detail, "mark": f"{mark} {place}."})}
        for place, ((source, kind, detail), _, _) in enumerate(EVENTS)
    ]
    put_events(any_plane, entries)
    found = collect(any_plane, mark, sum(len(wanted) for _, wanted, _ in EVENTS))
    for service in SERVICES:
        assert len(found[service]) == sum(service in wanted for _, wanted, _ in EVENTS)
    for place, (_, wanted, kind) in enumerate(EVENTS):
        for each in wanted:
            [body] = [body for body in found[each] if f"{mark} {place}." in body]
            assert type(parse(body)) is kind


def test_an_alarm_is_heard_by_those_who_stop_for_alarms(message_plane: Endpoint) -> None:
    cloudwatch, name = message_plane.client("cloudwatch"), unique("alarm")
    cloudwatch.put_metric_alarm(
        AlarmName=name,
        AlarmActions=[f"{TOPICS}alarms"],
        Namespace="tests",
        MetricName=name,
        Statistic="Maximum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1,
        ComparisonOperator="GreaterThanThreshold",
    )
    cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="a test")
    found = collect(message_plane, name, 3)
    cloudwatch.delete_alarms(AlarmNames=[name])
    for service in SERVICES:
        heard = {parse(body) for body in found[service]}
        wanted = {AlarmChanged(name, "ALARM", "a test")} if service in {"reconciler", "registry", "chaos"} else set()
        assert heard == wanted, service


@modelled_too
def test_a_pointer_written_or_deleted_by_hand_is_told_to_the_registry(any_plane: Endpoint | Model) -> None:
    fleet = unique("web")
    pointer, other = f"fleets/{fleet}/image.json", f"fleets/{fleet}/other.json"
    write_and_delete(any_plane, [pointer, other], pointer)
    found = collect(any_plane, fleet, 2)
    told = ObjectChanged(BUCKET, f"fleets/{fleet}/image.json")
    assert {service: [parse(body) for body in bodies] for service, bodies in found.items()} == {
        service: [told, told] if service == "registry" else [] for service in SERVICES
    }


def test_whatever_the_plane_itself_has_sent_so_far_can_be_parsed(message_plane: Endpoint) -> None:
    """Ticks, test notifications, alarms that settle: no dead letter may come of a fresh deployment."""
    for service in SERVICES:
        for message in take(message_plane, queue_url(message_plane, service)):
            try:
                parse(message["Body"])
            except Unparseable as error:
                pytest.fail(f"{service} was sent {message['Body']}: {error}")
