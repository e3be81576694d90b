"""What a server in service needs while it is brought up to date."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.provisioner.updating import Claim, End, Nothing, Run, Sight, TurnBack, Wait, decide, releases_for
from shared.cloud import GroupMember, Instance
from shared.fleet import Fleet
from shared.records import Attempt, Launch, Leaver, Rollout, Taken, Update
from tests.fakes import START
from tests.unit.fleetworld import FIRST, FLEET, STOCK

WEB = Fleet.model_validate(FLEET)
SERVING = GroupMember(FIRST, "InService", healthy=True)
RUNNING = Instance(FIRST, "running", STOCK, "10.0.0.1", START)
LAUNCH = Launch(fleet="web", server=FIRST, image=STOCK, claimed=START, releases={"monolith": "1"}, result="ready")
TAKEN = Taken(server=FIRST, rollout=3, granted=START)
ROLLOUT = Rollout(fleet="web", number=3, releases={"monolith": "2"}, began=START, by="ada", taken=(TAKEN,))
UPDATE = Update(fleet="web", server=FIRST, rollout=3, began=START, releases={"monolith": "2"}, before={"monolith": "1"})
GONE = Leaver(server=FIRST, announced=START, update=3, told=True)
DRAINED = START + timedelta(seconds=WEB.policies.drain.seconds)
SEEN = Sight(DRAINED, WEB, FIRST, ROLLOUT, SERVING, RUNNING, LAUNCH, UPDATE, GONE)


def attempt(number: int, result: str = "failed", **more: Any) -> Attempt:
    return Attempt(attempt=f"{FIRST}-r3-{number}", began=START, plan_digest="d", result=result, **more)


FAILED = [attempt(number, step="compile", reason=f"exit {number}", log_tail="boom") for number in (1, 2, 3, 4)]


def tried(*attempts: Attempt, **more: Any) -> Update:
    return UPDATE.model_copy(update={"attempts": attempts, **more})


def test_a_server_that_a_rollout_took_is_claimed_with_what_it_runs_and_what_it_is_to_run() -> None:
    claim = decide(replace(SEEN, update=None))
    assert claim == Claim(UPDATE.model_copy(update={"began": DRAINED}))


def test_components_that_the_rollout_does_not_name_stay_and_those_of_another_fleet_do_not_count() -> None:
    launch = LAUNCH.model_copy(update={"releases": {"monolith": "1", "gone": "9"}})
    nothing_new = ROLLOUT.model_copy(update={"releases": {}})
    claim = decide(replace(SEEN, update=None, launch=launch, rollout=nothing_new))
    assert isinstance(claim, Claim)
    assert claim.update.releases == claim.update.before == {"monolith": "1"}


@pytest.mark.parametrize(
    "rollout",
    [
        None,
        ROLLOUT.model_copy(update={"taken": ()}),
        ROLLOUT.model_copy(update={"taken": (TAKEN.model_copy(update={"granted": None}),)}),
        ROLLOUT.model_copy(update={"taken": (TAKEN.model_copy(update={"server": "i-0000000000000000f"}),)}),
    ],
)
def test_a_server_that_no_rollout_was_granted_is_left_alone(rollout: Rollout | None) -> None:
    assert decide(replace(SEEN, update=None, rollout=rollout)) == Nothing(f"no rollout takes {FIRST}")


@pytest.mark.parametrize("launch", [None, LAUNCH.model_copy(update={"result": "running"})])
def test_a_server_that_is_not_known_to_be_ready_is_left_alone(launch: Launch | None) -> None:
    why = f"{FIRST} was not launched by us, or is not ready"
    assert decide(replace(SEEN, update=None, launch=launch)) == Nothing(why)


def test_an_update_that_ended_is_left_alone() -> None:
    ended = tried(result="undone")
    assert decide(replace(SEEN, update=ended)) == Nothing(f"{FIRST} ended before: undone")


@pytest.mark.parametrize(
    ("member", "state"),
    [(None, "it is not in the group"), (replace(SERVING, state="Terminating:Wait"), "Terminating:Wait")],
)
def test_a_server_that_left_the_fleet_is_not_brought_anywhere(member: GroupMember | None, state: str) -> None:
    left = End(UPDATE, "left", f"it left the fleet while it was brought up to date: {state}")
    assert decide(replace(SEEN, member=member)) == left


def test_nothing_is_done_to_a_server_before_it_is_announced_as_gone_and_has_drained() -> None:
    unannounced = Wait(1, f"{FIRST} has yet to be announced as gone")
    assert decide(replace(SEEN, leaver=None)) == unannounced
    assert decide(replace(SEEN, leaver=GONE.model_copy(update={"told": False}))) == unannounced
    long_since = replace(SEEN, leaver=None, now=UPDATE.began + timedelta(minutes=10))
    assert decide(long_since) == replace(unannounced, after_s=20)
    begin = Run(UPDATE, f"{FIRST}-r3-1", None, RUNNING)
    seconds = WEB.policies.drain.seconds
    early = replace(SEEN, now=DRAINED - timedelta(seconds=3))
    assert decide(early) == (Wait(4, f"{FIRST} drains for 3 s more") if seconds >= 3 else begin)
    nearly = replace(SEEN, now=DRAINED - timedelta(seconds=0.2))
    assert decide(nearly) == Wait(1, f"{FIRST} drains for 0 s more")
    assert decide(SEEN) == begin


def test_a_fleet_that_need_not_drain_is_begun_with_at_once() -> None:
    rollout = WEB.policies.rollout.model_copy(update={"drain": False})
    web = WEB.model_copy(update={"policies": WEB.policies.model_copy(update={"rollout": rollout})})
    assert decide(replace(SEEN, fleet=web, leaver=None)) == Run(UPDATE, f"{FIRST}-r3-1", None, RUNNING)


@pytest.mark.parametrize("instance", [None, replace(RUNNING, address="")])
def test_a_server_that_ec2_does_not_show_in_full_is_waited_for(instance: Instance | None) -> None:
    assert decide(replace(SEEN, instance=instance)) == Wait(2, f"EC2 does not show {FIRST}")


def test_a_running_attempt_is_gone_on_with_and_a_failed_one_followed_by_another() -> None:
    running = tried(attempt(1, "running"))
    assert decide(replace(SEEN, update=running)) == Run(running, f"{FIRST}-r3-1", attempt(1, "running"), RUNNING)
    once = tried(FAILED[0])
    assert decide(replace(SEEN, update=once)) == Run(once, f"{FIRST}-r3-2", None, RUNNING)


def test_after_two_failed_attempts_the_server_turns_back_and_has_two_more_for_that() -> None:
    twice = tried(*FAILED[:2])
    assert decide(replace(SEEN, update=twice)) == TurnBack(twice, "compile", "exit 2", "boom")
    turned = tried(*FAILED[:2], turned=2, reason="exit 2")
    assert decide(replace(SEEN, update=turned)) == Run(turned, f"{FIRST}-r3-3", None, RUNNING)
    once_more = tried(*FAILED[:3], turned=2, reason="exit 2")
    assert decide(replace(SEEN, update=once_more)) == Run(once_more, f"{FIRST}-r3-4", None, RUNNING)
    lost = tried(*FAILED, turned=2, reason="exit 2")
    assert decide(replace(SEEN, update=lost)) == End(lost, "failed", "exit 2; and the way back failed: exit 4")


def test_a_server_that_turned_back_before_any_attempt_does_not_drain_again() -> None:
    turned = tried(turned=0, reason="no plan")
    assert decide(replace(SEEN, update=turned, leaver=None)) == Run(turned, f"{FIRST}-r3-1", None, RUNNING)


def test_a_plan_that_ran_ends_the_update_even_after_its_time() -> None:
    ok = attempt(1, "ok")
    late = replace(SEEN, now=START + timedelta(hours=9))
    assert decide(replace(late, update=tried(ok))) == End(tried(ok), "updated", "its plan ran, and it is healthy")
    back = tried(*FAILED[:2], attempt(3, "ok"), turned=2, reason="exit 2")
    assert decide(replace(late, update=back)) == End(back, "undone", "exit 2")


def test_past_its_time_a_server_that_nothing_was_done_to_stays_and_any_other_has_failed() -> None:
    limit = WEB.policies.launch.deadline
    late = replace(SEEN, now=START + timedelta(seconds=limit))
    why = f"it was not done in {limit:.0f} s"
    assert decide(replace(late, leaver=None)) == End(UPDATE, "undone", f"{why}: nobody led traffic away from it")
    turned = tried(turned=0, reason="no plan")
    assert decide(replace(late, update=turned)) == End(turned, "undone", f"{why}: no plan")
    running = tried(attempt(1, "running"))
    assert decide(replace(late, update=running)) == End(running, "failed", f"{why}: running")
    sent = tried(attempt(1, "running").model_copy(update={"command": "c"}))
    over = End(sent, "failed", f"{why}: running")
    assert late.instance is not None
    once_more = Run(sent, sent.attempts[0].attempt, sent.attempts[0], late.instance, over)
    assert decide(replace(late, update=sent)) == once_more, "it may have ended well, unseen"
    assert decide(replace(late, update=sent, instance=None)) == over
    back = tried(*FAILED[:3], turned=2, reason="exit 2")
    assert decide(replace(late, update=back)) == End(back, "failed", f"{why}: exit 2")


@pytest.mark.fault(44)
def test_what_failed_while_nobody_looked_goes_back_past_its_time_and_has_as_much_time_for_that() -> None:
    """Found by seed 42 of thirty days: all services were down for hours, a release did not build meanwhile, and the
    server, which served what it had, was given up for lost at the fleet's floor.
    """
    limit = WEB.policies.launch.deadline
    end = START + timedelta(seconds=limit)
    failed = tried(attempt(1, "failed", step="build", reason="exit 1", log_tail="make: ***"))
    assert isinstance(decide(replace(SEEN, now=end - timedelta(seconds=1), update=failed)), Run)
    turn = TurnBack(failed, "build", f"it was not done in {limit:.0f} s: exit 1", "make: ***")
    assert decide(replace(SEEN, now=end, update=failed)) == turn
    turned = failed.model_copy(update={"turned": 1, "turned_at": end, "reason": turn.reason})
    last = end + timedelta(seconds=limit)
    begin = Run(turned, f"{FIRST}-r3-2", None, RUNNING)
    assert decide(replace(SEEN, now=last - timedelta(seconds=1), update=turned)) == begin
    assert decide(replace(SEEN, now=last, update=turned)) == End(
        turned, "failed", f"it was not done in {limit:.0f} s: {turn.reason}"
    )


def test_the_way_back_brings_what_the_server_ran_before() -> None:
    assert releases_for(UPDATE) == {"monolith": "2"}
    assert releases_for(tried(turned=0)) == {"monolith": "1"}
