"""What the services see of AWS: plain values, and narrow ports.

The adapters in ``shared.aws`` implement the ports, and so does the simulation's world.

Unknown is a value here: a listing that could not be completed raises ``Incomplete``, it is never shortened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

from shared.messages import Message


class CloudError(Exception):
    """A call to AWS failed. The subclasses say what follows from it."""


class Throttled(CloudError):
    """AWS asks for fewer requests: back off and try again."""


class Unavailable(CloudError):
    """A passing fault, a lost connection, or a reply that never came: the call may have been applied."""


class NotFound(CloudError):
    """AWS does not know the resource. Right after a launch or a terminate this proves nothing."""


class Denied(CloudError):
    """Credentials are missing, expired, or do not allow the call."""


class Refused(CloudError):
    """AWS refused the call for what it says; trying again changes nothing."""


class Incomplete(CloudError):
    """A listing failed half way; what was seen of it must not be acted on."""


class Conflict(CloudError):
    """A conditional write lost: somebody else wrote first."""


class LifecycleState(StrEnum):
    """The states of a group's instance that decisions ask about; AWS has more, and adds to them."""

    PENDING = "Pending"
    PENDING_WAIT = "Pending:Wait"
    PENDING_PROCEED = "Pending:Proceed"
    IN_SERVICE = "InService"
    TERMINATING = "Terminating"
    TERMINATING_WAIT = "Terminating:Wait"
    TERMINATING_PROCEED = "Terminating:Proceed"
    DETACHING = "Detaching"
    STANDBY = "Standby"


@dataclass(frozen=True)
class GroupMember:
    """One instance as its Auto Scaling group sees it. ``state`` is AWS's own word, known to us or not."""

    server: str
    state: str
    healthy: bool
    zone: str = ""
    template_version: str = ""

    @property
    def in_service(self) -> bool:
        """Whether it counts towards the fleet's strength."""
        return self.state == LifecycleState.IN_SERVICE


@dataclass(frozen=True)
class Group:
    """An Auto Scaling group, whole: DescribeAutoScalingGroups."""

    fleet: str
    minimum: int
    desired: int
    maximum: int
    members: tuple[GroupMember, ...]
    managed: bool
    """Whether it carries our ownership tag."""
    suspended: tuple[str, ...] = ()

    def member(self, server: str) -> GroupMember | None:
        """Return the member with this id, or None."""
        return next((member for member in self.members if member.server == server), None)

    def waiting_before(self, server: str) -> int:
        """Count the members that are being launched and have their turn before this one: by their ids, which all see.

        One that is launched later and has a lower id is let in beside those that began.
        """
        launching = (LifecycleState.PENDING, LifecycleState.PENDING_WAIT)
        return sum(member.server < server for member in self.members if member.state in launching)


@dataclass(frozen=True)
class Instance:
    """An EC2 instance: DescribeInstances.

    ``state`` is pending, running, stopping, stopped, shutting-down or terminated.
    """

    server: str
    state: str
    image: str
    address: str
    launched: datetime
    zone: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Image:
    """An AMI of our own account: DescribeImages(Owners=self)."""

    image: str
    name: str
    state: str
    """pending, available, failed, disabled, ...: available is the only one that launches."""
    created: datetime
    snapshots: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class TemplateVersion:
    """One version of a fleet's launch template."""

    version: int
    image: str
    default: bool


class CommandState(StrEnum):
    """Where a command on one server stands. The last four are final."""

    UNKNOWN = "unknown"
    """AWS does not know the invocation yet (GetCommandInvocation is eventually consistent)."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class CommandStatus:
    """GetCommandInvocation. ``output`` and ``errors`` are what AWS kept of them (24,000 and 8,000 characters)."""

    state: CommandState
    code: int = -1
    output: str = ""
    errors: str = ""
    detail: str = ""


@dataclass(frozen=True)
class StoredObject:
    """An S3 object's bytes, its entity tag, and when it was written, to the second."""

    body: bytes
    etag: str
    modified: datetime


LifecycleResult = Literal["CONTINUE", "ABANDON"]
AlarmState = Literal["OK", "ALARM", "INSUFFICIENT_DATA"]


class GroupsPort(Protocol):
    """Auto Scaling. All calls raise CloudError; all may be repeated."""

    async def describe(self, fleet: str) -> Group:
        """Return the group. NotFound when there is none; Incomplete when the listing failed half way."""
        ...

    async def complete(self, fleet: str, server: str, hook: str, result: LifecycleResult) -> bool:
        """Complete the server's lifecycle action; False when no action is waiting (already done, or timed out)."""
        ...

    async def heartbeat(self, fleet: str, server: str, hook: str) -> bool:
        """Restart the hook's timeout; False when no action is waiting."""
        ...

    async def mark_unhealthy(self, fleet: str, server: str) -> None:
        """Have the group replace the server."""
        ...

    async def terminate(self, fleet: str, server: str) -> None:
        """Terminate through the group, hooks included; desired capacity stays."""
        ...

    async def detach(self, fleet: str, server: str) -> None:
        """Take the server out of the group, running; desired capacity stays, so the group replaces it."""
        ...


