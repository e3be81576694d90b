"""The life of an Auto Scaling group as one pure state machine.

Every function takes the group as it was and the present time and returns the group as it is then, with the effects that
the world round it must carry out, in order. No clock, no randomness, no I/O: tokens and ids follow from the group's
identity and a counter in it, so the local cloud and a simulation get the same life from the same requests.

The rules are AWS's (User Guide and API Reference of EC2 Auto Scaling), and where AWS does not say:

- Scale-in takes unprotected instances in service only, one at a time: from the zone that has most in service, there
  the oldest launch template version, there the oldest instance. Instances that are still arriving are left to arrive.
- After failed launches nothing is launched for 1 s, 2 s, 4 s ... up to 30 s; failures in one such pause count once.
- An instance that was let down at launch (ABANDON) still passes through the terminate hooks.
- A simple policy's cooldown runs from the policy's execution.
- Pending:Proceed lasts until the next tick, so that it can be seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace

from localcloud.groupstep import After, Step, missing, moment
from localcloud.groupvalues import (
    ACTIVE,
    ARRIVING,
    LAUNCHING,
    LEAVING,
    PROCESSES,
    TERMINATING,
    Action,
    Changes,
    DisownInstance,
    Group,
    Hook,
    HookChanges,
    Launched,
    Member,
    Policy,
    Refused,
    Result,
    State,
    Tag,
    TemplateRef,
    TerminateInstance,
)

# What the outside may ask.


def create(group: Group, now: float) -> After:
    """Begin the life of a group that was described but has no members yet.

    Raises:
        Refused: its numbers, hooks or policies are ones that AWS would not take.
    """
    _check_sizes(group)
    for hook in group.hooks:
        _check_hook(hook)
    step = Step(
        group,
        now,
        f"a user request created an AutoScalingGroup changing the desired capacity from 0 to {group.desired}",
    )
    for hook in group.hooks:
        step.try_target(hook)
    return step.settle()


def update(group: Group, changes: Changes, now: float) -> After:
    """Change what is given; desired capacity follows the bounds when it is not given itself.

    Raises:
        Refused: the numbers do not fit together.
    """
    given = {f.name: value for f in fields(changes) if (value := getattr(changes, f.name)) is not None}
    changed = replace(group, **given)
    if changes.desired is None:
        changed = replace(changed, desired=max(changed.minimum, min(changed.maximum, changed.desired)))
    _check_sizes(changed)
    cause = (
        f"a user request update of AutoScalingGroup constraints to min: {changed.minimum}, max: {changed.maximum}, "
        f"desired: {changed.desired} changing the desired capacity from {group.desired} to {changed.desired}"
    )
    return Step(changed, now, cause).settle()


def set_desired(group: Group, desired: int, now: float, *, honor_cooldown: bool = False) -> After:
    """Set the desired capacity.

    Raises:
        Refused: it is out of bounds, or a cooldown that is to be honored runs.
    """
    if desired > group.maximum:
        raise _invalid(
            f"New SetDesiredCapacity value {desired} is above max value {group.maximum} for the AutoScalingGroup."
        )
    if desired < group.minimum:
        raise _invalid(
            f"New SetDesiredCapacity value {desired} is below min value {group.minimum} for the AutoScalingGroup."
        )
    _check_cooldown(group, now, honor_cooldown)
    cause = (
        f"a user request explicitly set group desired capacity changing the desired capacity "
        f"from {group.desired} to {desired}"
    )
    return Step(replace(group, desired=desired), now, cause).settle()


def delete(group: Group, now: float, *, force: bool = False) -> After:
    """Delete the group; with force its instances end with it, and no hooks run.

    Raises:
        Refused: it has instances and force was not asked for.
    """
    if group.members and not force:
        raise Refused(
            "ResourceInUse", "You cannot delete an AutoScalingGroup while there are instances still in the group."
        )
    step = Step(replace(group, deleting=True, minimum=0, desired=0), now)
    for member in group.members:
        if member.state not in (State.TERMINATING, State.TERMINATING_PROCEED):
            step.retire(member, "the AutoScalingGroup was deleted", hooks=False)
    return step.settle()


def put_hook(group: Group, request: HookChanges, now: float) -> After:
    """Add a hook, or change the one with this name; instances that already wait keep the terms they began with.

    Raises:
        Refused: a new hook has no transition, or a value is out of AWS's range.
    """
    old = next((hook for hook in group.hooks if hook.name == request.name), None)
    if old is None and request.transition is None:
        raise _invalid(f"LifecycleTransition is required for the new lifecycle hook {request.name}.")
    given = {f.name: value for f in fields(request) if (value := getattr(request, f.name)) is not None}
    hook = replace(old or Hook(request.name, request.transition or ""), **given)
    _check_hook(hook)
    others = tuple(other for other in group.hooks if other.name != hook.name)
    step = Step(replace(group, hooks=(*others, hook)), now)
    step.try_target(hook)
    return step.settle()


def delete_hook(group: Group, name: str, now: float) -> After:
    """Remove a hook; who waits in it is let down when launching and let go when terminating, as AWS does.

    Raises:
        Refused: there is no such hook.
    """
    if all(hook.name != name for hook in group.hooks):
        raise _invalid(f"No Lifecycle Hook found with name {name}")
    step = Step(replace(group, hooks=tuple(hook for hook in group.hooks if hook.name != name)), now)
    for order, action in _waiting(group):
        if action.hook.name == name:
            result: Result = "ABANDON" if action.hook.transition == LAUNCHING else "CONTINUE"
            step.finish_action(order, action, result, f"Lifecycle Hook {name} was deleted")
    return step.settle()


def complete_action(
    group: Group, hook: str, result: Result, now: float, *, token: str = "", instance: str = ""
) -> After:
    """Complete a lifecycle action, named by its token or by the instance that waits.

    Raises:
        Refused: no such action is active (any more).
    """
    order, action = _active_action(group, hook, token, instance)
    step = Step(group, now)
    step.finish_action(order, action, result, f"Lifecycle Action Completed with {result} Result")
    return step.settle()


def heartbeat(group: Group, hook: str, now: float, *, token: str = "", instance: str = "") -> After:
    """Restart the timeout of a lifecycle action, within its global timeout.

    Raises:
        Refused: no such action is active (any more).
    """
    order, action = _active_action(group, hook, token, instance)
    later = replace(action, deadline=min(now + action.hook.heartbeat_s, action.limit))
    step = Step(group, now)
    member = step.member(order)
    step.put(replace(member, actions=tuple(later if a.token == action.token else a for a in member.actions)))
    return step.settle()


def set_health(group: Group, instance: str, now: float, *, healthy: bool, respect_grace: bool = True) -> After:
    """Say how an instance is; an unhealthy one is replaced at once, hooks included, unless in its grace period.

    Raises:
        Refused: the group has no such instance, or it is already leaving and cannot be healthy any more.
    """
    member = _managed(group, instance)
    if member.state in LEAVING and healthy:
        raise _invalid(f"Instance {instance} is already terminating and cannot be set to Healthy.")
    in_grace = member.state is State.IN_SERVICE and now < member.since + group.grace_s
    if not healthy and respect_grace and in_grace:
        return group, ()
    step = Step(group, now)
    step.put(replace(member, healthy=healthy))
    return step.settle()


def terminate_instances(group: Group, instances: Sequence[str], now: float, *, decrement: bool) -> After:
    """Terminate instances through the group, hooks included; replace them unless capacity is decremented.

    One that is already leaving is left to that.

    Raises:
        Refused: the group has no such instance, or decrementing would go below the minimum.
    """
    leaving = [
        member for instance in dict.fromkeys(instances) if (member := _managed(group, instance)).state not in LEAVING
    ]
    counted = sum(member.state in ACTIVE for member in leaving) if decrement else 0
    if group.desired - counted < group.minimum:
        raise _invalid(
            f"Currently, desiredSize equals minSize ({group.minimum}). Terminating instance without replacement will "
            "violate group's min size constraint. Either set shouldDecrementDesiredCapacity flag to false or lower "
            "group's min size."
        )
    step = Step(replace(group, desired=group.desired - counted), now)
    for member in leaving:
        step.retire(member, "an instance was taken out of service in response to a user request")
    return step.settle()


def detach(group: Group, instances: Sequence[str], now: float, *, decrement: bool) -> After:
    """Let instances go, running and without hooks; replace them unless capacity is decremented.

    Raises:
        Refused: one is not in service or standby, or decrementing would go below the minimum.
    """
    leaving = [_in_one_of(group, instance, State.IN_SERVICE, State.STANDBY) for instance in dict.fromkeys(instances)]
    step = Step(_decremented(group, leaving, decrement, "detach"), now)
    for member in leaving:
        step.record(f"Detaching EC2 instance: {member.instance}", "an instance was detached", member, done=True)
        step.remove(member)
        step.effects.append(DisownInstance(member.instance))
    return step.settle()


def enter_standby(group: Group, instances: Sequence[str], now: float, *, decrement: bool) -> After:
    """Take instances out of service without ending them, and without hooks.

    Raises:
        Refused: one is not in service, or decrementing would go below the minimum.
    """
    leaving = [_in_one_of(group, instance, State.IN_SERVICE) for instance in dict.fromkeys(instances)]
    step = Step(_decremented(group, leaving, decrement, "place into standby"), now)
    for member in leaving:
        cause = "an instance was moved to standby in response to a user request"
        step.record(f"Moving EC2 instance to Standby: {member.instance}", cause, member, done=True)
        step.put(replace(member, state=State.STANDBY, since=now))
    return step.settle()


def exit_standby(group: Group, instances: Sequence[str], now: float) -> After:
    """Bring instances back into service; desired capacity rises by as many.

    Raises:
        Refused: one is not in standby, or the group would exceed its maximum.
    """
    back = [_in_one_of(group, instance, State.STANDBY) for instance in dict.fromkeys(instances)]
    desired = group.desired + len(back)
    if desired > group.maximum:
        raise _sizes_in_the_way(group, f"take out of standby {len(back)}")
    step = Step(replace(group, desired=desired), now)
    for member in back:
        cause = "an instance was moved out of standby in response to a user request"
        step.record(f"Moving EC2 instance out of Standby: {member.instance}", cause, member, done=True)
        step.put(replace(member, state=State.IN_SERVICE, since=now))
    return step.settle()


def set_protection(group: Group, instances: Sequence[str], now: float, *, protected: bool) -> After:
    """Protect instances from scale-in, or no longer.

    Raises:
        Refused: one is not in service or standby.
    """
    members = [_in_one_of(group, instance, State.IN_SERVICE, State.STANDBY) for instance in dict.fromkeys(instances)]
    step = Step(group, now)
    for member in members:
        step.put(replace(member, protected=protected))
    return step.settle()


def suspend(group: Group, processes: Iterable[str], now: float) -> After:
    """Suspend processes; none named means all.

    Raises:
        Refused: a name is not a process.
    """
    wanted = _processes(processes)
    suspended = tuple(name for name in PROCESSES if name in group.suspended or name in wanted)
    return Step(replace(group, suspended=suspended), now).settle()


def resume(group: Group, processes: Iterable[str], now: float) -> After:
    """Resume processes; none named means all.

    Raises:
        Refused: a name is not a process.
    """
    wanted = _processes(processes)
    suspended = tuple(name for name in group.suspended if name not in wanted)
    return Step(replace(group, suspended=suspended), now).settle()


def put_tags(group: Group, tags: Iterable[Tag]) -> Group:
    """Add tags or change them; instances that run already keep theirs, as in AWS."""
    merged = {tag.key: tag for tag in (*group.tags, *tags)}
    return replace(group, tags=tuple(merged[key] for key in sorted(merged)))


def delete_tags(group: Group, keys: Iterable[str]) -> Group:
    """Remove the tags with these keys."""
    unwanted = set(keys)
    return replace(group, tags=tuple(tag for tag in group.tags if tag.key not in unwanted))


def put_policy(group: Group, policy: Policy) -> Group:
    """Add a simple scaling policy, or overwrite the one with its name.

    Raises:
        Refused: the adjustment type is unknown.
    """
    if policy.adjustment_type not in ("ChangeInCapacity", "ExactCapacity", "PercentChangeInCapacity"):
        raise _invalid(f"Invalid adjustment type: {policy.adjustment_type!r}")
    others = tuple(other for other in group.policies if other.name != policy.name)
    return replace(group, policies=(*others, policy))


def delete_policy(group: Group, name: str) -> Group:
    """Remove a policy.

    Raises:
        Refused: there is no such policy.
    """
    gone = _policy(group, name)
    return replace(group, policies=tuple(policy for policy in group.policies if policy is not gone))


def execute_policy(group: Group, name: str, now: float, *, honor_cooldown: bool = False, alarm: str = "") -> After:
    """Carry out a policy, for a person or for the alarm named.

    For an alarm, a running cooldown or the suspended process AlarmNotification makes it a no-op.

    Raises:
        Refused: there is no such policy; or, for a person, a cooldown that is to be honored runs.
    """
    policy = _policy(group, name)
    if alarm and (now < group.cooldown_until or "AlarmNotification" in group.suspended or not policy.enabled):
        return group, ()
    _check_cooldown(group, now, honor_cooldown)
    desired = max(group.minimum, min(group.maximum, _adjusted(group.desired, policy)))
    if desired == group.desired:
        return group, ()
    who = f"a monitor alarm {alarm} in state ALARM triggered" if alarm else "a user request executed"
    cause = f"{who} policy {name} changing the desired capacity from {group.desired} to {desired}"
    cooldown = group.default_cooldown_s if policy.cooldown_s is None else policy.cooldown_s
    return Step(replace(group, desired=desired, cooldown_until=now + cooldown), now, cause).settle()


# What the world reports.


def launched(group: Group, order: int, what: Launched, now: float) -> After:
    """EC2 has started the instance of a launch order."""
    step = Step(group, now)
    member = step.member(order)
    template = TemplateRef(
        what.template_id or member.template.id, what.template_name or member.template.name, what.version
    )
    member = replace(member, instance=what.instance, image=what.image, type=what.type, template=template)
    step.put(member)
    step.amend(
        member, description=f"Launching a new EC2 instance: {what.instance}", instance=what.instance, progress=30
    )
    if member.state in LEAVING:
        step.effects.append(TerminateInstance(what.instance))
    return step.settle()


def launch_failed(group: Group, order: int, reason: str, now: float) -> After:
    """EC2 has refused a launch order."""
    step = Step(group, now)
    member = step.member(order)
    step.launch_went_wrong(member, reason)
    step.remove(member)
    return step.settle()


def instance_running(group: Group, instance: str, now: float) -> After:
    """EC2 says that an instance runs: the launch hooks begin, or it goes into service."""
    member = group.member(instance)
    if member is None or member.state is not State.PENDING:
        return group, ()
    step = Step(group, now)
    if not step.begin_hooks(member.order, LAUNCHING):
        step.serve(member.order)
    return step.settle()


def instance_stopped(group: Group, instance: str, now: float) -> After:
    """EC2 says that an instance was stopped: a member that counts is terminated and replaced, without hooks."""
    member = group.member(instance)
    if member is None or member.state not in ACTIVE:
        return group, ()
    step = Step(group, now)
    if member.state in ARRIVING:
        step.launch_went_wrong(member, "The instance was stopped while it was launched.")
    step.put(replace(member, healthy=False, stopped=True))
    return step.settle()


def instance_terminated(group: Group, instance: str, now: float) -> After:
    """EC2 says that an instance has ended: on our wish, or on somebody else's, and then no hooks run."""
    member = group.member(instance)
    if member is None:
        return group, ()
    step = Step(group, now)
    if member.state in ARRIVING:
        step.launch_went_wrong(member, "Instance became unhealthy while waiting for instance to be in InService state.")
    if member.state not in LEAVING:
        cause = (
            "an instance was taken out of service in response to an EC2 health check "
            "indicating it has been terminated or stopped"
        )
        member = step.record(f"Terminating EC2 instance: {instance}", cause, member)
    activity = step.amend(member, status="Successful", progress=100, end=now)
    step.announce("Terminate Successful", activity, leaving=True)
    step.remove(member)
    return step.settle()


