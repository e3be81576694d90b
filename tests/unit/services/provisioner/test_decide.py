from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.provisioner.decide import (
    Claim,
    Close,
    Finish,
    GiveUp,
    Judge,
    Nothing,
    Probe,
    Run,
    Sight,
    Wait,
    beat_s,
    boot_look_s,
    decide,
    give_up_after_s,
    judged,
)
from shared.cloud import GroupMember, Instance
from shared.fleet import Fleet, LaunchPolicy
from shared.records import Attempt, Launch
from tests.fakes import START
from tests.unit.fleetworld import FIRST, FLEET, STOCK

WAITING = GroupMember(FIRST, "Pending:Wait", healthy=True)
RUNNING = Instance(FIRST, "running", STOCK, "10.0.0.1", START)
LAUNCH = Launch(fleet="web", server=FIRST, image=STOCK, claimed=START)
SEEN = Sight(START, Fleet.model_validate(FLEET), FIRST, WAITING, RUNNING, LAUNCH)


def member(state: str) -> GroupMember:
    return replace(WAITING, state=state)


def attempt(number: int = 1, **more: Any) -> Attempt:
    return Attempt(attempt=f"{FIRST}-{number}", began=START, plan_digest="d", **more)


def tried(*attempts: Attempt) -> Launch:
    return LAUNCH.model_copy(update={"attempts": attempts})


FAILED = attempt(result="failed", step="compile", reason="exit 1", log_tail="boom")
AGAIN = attempt(2, result="failed", step="compile", reason="exit 1", log_tail="boom")
OK = attempt(result="ok")


def test_a_waiting_server_without_a_record_is_claimed_with_its_image() -> None:
    assert decide(replace(SEEN, launch=None)) == Claim(STOCK, RUNNING.launched, f"{FIRST} waits in its launch hook")


def test_a_server_that_the_group_does_not_show_is_probed_and_one_past_its_hook_left_alone() -> None:
    assert isinstance(decide(replace(SEEN, launch=None, member=None)), Probe)
    assert isinstance(decide(replace(SEEN, launch=None, member=member("InService"))), Nothing)


@pytest.mark.parametrize("instance", [None, replace(RUNNING, address="")])
@pytest.mark.fault(16)
def test_an_instance_that_ec2_does_not_show_in_full_is_waited_for(instance: Instance | None) -> None:
    assert isinstance(decide(replace(SEEN, launch=None, instance=instance)), Wait)
    assert isinstance(decide(replace(SEEN, instance=instance)), Wait)


def test_the_first_attempt_follows_the_claim_and_a_failed_one_is_followed_by_the_next() -> None:
    first, second = decide(SEEN), decide(replace(SEEN, launch=tried(FAILED)))
    assert isinstance(first, Run)
    assert isinstance(second, Run)
    assert (first.name, second.name) == (f"{FIRST}-1", f"{FIRST}-2")
    assert "exit 1" in second.reason


def test_a_running_attempt_is_gone_on_with() -> None:
    action = decide(replace(SEEN, launch=tried(FAILED, attempt(2))))
    assert isinstance(action, Run)
    assert action.attempt == attempt(2)


def test_the_last_attempt_that_fails_gives_the_launch_up_with_step_reason_and_log() -> None:
    judge = decide(replace(SEEN, launch=tried(FAILED, AGAIN)))
    assert isinstance(judge, Judge)
    action = judged(judge, {}, ())
    assert isinstance(action, GiveUp)
    assert (action.cause, action.step, action.log_tail) == ("compile", "compile", "boom")
    assert "attempt 2 of 2" in action.reason


@pytest.mark.parametrize("state", [None, "Pending:Wait", "InService", "Pending:Proceed", "Terminating"])
def test_a_plan_that_ran_is_always_finished_whatever_the_group_shows(state: str | None) -> None:
    assert isinstance(decide(replace(SEEN, member=member(state) if state else None, launch=tried(OK))), Finish)


@pytest.mark.fault(22)
def test_a_server_that_never_answers_is_given_up_at_the_deadline_and_not_before() -> None:
    before = replace(SEEN, now=START + timedelta(seconds=3599))
    at = replace(SEEN, now=START + timedelta(seconds=3600))
    assert isinstance(decide(before), Run)
    action = decide(at)
    assert isinstance(action, GiveUp)
    assert action.cause == "boot"


def test_a_plan_that_is_too_slow_is_given_up_and_its_attempt_named() -> None:
    action = decide(replace(SEEN, now=START + timedelta(hours=2), launch=tried(attempt(command="c"))))
    assert isinstance(action, GiveUp)
    assert action.cause == "deadline"
    assert "attempt 1: running" in action.reason


def test_a_launch_is_given_up_before_aws_ends_its_hook() -> None:
    assert give_up_after_s(LaunchPolicy(deadline=3600, heartbeat=30)) < 100 * 30
    assert give_up_after_s(LaunchPolicy(deadline=172800, heartbeat=7200)) < 172800
    assert give_up_after_s(LaunchPolicy(deadline=600, heartbeat=300)) == 600


def test_the_hook_is_restarted_three_times_in_its_length_and_within_what_sqs_can_delay() -> None:
    assert beat_s(LaunchPolicy(heartbeat=300)) == 100
    assert beat_s(LaunchPolicy(heartbeat=7200)) <= 900


def test_a_booting_server_is_looked_at_every_second_at_first_and_three_times_a_minute_at_last() -> None:
    assert [boot_look_s(each) for each in (0, 29, 30, 299, 300)] == [1, 1, 2, 5, 20]


@pytest.mark.parametrize(("state", "in_service"), [(None, False), ("Terminating:Wait", False), ("InService", True)])
def test_a_launch_that_ended_without_us_is_closed(state: str | None, in_service: bool) -> None:
    action = decide(replace(SEEN, member=member(state) if state else None))
    assert isinstance(action, Close)
    assert action.in_service is in_service


def test_a_server_in_service_is_never_given_up_however_late_it_is() -> None:
    late = replace(SEEN, now=START + timedelta(days=2), member=member("InService"), launch=tried(FAILED, AGAIN))
    assert isinstance(decide(late), Close)


@pytest.mark.parametrize("result", ["ready", "failed"])
@pytest.mark.fault(10, 12)
def test_a_launch_that_ended_is_left_alone_for_ever(result: str) -> None:
    ended = LAUNCH.model_copy(update={"result": result})
    assert isinstance(decide(replace(SEEN, launch=ended, now=START + timedelta(days=3))), Nothing)
