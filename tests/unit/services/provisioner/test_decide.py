from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.provisioner.decide import (
    Action,
    AwaitTurn,
    Claim,
    Close,
    FallBack,
    Finish,
    GiveUp,
    Hold,
    Judge,
    Nothing,
    Probe,
    Run,
    Sight,
    Wait,
    beat_s,
    decide,
    frozen,
    give_up_after_s,
    judged,
    with_failure,
)
from shared.cloud import GroupMember, Instance
from shared.fleet import Fleet, LaunchPolicy
from shared.records import Attempt, FailedLaunch, Failures, Fallback, Launch
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


@pytest.mark.fault(34)
def test_a_server_waits_for_its_turn_in_its_hook_while_as_many_as_may_are_before_it() -> None:
    unclaimed = replace(SEEN, launch=None)
    assert isinstance(decide(replace(unclaimed, ahead=99)), Claim)
    turn = decide(replace(unclaimed, ahead=100))
    assert turn == AwaitTurn(100, f"{FIRST} waits for its turn: 100 before it")
    assert isinstance(decide(replace(SEEN, ahead=100)), Run), "one that was taken up goes on"


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
    late = replace(SEEN, now=START + timedelta(hours=2), launch=tried(attempt(command="c")))
    action = decide(late)
    assert isinstance(action, Run), "it may have ended well, unseen"
    assert action.late is not None
    assert action.late.cause == "deadline"
    assert "attempt 1: running" in action.late.reason
    assert isinstance(decide(replace(late, launch=tried(attempt()))), GiveUp), "it was never sent"
    assert isinstance(decide(replace(late, member=member("Terminating:Wait"))), GiveUp)


def test_a_launch_is_given_up_before_aws_ends_its_hook() -> None:
    assert give_up_after_s(LaunchPolicy(deadline=3600, heartbeat=30)) < 100 * 30
    assert give_up_after_s(LaunchPolicy(deadline=172800, heartbeat=7200)) < 172800
    assert give_up_after_s(LaunchPolicy(deadline=600, heartbeat=300)) == 600


def test_the_hook_is_restarted_three_times_in_its_length_and_within_what_sqs_can_delay() -> None:
    assert beat_s(LaunchPolicy(heartbeat=300)) == 100
    assert beat_s(LaunchPolicy(heartbeat=7200)) <= 900


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


def test_what_a_launch_needs_is_said() -> None:
    assert decide(replace(SEEN, launch=None, member=None)) == Probe(f"{FIRST} is not in web")
    left_alone = Nothing(f"{FIRST} does not wait in its launch hook: InService")
    assert decide(replace(SEEN, launch=None, member=member("InService"))) == left_alone
    unseen = Wait(1, f"EC2 does not show {FIRST} with an address yet")
    assert decide(replace(SEEN, launch=None, instance=None)) == unseen
    assert decide(replace(SEEN, instance=None)) == Wait(1, f"EC2 does not show {FIRST}")
    assert decide(replace(SEEN, member=member("Pending"))) == Wait(1, f"{FIRST} is Pending, before its hook")
    assert decide(SEEN) == Run(LAUNCH, f"{FIRST}-1", None, RUNNING, "nothing was tried yet")
    once = tried(FAILED)
    assert decide(replace(SEEN, launch=once)) == Run(once, f"{FIRST}-2", None, RUNNING, "attempt 1 failed: exit 1")
    again = tried(FAILED, attempt(2))
    under_way = Run(again, f"{FIRST}-2", attempt(2), RUNNING, "attempt 2 is under way")
    assert decide(replace(SEEN, launch=again)) == under_way
    assert decide(replace(SEEN, launch=tried(OK))) == Finish(tried(OK), f"{FIRST}-1 ran the plan")
    ended = LAUNCH.model_copy(update={"result": "ready"})
    assert decide(replace(SEEN, launch=ended)) == Nothing(f"the launch of {FIRST} ended before: ready")