def tick(group: Group, now: float) -> After:
    """Let time have its say: time-outs of hooks, the last step into service, launches that waited for a pause."""
    step = Step(group, now)
    for member in group.in_state(State.PENDING_PROCEED):
        step.serve(member.order)
    for order, action in _waiting(group):
        if action.deadline <= now and action in step.member(order).actions:
            why = f"Lifecycle Action timed out with its default {action.hook.default_result} Result"
            step.finish_action(order, action, action.hook.default_result, why)
    return step.settle()


def next_deadline(group: Group) -> float | None:
    """Return when ``tick`` has something to do next; None when only a request or a report can change anything."""
    moments = [action.deadline for _, action in _waiting(group)]
    moments += [member.since for member in group.in_state(State.PENDING_PROCEED)]
    if missing(group) > 0 and "Launch" not in group.suspended:
        moments.append(group.retry_at)
    return min(moments, default=None)


# Answers to single questions.


def _waiting(group: Group) -> list[tuple[int, Action]]:
    """Return all active actions with their member's order, the earliest deadline first."""
    waiting = [(member.order, action) for member in group.members for action in member.actions]
    return sorted(waiting, key=lambda pair: (pair[1].deadline, pair[0]))


def _active_action(group: Group, hook: str, token: str, instance: str) -> tuple[int, Action]:
    for member in group.members:
        for action in member.actions:
            meant = action.token == token if token else member.instance == instance
            if meant and action.hook.name == hook:
                return member.order, action
    what = f"token {token}" if token else f"instance ID {instance}"
    raise _invalid(f"No active Lifecycle Action found with {what}")


