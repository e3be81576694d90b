"""What an Auto Scaling group is made of, and what it asks of the world: plain frozen values.

``group.py`` has the rules. Times are epoch seconds, durations are seconds.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Result = Literal["CONTINUE", "ABANDON"]
Place = Literal["EC2", "AutoScalingGroup"]
Outcome = Literal["Launch Successful", "Launch Unsuccessful", "Terminate Successful"]

LAUNCHING = "autoscaling:EC2_INSTANCE_LAUNCHING"
TERMINATING = "autoscaling:EC2_INSTANCE_TERMINATING"

PROCESSES = (
    "Launch",
    "Terminate",
    "AddToLoadBalancer",
    "AlarmNotification",
    "AZRebalance",
    "HealthCheck",
    "InstanceRefresh",
    "ReplaceUnhealthy",
    "ScheduledActions",
)
"""What may be suspended. Launch, Terminate, ReplaceUnhealthy and AlarmNotification have an effect here."""


class Refused(Exception):
    """AWS would refuse the request: ``code`` is AWS's error code, the text its message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class State(StrEnum):
    """Lifecycle states, in AWS's own words."""

    PENDING = "Pending"
    PENDING_WAIT = "Pending:Wait"
    PENDING_PROCEED = "Pending:Proceed"
    IN_SERVICE = "InService"
    STANDBY = "Standby"
    TERMINATING = "Terminating"
    TERMINATING_WAIT = "Terminating:Wait"
    TERMINATING_PROCEED = "Terminating:Proceed"


ARRIVING = (State.PENDING, State.PENDING_WAIT, State.PENDING_PROCEED)
ACTIVE = (*ARRIVING, State.IN_SERVICE)
"""What counts towards desired capacity."""
LEAVING = (State.TERMINATING, State.TERMINATING_WAIT, State.TERMINATING_PROCEED)


@dataclass(frozen=True)
class TemplateRef:
    """A launch template and its version: a number, ``$Default`` or ``$Latest``."""

    id: str = ""
    name: str = ""
    version: str = "$Default"


@dataclass(frozen=True)
class Tag:
    """A tag of the group; ``propagate`` puts it on the instances that it launches."""

    key: str
    value: str
    propagate: bool


@dataclass(frozen=True)
class Hook:
    """A lifecycle hook."""

    name: str
    transition: str
    heartbeat_s: int = 3600
    default_result: Result = "ABANDON"
    target: str = ""
    role: str = ""
    metadata: str = ""

    @property
    def global_s(self) -> int:
        """How long an action may wait in all, heartbeats or not: 48 hours or 100 heartbeats, whichever is less."""
        return min(172_800, 100 * self.heartbeat_s)


@dataclass(frozen=True)
class HookChanges:
    """A request to put a hook: None leaves what is there, or AWS's default; an empty target removes it."""

    name: str
    transition: str | None = None
    heartbeat_s: int | None = None
    default_result: Result | None = None
    target: str | None = None
    role: str | None = None
    metadata: str | None = None


@dataclass(frozen=True)
class Action:
    """An instance waits for a hook: until ``deadline``, which heartbeats move on, at most to ``limit``."""

    hook: Hook
    token: str
    deadline: float
    limit: float


@dataclass(frozen=True)
class Launched:
    """What EC2 started for a launch order. ``version`` is the template version that ``$Default`` or ``$Latest`` was."""

    instance: str
    image: str
    type: str
    version: str
    template_id: str = ""
    template_name: str = ""


@dataclass(frozen=True)
class Member:
    """An instance of the group. ``instance`` is empty until the launch order has been carried out."""

    order: int
    zone: str
    state: State
    since: float
    template: TemplateRef
    instance: str = ""
    image: str = ""
    type: str = ""
    healthy: bool = True
    stopped: bool = False
    protected: bool = False
    actions: tuple[Action, ...] = ()
    activity: str = ""
    """The scaling activity that brings it in or takes it out."""


@dataclass(frozen=True)
class Activity:
    """A scaling activity, as DescribeScalingActivities shows it."""

    id: str
    description: str
    cause: str
    start: float
    zone: str = ""
    instance: str = ""
    status: Literal["InProgress", "Successful", "Failed", "Cancelled"] = "InProgress"
    message: str = ""
    progress: int = 0
    end: float | None = None