def test_why_a_launch_is_closed_is_said() -> None:
    gone = Close(LAUNCH, in_service=False, reason="the server left the group before its plan had run")
    assert decide(replace(SEEN, member=None)) == gone
    leaving = Close(LAUNCH, in_service=False, reason="its launch ended before its plan had run: it is Terminating:Wait")
    assert decide(replace(SEEN, member=member("Terminating:Wait"))) == leaving
    passed = Close(LAUNCH, in_service=True, reason="somebody else completed its hook: it is InService")
    assert decide(replace(SEEN, member=member("InService"))) == passed


def test_why_a_launch_is_given_up_is_said() -> None:
    late = START + timedelta(seconds=3600)
    boot = GiveUp(LAUNCH, "boot", "it never answered Systems Manager in 3600 s (limit 3600 s)")
    assert decide(replace(SEEN, now=late)) == boot
    running = tried(attempt(command="c", step="compile", log_tail="cc"))
    why = "it was not ready in 3600 s (limit 3600 s); attempt 1: running"
    given_up = GiveUp(running, "deadline", why, "compile", "cc")
    once_more = Run(running, f"{FIRST}-1", running.attempts[0], RUNNING, "its time is over", given_up)
    assert decide(replace(SEEN, now=late, launch=running)) == once_more
    failed = tried(FAILED)
    why = "it was not ready in 3600 s (limit 3600 s); attempt 1: exit 1"
    assert decide(replace(SEEN, now=late, launch=failed)) == GiveUp(failed, "deadline", why, "compile", "boom")


def test_two_failed_attempts_are_judged_with_the_server_only_while_it_can_still_be_tried() -> None:
    launch = tried(FAILED, AGAIN)
    assert decide(replace(SEEN, launch=launch)) == Judge(launch, AGAIN, RUNNING, "attempt 2 of 2 failed")
    leaving = replace(SEEN, launch=launch, member=member("Terminating:Wait"))
    assert decide(leaving) == Judge(launch, AGAIN, None, "attempt 2 of 2 failed")
    late = replace(SEEN, launch=launch, now=START + timedelta(seconds=3600))
    assert decide(late) == Judge(launch, AGAIN, None, "attempt 2 of 2 failed")


FALLBACK = Fallback(component="monolith", broken="2", setting=2, good="1", after=2)


def test_a_release_that_is_fallen_back_to_has_attempts_of_its_own() -> None:
    fallen = tried(FAILED, AGAIN).model_copy(update={"fallbacks": (FALLBACK,)})
    assert isinstance(decide(replace(SEEN, launch=fallen)), Run)
    third = attempt(3, result="failed", step="compile", reason="exit 1")
    fourth = attempt(4, result="failed", step="compile", reason="exit 1")
    spent = fallen.model_copy(update={"attempts": (FAILED, AGAIN, third, fourth)})
    judge = decide(replace(SEEN, launch=spent))
    assert judge == Judge(spent, fourth, RUNNING, "attempt 2 of 2 failed")


def test_what_follows_when_every_attempt_failed() -> None:
    launch = tried(FAILED, AGAIN).model_copy(update={"releases": {"monolith": "2"}})
    judge = Judge(launch, AGAIN, RUNNING, "attempt 2 of 2 failed")
    anew = Run(launch, f"{FIRST}-3", None, RUNNING, "other releases were set since it failed")
    assert judged(judge, {"monolith": "3"}, (FALLBACK,)) == anew
    assert judged(judge, {"monolith": "2"}, (FALLBACK,)) == FallBack(launch, (FALLBACK,))
    given_up = GiveUp(launch, "compile", "attempt 2 of 2 failed: exit 1", "compile", "boom")
    assert judged(judge, {"monolith": "2"}, ()) == given_up
    assert judged(replace(judge, instance=None), {"monolith": "3"}, (FALLBACK,)) == given_up
    stepless = AGAIN.model_copy(update={"step": None})
    assert judged(replace(judge, last=stepless), {"monolith": "2"}, ()) == replace(given_up, cause="command", step=None)
    fallen = launch.model_copy(update={"fallbacks": (FALLBACK, FALLBACK.model_copy(update={"component": "web"}))})
    why = (
        "attempt 2 of 2 failed: exit 1; so it did with the last good releases (monolith 1, web 1), so none is to blame"
    )
    assert judged(replace(judge, launch=fallen), {"monolith": "2"}, ()) == replace(given_up, launch=fallen, reason=why)


