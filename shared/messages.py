"""Our own messages, one model each, told apart by ``type``.

People may leave out the envelope (``id``, ``time``, ``source``); it is filled in. Unknown fields are refused.
``parse_message`` is for bodies that are known to be ours; ``shared.events`` parses whatever reaches a queue.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from shared.ids import BakeId, ComponentName, FleetName, ImageId, ServerId, StepName, Version
from shared.moments import Moment

Reason = Annotated[str, StringConstraints(max_length=2000)]
Person = Annotated[str, StringConstraints(max_length=200)]
LogTail = Annotated[str, StringConstraints(max_length=8000)]


class Envelope(BaseModel):
    """What every message carries. ``time`` is when it was published, in UTC; None when a person left it out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(default_factory=lambda: uuid.uuid4().hex, max_length=64)
    time: Moment | None = None
    source: str = Field(default="operator", max_length=64)


class Tick(Envelope):
    """A schedule fired: look at everything. Sent by EventBridge as the target's Input."""

    type: Literal["tick"] = "tick"
    fleet: FleetName | None = None


class Nightly(Envelope):
    """The night's schedule fired: every fleet is to have an image baked. Sent as a tick is."""

    type: Literal["nightly"] = "nightly"
    fleet: FleetName | None = None


# Requests, on the commands topic.


class Requested(Envelope):
    """What somebody asks of a fleet, and why. The consumer fills in the id and the time of one typed without."""

    fleet: FleetName
    by: Person = "operator"
    reason: Reason = ""

    @property
    def asked(self) -> datetime:
        """When it was asked for: of two that contradict each other the later one counts, in whatever order they come.

        Raises:
            ValueError: it did not come through the consumer, and says no time.
        """
        if self.time is None:
            raise ValueError(f"{self.id} says not when it was asked for")
        return self.time

    def completed(self, message_id: str, sent: float) -> Self:
        """Return it with what was left out: the id and time (seconds since 1970) of the message that it came in.

        Nobody asks for a thing after it was sent: a time that has yet to come is a clock's error, and would stand in
        the way of all that is asked for until then.
        """
        sent_at = datetime.fromtimestamp(sent, UTC)
        known = self.id if "id" in self.model_fields_set else message_id
        time = min(self.time or sent_at, sent_at)
        return self if (known, time) == (self.id, self.time) else self.model_copy(update={"id": known, "time": time})


class ImageBakeRequested(Requested):
    """Bake a golden image for a fleet from its stock image."""

    type: Literal["image.bake.requested"] = "image.bake.requested"


class ImageRollbackRequested(Requested):
    """Point the fleet at an older image: ``to``, or the one before the present one."""

    type: Literal["image.rollback.requested"] = "image.rollback.requested"
    to: ImageId | None = None


class ImagePinRequested(Requested):
    """Hold the pointer at ``image`` until ``until``; without an image, lift the pin."""

    type: Literal["image.pin.requested"] = "image.pin.requested"
    image: ImageId | None = None
    until: Moment | None = None


class ImageRetirementRequested(Requested):
    """Retire the images that are due now, though they are more than half of all: somebody has looked at them."""

    type: Literal["image.retirement.requested"] = "image.retirement.requested"


class ServerDisableRequested(Requested):
    """Take a server out of service, keep it for a look, and replace it."""

    type: Literal["server.disable.requested"] = "server.disable.requested"
    server: ServerId


class ServerKillRequested(Requested):
    """Terminate a server and replace it, if the disruption budget allows."""

    type: Literal["server.kill.requested"] = "server.kill.requested"
    server: ServerId


class ReleaseSetRequested(Requested):
    """Make a release of a component the one that the fleet runs.

    ``rollout``: whether servers in service are brought to it too; left out, the fleet's policy says.
    """

    type: Literal["release.set.requested"] = "release.set.requested"
    component: ComponentName
    version: Version
    rollout: bool | None = None


class ReleaseUndoRequested(Requested):
    """Go back to the release of a component that was set before the present one."""

    type: Literal["release.undo.requested"] = "release.undo.requested"
    component: ComponentName
    rollout: bool | None = None


# Facts, on the events topic.


class ReleaseSet(Envelope):
    """The fleet runs another release of a component from now on, or was told anew to run the same."""

    type: Literal["release.set"] = "release.set"
    fleet: FleetName
    component: ComponentName
    version: Version
    previous: Version | None = None
    setting: int
    rollout: bool
    by: Person
    reason: Reason = ""


class LaunchUnclaimed(Envelope):
    """A server waits in its launch hook and no provisioner has taken it up."""

    type: Literal["launch.unclaimed"] = "launch.unclaimed"
    fleet: FleetName
    server: ServerId


class ServerReady(Envelope):
    """A server has run its plan, is healthy, and its launch hook was completed with CONTINUE."""

    type: Literal["server.ready"] = "server.ready"
    fleet: FleetName
    server: ServerId
    image: ImageId
    seconds: float


class ServerProvisionFailed(Envelope):
    """A launch was given up; its hook was completed with ABANDON."""

    type: Literal["server.provision.failed"] = "server.provision.failed"
    fleet: FleetName
    server: ServerId
    step: StepName | None = None
    reason: Reason
    log_tail: LogTail = ""