@dataclass(frozen=True)
class Policy:
    """A simple scaling policy. Without a cooldown of its own the group's default counts."""

    name: str
    adjustment_type: str
    adjustment: int
    cooldown_s: int | None = None
    least_change: int = 0
    """MinAdjustmentMagnitude, for PercentChangeInCapacity."""
    enabled: bool = True


@dataclass(frozen=True)
class Group:
    """An Auto Scaling group, whole. ``identity`` is a UUID from which all tokens and ids of the group follow."""

    name: str
    identity: str
    region: str
    account: str
    created: float
    minimum: int
    maximum: int
    desired: int
    template: TemplateRef
    zones: tuple[str, ...]
    subnets: str = ""
    default_cooldown_s: int = 300
    health_check_type: str = "EC2"
    grace_s: int = 0
    protect_new: bool = False
    tags: tuple[Tag, ...] = ()
    hooks: tuple[Hook, ...] = ()
    policies: tuple[Policy, ...] = ()
    suspended: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()
    activities: tuple[Activity, ...] = ()
    """Newest last; only the latest are kept."""
    counter: int = 0
    failures: int = 0
    """Failed launches in a row."""
    retry_at: float = 0
    """Nothing is launched before this."""
    cooldown_until: float = 0
    deleting: bool = False

    @property
    def arn(self) -> str:
        """The group's ARN."""
        return (
            f"arn:aws:autoscaling:{self.region}:{self.account}:autoScalingGroup:{self.identity}"
            f":autoScalingGroupName/{self.name}"
        )

    def policy_arn(self, policy: str) -> str:
        """Return the ARN of the policy with this name: the action of an alarm."""
        identity = uuid.uuid5(uuid.UUID(self.identity), f"policy {policy}")
        return (
            f"arn:aws:autoscaling:{self.region}:{self.account}:scalingPolicy:{identity}"
            f":autoScalingGroupName/{self.name}:policyName/{policy}"
        )

    @property
    def gone(self) -> bool:
        """Whether it was deleted and its last instance has ended."""
        return self.deleting and not self.members

    def member(self, instance: str) -> Member | None:
        """Return the member with this instance id, or None."""
        return next((member for member in self.members if member.instance == instance), None) if instance else None

    def in_state(self, *states: State) -> tuple[Member, ...]:
        """Return the members in any of these states."""
        return tuple(member for member in self.members if member.state in states)

    def activity_of(self, instance: str) -> Activity:
        """Return the latest activity about an instance; LookupError when there is none."""
        found = next((activity for activity in reversed(self.activities) if activity.instance == instance), None)
        if found is None:
            raise LookupError(f"no activity of the group {self.name} is about {instance}")
        return found


@dataclass(frozen=True)
class Changes:
    """A request to update a group: None leaves what is there."""

    minimum: int | None = None
    maximum: int | None = None
    desired: int | None = None
    template: TemplateRef | None = None
    zones: tuple[str, ...] | None = None
    subnets: str | None = None
    default_cooldown_s: int | None = None
    health_check_type: str | None = None
    grace_s: int | None = None
    protect_new: bool | None = None


# Effects: what the world round the group is asked to do, in this order.


@dataclass(frozen=True)
class LaunchInstance:
    """Start an EC2 instance; answer with ``group.launched`` or ``group.launch_failed``, naming the order."""

    group: str
    order: int
    template: TemplateRef
    zone: str
    subnets: str
    tags: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TerminateInstance:
    """Terminate an EC2 instance; ``group.instance_terminated`` is told when it has ended."""

    instance: str


@dataclass(frozen=True)
class DisownInstance:
    """The instance left the group and runs on: it no longer carries ``aws:autoscaling:groupName``."""

    instance: str


@dataclass(frozen=True)
class NotifyHook:
    """An instance waits in a hook: tell EventBridge, and the hook's target when it has one."""

    group: str
    arn: str
    account: str
    region: str
    at: float
    hook: Hook
    instance: str
    token: str
    origin: Place
    destination: Place


@dataclass(frozen=True)
class TryTarget:
    """A hook with a target was put: send it a test notification."""

    group: str
    arn: str
    account: str
    at: float
    target: str


@dataclass(frozen=True)
class GroupEvent:
    """A launch or a termination ended: EventBridge is told. ``kind`` follows "EC2 Instance " in the detail type."""

    kind: Outcome
    group: str
    arn: str
    account: str
    region: str
    at: float
    activity: Activity
    origin: Place
    destination: Place


Effect = LaunchInstance | TerminateInstance | DisownInstance | NotifyHook | TryTarget | GroupEvent