def failures(*servers: str, image: str = STOCK) -> Failures:
    return Failures(launches=tuple(FailedLaunch(server=each, image=image, at=START) for each in servers))


OTHERS = ("i-0000000a", "i-0000000b", "i-0000000c")


def test_launches_are_frozen_once_enough_others_alike_failed_and_the_group_still_launches_from_that_image() -> None:
    seen = replace(SEEN, failures=failures(*OTHERS), offered=STOCK)
    assert frozen(LAUNCH, seen)
    assert not frozen(LAUNCH, replace(seen, failures=None))
    assert not frozen(LAUNCH, replace(seen, failures=failures(*OTHERS[:2])))
    assert not frozen(LAUNCH, replace(seen, failures=failures(*OTHERS[:2], FIRST)))
    assert not frozen(LAUNCH, replace(seen, failures=failures(*OTHERS, image="ami-0000000f")))
    assert not frozen(LAUNCH, replace(seen, offered="ami-0000000f"))


def test_a_server_waits_for_five_minutes_between_attempts_while_launches_are_frozen() -> None:
    ended = AGAIN.model_copy(update={"ended": START + timedelta(seconds=100)})
    launch = tried(FAILED, ended)
    seen = replace(SEEN, launch=launch, failures=failures(*OTHERS), offered=STOCK)

    def at(seconds: float) -> Action:
        return decide(replace(seen, now=START + timedelta(seconds=100 + seconds)))

    why = (
        f"3 launches in a row failed with {STOCK} and the same releases: {FIRST} is kept waiting instead of being "
        "replaced by another like it, and tries again every 300 s; exit 1"
    )
    assert at(0) == Hold(launch, 100, why, "compile")
    assert at(250) == Hold(launch, 50, why, "compile")
    assert at(299.5) == Hold(launch, 1, why, "compile")
    assert at(300) == Run(launch, f"{FIRST}-3", None, RUNNING, "attempt 2 failed: exit 1")
    never_ended = replace(seen, launch=tried(FAILED, AGAIN), now=START + timedelta(seconds=290))
    assert decide(never_ended) == Hold(never_ended.launch or LAUNCH, 10, why, "compile")
    late = replace(seen, now=START + timedelta(seconds=3600))
    assert isinstance(decide(late), Judge)


def test_a_failed_launch_is_remembered_once_and_only_the_latest_hundred_are_kept() -> None:
    launch = LAUNCH.model_copy(update={"releases": {"monolith": "2"}})
    first = with_failure(None, launch, START)
    assert first.launches == (FailedLaunch(server=FIRST, image=STOCK, releases={"monolith": "2"}, at=START),)
    later = START + timedelta(hours=1)
    assert with_failure(first, launch, later).launches == (first.launches[0].model_copy(update={"at": later}),)
    full = Failures(launches=tuple(FailedLaunch(server=f"i-{n:08x}", image=STOCK, at=START) for n in range(100, 200)))
    kept = with_failure(full, launch, later).launches
    assert len(kept) == 100
    assert (kept[0].server, kept[-1].server) == (f"i-{101:08x}", FIRST)


def test_limits_are_those_of_aws() -> None:
    assert give_up_after_s(LaunchPolicy(deadline=172800, heartbeat=30)) == pytest.approx(2850)
    assert give_up_after_s(LaunchPolicy(deadline=172800, heartbeat=7200)) == pytest.approx(164160)
    assert [beat_s(LaunchPolicy(heartbeat=each)) for each in (30, 301, 7200)] == [10, 100, 600]
