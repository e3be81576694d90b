"""The life of a group, stepped by hand: no clock, no threads, no world but the one told here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from localcloud import group as machine
from localcloud.groupstep import After
from localcloud.groupvalues import (
    ACTIVE,
    LAUNCHING,
    TERMINATING,
    Changes,
    DisownInstance,
    Effect,
    Group,
    GroupEvent,
    Hook,
    HookChanges,
    Launched,
    LaunchInstance,
    Member,
    NotifyHook,
    Policy,
    Refused,
    State,
    Tag,
    TemplateRef,
    TerminateInstance,
    TryTarget,
)

E = TypeVar("E", bound=Effect)

LAUNCH_HOOK = Hook("launch", LAUNCHING, heartbeat_s=60)
TERMINATE_HOOK = Hook("terminate", TERMINATING, heartbeat_s=60)


def described(**more: Any) -> Group:
    fields: dict[str, Any] = {
        "name": "web",
        "identity": "00000000-0000-4000-8000-000000000001",
        "region": "us-east-1",
        "account": "000000000000",
        "created": 0,
        "minimum": 0,
        "maximum": 10,
        "desired": 2,
        "template": TemplateRef(name="web"),
        "zones": ("a", "b"),
    }
    return Group(**{**fields, **more})


class Life:
    """A group, the time, and all that it has asked for; instance ids are i-1, i-2, ... in the order of launch."""

    def __init__(self, *, boot: bool = False, **more: Any) -> None:
        self.now = 1000.0
        self.effects: list[Effect] = []
        self.version = "1"
        self.started = 0
        self.group = described(**more)
        self.take(machine.create(self.group, self.now))
        if boot:
            self.boot_all()

    def take(self, after: After) -> tuple[Effect, ...]:
        self.group, effects = after
        self.effects += effects
        if any(isinstance(effect, LaunchInstance) for effect in effects):
            assert len(self.group.in_state(*ACTIVE)) <= self.group.desired
        return effects

    def do(self, request: Callable[..., After], *arguments: Any, **named: Any) -> tuple[Effect, ...]:
        return self.take(request(self.group, *arguments, self.now, **named))

    def pass_time(self, seconds: float) -> tuple[Effect, ...]:
        self.now += seconds
        return self.do(machine.tick)

    def orders(self) -> list[int]:
        return [member.order for member in self.group.members if not member.instance]

    def launch_all(self) -> None:
        for order in self.orders():
            self.started += 1
            what = Launched(f"i-{self.started}", "ami-1", "m7i.large", self.version)
            self.take(machine.launched(self.group, order, what, self.now))

    def boot_all(self) -> None:
        """Launch what is ordered, have it run, and complete its launch hooks, until it is in service."""
        self.launch_all()
        for member in self.group.in_state(State.PENDING):
            self.do(machine.instance_running, member.instance)
        for member in self.group.in_state(State.PENDING_WAIT):
            for action in member.actions:
                self.do(machine.complete_action, action.hook.name, "CONTINUE", token=action.token)
        self.pass_time(0)

    def all(self, kind: type[E]) -> list[E]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def terminated(self) -> list[str]:
        return [effect.instance for effect in self.all(TerminateInstance)]

    def events(self) -> list[str]:
        return [effect.kind for effect in self.all(GroupEvent)]

    def state(self, instance: str) -> State:
        return self.member(instance).state

    def member(self, instance: str) -> Member:
        member = self.group.member(instance)
        assert member is not None
        return member

    def states(self) -> list[str]:
        return [str(member.state) for member in self.group.members]


def refused(code: str, words: str, request: Callable[[], object]) -> None:
    with pytest.raises(Refused) as error:
        request()
    assert error.value.code == code
    assert words in error.value.message


# Creation and size.


def test_a_new_group_orders_what_is_desired_over_its_zones_with_its_tags() -> None:
    life = Life(desired=3, tags=(Tag("k", "v", True), Tag("own", "x", False)))
    assert [effect.zone for effect in life.all(LaunchInstance)] == ["a", "b", "a"]
    assert life.all(LaunchInstance)[0].tags == (("k", "v"), ("aws:autoscaling:groupName", "web"))
    assert life.states() == ["Pending"] * 3


def test_the_same_requests_give_the_same_life() -> None:
    lives = [Life(boot=True, hooks=(LAUNCH_HOOK,)) for _ in range(2)]
    assert lives[0].effects == lives[1].effects
    assert lives[0].group == lives[1].group


def test_another_group_has_other_tokens() -> None:
    tokens = set()
    for identity in ("00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"):
        life = Life(boot=True, hooks=(LAUNCH_HOOK,), identity=identity)
        tokens |= {effect.token for effect in life.all(NotifyHook)}
    assert len(tokens) == 4
    assert {len(token) for token in tokens} == {36}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"desired": 11}, "between the specified min size:0 and max size:10"),
        ({"minimum": 3}, "between the specified min size:3"),
        ({"minimum": 11}, "greater than or equal to min bound, 11"),
        ({"minimum": -1}, "must not be negative"),
        ({"hooks": (Hook("h", LAUNCHING, heartbeat_s=29),)}, "between 30 and 7200"),
        ({"hooks": (Hook("h", LAUNCHING, heartbeat_s=7201),)}, "between 30 and 7200"),
        ({"hooks": (Hook("h", "launching"),)}, "Invalid LifecycleTransition"),
    ],
)
def test_a_description_that_aws_would_not_take_is_refused(more: dict[str, Any], words: str) -> None:
    refused("ValidationError", words, lambda: machine.create(described(**more), 0))


def test_update_moves_desired_into_the_new_bounds() -> None:
    life = Life(boot=True)
    life.do(machine.update, Changes(minimum=3))
    assert (life.group.desired, len(life.orders())) == (3, 1)
    life.do(machine.update, Changes(minimum=0, maximum=1))
    assert life.group.desired == 1


def test_update_refuses_a_desired_out_of_bounds_and_changes_nothing_it_was_not_given() -> None:
    life = Life(boot=True, grace_s=7)
    refused("ValidationError", "Desired capacity:9", lambda: life.do(machine.update, Changes(maximum=8, desired=9)))
    life.do(machine.update, Changes(template=TemplateRef(name="web", version="2"), zones=("c",)))
    assert (life.group.grace_s, life.group.maximum, life.group.desired) == (7, 10, 2)
    life.do(machine.set_desired, 3)
    assert (life.all(LaunchInstance)[-1].zone, life.all(LaunchInstance)[-1].template.version) == ("c", "2")


def test_desired_capacity_stays_within_bounds() -> None:
    life = Life(minimum=1)
    refused("ValidationError", "above max value 10", lambda: life.do(machine.set_desired, 11))
    refused("ValidationError", "below min value 1", lambda: life.do(machine.set_desired, 0))


def test_each_launch_goes_to_the_zone_that_has_fewest() -> None:
    life = Life(boot=True, desired=4)
    gone = [member.instance for member in life.group.members if member.zone == "b"]
    for instance in gone:
        life.do(machine.instance_terminated, instance)
    assert Counter(member.zone for member in life.group.members) == {"a": 2, "b": 2}


# Arriving.


def test_without_hooks_a_running_instance_is_in_service() -> None:
    life = Life(desired=1)
    life.launch_all()
    assert life.states() == ["Pending"]
    life.do(machine.instance_running, "i-1")
    assert life.states() == ["InService"]
    assert life.events() == ["Launch Successful"]


def test_what_was_launched_is_on_the_member() -> None:
    life = Life(desired=1, template=TemplateRef(name="web", version="$Latest"))
    life.version = "7"
    life.launch_all()
    member = life.member("i-1")
    assert (member.image, member.type, member.template) == ("ami-1", "m7i.large", TemplateRef(name="web", version="7"))


def test_every_launch_hook_has_an_action_and_the_last_one_lets_the_instance_proceed() -> None:
    life = Life(desired=1, hooks=(LAUNCH_HOOK, replace(LAUNCH_HOOK, name="second", metadata="m"), TERMINATE_HOOK))
    life.launch_all()
    life.do(machine.instance_running, "i-1")
    assert [effect.hook.name for effect in life.all(NotifyHook)] == ["launch", "second"]
    assert {effect.origin for effect in life.all(NotifyHook)} == {"EC2"}
    life.do(machine.complete_action, "launch", "CONTINUE", instance="i-1")
    assert life.states() == ["Pending:Wait"]
    life.do(machine.complete_action, "second", "CONTINUE", instance="i-1")
    assert life.states() == ["Pending:Proceed"]
    assert machine.next_deadline(life.group) == life.now
    life.pass_time(0)
    assert life.states() == ["InService"]


def test_running_reported_twice_starts_the_hooks_once() -> None:
    life = Life(desired=1, hooks=(LAUNCH_HOOK,))
    life.launch_all()
    life.do(machine.instance_running, "i-1")
    assert life.do(machine.instance_running, "i-1") == ()
    assert len(life.member("i-1").actions) == 1


@pytest.mark.parametrize("named", ["token", "instance"])
def test_an_action_is_completed_once_only(named: str) -> None:
    life = Life(desired=1, hooks=(LAUNCH_HOOK,))
    life.launch_all()
    life.do(machine.instance_running, "i-1")
    token = life.all(NotifyHook)[0].token
    meant = {"token": token} if named == "token" else {"instance": "i-1"}
    life.do(machine.complete_action, "launch", "CONTINUE", **meant)
    words = f"token {token}" if named == "token" else "instance ID i-1"
    refused(
        "ValidationError",
        f"No active Lifecycle Action found with {words}",
        lambda: life.do(machine.complete_action, "launch", "CONTINUE", **meant),
    )
    refused("ValidationError", "No active", lambda: life.do(machine.heartbeat, "launch", **meant))


def test_an_action_is_not_completed_by_another_hooks_name_or_by_no_name_at_all() -> None:
    life = Life(desired=1, hooks=(LAUNCH_HOOK,))
    life.launch_all()
    life.do(machine.instance_running, "i-1")
    refused("ValidationError", "No", lambda: life.do(machine.complete_action, "other", "CONTINUE", instance="i-1"))
    refused("ValidationError", "No", lambda: life.do(machine.complete_action, "launch", "CONTINUE"))
    assert life.states() == ["Pending:Wait"]


@pytest.mark.parametrize(("result", "state"), [("CONTINUE", "Pending:Proceed"), ("ABANDON", "Terminating")])
def test_a_hook_that_nobody_completes_ends_with_its_default_result(result: Any, state: str) -> None:
    life = Life(desired=1, hooks=(replace(LAUNCH_HOOK, default_result=result),))
    life.launch_all()
    life.do(machine.instance_running, "i-1")
    assert machine.next_deadline(life.group) == life.now + 60
    assert life.pass_time(59.9) == ()
    life.pass_time(0.1)
    assert life.state("i-1") == state


def test_heartbeats_extend_the_timeout_from_now_but_not_past_the_global_one() -> None:
    life = Life(desired=1, hooks=(replace(LAUNCH_HOOK, heartbeat_s=7200),))
    life.launch_all()
    life.do(machine.instance_running, "i-1")
    began = life.now
    for _ in range(30):
        life.pass_time(7000)
        if life.state("i-1") != State.PENDING_WAIT:
            break
        life.do(machine.heartbeat, "launch", instance="i-1")
        deadline = machine.next_deadline(life.group)
        assert deadline == min(life.now + 7200, began + 172_800)
    assert life.state("i-1") == State.TERMINATING
    assert life.now - began == 7000 * 25


def test_the_global_timeout_of_a_short_hook_is_a_hundred_heartbeats() -> None:
    assert Hook("h", LAUNCHING, heartbeat_s=30).global_s == 3000


def test_an_abandoned_launch_is_terminated_and_replaced_after_a_pause() -> None:
    life = Life(desired=1, hooks=(LAUNCH_HOOK,))
    life.launch_all()
    life.do(machine.instance_running, "i-1")
    life.do(machine.complete_action, "launch", "ABANDON", instance="i-1")
    assert life.terminated() == ["i-1"]
    assert life.events() == ["Launch Unsuccessful"]
    assert life.states() == ["Terminating"]
    assert machine.next_deadline(life.group) == life.now + 1
    life.pass_time(1)
    assert life.states() == ["Terminating", "Pending"]


def test_an_abandoned_launch_skips_the_other_launch_hooks_and_passes_the_terminate_hooks() -> None:
    life = Life(desired=1, hooks=(LAUNCH_HOOK, replace(LAUNCH_HOOK, name="second"), TERMINATE_HOOK))
    life.launch_all()
    life.do(machine.instance_running, "i-1")
    life.do(machine.complete_action, "launch", "ABANDON", instance="i-1")
    assert life.state("i-1") == State.TERMINATING_WAIT
    assert [action.hook.name for action in life.member("i-1").actions] == ["terminate"]


def test_hooks_that_time_out_together_let_the_instance_down_once() -> None:
    life = Life(desired=1, hooks=(LAUNCH_HOOK, replace(LAUNCH_HOOK, name="second")))
    life.launch_all()
    life.do(machine.instance_running, "i-1")
    life.pass_time(60)
    assert life.events() == ["Launch Unsuccessful"]
    assert life.terminated() == ["i-1"]


def test_launches_back_off_after_failures_and_recover_with_a_success() -> None:
    life = Life(desired=1)
    pauses = []
    for _ in range(8):
        (order,) = life.orders()
        life.take(machine.launch_failed(life.group, order, "no capacity", life.now))
        assert life.orders() == []
        deadline = machine.next_deadline(life.group)
        assert deadline is not None
        pauses.append(deadline - life.now)
        assert life.pass_time(pauses[-1] - 0.01) == ()
        life.pass_time(0.01)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    life.boot_all()
    assert (life.states(), life.group.failures, machine.next_deadline(life.group)) == (["InService"], 0, None)


def test_failures_at_the_same_time_count_as_one() -> None:
    life = Life(desired=3)
    for order in life.orders():
        life.take(machine.launch_failed(life.group, order, "no capacity", life.now))
    assert machine.next_deadline(life.group) == life.now + 1
    assert len(life.pass_time(1)) == 3


def test_an_instance_that_ends_or_stops_while_it_arrives_is_a_failed_launch() -> None:
    life = Life(desired=2, hooks=(LAUNCH_HOOK,))
    life.launch_all()
    life.do(machine.instance_terminated, "i-1")
    life.do(machine.instance_stopped, "i-2")
    assert life.events().count("Launch Unsuccessful") == 2
    assert life.terminated() == ["i-2"]
    assert life.orders() == []
    life.pass_time(1)
    assert len(life.orders()) == 2


# Hooks as such.


def test_putting_a_hook_with_a_target_tries_it() -> None:
    life = Life(desired=0)
    life.do(machine.put_hook, HookChanges("h", LAUNCHING, target="arn:q", heartbeat_s=30))
    assert [effect.target for effect in life.all(TryTarget)] == ["arn:q"]
    life.do(machine.put_hook, HookChanges("h", target=""))
    assert len(life.all(TryTarget)) == 1
    assert life.group.hooks == (Hook("h", LAUNCHING, heartbeat_s=30),)


def test_a_new_hook_needs_a_transition() -> None:
    refused("ValidationError", "required", lambda: Life().do(machine.put_hook, HookChanges("h")))


def test_a_changed_hook_leaves_waiting_instances_their_terms() -> None:
    life = Life(desired=1, hooks=(LAUNCH_HOOK,))
    life.launch_all()
    life.do(machine.instance_running, "i-1")
    life.do(machine.put_hook, HookChanges("launch", default_result="CONTINUE"))
    life.pass_time(60)
    assert life.state("i-1") == State.TERMINATING


def test_deleting_a_hook_lets_down_who_launches_and_lets_go_who_terminates() -> None:
    life = Life(boot=True, desired=1, hooks=(TERMINATE_HOOK,))
    life.do(machine.put_hook, HookChanges("launch", LAUNCHING))
    life.do(machine.set_health, "i-1", healthy=False)
    life.launch_all()
    life.do(machine.instance_running, "i-2")
    assert life.states() == ["Terminating:Wait", "Pending:Wait"]
    life.do(machine.delete_hook, "terminate")
    life.do(machine.delete_hook, "launch")
    assert life.states() == ["Terminating:Proceed", "Terminating"]
    refused("ValidationError", "No Lifecycle Hook found", lambda: life.do(machine.delete_hook, "launch"))


# Leaving.


def test_terminate_hooks_hold_the_instance_and_then_let_it_go() -> None:
    life = Life(boot=True, desired=1, hooks=(TERMINATE_HOOK,))
    life.do(machine.terminate_instances, ["i-1"], decrement=False)
    assert life.state("i-1") == State.TERMINATING_WAIT
    assert life.all(NotifyHook)[-1].destination == "EC2"
    assert life.terminated() == []
    life.do(machine.complete_action, "terminate", "CONTINUE", instance="i-1")
    assert (life.state("i-1"), life.terminated()) == (State.TERMINATING_PROCEED, ["i-1"])
    life.do(machine.instance_terminated, "i-1")
    assert life.group.member("i-1") is None
    assert life.events()[-1] == "Terminate Successful"


@pytest.mark.parametrize(("result", "left"), [("CONTINUE", 1), ("ABANDON", 0)])
def test_abandon_skips_the_terminate_hooks_that_are_left(result: str, left: int) -> None:
    life = Life(boot=True, desired=1, hooks=(TERMINATE_HOOK, replace(TERMINATE_HOOK, name="second")))
    life.do(machine.terminate_instances, ["i-1"], decrement=False)
    life.do(machine.complete_action, "terminate", result, instance="i-1")
    assert len(life.member("i-1").actions) == left
    assert life.terminated() == ([] if left else ["i-1"])


def test_a_terminate_hook_that_times_out_lets_go_whatever_its_default() -> None:
    life = Life(boot=True, desired=1, hooks=(TERMINATE_HOOK,))
    life.do(machine.terminate_instances, ["i-1"], decrement=False)
    life.pass_time(60)
    assert life.terminated() == ["i-1"]


def test_a_replacement_does_not_wait_for_the_end_of_the_one_it_replaces() -> None:
    life = Life(boot=True, hooks=(TERMINATE_HOOK,))
    life.do(machine.set_health, "i-1", healthy=False)
    assert life.states() == ["Terminating:Wait", "InService", "Pending"]


def test_the_grace_period_protects_who_just_came_unless_told_otherwise() -> None:
    life = Life(boot=True, desired=1, grace_s=60)
    life.do(machine.set_health, "i-1", healthy=False)
    assert life.states() == ["InService"]
    life.do(machine.set_health, "i-1", healthy=False, respect_grace=False)
    assert life.states() == ["Terminating", "Pending"]
    life.boot_all()
    life.pass_time(60)
    life.do(machine.set_health, "i-2", healthy=False)
    assert life.state("i-2") == State.TERMINATING


def test_health_of_strangers_and_of_who_leaves_is_refused() -> None:
    life = Life(boot=True, desired=1)
    refused("ValidationError", "i-9", lambda: life.do(machine.set_health, "i-9", healthy=False))
    life.do(machine.set_health, "i-1", healthy=False)
    assert life.do(machine.set_health, "i-1", healthy=False) == ()
    refused("ValidationError", "already terminating", lambda: life.do(machine.set_health, "i-1", healthy=True))


def test_an_instance_that_somebody_terminated_in_ec2_is_replaced_and_no_hook_runs() -> None:
    life = Life(boot=True, desired=1, hooks=(TERMINATE_HOOK,))
    life.do(machine.instance_terminated, "i-1")
    assert life.group.member("i-1") is None
    assert life.all(NotifyHook) == []
    assert life.states() == ["Pending"]


def test_an_instance_that_was_stopped_is_terminated_and_replaced_and_no_hook_runs() -> None:
    life = Life(boot=True, desired=1, hooks=(TERMINATE_HOOK,))
    life.do(machine.instance_stopped, "i-1")
    assert life.all(NotifyHook) == []
    assert (life.terminated(), life.states()) == (["i-1"], ["Terminating", "Pending"])


def test_an_instance_that_ends_while_it_waits_to_leave_is_gone_with_its_action() -> None:
    life = Life(boot=True, desired=1, hooks=(TERMINATE_HOOK,))
    life.do(machine.set_health, "i-1", healthy=False)
    life.do(machine.instance_terminated, "i-1")
    refused(
        "ValidationError",
        "No active",
        lambda: life.do(machine.complete_action, "terminate", "CONTINUE", instance="i-1"),
    )
    assert life.terminated() == []


def test_news_of_strangers_changes_nothing() -> None:
    life = Life(boot=True)
    before = life.group
    for report in (machine.instance_running, machine.instance_stopped, machine.instance_terminated):
        assert life.do(report, "i-9") == ()
    assert life.group == before


def test_terminating_with_decrement_is_not_replaced_and_stays_above_the_minimum() -> None:
    life = Life(boot=True, minimum=1)
    words = "desiredSize equals minSize (1)"
    both = lambda: life.do(machine.terminate_instances, ["i-1", "i-2"], decrement=True)  # noqa: E731
    refused("ValidationError", words, both)
    life.do(machine.terminate_instances, ["i-1"], decrement=True)
    assert (life.group.desired, life.states()) == (1, ["Terminating", "InService"])
    refused("ValidationError", words, lambda: life.do(machine.terminate_instances, ["i-2"], decrement=True))


def test_terminating_the_same_instance_again_changes_nothing() -> None:
    life = Life(boot=True, hooks=(TERMINATE_HOOK,))
    life.do(machine.terminate_instances, ["i-1", "i-1"], decrement=True)
    before = life.group
    assert life.do(machine.terminate_instances, ["i-1"], decrement=True) == ()
    assert life.group == before
    assert (before.desired, len(life.all(NotifyHook))) == (1, 1)


def test_terminating_an_instance_that_still_arrives_is_no_failed_launch() -> None:
    life = Life(desired=1, hooks=(LAUNCH_HOOK,))
    life.launch_all()
    life.do(machine.instance_running, "i-1")
    life.do(machine.terminate_instances, ["i-1"], decrement=False)
    assert life.states() == ["Terminating", "Pending"]
    assert "Launch Unsuccessful" not in life.events()


def test_scale_in_balances_zones_first() -> None:
    life = Life(boot=True, desired=3)
    life.do(machine.instance_terminated, "i-1")
    life.boot_all()
    assert [(m.instance, m.zone) for m in life.group.members] == [("i-2", "b"), ("i-3", "a"), ("i-4", "a")]
    life.do(machine.set_desired, 2)
    assert life.terminated() == ["i-3"]


def test_scale_in_takes_the_oldest_template_version_before_the_oldest_instance() -> None:
    life = Life(desired=2, zones=("a",))
    life.version = "10"
    life.boot_all()
    life.version = "9"
    life.do(machine.set_desired, 4)
    life.boot_all()
    life.do(machine.set_desired, 1)
    assert life.terminated() == ["i-3", "i-4", "i-1"]


def test_scale_in_leaves_the_protected_and_those_who_arrive() -> None:
    life = Life(boot=True, hooks=(LAUNCH_HOOK,))
    life.do(machine.set_protection, ["i-1"], protected=True)
    life.do(machine.set_desired, 3)
    life.do(machine.set_desired, 0)
    assert life.terminated() == ["i-2"]
    assert life.states() == ["InService", "Terminating", "Pending"]
    life.do(machine.set_protection, ["i-1"], protected=False)
    assert life.terminated() == ["i-2", "i-1"]
    life.boot_all()
    assert life.terminated() == ["i-2", "i-1", "i-3"]


def test_who_serves_is_not_taken_for_who_is_still_to_come() -> None:
    life = Life(boot=True, hooks=(LAUNCH_HOOK,))
    life.do(machine.set_desired, 4)
    life.launch_all()
    life.do(machine.set_desired, 2)
    assert life.terminated() == []
    assert life.states() == ["InService", "InService", "Pending", "Pending"]


def test_new_instances_may_come_protected() -> None:
    assert Life(boot=True, desired=1, protect_new=True).member("i-1").protected


# Detach and standby.


@pytest.mark.parametrize(("decrement", "left"), [(False, ["InService", "Pending"]), (True, ["InService"])])
def test_a_detached_instance_runs_on_outside_and_is_replaced_unless_decremented(
    decrement: bool, left: list[str]
) -> None:
    life = Life(boot=True, hooks=(TERMINATE_HOOK,))
    life.do(machine.detach, ["i-1"], decrement=decrement)
    assert life.all(DisownInstance) == [DisownInstance("i-1")]
    assert life.terminated() == []
    assert life.all(NotifyHook) == []
    assert life.states() == left
    assert life.do(machine.instance_terminated, "i-1") == ()


def test_detaching_is_refused_for_strangers_for_who_arrives_and_below_the_minimum() -> None:
    life = Life(boot=True, minimum=2)
    refused("ValidationError", "not part of", lambda: life.do(machine.detach, ["i-9"], decrement=False))
    refused("ValidationError", "min-size=2", lambda: life.do(machine.detach, ["i-1"], decrement=True))
    life.do(machine.set_desired, 3)
    life.launch_all()
    refused("ValidationError", "not in InService", lambda: life.do(machine.detach, ["i-3"], decrement=False))


def test_standby_takes_out_of_service_and_back_without_hooks() -> None:
    life = Life(boot=True, hooks=(LAUNCH_HOOK, TERMINATE_HOOK))
    hooks = len(life.all(NotifyHook))
    life.do(machine.enter_standby, ["i-1"], decrement=True)
    assert (life.group.desired, life.states()) == (1, ["Standby", "InService"])
    life.do(machine.exit_standby, ["i-1"])
    assert (life.group.desired, life.states()) == (2, ["InService", "InService"])
    assert len(life.all(NotifyHook)) == hooks


def test_standby_without_decrement_is_replaced_and_coming_back_must_fit_the_maximum() -> None:
    life = Life(boot=True, maximum=2)
    life.do(machine.enter_standby, ["i-1"], decrement=False)
    assert life.states() == ["Standby", "InService", "Pending"]
    refused("ValidationError", "max-size=2", lambda: life.do(machine.exit_standby, ["i-1"]))
    refused("ValidationError", "not in Standby", lambda: life.do(machine.exit_standby, ["i-2"]))


def test_terminating_who_stands_by_leaves_desired_capacity_alone() -> None:
    life = Life(boot=True)
    life.do(machine.enter_standby, ["i-1"], decrement=True)
    life.do(machine.terminate_instances, ["i-1"], decrement=True)
    assert (life.group.desired, life.states()) == (1, ["Terminating", "InService"])


def test_an_instance_may_be_stopped_and_started_while_it_stands_by() -> None:
    life = Life(boot=True, desired=1)
    life.do(machine.enter_standby, ["i-1"], decrement=True)
    life.do(machine.instance_stopped, "i-1")
    life.do(machine.instance_running, "i-1")
    life.do(machine.exit_standby, ["i-1"])
    assert life.states() == ["InService"]


def test_health_in_standby_counts_when_the_instance_is_back() -> None:
    life = Life(boot=True, desired=1)
    life.do(machine.enter_standby, ["i-1"], decrement=True)
    life.do(machine.set_health, "i-1", healthy=False)
    assert life.states() == ["Standby"]
    life.do(machine.exit_standby, ["i-1"])
    assert life.states() == ["Terminating", "Pending"]


# Policies, processes, deletion, activities.


@pytest.mark.parametrize(
    ("kind", "adjustment", "least", "desired", "after"),
    [
        ("ChangeInCapacity", 3, 0, 4, 7),
        ("ChangeInCapacity", -9, 0, 4, 1),
        ("ChangeInCapacity", 99, 0, 4, 10),
        ("ExactCapacity", 6, 0, 4, 6),
        ("PercentChangeInCapacity", 50, 0, 5, 7),
        ("PercentChangeInCapacity", 10, 0, 4, 5),
        ("PercentChangeInCapacity", -10, 0, 4, 3),
        ("PercentChangeInCapacity", -60, 0, 4, 2),
        ("PercentChangeInCapacity", 10, 2, 4, 6),
        ("PercentChangeInCapacity", 0, 0, 4, 4),
    ],
)
def test_a_policy_adjusts_within_bounds(kind: str, adjustment: int, least: int, desired: int, after: int) -> None:
    life = Life(desired=desired, minimum=1)
    life.group = machine.put_policy(life.group, Policy("p", kind, adjustment, least_change=least))
    life.do(machine.execute_policy, "p")
    assert life.group.desired == after


def test_alarms_wait_for_the_cooldown_and_people_only_when_they_ask_to() -> None:
    life = Life(desired=1, default_cooldown_s=100)
    life.group = machine.put_policy(life.group, Policy("up", "ChangeInCapacity", 1, cooldown_s=60))
    life.do(machine.execute_policy, "up", alarm="busy")
    life.pass_time(59)
    life.do(machine.execute_policy, "up", alarm="busy")
    assert life.group.desired == 2
    honored = lambda: life.do(machine.execute_policy, "up", honor_cooldown=True)  # noqa: E731
    refused("ScalingActivityInProgress", "cooldown", honored)
    refused("ScalingActivityInProgress", "cooldown", lambda: life.do(machine.set_desired, 5, honor_cooldown=True))
    life.do(machine.execute_policy, "up")
    assert life.group.desired == 3
    life.pass_time(60)
    life.do(machine.execute_policy, "up", alarm="busy")
    assert life.group.desired == 4


def test_a_policy_without_a_cooldown_has_the_groups() -> None:
    life = Life(desired=1, default_cooldown_s=100)
    life.group = machine.put_policy(life.group, Policy("up", "ChangeInCapacity", 1))
    life.do(machine.execute_policy, "up")
    assert life.group.cooldown_until == life.now + 100


def test_unknown_policies_and_adjustments_are_refused() -> None:
    life = Life()
    refused("ValidationError", "no such policy", lambda: life.do(machine.execute_policy, "p"))
    refused("ValidationError", "no such policy", lambda: machine.delete_policy(life.group, "p"))
    refused("ValidationError", "Invalid adj", lambda: machine.put_policy(life.group, Policy("p", "Change", 1)))


def test_suspended_launch_and_terminate_wait_for_resume() -> None:
    life = Life(boot=True)
    life.do(machine.suspend, ["Launch", "Terminate"])
    life.do(machine.set_health, "i-1", healthy=False)
    life.do(machine.set_desired, 3)
    assert life.states() == ["InService", "InService"]
    assert machine.next_deadline(life.group) is None
    life.do(machine.resume, ["Terminate"])
    assert life.states() == ["Terminating", "InService"]
    life.do(machine.resume, [])
    assert life.states() == ["Terminating", "InService", "Pending", "Pending"]
    refused("ValidationError", "Lunch", lambda: life.do(machine.suspend, ["Lunch"]))


def test_scale_in_waits_while_terminate_is_suspended() -> None:
    life = Life(boot=True)
    life.do(machine.suspend, ["Terminate"])
    life.do(machine.set_desired, 0)
    assert life.terminated() == []
    life.do(machine.resume, ["Terminate"])
    assert sorted(life.terminated()) == ["i-1", "i-2"]


def test_alarms_do_nothing_while_alarm_notification_is_suspended() -> None:
    life = Life(desired=1)
    life.group = machine.put_policy(life.group, Policy("up", "ChangeInCapacity", 1))
    life.do(machine.suspend, [])
    life.do(machine.execute_policy, "up", alarm="busy")
    assert life.group.desired == 1


def test_alarms_do_not_carry_out_a_disabled_policy() -> None:
    life = Life(desired=1)
    life.group = machine.put_policy(life.group, Policy("up", "ChangeInCapacity", 1, enabled=False))
    life.do(machine.execute_policy, "up", alarm="busy")
    assert life.group.desired == 1


def test_only_an_empty_group_is_deleted_without_force() -> None:
    life = Life(desired=1)
    refused("ResourceInUse", "instances still in the group", lambda: life.do(machine.delete))
    empty = Life(desired=0)
    empty.do(machine.delete)
    assert empty.group.gone


def test_a_group_that_is_deleted_wants_nothing_and_says_why_its_instances_end() -> None:
    life = Life(boot=True, minimum=1)
    words = "You cannot delete an AutoScalingGroup while there are instances still in the group."
    with pytest.raises(Refused) as error:
        life.do(machine.delete)
    assert error.value.message == words
    life.do(machine.delete, force=True)
    assert (life.group.minimum, life.group.desired, life.group.deleting) == (0, 0, True)
    causes = {activity.cause for activity in life.group.activities if activity.description.startswith("Terminating")}
    assert len(causes) == 1
    assert "the AutoScalingGroup was deleted" in causes.pop()


def test_detaching_is_an_activity_of_its_own_that_has_ended_and_works_from_standby_too() -> None:
    life = Life(boot=True)
    life.do(machine.enter_standby, ["i-1"], decrement=True)
    life.do(machine.detach, ["i-1"], decrement=False)
    last = next(each for each in life.group.activities if each.description == "Detaching EC2 instance: i-1")
    assert "an instance was detached" in last.cause
    assert (last.status, last.end) == ("Successful", life.now)
    assert life.all(DisownInstance) == [DisownInstance("i-1")]


def test_only_the_policy_that_is_named_is_deleted() -> None:
    policies = (Policy("up", "ChangeInCapacity", 1), Policy("down", "ChangeInCapacity", -1))
    group = described(policies=policies)
    assert machine.delete_policy(group, "up") == replace(group, policies=policies[1:])
    assert machine.delete_policy(group, group.policy_arn("down")).policies == policies[:1]
    refused("ValidationError", "no such policy: sideways", lambda: machine.delete_policy(group, "sideways"))


@pytest.mark.parametrize(
    ("desired", "adjustment", "least", "becomes"),
    [(10, 20, 0, 12), (10, -20, 0, 8), (10, 19, 0, 11), (10, 1, 0, 11), (10, -1, 0, 9), (10, 10, 3, 13), (0, 50, 0, 0)],
)
def test_a_share_is_rounded_towards_zero_but_never_to_nothing(
    desired: int, adjustment: int, least: int, becomes: int
) -> None:
    policy = Policy("share", "PercentChangeInCapacity", adjustment, least_change=least)
    life = Life(desired=desired, maximum=20, policies=(policy,))
    life.do(machine.execute_policy, "share")
    assert life.group.desired == becomes


def test_force_ends_every_instance_without_hooks_and_launches_none() -> None:
    life = Life(boot=True, hooks=(TERMINATE_HOOK,))
    life.do(machine.set_health, "i-1", healthy=False)
    hooks = len(life.all(NotifyHook))
    life.do(machine.delete, force=True)
    assert sorted(life.terminated()) == ["i-1", "i-2"]
    life.launch_all()
    assert sorted(life.terminated()) == ["i-1", "i-2", "i-3"]
    assert len(life.all(NotifyHook)) == hooks
    for name in ("i-1", "i-2", "i-3"):
        assert not life.group.gone
        life.do(machine.instance_terminated, name)
    assert life.group.gone
    assert len(life.all(LaunchInstance)) == 3


def test_force_does_not_terminate_twice_who_is_being_terminated() -> None:
    life = Life(boot=True, hooks=(TERMINATE_HOOK,))
    life.do(machine.set_health, "i-1", healthy=False)
    life.do(machine.complete_action, "terminate", "CONTINUE", instance="i-1")
    life.do(machine.delete, force=True)
    assert life.terminated() == ["i-1", "i-2"]


def test_a_group_that_is_being_deleted_launches_nothing_more() -> None:
    life = Life(boot=True)
    life.do(machine.delete, force=True)
    life.do(machine.set_desired, 5)
    assert life.orders() == []
    assert machine.next_deadline(life.group) is None


def test_activities_say_what_happened_and_why() -> None:
    life = Life(boot=True, desired=1, created=1000)
    launch = life.group.activity_of("i-1")
    assert (launch.status, launch.progress, launch.end) == ("Successful", 100, life.now)
    assert launch.cause == (
        "At 1970-01-01T00:16:40Z a user request created an AutoScalingGroup "
        "changing the desired capacity from 0 to 1.  "
        "At 1970-01-01T00:16:40Z an instance was started in response to a difference between desired and actual "
        "capacity, increasing the capacity from 0 to 1."
    )
    life.do(machine.set_health, "i-1", healthy=False)
    leaving = life.group.activity_of("i-1")
    assert leaving.status == "InProgress"
    assert "in response to a user health-check" in leaving.cause
    life.do(machine.instance_terminated, "i-1")
    assert life.group.activity_of("i-1").status == "Successful"


def test_an_abandoned_launch_says_so_in_its_activity() -> None:
    life = Life(desired=1, hooks=(LAUNCH_HOOK,))
    life.launch_all()
    life.do(machine.instance_running, "i-1")
    life.pass_time(60)
    failed = next(activity for activity in life.group.activities if activity.status == "Failed")
    assert "was abandoned: Lifecycle Action timed out" in failed.message


def test_ended_activities_are_forgotten_in_the_end_and_running_ones_never() -> None:
    life = Life(boot=True, desired=1)
    life.do(machine.set_desired, 2)
    waiting = life.group.members[-1].activity
    for _ in range(150):
        life.do(machine.enter_standby, ["i-1"], decrement=True)
        life.do(machine.exit_standby, ["i-1"])
    assert len(life.group.activities) == 200
    assert waiting in [activity.id for activity in life.group.activities]


def test_tags_are_merged_by_key_and_removed() -> None:
    group = machine.put_tags(described(tags=(Tag("a", "1", True),)), [Tag("a", "2", False), Tag("b", "3", True)])
    assert group.tags == (Tag("a", "2", False), Tag("b", "3", True))
    assert machine.delete_tags(group, ["a"]).tags == (Tag("b", "3", True),)


# Whatever happens, in whatever order.


class AnyLife(RuleBasedStateMachine):
    """Random requests, reports and waiting; at the end the world behaves, and the group must come to rest."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Life(hooks=(LAUNCH_HOOK, TERMINATE_HOOK), maximum=6, minimum=1)
        self.ended: set[str] = set()

    def pick(self, number: int, *states: State) -> str | None:
        members = [m.instance for m in self.life.group.members if m.instance and (not states or m.state in states)]
        return members[number % len(members)] if members else None

    def ask(self, request: Callable[..., After], *arguments: Any, **named: Any) -> None:
        """Ask; a refusal must leave the group as it was."""
        before = self.life.group
        try:
            self.life.do(request, *arguments, **named)
        except Refused:
            assert self.life.group is before

    @rule(desired=st.integers(0, 7))
    def set_desired(self, desired: int) -> None:
        self.ask(machine.set_desired, desired)

    @rule(minimum=st.integers(0, 6), maximum=st.integers(0, 6))
    def update(self, minimum: int, maximum: int) -> None:
        self.ask(machine.update, Changes(minimum=minimum, maximum=maximum))

    @rule()
    def launches_succeed(self) -> None:
        self.life.launch_all()

    @precondition(lambda self: self.life.orders())
    @rule()
    def a_launch_fails(self) -> None:
        order = self.life.orders()[0]
        self.life.take(machine.launch_failed(self.life.group, order, "no capacity", self.life.now))

    @rule(number=st.integers(0, 9), report=st.sampled_from(["running", "stopped", "terminated"]))
    def ec2_reports(self, number: int, report: str) -> None:
        if (instance := self.pick(number)) is not None:
            self.life.do(getattr(machine, f"instance_{report}"), instance)

    @rule(number=st.integers(0, 9), result=st.sampled_from(["CONTINUE", "ABANDON"]))
    def complete(self, number: int, result: str) -> None:
        instance = self.pick(number, State.PENDING_WAIT, State.TERMINATING_WAIT)
        if instance is not None:
            hook = self.life.member(instance).actions[0].hook.name
            self.ask(machine.complete_action, hook, result, instance=instance)

    @rule(number=st.integers(0, 9))
    def heartbeat(self, number: int) -> None:
        if (instance := self.pick(number)) is not None:
            self.ask(machine.heartbeat, "launch", instance=instance)

    @rule(number=st.integers(0, 9), healthy=st.booleans())
    def set_health(self, number: int, healthy: bool) -> None:
        if (instance := self.pick(number)) is not None:
            self.ask(machine.set_health, instance, healthy=healthy)

    @rule(
        number=st.integers(0, 9),
        decrement=st.booleans(),
        request=st.sampled_from([machine.terminate_instances, machine.detach, machine.enter_standby]),
    )
    def take_out(self, number: int, decrement: bool, request: Callable[..., After]) -> None:
        if (instance := self.pick(number)) is not None:
            self.ask(request, [instance], decrement=decrement)

    @rule(number=st.integers(0, 9))
    def exit_standby(self, number: int) -> None:
        if (instance := self.pick(number, State.STANDBY)) is not None:
            self.ask(machine.exit_standby, [instance])

    @rule(number=st.integers(0, 9), protected=st.booleans())
    def protect(self, number: int, protected: bool) -> None:
        if (instance := self.pick(number)) is not None:
            self.ask(machine.set_protection, [instance], protected=protected)

    @rule(processes=st.sets(st.sampled_from(["Launch", "Terminate", "ReplaceUnhealthy"]), min_size=1))
    def suspend(self, processes: set[str]) -> None:
        self.ask(machine.suspend, sorted(processes))

    @rule()
    def resume(self) -> None:
        self.ask(machine.resume, [])

    @rule(name=st.sampled_from(["launch", "terminate"]))
    def delete_hook(self, name: str) -> None:
        self.ask(machine.delete_hook, name)

    @rule(seconds=st.sampled_from([0, 0.5, 1, 30, 61, 7000]))
    def wait(self, seconds: float) -> None:
        self.life.pass_time(seconds)

    @invariant()
    def sizes_hold_together(self) -> None:
        group = self.life.group
        assert group.minimum <= group.desired <= group.maximum

    @invariant()
    def whoever_is_too_many_and_may_leave_is_leaving(self) -> None:
        group = self.life.group
        serving = group.in_state(State.IN_SERVICE)
        surplus = len(serving) - group.desired
        if surplus > 0 and "Terminate" not in group.suspended:
            assert all(member.protected for member in serving)

    @invariant()
    def whoever_is_missing_is_ordered_or_due(self) -> None:
        group = self.life.group
        if len(group.in_state(*ACTIVE)) < group.desired and "Launch" not in group.suspended:
            assert machine.next_deadline(group) is not None
            assert group.retry_at > self.life.now

    @invariant()
    def who_waits_has_a_deadline(self) -> None:
        deadline = machine.next_deadline(self.life.group)
        for member in self.life.group.members:
            waits = member.state in (State.PENDING_WAIT, State.TERMINATING_WAIT)
            assert bool(member.actions) == waits
            for action in member.actions:
                assert action.deadline <= action.limit
                assert deadline is not None
                assert deadline <= action.deadline

    @invariant()
    def each_member_and_token_is_there_once(self) -> None:
        members = self.life.group.members
        assert len({member.order for member in members}) == len(members)
        tokens = [effect.token for effect in self.life.all(NotifyHook)]
        assert len(set(tokens)) == len(tokens)

    @invariant()
    def every_instance_is_terminated_at_most_once(self) -> None:
        assert max(Counter(self.life.terminated()).values(), default=0) <= 1

    def teardown(self) -> None:
        life = self.life
        life.do(machine.resume, [])
        for member in life.group.members:
            if member.instance and member.protected and member.state in (State.IN_SERVICE, State.STANDBY):
                life.do(machine.set_protection, [member.instance], protected=False)
        for _ in range(400):
            if self.at_rest():
                break
            life.boot_all()
            for member in life.group.in_state(State.TERMINATING, State.TERMINATING_PROCEED):
                life.do(machine.instance_terminated, member.instance)
            deadline = machine.next_deadline(life.group)
            life.pass_time(max(0.0, deadline - life.now) if deadline is not None else 0)
        assert self.at_rest()
        assert len(life.group.in_state(State.IN_SERVICE)) == life.group.desired

    def at_rest(self) -> bool:
        group = self.life.group
        moving = any(member.state not in (State.IN_SERVICE, State.STANDBY) for member in group.members)
        return not moving and machine.next_deadline(group) is None


AnyLife.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyLife = AnyLife.TestCase
