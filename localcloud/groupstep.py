"""One step in the life of a group: what it does by itself whenever something was asked or reported.

``group.py`` states the rules and is the way in. A ``Step`` changes only itself, not the group it began with.
"""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from localcloud.groupvalues import (
    ACTIVE,
    ARRIVING,
    LAUNCHING,
    LEAVING,
    TERMINATING,
    Action,
    Activity,
    Effect,
    Group,
    GroupEvent,
    Hook,
    LaunchInstance,
    Member,
    NotifyHook,
    Outcome,
    Result,
    State,
    TerminateInstance,
    TryTarget,
)

After = tuple[Group, tuple[Effect, ...]]
"""The group after a request, and what is to be done."""

LONGEST_PAUSE_S = 30.0
ACTIVITIES_KEPT = 200
GROUP_TAG = "aws:autoscaling:groupName"


class Step:
    """A group on its way from one state to the next, at one moment."""

    def __init__(self, group: Group, now: float, cause: str = "") -> None:
        self.group = group
        self.now = now
        self.cause = f"At {moment(now)} {cause}.  " if cause else ""
        self.effects: list[Effect] = []

    def settle(self) -> After:
        """Do what the group does by itself: replace the unhealthy, launch the missing, take out the surplus."""
        self._replace_unhealthy()
        self._launch_missing()
        self._take_out_surplus()
        return self.group, tuple(self.effects)

    def _replace_unhealthy(self) -> None:
        if {"Terminate", "ReplaceUnhealthy"} & set(self.group.suspended):
            return
        for member in self.group.in_state(*ACTIVE):
            if member.stopped:
                cause = (
                    "an instance was taken out of service in response to an EC2 health check "
                    "indicating it has been terminated or stopped"
                )
                self.retire(member, cause, hooks=False)
            elif not member.healthy:
                self.retire(member, "an instance was taken out of service in response to a user health-check")

    def _launch_missing(self) -> None:
        if "Launch" in self.group.suspended or self.now < self.group.retry_at:
            return
        active = len(self.group.in_state(*ACTIVE))
        cause = (
            "an instance was started in response to a difference between desired and actual capacity, "
            f"increasing the capacity from {active} to {self.group.desired}"
        )
        for _ in range(missing(self.group)):
            self._launch(cause)

    def _launch(self, cause: str) -> None:
        group = self.group
        member = Member(
            order=self.number(),
            zone=_emptiest_zone(group),
            state=State.PENDING,
            since=self.now,
            template=group.template,
            protected=group.protect_new,
        )
        self.change(members=(*group.members, member))
        self.record("Launching a new EC2 instance", cause, member)
        tags = (*((tag.key, tag.value) for tag in group.tags if tag.propagate), (GROUP_TAG, group.name))
        self.effects.append(LaunchInstance(group.name, member.order, group.template, member.zone, group.subnets, tags))

    def _take_out_surplus(self) -> None:
        if "Terminate" in self.group.suspended:
            return
        while len(self.group.in_state(State.IN_SERVICE)) > self.group.desired:
            victim = _victim(self.group)
            if victim is None:
                return
            serving = len(self.group.in_state(State.IN_SERVICE))
            cause = (
                "an instance was taken out of service in response to a difference between desired and actual "
                f"capacity, shrinking the capacity from {serving} to {serving - 1}"
            )
            self.retire(victim, cause)

    def retire(self, member: Member, cause: str, *, hooks: bool = True) -> None:
        """Begin to terminate a member. Without hooks also one that waits in a terminate hook."""
        if member.state in ARRIVING and self.activity(member).status == "InProgress":
            self.amend(member, status="Cancelled", end=self.now, message="The instance is being terminated.")
        if member.state not in LEAVING:
            member = self.record(f"Terminating EC2 instance: {member.instance}", cause, member)
        self.put(replace(member, state=State.TERMINATING, since=self.now, actions=()))
        if hooks and self.begin_hooks(member.order, TERMINATING):
            return
        if member.instance:
            self.effects.append(TerminateInstance(member.instance))

    def begin_hooks(self, order: int, transition: str) -> bool:
        """Have a member wait for every hook of this transition; False when there is none."""
        hooks = [hook for hook in self.group.hooks if hook.transition == transition]
        actions = tuple(
            Action(hook, self.unique(), self.now + hook.heartbeat_s, self.now + hook.global_s) for hook in hooks
        )
        if not actions:
            return False
        state = State.PENDING_WAIT if transition == LAUNCHING else State.TERMINATING_WAIT
        member = replace(self.member(order), state=state, since=self.now, actions=actions)
        self.put(member)
        self.amend(member, progress=50)
        for action in actions:
            self._notify(member, action)
        return True

    def _notify(self, member: Member, action: Action) -> None:
        group, launching = self.group, action.hook.transition == LAUNCHING
        self.effects.append(
            NotifyHook(
                group=group.name,
                arn=group.arn,
                account=group.account,
                region=group.region,
                at=self.now,
                hook=action.hook,
                instance=member.instance,
                token=action.token,
                origin="EC2" if launching else "AutoScalingGroup",
                destination="AutoScalingGroup" if launching else "EC2",
            )
        )

    def finish_action(self, order: int, action: Action, result: Result, why: str) -> None:
        """End one action: the last CONTINUE moves the member on; ABANDON skips the actions that are left."""
        member = self.member(order)
        rest = tuple(other for other in member.actions if other.token != action.token)
        if result == "CONTINUE" and rest:
            self.put(replace(member, actions=rest))
        elif action.hook.transition == TERMINATING:
            self.put(replace(member, state=State.TERMINATING_PROCEED, since=self.now, actions=()))
            self.effects.append(TerminateInstance(member.instance))
        elif result == "CONTINUE":
            self.put(replace(member, state=State.PENDING_PROCEED, since=self.now, actions=()))
        else:
            self._let_down(member, action, why)

    def _let_down(self, member: Member, action: Action, why: str) -> None:
        reason = (
            f"Instance failed to complete user's Lifecycle Action: "
            f"Lifecycle Action with token {action.token} was abandoned: {why}"
        )
        self.launch_went_wrong(member, reason)
        self.retire(member, "an instance was taken out of service in response to a launch lifecycle action's result")

    def serve(self, order: int) -> None:
        """Put a member into service."""
        member = replace(self.member(order), state=State.IN_SERVICE, since=self.now, actions=())
        self.put(member)
        self.change(failures=0, retry_at=0.0)
        activity = self.amend(member, status="Successful", progress=100, end=self.now)
        self.announce("Launch Successful", activity, leaving=False)

    def launch_went_wrong(self, member: Member, reason: str) -> None:
        """Record a failed launch, announce it, and hold back launches for a while."""
        if self.now >= self.group.retry_at:
            failures = self.group.failures + 1
            pause = min(LONGEST_PAUSE_S, 2.0 ** min(failures - 1, 10))
            self.change(failures=failures, retry_at=self.now + pause)
        activity = self.amend(member, status="Failed", message=reason, progress=100, end=self.now)
        self.announce("Launch Unsuccessful", activity, leaving=False)

    def announce(self, kind: Outcome, activity: Activity, *, leaving: bool) -> None:
        """Have EventBridge told how a launch or a termination ended."""
        group = self.group
        self.effects.append(
            GroupEvent(
                kind=kind,
                group=group.name,
                arn=group.arn,
                account=group.account,
                region=group.region,
                at=self.now,
                activity=activity,
                origin="AutoScalingGroup" if leaving else "EC2",
                destination="EC2" if leaving else "AutoScalingGroup",
            )
        )

    def try_target(self, hook: Hook) -> None:
        """Have a hook's target sent a test notification."""
        if hook.target:
            self.effects.append(TryTarget(self.group.name, self.group.arn, self.group.account, self.now, hook.target))

    def record(self, description: str, cause: str, member: Member, *, done: bool = False) -> Member:
        """Add a scaling activity about a member, and return the member with it."""
        activity = Activity(
            id=self.unique(),
            description=description,
            cause=f"{self.cause}At {moment(self.now)} {cause}.",
            start=self.now,
            zone=member.zone,
            instance=member.instance,
        )
        if done:
            activity = replace(activity, status="Successful", progress=100, end=self.now)
        self.change(activities=_recent((*self.group.activities, activity)))
        member = replace(member, activity=activity.id)
        self.put(member)
        return member

    def activity(self, member: Member) -> Activity:
        """Return the activity that brings a member in or takes it out."""
        return next(activity for activity in self.group.activities if activity.id == member.activity)

    def amend(self, member: Member, **changes: Any) -> Activity:
        """Change a member's activity, and return it."""
        amended = replace(self.activity(member), **changes)
        self.change(activities=tuple(amended if a.id == amended.id else a for a in self.group.activities))
        return amended

    def change(self, **changes: Any) -> None:
        """Change fields of the group."""
        self.group = replace(self.group, **changes)

    def member(self, order: int) -> Member:
        """Return the member of a launch order; LookupError when there is none."""
        found = next((member for member in self.group.members if member.order == order), None)
        if found is None:
            raise LookupError(f"the group {self.group.name} has no launch order {order}")
        return found

    def put(self, member: Member) -> None:
        """Put a changed member in the place of the old one."""
        self.change(members=tuple(member if m.order == member.order else m for m in self.group.members))

    def remove(self, member: Member) -> None:
        """Forget a member."""
        self.change(members=tuple(m for m in self.group.members if m.order != member.order))

    def number(self) -> int:
        """Return a number that this group has not used before."""
        self.change(counter=self.group.counter + 1)
        return self.group.counter

    def unique(self) -> str:
        """Return a UUID that follows from the group's identity and counter."""
        return str(uuid.uuid5(uuid.UUID(self.group.identity), str(self.number())))