class RolloutChanged(Envelope):
    """A rollout began, is done, or stopped; ``rollout.json`` says who is on what."""

    type: Literal["rollout.changed"] = "rollout.changed"
    fleet: FleetName
    rollout: int
    state: Literal["running", "done", "stopped"]
    reason: Reason = ""


class ServerUpdateGranted(Envelope):
    """A server in service may be brought up to date: it is led out of traffic, and its plan runs."""

    type: Literal["server.update.granted"] = "server.update.granted"
    fleet: FleetName
    server: ServerId
    rollout: int


class ServerUpdated(Envelope):
    """A server in service runs the releases of a rollout, and is healthy."""

    type: Literal["server.updated"] = "server.updated"
    fleet: FleetName
    server: ServerId
    rollout: int
    seconds: float


class ServerUpdateFailed(Envelope):
    """A server in service could not be brought up to date. ``restored``: it runs what it ran before."""

    type: Literal["server.update.failed"] = "server.update.failed"
    fleet: FleetName
    server: ServerId
    rollout: int
    restored: bool
    step: StepName | None = None
    reason: Reason
    log_tail: LogTail = ""


class ServerReplaced(Envelope):
    """A server was taken out of service on purpose; the group launches another."""

    type: Literal["server.replaced"] = "server.replaced"
    fleet: FleetName
    server: ServerId
    how: Literal["terminated", "detached", "marked-unhealthy"]
    by: Person
    reason: Reason


class FleetConverged(Envelope):
    """Healthy servers equal wanted servers again."""

    type: Literal["fleet.converged"] = "fleet.converged"
    fleet: FleetName
    healthy: int
    wanted: int


class FleetDegraded(Envelope):
    """Fewer healthy servers than wanted."""

    type: Literal["fleet.degraded"] = "fleet.degraded"
    fleet: FleetName
    healthy: int
    wanted: int
    reason: Reason


class ImageReady(Envelope):
    """A bake ended with an image that passed its proof launch."""

    type: Literal["image.ready"] = "image.ready"
    fleet: FleetName
    image: ImageId
    bake: BakeId


class ImageBakeFailed(Envelope):
    """A bake was given up."""

    type: Literal["image.bake.failed"] = "image.bake.failed"
    fleet: FleetName
    bake: BakeId
    step: StepName | None = None
    reason: Reason
    log_tail: LogTail = ""


class ImagePromoted(Envelope):
    """The pointer moved."""

    type: Literal["image.promoted"] = "image.promoted"
    fleet: FleetName
    image: ImageId
    previous: ImageId | None = None
    generation: int
    by: Person
    reason: Reason = ""


class MembershipChanged(Envelope):
    """The members are others now; the document says who."""

    type: Literal["membership.changed"] = "membership.changed"
    fleet: FleetName
    generation: int
    joined: tuple[ServerId, ...] = ()
    left: tuple[ServerId, ...] = ()


class ImageRetired(Envelope):
    """An image and its snapshots are gone."""

    type: Literal["image.retired"] = "image.retired"
    fleet: FleetName
    image: ImageId


class BuilderReaped(Envelope):
    """A leaked builder was terminated."""

    type: Literal["builder.reaped"] = "builder.reaped"
    fleet: FleetName
    server: ServerId


class AlertRaised(Envelope):
    """Something needs a person. One is raised for each fleet and cause until it is cleared."""

    type: Literal["alert.raised"] = "alert.raised"
    fleet: FleetName
    cause: str = Field(max_length=200)
    reason: Reason
    step: StepName | None = None
    log_tail: LogTail = ""
    next: Reason


class AlertCleared(Envelope):
    """What an alert was raised for has passed."""

    type: Literal["alert.cleared"] = "alert.cleared"
    fleet: FleetName
    cause: str = Field(max_length=200)


class RequestRefused(Envelope):
    """A person's request to take a server out of service was refused, and is not tried again."""

    type: Literal["request.refused"] = "request.refused"
    fleet: FleetName
    server: ServerId
    request: Literal["server.kill.requested", "server.disable.requested"]
    by: Person
    reason: Reason
    next: Reason


Command = (
    ImageBakeRequested
    | ImageRollbackRequested
    | ImagePinRequested
    | ImageRetirementRequested
    | ServerDisableRequested
    | ServerKillRequested
    | ReleaseSetRequested
    | ReleaseUndoRequested
)
Fact = (
    ReleaseSet
    | LaunchUnclaimed
    | ServerReady
    | ServerProvisionFailed
    | RolloutChanged
    | ServerUpdateGranted
    | ServerUpdated
    | ServerUpdateFailed
    | ServerReplaced
    | FleetConverged
    | FleetDegraded
    | ImageReady
    | ImageBakeFailed
    | ImagePromoted
    | MembershipChanged
    | ImageRetired
    | BuilderReaped
)
Alert = AlertRaised | AlertCleared | RequestRefused
Message = Annotated[Tick | Nightly | Command | Fact | Alert, Field(discriminator="type")]

_adapter: TypeAdapter[Message] = TypeAdapter(Message)


def parse_message(body: str | bytes) -> Message:
    """Parse one of our messages from JSON.

    Raises:
        pydantic.ValidationError: the body is not JSON, its type is unknown, or a field is wrong or unknown.
    """
    return _adapter.validate_json(body)


def message_schema() -> dict[str, object]:
    """Return the JSON Schema of all our messages."""
    return _adapter.json_schema()
