"""Whatever reaches a queue, as one of a few values: our own messages, and what AWS says in its many shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shared.cloud import AlarmState
from shared.messages import Message


class Unparseable(Exception):
    """The body is none of the shapes that we know; the message says why."""


@dataclass(frozen=True)
class LifecycleAction:
    """A server waits in a lifecycle hook."""

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


AwsEvent = (
    LifecycleAction
    | InstanceStateChanged
    | ImageStateChanged
    | CommandChanged
    | AlarmChanged
    | ObjectChanged
    | Ignorable
)
Incoming = Message | AwsEvent
