"""The local cloud's Auto Scaling groups: the pure machine of ``group.py`` with a lock and a world round it.

The seam with the server process, which owns one ``Groups``:

- ``launch(order)`` starts an EC2 instance as the order says and returns at once what was started (``Launched``); it
  raises ``LaunchFailed`` with the reason when EC2 refuses (no such template or image, no capacity). The instance
  carries the launch template's tags, then ``order.tags``, which already hold the group's tags with PropagateAtLaunch
  and ``aws:autoscaling:groupName``. ``order.template`` may name the version ``$Default`` or ``$Latest``; ``Launched``
  says which number that was. ``order.zone`` and ``order.subnets`` say where.
- ``terminate(instance_id)`` begins to terminate an instance and returns at once. ``instance_terminated`` follows; an
  instance that is gone already is reported so as well.
- ``disown(instance_id)`` takes the tag ``aws:autoscaling:groupName`` off an instance that left its group running.
- ``publish(event)`` puts a whole EventBridge event on the default bus.
- ``send(arn, body)`` sends JSON straight to a hook's queue or topic.
- ``now()`` is the time in epoch seconds.

The server calls ``instance_running``, ``instance_stopped`` and ``instance_terminated`` for every instance, ours or not,
from any thread, also while ``launch`` for it has not returned yet; ``alarm_fired`` for alarm actions that are scaling
policies; and ``tick`` a few times a second. No lock is held while a callable runs, so they may call back.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from localcloud import group as machine
from localcloud import notices
from localcloud.groupstep import After
from localcloud.groupvalues import (
    DisownInstance,
    Effect,
    Group,
    GroupEvent,
    Launched,
    LaunchInstance,
    NotifyHook,
    Refused,
    TerminateInstance,
    TryTarget,
)

Report = Callable[[Group, str, float], After]


class LaunchFailed(Exception):
    """EC2 refused a launch; the text says why, as the group's scaling activity will show it."""


