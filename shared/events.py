"""Whatever reaches a queue, as one of a few values: our own messages, and what AWS says in its many shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from urllib.parse import unquote_plus

import orjson
from pydantic import ValidationError

from shared.cloud import AlarmState
from shared.ids import IMAGE_PATTERN, SERVER_PATTERN
from shared.messages import Message, Tick, parse_message

BODY_LIMIT = 262_144
"""Bytes. SQS takes four times as much by now; nothing that we want is a tenth as long."""

DEPTH_LIMIT = 32
"""Arrays and objects within each other; a CloudWatch alarm, the deepest that we know, has eight."""

TEXT_LIMIT = 4096


class Unparseable(Exception):
    """The body is none of the shapes that we know; the message says why."""


@dataclass(frozen=True)
class LifecycleAction:
    """A server waits in a lifecycle hook.

    With a warm pool that is also so on the way into the pool (``launching``) and back into it (``terminating``); and
    after its root volume was replaced (``launching``). The server's state in the group tells.
    """

    fleet: str
    server: str
    hook: str
    token: str
    transition: Literal["launching", "terminating"]


@dataclass(frozen=True)
class InstanceStateChanged:
    """EC2 says that an instance is in another state."""

    server: str
    state: str


@dataclass(frozen=True)
class ImageStateChanged:
    """EC2 says that an image is available, failed or gone."""

    image: str
    state: str
    reason: str


@dataclass(frozen=True)
class CommandChanged:
    """Systems Manager says that a command stands elsewhere. ``server`` is empty for the command as a whole."""

    command: str
    server: str
    status: str


@dataclass(frozen=True)
class AlarmChanged:
    """CloudWatch says that an alarm changed."""

    name: str
    state: AlarmState
    reason: str


@dataclass(frozen=True)
class ObjectChanged:
    """S3 says that an object was written or deleted."""

    bucket: str
    key: str


@dataclass(frozen=True)
class Ignorable:
    """A shape that we know and that asks nothing of us, such as a test notification."""

    what: str


@dataclass(frozen=True)
class Several:
    """One message with several events in it: the bodies that it would have come as, had each come alone.

    The consumer sends each of them on by itself; no handler sees this.
    """

    bodies: tuple[str, ...]


AwsEvent = (
    LifecycleAction
    | InstanceStateChanged
    | ImageStateChanged
    | CommandChanged
    | AlarmChanged
    | ObjectChanged
    | Ignorable
    | Several
)
Incoming = Message | AwsEvent


Fields = Mapping[str, Any]


def parse(body: str) -> Incoming:
    """Say what a queue's message is. Pure.

    It may be wrapped in an SNS envelope. AWS adds fields to its events now and then: those are passed over; in our
    own messages an unknown field is an error.

    Raises:
        Unparseable: it is too long, too deep, not JSON, or none of the shapes that we know.
    """
    fields = _decode(body)
    if "Message" in fields and "TopicArn" in fields:
        body = _unwrap(fields)
        fields = _decode(body)
    if "type" in fields:
        return _own(body)
    for mark, read in _SHAPES.items():
        if mark in fields:
            return read(fields)
    raise Unparseable(f"no shape that we know has the fields {_named(fields)}")


def _decode(body: str) -> Fields:
    size = len(body.encode(errors="replace"))
    if size > BODY_LIMIT:
        raise Unparseable(f"the body has {size} bytes, more than {BODY_LIMIT}")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unparseable(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Unparseable("the body is not a JSON object")
    if body.count("{") + body.count("[") > DEPTH_LIMIT and _depth(value) > DEPTH_LIMIT:
        raise Unparseable(f"the body is nested more than {DEPTH_LIMIT} deep")
    return value


def _depth(value: object) -> int:
    """Count the levels of arrays and objects. Pure; without recursion, since that is what is being measured."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


def _unwrap(envelope: Fields) -> str:
    kind = _text(envelope, "Type")
    if kind != "Notification":
        raise Unparseable(f"an SNS envelope of type {kind!r}")
    inner = envelope["Message"]
    if not isinstance(inner, str):
        raise Unparseable("Message is not text")
    return inner


def _named(fields: Fields) -> str:
    return ", ".join(sorted(repr(name[:40]) for name in fields)[:8]) or "(none)"


