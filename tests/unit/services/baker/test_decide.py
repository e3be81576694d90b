from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.baker.decide import (
    ChooseStock,
    Fail,
    FallBack,
    Judge,
    Launch,
    Nothing,
    Prove,
    Replace,
    Run,
    Settle,
    Sight,
    Snapshot,
    TryAgain,
    Wait,
    attempt_name,
    bake_id,
    decide,
    judged,
    ran_again,
    recent,
    unconnected,
)
from shared.cloud import Image, Instance
from shared.fleet import Fleet
from shared.records import Attempt, Bake, Fallback
from tests.fakes import START
from tests.unit.fleetworld import FLEET, STOCK, done, failed

FLEET_WEB = Fleet.model_validate(FLEET)
BUILDER = Instance("i-0000000b", "running", STOCK, "10.0.0.1", START)
IMAGE = Image("ami-000000aa", "name", "available", START)
PROVER = Instance("i-0000000c", "running", IMAGE.image, "10.0.0.2", START)
OK = Attempt(attempt="a", began=START, plan_digest="d", result="ok", steps=done("code", "compile", "health"))
SKIPPED = OK.model_copy(update={"steps": done("code", "compile", result="skipped") + done("health")})


def sight(**more: Any) -> Sight:
    seen = {key: more.pop(key) for key in ("builder", "image", "prover", "now") if key in more}
    ids = {"builder": BUILDER.server, "image": IMAGE.image, "prover": PROVER.server}
    record: dict[str, Any] = {key: value for key, value in ids.items() if key in seen} | more
    bake = Bake(bake="web-20260304t120000", fleet="web", requested=START, by="x", **record)
    return replace(Sight(START, FLEET_WEB, bake, builder=None, image=None, prover=None), **seen)


def test_a_bake_begins_with_the_stock_image_and_a_builder_from_it() -> None:
    assert isinstance(decide(sight()), ChooseStock)
    action = decide(sight(stock=STOCK))
    assert isinstance(action, Launch)
    assert (action.role, action.image) == ("builder", STOCK)


def test_a_bake_that_was_overtaken_ends_before_it_has_a_builder_and_goes_on_once_it_has_one() -> None:
    without = replace(sight(stock=STOCK), overtaken_by="web-20260304t130000")
    assert decide(without) == Fail("bake web-20260304t130000 took its place before it had a builder")
    assert not isinstance(decide(replace(sight(stock=STOCK, builder=BUILDER), overtaken_by="web-1")), Fail)


@pytest.mark.fault(24)
def test_a_builder_that_ec2_does_not_show_is_waited_for_and_a_dead_one_is_replaced() -> None:
    assert isinstance(decide(sight(stock=STOCK, builder=None)), Wait)
    assert isinstance(decide(sight(stock=STOCK, builder=replace(BUILDER, state="pending"))), Wait)
    assert isinstance(decide(sight(stock=STOCK, builder=replace(BUILDER, state="terminated"))), Replace)


@pytest.mark.fault(22)
def test_a_server_that_does_not_connect_within_twenty_minutes_is_replaced_and_the_third_fails_the_bake() -> None:
    run = Run("builder", BUILDER, None, "")
    seen = sight(stock=STOCK, builder=BUILDER).bake
    assert unconnected(seen, run, START + timedelta(minutes=20)) is None
    late = START + timedelta(minutes=20, seconds=1)
    why = (
        f"the builder {BUILDER.server} did not connect to Systems Manager within 0:20:00; "
        f"see whether {STOCK} has the SSM agent, and its instance profile AmazonSSMManagedInstanceCore"
    )
    assert unconnected(seen, run, late) == Replace("builder", BUILDER.server, why)
    once = seen.model_copy(update={"lost": ("i-00000001",)})
    assert isinstance(unconnected(once, run, late), Replace)
    twice = seen.model_copy(update={"lost": ("i-00000001", "i-00000002")})
    assert unconnected(twice, run, late) == Fail(f"{why}; before it i-00000001 and i-00000002 were lost")


def test_each_attempt_of_a_bake_has_a_name_of_its_own() -> None:
    new = sight(stock=STOCK).bake
    assert [attempt_name(new, role) for role in ("builder", "prover")] == [f"{new.bake}-builder", f"{new.bake}-prover"]
    later = new.model_copy(update={"failed": (OK,), "lost": ("i-00000001",)})
    names = [attempt_name(later, role) for role in ("builder", "prover")]
    assert names == [f"{new.bake}-builder-3", f"{new.bake}-prover-2"]


def test_the_plan_runs_on_the_builder_and_its_end_leads_to_the_image() -> None:
    action = decide(sight(stock=STOCK, builder=BUILDER))
    assert isinstance(action, Run)
    assert action.role == "builder"
    assert isinstance(decide(sight(stock=STOCK, builder=BUILDER, provision=OK)), Snapshot)