class Groups:
    """All Auto Scaling groups of one account and region. Thread-safe."""

    def __init__(
        self,
        *,
        launch: Callable[[LaunchInstance], Launched],
        terminate: Callable[[str], None],
        disown: Callable[[str], None],
        publish: Callable[[dict[str, object]], None],
        send: Callable[[str, dict[str, object]], None],
        now: Callable[[], float],
        account: str = "000000000000",
        region: str = "us-east-1",
    ) -> None:
        self.now = now
        self.account = account
        self.region = region
        self._launch = launch
        self._terminate = terminate
        self._disown = disown
        self._publish = publish
        self._send = send
        self._lock = threading.Lock()
        self._groups: dict[str, Group] = {}
        self._effects: deque[Effect] = deque()
        self._launching = 0
        self._early: list[tuple[str, Report]] = []

    # What the API asks.

    def all(self) -> tuple[Group, ...]:
        """Return all groups, by name."""
        with self._lock:
            return tuple(self._groups[name] for name in sorted(self._groups))

    def get(self, name: str) -> Group:
        """Return a group.

        Raises:
            Refused: there is no such group.
        """
        with self._lock:
            return self._known(name)

    def owner(self, instance: str) -> Group:
        """Return the group that an instance is a member of.

        Raises:
            Refused: no group has it.
        """
        found = next((group for group in self.all() if group.member(instance)), None)
        if found is None:
            text = f"Instance Id not found - No managed instance found for instance ID: {instance}"
            raise Refused("ValidationError", text)
        return found

    def create(self, group: Group) -> None:
        """Begin a group's life; its identity and creation time are filled in here.

        Raises:
            Refused: its name is taken, or AWS would not take its numbers.
        """
        now = self.now()
        group = replace(group, identity=str(uuid.uuid4()), created=now, region=self.region, account=self.account)
        with self._lock:
            if group.name in self._groups:
                text = (
                    f"AutoScalingGroup by this name already exists - A group with the name {group.name} already exists"
                )
                raise Refused("AlreadyExists", text)
            self._keep(machine.create(group, now))
        self._carry_out()

    def ask(self, name: str, request: Callable[[Group, float], After]) -> Group:
        """Apply a request to a group, carry out what follows, and return the group as the request left it.

        Raises:
            Refused: there is no such group, or it refuses the request.
        """
        with self._lock:
            group = self._keep(request(self._known(name), self.now()))
        self._carry_out()
        return group

    # What the world reports.

    def instance_running(self, instance: str) -> None:
        """EC2 says that an instance runs."""
        self._report(instance, machine.instance_running)

    def instance_stopped(self, instance: str) -> None:
        """EC2 says that an instance was stopped."""
        self._report(instance, machine.instance_stopped)

    def instance_terminated(self, instance: str) -> None:
        """EC2 says that an instance has ended."""
        self._report(instance, machine.instance_terminated)

    def alarm_fired(self, policy_arn: str, alarm: str) -> None:
        """Carry out the policy with this ARN for an alarm; a policy that is gone by now is nobody's."""
        with self._lock:
            for group in list(self._groups.values()):
                for policy in group.policies:
                    if group.policy_arn(policy.name) == policy_arn:
                        self._keep(machine.execute_policy(group, policy.name, self.now(), alarm=alarm))
        self._carry_out()

    def tick(self) -> None:
        """Let time have its say in every group that waits for it."""
        now = self.now()
        with self._lock:
            for group in list(self._groups.values()):
                due = machine.next_deadline(group)
                if due is not None and due <= now:
                    self._keep(machine.tick(group, now))
        self._carry_out()

    # Inside.

    def _known(self, name: str) -> Group:
        group = self._groups.get(name)
        if group is None:
            raise Refused("ValidationError", f"AutoScalingGroup name not found - no such group: {name}")
        return group

    def _keep(self, after: After) -> Group:
        """Hold on to a group's new state and what it asks for. The caller has the lock."""
        group, effects = after
        self._groups[group.name] = group
        if group.gone:
            del self._groups[group.name]
        self._effects.extend(effects)
        self._launching += sum(isinstance(effect, LaunchInstance) for effect in effects)
        return group

    def _report(self, instance: str, report: Report) -> None:
        with self._lock:
            self._hear(instance, report)
        self._carry_out()

    def _hear(self, instance: str, report: Report) -> None:
        """Tell the instance's group; news of an instance whose launch has not returned yet is kept until it has."""
        group = next((group for group in self._groups.values() if group.member(instance)), None)
        if group is not None:
            self._keep(report(group, instance, self.now()))
        elif self._launching:
            self._early.append((instance, report))

    def _carry_out(self) -> None:
        while (effect := self._next_effect()) is not None:
            self._do(effect)

    def _next_effect(self) -> Effect | None:
        with self._lock:
            return self._effects.popleft() if self._effects else None

    def _do(self, effect: Effect) -> None:
        match effect:
            case LaunchInstance():
                self._do_launch(effect)
            case TerminateInstance(instance):
                self._terminate(instance)
            case DisownInstance(instance):
                self._disown(instance)
            case NotifyHook():
                self._publish(notices.lifecycle_event(effect))
                if effect.hook.target:
                    self._send(effect.hook.target, notices.lifecycle_notification(effect))
            case TryTarget():
                self._send(effect.target, notices.target_test(effect))
            case GroupEvent():
                self._publish(notices.outcome_event(effect))

    def _do_launch(self, order: LaunchInstance) -> None:
        report = partial(_failed, order=order.order, reason="the local cloud broke off the launch; its log says why")
        try:
            report = partial(_launched, order=order.order, what=self._launch(order))
        except LaunchFailed as failure:
            report = partial(_failed, order=order.order, reason=str(failure))
        finally:
            self._launch_returned(order, report)

    def _launch_returned(self, order: LaunchInstance, report: Callable[[Group, float], After]) -> None:
        """Tell the group, and then what was said of instances while launches were under way."""
        with self._lock:
            self._launching -= 1
            self._keep(report(self._groups[order.group], self.now()))
            early, self._early = self._early, []
            for instance, news in early:
                self._hear(instance, news)


def _launched(group: Group, now: float, order: int, what: Launched) -> After:
    return machine.launched(group, order, what, now)


def _failed(group: Group, now: float, order: int, reason: str) -> After:
    return machine.launch_failed(group, order, reason, now)