class ServersPort(Protocol):
    """EC2: instances, images, launch templates. All calls raise CloudError."""

    async def instances(self, servers: Sequence[str]) -> Mapping[str, Instance]:
        """Return those of the instances that EC2 knows; an id that is missing proves nothing. Empty in, empty out."""
        ...

    async def tagged(self, tags: Mapping[str, str]) -> Sequence[Instance]:
        """Return all instances with all of these tags that are not terminated. ``tags`` must not be empty."""
        ...

    async def launch(self, token: str, image: str, fleet: str, tags: Mapping[str, str]) -> str:
        """Launch one instance like the fleet's launch template but with this image; same token, same instance."""
        ...

    async def tag(self, resource: str, tags: Mapping[str, str]) -> None:
        """Set tags on an instance, image or snapshot."""
        ...

    async def terminate(self, server: str) -> None:
        """Terminate an instance that is in no group."""
        ...

    async def create_image(self, server: str, name: str, tags: Mapping[str, str]) -> str:
        """Snapshot the server (rebooting it) into an image with this name, or adopt our image of that name."""
        ...

    async def images(self, fleet: str) -> Sequence[Image]:
        """Return all images of our own that carry the fleet's tag."""
        ...

    async def image(self, image: str) -> Image | None:
        """Return an image of our own account, or None when there is no such."""
        ...

    async def deregister(self, image: Image) -> None:
        """Deregister the image and delete its snapshots."""
        ...

    async def stock_image(self, stock: str) -> str:
        """Return the image id that ``stock`` names: an image id itself, or a parameter that holds one."""
        ...

    async def templates(self, fleet: str) -> Sequence[TemplateVersion]:
        """Return every version of the fleet's launch template."""
        ...

    async def set_template_image(self, fleet: str, image: str) -> int:
        """Make a launch template version with this image the default, a new one if need be; return its number."""
        ...


class CommandsPort(Protocol):
    """Systems Manager Run Command. All calls raise CloudError."""

    async def online(self, server: str) -> bool:
        """Whether the server's agent answers, so that a command can be sent."""
        ...

    async def send(
        self, server: str, document: str, parameters: Mapping[str, str], comment: str, timeout_s: int
    ) -> str:
        """Run a document on the server and return the command's id. Not idempotent: see ``find``."""
        ...

    async def find(self, server: str, comment: str) -> str | None:
        """Return the id of the command with this comment on the server: a lost reply to ``send`` is found here."""
        ...

    async def status(self, server: str, command: str) -> CommandStatus:
        """Return where the command stands."""
        ...

    async def cancel(self, server: str, command: str) -> None:
        """Ask for the command to be stopped."""
        ...


class ObjectsPort(Protocol):
    """S3, one bucket. All calls raise CloudError."""

    async def get(self, key: str) -> StoredObject | None:
        """Return the object, or None when there is none."""
        ...

    async def put(self, key: str, body: bytes, *, match: str | None = None, absent: bool = False) -> str:
        """Write, and return the new entity tag.

        With ``match`` only over that entity tag, with ``absent`` only where nothing is: Conflict otherwise.
        """
        ...

    async def delete(self, key: str) -> None:
        """Delete; no error when there is none."""
        ...

    async def etags(self, prefix: str) -> Mapping[str, str]:
        """Return the entity tags of all objects whose keys have this prefix, by key, in the keys' order."""
        ...

    async def folders(self, prefix: str) -> Sequence[str]:
        """Return the names, in order, of what lies between this prefix, which ends in a slash, and the next slash."""
        ...

    async def presign_get(self, key: str, expires_s: int) -> str:
        """Return a URL that reads the object without credentials."""
        ...

    async def presign_put(self, key: str, expires_s: int) -> str:
        """Return a URL that writes the object without credentials."""
        ...


class PublisherPort(Protocol):
    """SNS. Which topic a message goes to follows from its type."""

    async def publish(self, message: Message) -> None:
        """Publish a fact, a request or an alert. Delivery is at least once."""
        ...


class AlarmsPort(Protocol):
    """CloudWatch alarms."""

    async def states(self, names: Sequence[str]) -> Mapping[str, AlarmState]:
        """Return the state of each alarm; one that does not exist is INSUFFICIENT_DATA. Empty in, empty out."""
        ...


class HealthPort(Protocol):
    """A server's own health page."""

    async def probe(self, url: str, timeout_s: float) -> bool | None:
        """True when it answers well, False when it answers badly or refuses, None when nobody can tell (time-out)."""
        ...


class QueueMessage(NamedTuple):
    """One message as a queue handed it out. ``receipt`` is good for this receive only.

    ``attributes`` are the string attributes that the sender set (``traceparent`` and ours), not SQS's own.
    """

    id: str
    body: str
    receipt: str
    receive_count: int = 1
    """How often it was handed out, this time included: ApproximateReceiveCount."""
    attributes: Mapping[str, str] = MappingProxyType({})
    sent: float = 0.0
    """When the queue took it in, in seconds since 1970: SentTimestamp. The same at every receive."""


class QueuePort(Protocol):
    """SQS: one service's queue, and the dead-letter queue beside it. All calls raise CloudError.

    Whatever the length of what they are given, the calls send it in requests of at most ten entries.
    """

    async def receive(self, limit: int, wait_s: int, visibility_s: int) -> Sequence[QueueMessage]:
        """Return up to ``limit`` (1 to 10) messages, waiting up to ``wait_s`` (0 to 20) seconds for the first.

        They stay hidden from other receivers for ``visibility_s`` seconds.
        """
        ...

    async def delete(self, receipts: Sequence[str]) -> Sequence[str]:
        """Delete the messages; return the receipts that could not be deleted (they will be seen again)."""
        ...

    async def extend(self, receipts: Mapping[str, int]) -> Sequence[str]:
        """Hide each receipt's message for so many seconds from now (0: show it at once).

        Return the receipts for which that failed: they are visible already, or deleted.
        """
        ...

    async def send(self, body: str, delay_s: int, attributes: Mapping[str, str]) -> None:
        """Send to the queue itself; it can be received after ``delay_s`` (0 to 900) seconds."""
        ...

    async def send_dead(self, body: str, attributes: Mapping[str, str]) -> None:
        """Send to the dead-letter queue."""
        ...
