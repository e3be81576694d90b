"""Auto Scaling: the local cloud's groups in virtual time, seen through the eyes of the services."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from localcloud import group as machine
from localcloud.groups import Groups, LaunchFailed
from localcloud.groupstep import After
from localcloud.groupvalues import (
    LAUNCHING,
    TERMINATING,
    Hook,
    Launched,
    LaunchInstance,
    Member,
    Policy,
    Tag,
    TemplateRef,
)
from localcloud.groupvalues import Group as Described
from localcloud.groupvalues import Refused as MachineRefused
from shared import cloud
from shared.cloud import LifecycleResult, NotFound, Refused
from shared.fleet import Fleet
from shared.ids import FLEET_TAG, MANAGED_TAG
from shared.names import LAUNCH_HOOK, TERMINATE_HOOK
from tests.simulation.loop import START
from tests.simulation.machines import Ec2
from tests.simulation.past import Past

ACCOUNT = "000000000000"


class SimulatedGroups:
    """All groups, each with what it was a moment ago."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        emit: Callable[[Mapping[str, object]], None],
        changed: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._changed = changed
        self._ec2: Ec2
        self._timer: asyncio.TimerHandle | None = None
        self._kept: dict[str, Described] = {}
        self._members: dict[str, tuple[Member, cloud.GroupMember]] = {}
        """What each member was, and how it was seen: in a large group few change at a time."""
        self.seen: dict[str, Past[cloud.Group]] = {}
        self.groups = Groups(
            launch=self._launch,
            terminate=self._terminate,
            disown=self._disown,
            publish=emit,
            send=lambda arn, body: None,
            now=lambda: START.timestamp() + loop.time(),
            account=ACCOUNT,
        )

    def stand_on(self, ec2: Ec2) -> None:
        """Say where instances are launched."""
        self._ec2 = ec2

    def create(self, fleet: Fleet) -> None:
        """Make the fleet's group, as ``deploy/group.py`` does."""
        launch, drain = fleet.policies.launch, fleet.policies.drain
        scaling = fleet.scaling
        policies = (
            tuple(
                Policy(f"load-{side}", "ChangeInCapacity", scaling.step * sign, scaling.cooldown)
                for side, sign in (("high", 1), ("low", -1))
            )
            if scaling
            else ()
        )
        self.groups.create(
            Described(
                name=fleet.fleet,
                identity="",
                region="",
                account=ACCOUNT,
                created=0,
                minimum=fleet.capacity.min,
                maximum=fleet.capacity.max,
                desired=fleet.capacity.desired,
                template=TemplateRef(name=fleet.fleet),
                zones=fleet.zones,
                tags=(Tag(FLEET_TAG, fleet.fleet, True), Tag(MANAGED_TAG, "true", True)),
                hooks=(
                    Hook(LAUNCH_HOOK, LAUNCHING, launch.heartbeat, "ABANDON"),
                    Hook(TERMINATE_HOOK, TERMINATING, drain.heartbeat, "CONTINUE"),
                ),
                policies=policies,
            )
        )
        self._settle()

    def describe(self, fleet: str, at: float) -> cloud.Group:
        """Return the group as it was at that moment."""
        past = self.seen.get(fleet)
        seen = past.at(at) if past else None
        if seen is None:
            raise NotFound(f"there is no group {fleet}")
        return seen

    def complete(self, fleet: str, server: str, hook: str, result: LifecycleResult) -> bool:
        """Complete a hook; False when nobody waits in it."""
        return self._asked(fleet, lambda g, now: machine.complete_action(g, hook, result, now, instance=server))

    def heartbeat(self, fleet: str, server: str, hook: str) -> bool:
        """Restart a hook's timeout; False when nobody waits in it."""
        return self._asked(fleet, lambda g, now: machine.heartbeat(g, hook, now, instance=server))

    def mark_unhealthy(self, fleet: str, server: str) -> None:
        """Have the group replace the server."""
        self._must(fleet, lambda g, now: machine.set_health(g, server, now, healthy=False, respect_grace=False), server)

    def terminate(self, fleet: str, server: str) -> None:
        """Terminate through the group."""
        self._must(fleet, lambda g, now: machine.terminate_instances(g, [server], now, decrement=False), server)

    def detach(self, fleet: str, server: str) -> None:
        """Take out of the group, running; nothing happens to one that is out already."""
        if self.groups.get(fleet).member(server) is not None:
            self._must(fleet, lambda g, now: machine.detach(g, [server], now, decrement=False), server)

    def execute(self, fleet: str, policy: str) -> None:
        """Carry out a scaling policy for its alarm."""
        self.groups.ask(fleet, lambda g, now: machine.execute_policy(g, policy, now, alarm=policy))
        self._settle()

    def set_desired(self, fleet: str, desired: int) -> None:
        """Set the desired capacity, within the group's bounds."""
        self.groups.ask(fleet, lambda g, now: machine.set_desired(g, max(g.minimum, min(g.maximum, desired)), now))
        self._settle()

    def suspend(self, fleet: str, processes: tuple[str, ...]) -> None:
        """Suspend processes."""
        self.groups.ask(fleet, lambda g, now: machine.suspend(g, processes, now))
        self._settle()

    def resume(self, fleet: str) -> None:
        """Resume all processes."""
        self.groups.ask(fleet, lambda g, now: machine.resume(g, (), now))
        self._settle()

    def hear(self, server: str, state: str) -> None:
        """Hear what became of an instance."""
        if state == "running":
            self.groups.instance_running(server)
        else:
            self.groups.instance_terminated(server)
        self._settle()

    def _asked(self, fleet: str, request: Callable[[Described, float], After]) -> bool:
        try:
            self.groups.ask(fleet, request)
        except MachineRefused as refusal:
            if "No active Lifecycle Action" in refusal.message:
                return False
            raise Refused(refusal.message) from refusal
        self._settle()
        return True

    def _must(self, fleet: str, request: Callable[[Described, float], After], server: str) -> None:
        try:
            self.groups.ask(fleet, request)
        except MachineRefused as refusal:
            if "not found" in refusal.message:
                raise NotFound(f"no group has {server}") from refusal
            raise Refused(refusal.message) from refusal
        self._settle()

    def _launch(self, order: LaunchInstance) -> Launched:
        default = self._ec2.default_version(order.group)
        try:
            server = self._ec2.launch(default.image, order.zone, dict(order.tags))
        except (NotFound, Refused) as refusal:
            raise LaunchFailed(str(refusal)) from refusal
        return Launched(server, default.image, "m7i.large", str(default.version), "lt-0", order.group)

    def _terminate(self, server: str) -> None:
        machine_ = self._ec2.machines.get(server)
        if machine_ is None or machine_.now.state == "terminated":
            self._loop.call_soon(self.hear, server, "terminated")
        else:
            self._ec2.terminate(server)

    def _disown(self, server: str) -> None:
        self._ec2.disown(server)

    def _tick(self) -> None:
        self._timer = None
        self.groups.tick()
        self._settle()

    def _settle(self) -> None:
        """Remember what changed, and wake when time has a say next."""
        deadlines: list[float] = []
        for group in self.groups.all():
            if self._kept.get(group.name) is not group:
                self._kept[group.name] = group
                self._remember(group)
            due = machine.next_deadline(group)
            deadlines += [due] if due is not None else []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadlines:
            at = max(min(deadlines) - START.timestamp(), self._loop.time()) + 0.25
            self._timer = self._loop.call_at(at, self._tick)

    def _remember(self, group: Described) -> None:
        seen = self._as_seen(group)
        past = self.seen.get(group.name)
        if past is None:
            self.seen[group.name] = Past(self._loop.time(), seen)
        elif past.now != seen:
            past.set(self._loop.time(), seen)
            self._changed(group.name)

    def _as_seen(self, group: Described) -> cloud.Group:
        tags = {tag.key: tag.value for tag in group.tags}
        return cloud.Group(
            fleet=group.name,
            minimum=group.minimum,
            desired=group.desired,
            maximum=group.maximum,
            members=tuple(self._member(each) for each in group.members if each.instance),
            managed=tags.get(MANAGED_TAG) == "true",
            suspended=group.suspended,
        )

    def _member(self, member: Member) -> cloud.GroupMember:
        was, seen = self._members.get(member.instance, (None, None))
        if was is member and seen is not None:
            return seen
        now = cloud.GroupMember(
            member.instance, str(member.state), member.healthy, member.zone, member.template.version
        )
        seen = seen if seen == now and seen is not None else now
        self._members[member.instance] = member, seen
        return seen