def missing(group: Group) -> int:
    """Return how many instances the group is short of."""
    return 0 if group.deleting else max(0, group.desired - len(group.in_state(*ACTIVE)))


def _emptiest_zone(group: Group) -> str:
    """Return the zone with the fewest active members, of several the first one listed."""
    count = Counter(member.zone for member in group.in_state(*ACTIVE))
    return min(group.zones, key=lambda zone: count[zone], default="")


def _victim(group: Group) -> Member | None:
    """Return whom scale-in takes next, by the rule at the top; None when all are protected."""
    serving = group.in_state(State.IN_SERVICE)
    count = Counter(member.zone for member in serving)
    return min(
        (member for member in serving if not member.protected),
        key=lambda member: (-count[member.zone], _version(member), member.order),
        default=None,
    )


def _version(member: Member) -> int:
    return int(member.template.version) if member.template.version.isdigit() else 0


def _recent(activities: tuple[Activity, ...]) -> tuple[Activity, ...]:
    """Drop the oldest activities that have ended, beyond what is kept."""
    surplus = len(activities) - ACTIVITIES_KEPT
    ended = [activity.id for activity in activities if activity.end is not None][: max(0, surplus)]
    return tuple(activity for activity in activities if activity.id not in ended) if ended else activities


def moment(at: float) -> str:
    """Return a time as AWS writes it in texts."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