def _adjusted(desired: int, policy: Policy) -> int:
    if policy.adjustment_type == "ExactCapacity":
        return policy.adjustment
    if policy.adjustment_type == "ChangeInCapacity":
        return desired + policy.adjustment
    return desired + _percent_change(desired, policy)


def _percent_change(desired: int, policy: Policy) -> int:
    """Round as AWS does: towards zero, but never to nothing; then apply the least change."""
    exact = abs(desired * policy.adjustment) // 100
    size = max(exact, 1 if desired * policy.adjustment else 0, policy.least_change)
    return size if policy.adjustment > 0 else -size


def _managed(group: Group, instance: str) -> Member:
    member = group.member(instance)
    if member is None:
        raise _invalid(f"Instance Id not found - No managed instance found for instance ID: {instance}")
    return member


def _in_one_of(group: Group, instance: str, *states: State) -> Member:
    member = group.member(instance)
    if member is None:
        raise _invalid(f"The instance {instance} is not part of Auto Scaling group {group.name}.")
    if member.state not in states:
        raise _invalid(f"The instance {instance} is not in {' or '.join(states)}.")
    return member


def _decremented(group: Group, leaving: Sequence[Member], decrement: bool, doing: str) -> Group:
    counted = sum(member.state in ACTIVE for member in leaving) if decrement else 0
    if group.desired - counted < group.minimum:
        raise _sizes_in_the_way(group, f"{doing} {counted}")
    return replace(group, desired=group.desired - counted)