def test_a_failed_plan_fails_the_bake_with_step_and_log() -> None:
    bad = OK.model_copy(update={"result": "failed", "step": "compile", "reason": "exit 1", "log_tail": "boom"})
    seen = sight(stock=STOCK, builder=BUILDER, provision=bad)
    action = decide(seen)
    assert isinstance(action, Judge)
    assert judged(seen.bake, action, (), 2) == Fail("exit 1", "compile", "boom")


def test_a_proof_launch_waits_for_the_image_and_a_failed_image_fails_the_bake() -> None:
    built: dict[str, Any] = {"stock": STOCK, "builder": BUILDER, "provision": OK}
    assert isinstance(decide(sight(**built, image=None)), Wait)
    assert isinstance(decide(sight(**built, image=replace(IMAGE, state="pending"))), Wait)
    assert isinstance(decide(sight(**built, image=replace(IMAGE, state="failed", reason="disk"))), Fail)
    action = decide(sight(**built, image=IMAGE))
    assert isinstance(action, Launch)
    assert (action.role, action.image) == ("prover", IMAGE.image)


def test_an_image_is_proven_only_when_its_server_had_nothing_left_to_do() -> None:
    built: dict[str, Any] = {"stock": STOCK, "builder": BUILDER, "provision": OK, "image": IMAGE, "prover": PROVER}
    assert isinstance(decide(sight(**built)), Run)
    assert isinstance(decide(sight(**built, proof=SKIPPED)), Prove)
    again = decide(sight(**built, proof=OK))
    assert isinstance(again, Fail)
    assert "code, compile ran again" in again.reason
    assert isinstance(decide(sight(**built, proof=OK.model_copy(update={"steps": ()}))), Fail)
    bad = SKIPPED.model_copy(update={"result": "failed", "step": "health", "steps": failed("health", "refused")})
    assert isinstance(decide(sight(**built, proof=bad)), Fail)


def test_a_check_may_run_on_the_proof_launch_and_every_other_step_may_not() -> None:
    assert ran_again(FLEET_WEB, SKIPPED) == ()
    assert ran_again(FLEET_WEB, OK.model_copy(update={"steps": done("code", result="skipped")})) == ("compile",)


def test_a_result_is_settled_before_the_bake_ends_and_nothing_follows_the_end() -> None:
    assert isinstance(decide(sight(stage="failed")), Settle)
    assert isinstance(decide(sight(stage="ready")), Settle)
    assert isinstance(decide(sight(stage="ready", ended=START)), Nothing)


@pytest.mark.fault(38)
def test_a_bake_gives_up_before_the_janitor_takes_its_builder() -> None:
    hours = FLEET_WEB.policies.retention.builder_hours
    assert isinstance(decide(sight(now=START + timedelta(hours=hours))), Fail)
    assert isinstance(decide(sight(now=START + timedelta(hours=hours * 0.8))), ChooseStock)


def test_the_id_of_a_bake_is_the_second_in_which_it_was_asked_for() -> None:
    assert bake_id("web", datetime(2026, 1, 31, 2, 0, 0, 999, tzinfo=UTC)) == "web-20260131t020000"


@pytest.mark.parametrize(("hours", "counted"), [(0, 1), (23.9, 1), (24.1, 0)])
@pytest.mark.fault(39)
def test_the_budget_counts_bakes_of_the_last_24_hours(hours: float, counted: int) -> None:
    assert recent([bake_id("a-b", START - timedelta(hours=hours))], START) == counted


def test_what_a_bake_needs_is_said() -> None:
    first = ChooseStock("a bake begins with the stock image, never with yesterday's")
    assert decide(sight()) == first
    assert decide(sight(stock=STOCK)) == Launch("builder", STOCK, "there is no builder yet")
    assert decide(sight(stock=STOCK, builder=None)) == Wait(2, "EC2 does not show the builder yet")
    pending = replace(BUILDER, state="pending")
    assert decide(sight(stock=STOCK, builder=pending)) == Wait(1, f"the builder {BUILDER.server} is pending")
    nowhere = replace(BUILDER, address="")
    assert decide(sight(stock=STOCK, builder=nowhere)) == Wait(1, f"the builder {BUILDER.server} is running")
    run = Run("builder", BUILDER, None, f"the builder {BUILDER.server} is running")
    assert decide(sight(stock=STOCK, builder=BUILDER)) == run
    running = OK.model_copy(update={"result": "running", "step": "compile"})
    assert decide(sight(stock=STOCK, builder=BUILDER, provision=running)) == replace(run, attempt=running)
    built: dict[str, Any] = {"stock": STOCK, "builder": BUILDER, "provision": OK}
    assert decide(sight(**built)) == Snapshot(BUILDER.server, "the full plan has run")
    assert decide(sight(**built, image=None)) == Wait(2, f"EC2 does not show {IMAGE.image} yet")
    made = replace(IMAGE, state="pending")
    assert decide(sight(**built, image=made)) == Wait(60, f"{IMAGE.image} is being made")
    prove = Launch("prover", IMAGE.image, f"{IMAGE.image} is available, and unproven")
    assert decide(sight(**built, image=IMAGE)) == prove
    assert decide(sight(**built, image=IMAGE, prover=None)) == Wait(2, "EC2 does not show the prover yet")
    proving = Run("prover", PROVER, None, f"the prover {PROVER.server} is running")
    assert decide(sight(**built, image=IMAGE, prover=PROVER)) == proving
    gone_on = decide(sight(**built, image=IMAGE, prover=PROVER, proof=running))
    assert gone_on == replace(proving, attempt=running)
    complete = Prove(IMAGE.image, "a server from the image had nothing left to do and is healthy")
    assert decide(sight(**built, image=IMAGE, prover=PROVER, proof=SKIPPED)) == complete
    assert decide(sight(stage="failed")) == Settle("bake web-20260304t120000 is failed")
    assert decide(sight(stage="ready", ended=START)) == Nothing("bake web-20260304t120000 ended before: ready")