def _own(body: str) -> Message:
    try:
        return parse_message(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"])
        raise Unparseable(f"{where}: {first['msg']}"[:500] if where else first["msg"][:500]) from error


def _text(fields: Fields, name: str, pattern: str = "") -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= TEXT_LIMIT:
        raise Unparseable(f"{name} is missing, empty, too long or not text")
    if pattern and not re.fullmatch(pattern, value):
        raise Unparseable(f"{name} is {value[:80]!r}, which cannot be")
    return value


def _remark(fields: Fields, name: str) -> str:
    """Read a text that people may want to see but nothing depends on."""
    value = fields.get(name)
    return value[:TEXT_LIMIT] if isinstance(value, str) else ""


def _object(fields: Fields, name: str) -> Fields:
    value = fields.get(name)
    if not isinstance(value, dict):
        raise Unparseable(f"{name} is missing or not an object")
    return value


def _lifecycle(fields: Fields) -> LifecycleAction | Ignorable:
    transition = _text(fields, "LifecycleTransition")
    if transition == "autoscaling:TEST_NOTIFICATION":
        return Ignorable("test notification of a lifecycle hook")
    if transition not in _TRANSITIONS:
        raise Unparseable(f"LifecycleTransition is {transition[:80]!r}, which we do not know")
    if transition.endswith("TERMINATING") and fields.get("Action") == "ReplaceRootVolume":
        return Ignorable("a root volume is about to be replaced; nothing terminates")
    return LifecycleAction(
        fleet=_text(fields, "AutoScalingGroupName"),
        server=_text(fields, "EC2InstanceId", SERVER_PATTERN),
        hook=_text(fields, "LifecycleHookName"),
        token=_text(fields, "LifecycleActionToken"),
        transition=_TRANSITIONS[transition],
    )


_TRANSITIONS: Mapping[str, Literal["launching", "terminating"]] = {
    "autoscaling:EC2_INSTANCE_LAUNCHING": "launching",
    "autoscaling:EC2_INSTANCE_TERMINATING": "terminating",
}


def _instance_state(detail: Fields) -> InstanceStateChanged:
    return InstanceStateChanged(_text(detail, "instance-id", SERVER_PATTERN), _text(detail, "state"))


def _image_state(detail: Fields) -> ImageStateChanged:
    image = _text(detail, "ImageId", IMAGE_PATTERN)
    return ImageStateChanged(image, _text(detail, "State"), _remark(detail, "ErrorMessage"))


def _command(detail: Fields) -> CommandChanged:
    return CommandChanged(_text(detail, "command-id"), "", _text(detail, "status"))


def _invocation(detail: Fields) -> CommandChanged:
    server = _text(detail, "instance-id", SERVER_PATTERN)
    return CommandChanged(_text(detail, "command-id"), server, _text(detail, "status"))


def _command_by_sns(fields: Fields) -> CommandChanged:
    server = _text(fields, "instanceId", SERVER_PATTERN) if "instanceId" in fields else ""
    return CommandChanged(_text(fields, "commandId"), server, _text(fields, "status"))


def _alarm(detail: Fields) -> AlarmChanged:
    state = _object(detail, "state")
    return AlarmChanged(_text(detail, "alarmName"), _alarm_state(state, "value"), _remark(state, "reason"))


def _alarm_by_sns(fields: Fields) -> AlarmChanged:
    state = _alarm_state(fields, "NewStateValue")
    return AlarmChanged(_text(fields, "AlarmName"), state, _remark(fields, "NewStateReason"))


def _alarm_state(fields: Fields, name: str) -> AlarmState:
    value = _text(fields, name)
    if value not in _ALARM_STATES:
        raise Unparseable(f"{name} is {value[:80]!r}, which no alarm's state is")
    return _ALARM_STATES[value]


_ALARM_STATES: Mapping[str, AlarmState] = {
    "OK": "OK",
    "ALARM": "ALARM",
    "INSUFFICIENT_DATA": "INSUFFICIENT_DATA",
}


def _notification(fields: Fields) -> Ignorable:
    """Read the test notifications of Auto Scaling and S3, and a group's plain notifications of what it has done."""
    event = _text(fields, "Event")
    if event not in _NOTIFICATIONS:
        raise Unparseable(f"Event is {event[:80]!r}, which we do not know")
    return Ignorable(event)


_NOTIFICATIONS = frozenset(
    {
        "autoscaling:TEST_NOTIFICATION",
        "autoscaling:EC2_INSTANCE_LAUNCH",
        "autoscaling:EC2_INSTANCE_LAUNCH_ERROR",
        "autoscaling:EC2_INSTANCE_TERMINATE",
        "autoscaling:EC2_INSTANCE_TERMINATE_ERROR",
        "s3:TestEvent",
    }
)


def _records(fields: Fields) -> ObjectChanged | Several:
    """Read an S3 notification. Its list has one record in practice, and may have more by its definition."""
    records = fields["Records"]
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise Unparseable("Records is not a list of objects")
    changes = [_record(record) for record in records]
    if len(changes) == 1:
        return changes[0]
    return Several(tuple(orjson.dumps({"Records": [record]}).decode() for record in records))


def _record(record: Fields) -> ObjectChanged:
    s3 = _object(record, "s3")
    key = _text(_object(s3, "object"), "key")
    return ObjectChanged(_text(_object(s3, "bucket"), "name"), unquote_plus(key))


def _event(event: Fields) -> Incoming:
    source, kind = _text(event, "source"), _text(event, "detail-type")
    if (source, kind) == ("aws.events", "Scheduled Event"):
        return _tick(event)
    read = _EVENTS.get((source, kind))
    if read is not None:
        return read(_object(event, "detail"))
    if kind not in _ASK_NOTHING.get(source, ()):
        raise Unparseable(f"an event {kind[:80]!r} from {source[:80]!r}, which we do not know")
    return Ignorable(kind)


def _tick(event: Fields) -> Tick:
    """Read a rule's schedule without an Input of its own: a tick for all fleets."""
    try:
        time = datetime.fromisoformat(_text(event, "time"))
    except ValueError as error:
        raise Unparseable("time is no time") from error
    return Tick(id=_text(event, "id")[:64], time=time, source="aws.events")


_SHAPES: Mapping[str, Callable[[Fields], Incoming]] = {
    "detail-type": _event,
    "LifecycleTransition": _lifecycle,
    "AlarmName": _alarm_by_sns,
    "Records": _records,
    "commandId": _command_by_sns,
    "Event": _notification,
}
"""A field that only this shape has (in this order), and who reads it."""

_EVENTS: Mapping[tuple[str, str], Callable[[Fields], AwsEvent]] = {
    ("aws.autoscaling", "EC2 Instance-launch Lifecycle Action"): _lifecycle,
    ("aws.autoscaling", "EC2 Instance-terminate Lifecycle Action"): _lifecycle,
    ("aws.ec2", "EC2 Instance State-change Notification"): _instance_state,
    ("aws.ec2", "EC2 AMI State Change"): _image_state,
    ("aws.ssm", "EC2 Command Status-change Notification"): _command,
    ("aws.ssm", "EC2 Command Invocation Status-change Notification"): _invocation,
    ("aws.cloudwatch", "CloudWatch Alarm State Change"): _alarm,
}

_ASK_NOTHING: Mapping[str, frozenset[str]] = {
    "aws.autoscaling": frozenset(
        {
            "EC2 Instance Launch Successful",
            "EC2 Instance Launch Unsuccessful",
            "EC2 Instance Terminate Successful",
            "EC2 Instance Terminate Unsuccessful",
            "EC2 Auto Scaling Instance Refresh Started",
            "EC2 Auto Scaling Instance Refresh Succeeded",
            "EC2 Auto Scaling Instance Refresh Failed",
            "EC2 Auto Scaling Instance Refresh Cancelled",
            "EC2 Auto Scaling Instance Refresh Checkpoint Reached",
            "EC2 Auto Scaling Instance Refresh Rollback Started",
            "EC2 Auto Scaling Instance Refresh Rollback Succeeded",
            "EC2 Auto Scaling Instance Refresh Rollback Failed",
        }
    ),
    "aws.ec2": frozenset({"EC2 Spot Instance Interruption Warning", "EC2 Instance Rebalance Recommendation"}),
    "aws.cloudwatch": frozenset({"CloudWatch Alarm Contributor State Change", "CloudWatch Alarm Configuration Change"}),
}