def _sizes_in_the_way(group: Group, doing: str) -> Refused:
    return _invalid(
        f"AutoScalingGroup {group.name} has min-size={group.minimum}, max-size={group.maximum}, and "
        f"desired-size={group.desired}. To {doing} instance(s), please update the AutoScalingGroup sizes appropriately."
    )


def _policy(group: Group, name: str) -> Policy:
    for policy in group.policies:
        if name in (policy.name, group.policy_arn(policy.name)):
            return policy
    raise _invalid(f"PolicyName not found - no such policy: {name}")


def _processes(names: Iterable[str]) -> tuple[str, ...]:
    wanted = tuple(names) or PROCESSES
    unknown = [name for name in wanted if name not in PROCESSES]
    if unknown:
        raise _invalid(f"The process type {unknown[0]!r} is not one of {', '.join(PROCESSES)}.")
    return wanted


def _check_sizes(group: Group) -> None:
    if group.minimum < 0:
        raise _invalid(f"Min bound, {group.minimum}, must not be negative")
    if group.maximum < group.minimum:
        raise _invalid(f"Max bound, {group.maximum}, must be greater than or equal to min bound, {group.minimum}")
    if not group.minimum <= group.desired <= group.maximum:
        raise _invalid(
            f"Desired capacity:{group.desired} must be between the specified min size:{group.minimum} "
            f"and max size:{group.maximum}"
        )


def _check_hook(hook: Hook) -> None:
    if hook.transition not in (LAUNCHING, TERMINATING):
        raise _invalid(f"Invalid LifecycleTransition {hook.transition!r}: {LAUNCHING} or {TERMINATING}")
    if not 30 <= hook.heartbeat_s <= 7200:
        raise _invalid(f"HeartbeatTimeout {hook.heartbeat_s} must be between 30 and 7200 seconds.")
    if hook.default_result not in ("CONTINUE", "ABANDON"):
        raise _invalid(f"Invalid DefaultResult {hook.default_result!r}: CONTINUE or ABANDON")


def _check_cooldown(group: Group, now: float, honor: bool) -> None:
    if honor and now < group.cooldown_until:
        raise Refused(
            "ScalingActivityInProgress",
            f"AutoScalingGroup {group.name} is in its cooldown until {moment(group.cooldown_until)}.",
        )


def _invalid(message: str) -> Refused:
    return Refused("ValidationError", message)