def test_why_a_bake_fails_is_said() -> None:
    built: dict[str, Any] = {"stock": STOCK, "builder": BUILDER, "provision": OK}
    full = replace(IMAGE, state="failed", reason="disk")
    why = f"EC2 made no image of the builder: {IMAGE.image} is failed: disk"
    assert decide(sight(**built, image=full)) == Fail(why)
    running = OK.model_copy(update={"result": "running", "step": "compile"})
    for state in ("shutting-down", "terminated", "stopping", "stopped"):
        dead = replace(BUILDER, state=state)
        why = f"the builder {BUILDER.server} is {state}"
        assert decide(sight(stock=STOCK, builder=dead)) == Replace("builder", BUILDER.server, why)
        lost: dict[str, Any] = {"lost": ("i-00000001", "i-00000002")}
        why += "; before it i-00000001 and i-00000002 were lost"
        assert decide(sight(stock=STOCK, builder=dead, **lost)) == Fail(why)
        assert decide(sight(stock=STOCK, builder=dead, provision=running, **lost)) == Fail(why, "compile")
    proof = OK.model_copy(update={"result": "failed", "step": "health", "reason": "refused", "log_tail": "boom"})
    why = "the proof launch failed: refused"
    seen = sight(**built, image=IMAGE, prover=PROVER, proof=proof)
    assert decide(seen) == Fail(why, "health", "boom")
    why = "the proof launch did not find everything done: code, compile ran again or was not reported"
    assert decide(sight(**built, image=IMAGE, prover=PROVER, proof=OK)) == Fail(why, "code")


@pytest.mark.parametrize(("minutes", "late"), [(324, False), (324.1, True)])
def test_a_bake_has_nine_tenths_of_the_hours_after_which_its_builder_is_taken(minutes: float, late: bool) -> None:
    action = decide(sight(now=START + timedelta(minutes=minutes)))
    expected = Fail("it was not done in 5:24:00, at stage builder")
    assert (action == expected) is late


BAD = OK.model_copy(update={"result": "failed", "step": "compile", "reason": "exit 1", "log_tail": "boom"})
FALLBACKS = (Fallback(component="monolith", broken="2", setting=2, good="1", after=2),)


def test_a_failed_plan_is_tried_again_then_falls_back_and_at_last_fails_the_bake() -> None:
    judge = Judge(BAD)
    assert decide(sight(stock=STOCK, builder=BUILDER, provision=BAD)) == judge
    once = sight(stock=STOCK, builder=BUILDER, provision=BAD).bake
    assert judged(once, judge, FALLBACKS, 2) == TryAgain(BAD)
    twice = once.model_copy(update={"failed": (BAD,)})
    assert judged(twice, judge, FALLBACKS, 2) == FallBack(BUILDER.server, FALLBACKS, BAD)
    assert judged(twice, judge, (), 2) == Fail("exit 1", "compile", "boom")
    homeless = twice.model_copy(update={"builder": None})
    assert judged(homeless, judge, FALLBACKS, 2) == Fail("exit 1", "compile", "boom")
    fallen = once.model_copy(update={"failed": (BAD, BAD), "fallbacks": FALLBACKS})
    assert judged(fallen, judge, FALLBACKS, 2) == TryAgain(BAD)
    more = (*FALLBACKS, FALLBACKS[0].model_copy(update={"component": "web"}))
    spent = once.model_copy(update={"failed": (BAD, BAD, BAD), "fallbacks": more})
    why = "exit 1; so it did with the last good releases (monolith 1, web 1), so none is to blame"
    assert judged(spent, judge, (), 2) == Fail(why, "compile", "boom")


def test_a_bake_of_exactly_a_day_ago_counts_no_more() -> None:
    names = [bake_id("a-b", START - timedelta(hours=24)), bake_id("a-b", START - timedelta(hours=24, seconds=-1))]
    assert recent(names, START) == 1
