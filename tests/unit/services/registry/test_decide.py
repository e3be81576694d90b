from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.registry.decide import (
    PROMOTER,
    REVERT,
    SAME_REQUEST,
    Announce,
    Drain,
    Found,
    Keep,
    LetGo,
    Move,
    Refuse,
    Roll,
    adopted,
    announced,
    in_force,
    lasting,
    leaving,
    may_lag,
    membership,
    newest,
    pin,
    promotion,
    refusal,
    revert,
    rollback,
    seal,
    standing,
    to_blame,
    told,
)
from shared.cloud import Group, GroupMember, Image, Instance
from shared.ids import BAKE_TAG, FLEET_TAG, MANAGED_TAG, PROVEN_TAG, QUARANTINE_TAG
from shared.messages import ImagePinRequested, ImageRollbackRequested
from shared.records import Bake, FailedLaunch, Failures, Launch, Leaver, Member, Membership, Pin, Pointer
from tests.fakes import START

A, B, C = "ami-0000000a", "ami-0000000b", "ami-0000000c"
HOUR = timedelta(hours=1)
ONE, TWO = "i-00000001", "i-00000002"


def bake_name(hours: float) -> str:
    return f"web-{START + hours * HOUR:%Y%m%dt%H%M%S}"


def image(
    name: str, hours: float = 0, state: str = "available", tags: Mapping[str, str] = MappingProxyType({})
) -> Image:
    own = {MANAGED_TAG: "true", FLEET_TAG: "web", PROVEN_TAG: "true", BAKE_TAG: bake_name(hours)}
    return Image(name, name, state, START, (), own | dict(tags))


def baked(hours: float) -> Bake:
    return Bake(bake=bake_name(hours), fleet="web", requested=START + hours * HOUR, by="x", stage="ready")


def pointer(name: str = A, hours: float = 0, by: str = PROMOTER, generation: int = 1, **more: Any) -> Pointer:
    asked = {} if by == PROMOTER else {"asked": START + hours * HOUR}
    said: dict[str, Any] = {"bake": bake_name(hours), **asked, **more}
    made = Pointer(image=name, since=START + hours * HOUR, by=by, generation=generation, **said)
    return made if "write_id" in more else made.model_copy(update={"write_id": seal(made)})


IMAGES = {A: image(A, 0), B: image(B, 1), C: image(C, 2)}


@pytest.mark.parametrize(
    ("quarantine_hours", "set_aside_for", "lasts"),
    [(24, 22.99, True), (24, 23, False), (24, 30, False), (1, 0.49, True), (1, 0.5, False), (0, 0, False)],
)
def test_an_image_lasts_until_shortly_before_the_janitor_may_retire_it(
    quarantine_hours: float, set_aside_for: float, lasts: bool
) -> None:
    seen = image(A, tags={QUARANTINE_TAG: (START - set_aside_for * HOUR).isoformat()})
    found = lasting(seen, quarantine_hours, START)
    assert found == (seen if lasts else replace(seen, state="about to be retired"))
    assert (refusal("web", A, found) is None) is lasts
    assert lasting(image(A), quarantine_hours, START) == image(A)


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (None, "there is no image"),
        (image(A, state="pending"), "pending"),
        (replace(image(A), tags={}), "not an image of fleet web"),
        (image(A, tags={FLEET_TAG: "api"}), "not an image of fleet web"),
        (image(A, tags={PROVEN_TAG: "false"}), "proof launch"),
    ],
)
@pytest.mark.fault(8, 41)
def test_no_image_but_a_proven_available_one_of_this_fleet_will_do(found: Image | None, word: str) -> None:
    assert word in str(refusal("web", A, found))
    assert refusal("web", A, image(A)) is None


@pytest.mark.fault(8, 41)
@given(
    st.dictionaries(
        st.sampled_from([MANAGED_TAG, FLEET_TAG, PROVEN_TAG]), st.sampled_from(["true", "false", "", "web"])
    ),
    st.sampled_from(["pending", "available", "failed", "disabled", "deregistered", "error"]),
)
def test_an_image_that_lacks_any_of_our_tags_or_cannot_be_launched_will_not_do(
    tags: dict[str, str], state: str
) -> None:
    ours = tags == {MANAGED_TAG: "true", FLEET_TAG: "web", PROVEN_TAG: "true"} and state == "available"
    assert (refusal("web", A, replace(image(A, state=state), tags=tags)) is None) is ours


def test_a_pointer_stands_settled_unfinished_or_edited() -> None:
    one, two = pointer(), pointer(B, generation=2)
    assert standing(Found(None, None, None)) == "none"
    assert standing(Found(None, None, one)) == "deleted"
    assert standing(Found(one, "e", one)) == "settled"
    assert standing(Found(one, "e", None)) == "unfinished"
    assert standing(Found(two, "e", one)) == "unfinished"


@pytest.mark.parametrize(
    "edited",
    [
        pointer(B),
        pointer(B, generation=2, write_id=pointer().write_id),
        pointer(B, generation=2).model_copy(update={"image": A}),
        pointer(B, generation=2).model_copy(update={"reason": "by hand"}),
        pointer(B, generation=2, write_id=""),
        pointer(B, generation=7),
        pointer(B, generation=0, write_id=""),
    ],
)
@pytest.mark.fault(3)
def test_whatever_a_person_wrote_by_hand_is_told_from_our_own_writes(edited: Pointer) -> None:
    assert standing(Found(edited, "e", pointer())) == "edited"


def test_the_first_image_and_a_newer_bakes_image_are_promoted() -> None:
    assert isinstance(promotion(None, baked(0), A, START), Move)
    move = promotion(pointer(A, 0), baked(1), B, START + HOUR)
    assert isinstance(move, Move)
    assert (move.pointer.image, move.pointer.by, move.pointer.bake) == (B, PROMOTER, bake_name(1))


@pytest.mark.fault(11)
def test_an_older_bakes_image_is_not_promoted_over_a_newer_one() -> None:
    assert isinstance(promotion(pointer(B, 1), baked(0), A, START + 2 * HOUR), Keep)
    assert isinstance(promotion(pointer(B, 1), baked(1), B, START + 2 * HOUR), Keep)


def test_a_bake_that_was_asked_for_before_a_rollback_does_not_undo_it_and_a_later_one_may() -> None:
    rolled = pointer(A, 2, by="ada", bake=bake_name(0))
    assert isinstance(promotion(rolled, baked(1), B, START + 3 * HOUR), Keep)
    assert isinstance(promotion(rolled, baked(3), C, START + 4 * HOUR), Move)


def test_a_pin_holds_until_it_ends() -> None:
    held = pointer(A, 0, pin=Pin(by="ada", reason="freeze", until=START + 2 * HOUR))
    kept = promotion(held, baked(1), B, START + HOUR)
    assert isinstance(kept, Keep)
    assert "pinned" in kept.reason
    assert isinstance(promotion(held, baked(1), B, START + 2 * HOUR), Move)
    assert isinstance(promotion(pointer(pin=Pin(by="x", reason="")), baked(1), B, START + 99 * HOUR), Keep)


def test_the_newest_image_is_that_of_the_latest_bake_that_can_be_launched() -> None:
    assert newest(list(IMAGES.values()), "web") == IMAGES[C]
    assert newest([IMAGES[A], image(B, 1, state="failed")], "web") == IMAGES[A]
    assert newest([], "web") is None


HISTORY = (pointer(C, 2, generation=3), pointer(B, 1, generation=2), pointer(A, 0, generation=1))


def back(history: tuple[Pointer, ...] = HISTORY, images: dict[str, Image] = IMAGES, **more: Any) -> Any:
    now: datetime = more.pop("now", START + 9 * HOUR)
    request = ImageRollbackRequested(fleet="web", by="ada", **{"time": now, **more})
    return rollback(request, history[0] if history else None, history, images, now)


def test_a_rollback_goes_to_the_image_before_or_to_the_one_that_is_named() -> None:
    assert back().pointer.image == B
    move = back(to=A, reason="slow", id="r1")
    assert isinstance(move, Move)
    assert (move.pointer.image, move.pointer.by, move.pointer.reason) == (A, "ada", "slow")
    assert (move.pointer.request, move.pointer.bake, move.pointer.since) == ("r1", bake_name(0), START + 9 * HOUR)


@pytest.mark.fault(8)
def test_an_image_that_is_gone_is_passed_over_and_refused_when_named() -> None:
    without = {A: IMAGES[A], C: IMAGES[C]}
    assert back(images=without).pointer.image == A
    refused = back(images=without, to=B)
    assert isinstance(refused, Refuse)
    assert f"there is no image {B}" in refused.reason
    assert isinstance(back(images={C: IMAGES[C]}), Refuse)
    assert isinstance(back(history=()), Refuse)


@pytest.mark.fault(10)
def test_the_same_rollback_twice_goes_back_once() -> None:
    done = pointer(B, 9, by="ada", generation=4, request="r1", reason="slow")
    assert isinstance(back((done, *HISTORY), id="r1"), Keep)
    assert isinstance(back((done, *HISTORY), id="other", reason="slow", now=START + 9 * HOUR), Keep)
    assert isinstance(back((done, *HISTORY), id="other", reason="slow", now=START + 10 * HOUR), Move)
    late = START + 10 * HOUR
    assert isinstance(back((done, *HISTORY), id="other", reason="slow", time=START + 9 * HOUR, now=late), Keep)


@pytest.mark.fault(11)
def test_a_rollback_that_a_person_has_overtaken_changes_nothing() -> None:
    later = pointer(A, 5, by="bob", generation=4)
    assert isinstance(back((later, *HISTORY), to=B, time=START + 4 * HOUR), Keep)
    assert isinstance(back((later, *HISTORY), to=B, time=START + 6 * HOUR), Move)


def test_a_rollback_that_raced_a_promotion_goes_back_from_what_its_author_saw() -> None:
    assert back(time=START + 1.5 * HOUR).pointer.image == A


def test_a_pinned_pointer_is_not_rolled_back() -> None:
    held = pointer(C, 2, generation=3, pin=Pin(by="bob", reason="freeze"))
    refused = back((held, *HISTORY[1:]))
    assert isinstance(refused, Refuse)
    assert "lift the pin" in refused.reason


def ask_pin(there: Pointer | None, **more: Any) -> Any:
    request = ImagePinRequested(fleet="web", by="ada", **{"time": START + HOUR, **more})
    history = (there,) if there else ()
    return pin(request, there, history, IMAGES.get(request.image or ""), START + HOUR)


def test_a_pin_holds_the_present_image_or_moves_to_another_and_can_be_lifted() -> None:
    held = ask_pin(pointer(A), image=A, reason="freeze", until=START + 2 * HOUR)
    assert held.pointer.pin == Pin(by="ada", reason="freeze", until=START + 2 * HOUR, asked=START + HOUR)
    assert held.pointer.since == START
    moved = ask_pin(pointer(A), image=B)
    assert (moved.pointer.image, moved.pointer.since) == (B, START + HOUR)
    assert ask_pin(moved.pointer).pointer.pin is None


@pytest.mark.fault(11)
def test_of_two_requests_the_one_asked_for_later_counts_whichever_comes_first() -> None:
    late, later = hours_on(4), hours_on(5)
    rolled = back(to=B, time=later).pointer.model_copy(update={"generation": 4})
    assert isinstance(back((rolled, *HISTORY), to=A, time=late), Keep)
    assert isinstance(back((rolled, *HISTORY), to=A, time=later + HOUR), Move)
    promoted = pointer(C, 6, generation=5)
    assert isinstance(back((promoted, rolled, *HISTORY), to=A, time=late), Keep), "nor through a promotion"
    assert isinstance(ask_pin(rolled, image=A, time=late), Keep)
    slow = rolled.model_copy(update={"since": hours_on(8)})
    assert isinstance(back((slow, *HISTORY), to=A, time=hours_on(7)), Move), "when it was carried out says nothing"


@pytest.mark.fault(11)
def test_a_pin_that_comes_after_a_lift_which_was_asked_for_later_holds_nothing() -> None:
    lifted = ask_pin(pointer(A), time=hours_on(5))
    assert (lifted.pointer.pin, lifted.reason) == (None, "nothing was pinned")
    assert isinstance(ask_pin(lifted.pointer, image=A, time=hours_on(4), until=hours_on(9)), Keep)
    held = ask_pin(pointer(A), image=A, time=hours_on(5))
    assert isinstance(ask_pin(held.pointer, time=hours_on(4)), Keep)
    assert ask_pin(held.pointer, time=hours_on(5)).pointer.pin is None
    by_hand = pointer(A, pin=Pin(by="fay", reason="by hand"))
    assert ask_pin(by_hand, time=hours_on(-1)).pointer.pin is None


def test_a_pin_of_an_unfit_image_or_into_the_past_is_refused_and_the_same_request_again_is_nothing() -> None:
    assert isinstance(ask_pin(pointer(A), image="ami-0000000f"), Refuse)
    assert isinstance(ask_pin(pointer(A), image=A, until=START), Refuse)
    held = ask_pin(pointer(A), image=A, id="p1")
    assert isinstance(ask_pin(held.pointer, image=A, id="p1"), Keep)


def roll(*members: GroupMember, seen: tuple[str, ...] = (ONE, TWO)) -> Roll:
    instances = {each: Instance(each, "running", A, f"10.0.0.{each[-1]}", START, "z") for each in seen}
    launch = Launch(fleet="web", server=ONE, image=A, claimed=START, releases={"monolith": "7"})
    return Roll(Group("web", 0, 2, 3, members, managed=True), instances, {ONE: launch}, START + HOUR)


def serving(server: str, state: str = "InService") -> GroupMember:
    return GroupMember(server, state, healthy=True)


def test_members_are_those_in_service_with_address_image_and_releases() -> None:
    new = membership(roll(serving(ONE), serving(TWO, "Pending:Wait")), None)
    assert new.members == (
        Member(server=ONE, address="10.0.0.1", zone="z", image=A, releases={"monolith": "7"}, since=START + HOUR),
    )


def test_a_member_keeps_its_time_and_stays_while_ec2_does_not_show_it() -> None:
    old = Membership(members=(Member(server=ONE, address="10.0.0.1", image=A, since=START),))
    assert membership(roll(serving(ONE)), old).members[0].since == START
    assert membership(roll(serving(ONE), seen=()), old).members == old.members


def test_a_leaver_is_no_member_even_where_the_group_says_in_service_and_is_forgotten_once_gone() -> None:
    old = Membership(leaving=(Leaver(server=ONE, announced=START),))
    assert membership(roll(serving(ONE)), old).members == ()
    assert membership(roll(serving(TWO)), old).leaving == ()


def test_a_server_is_announced_then_drains_then_is_let_go() -> None:
    start: Membership | None = Membership(members=(Member(server=ONE, address="10.0.0.1", image=A, since=START),))
    assert isinstance(leaving(ONE, start, 10, START), Announce)
    listed = announced(start, ONE, START)
    assert (listed.members, announced(listed, ONE, START + HOUR)) == ((), listed)
    assert isinstance(leaving(ONE, listed, 10, START + HOUR), Announce)
    published = told(listed, ONE, START + HOUR)
    draining = leaving(ONE, published, 10, START + HOUR + timedelta(seconds=4))
    assert isinstance(draining, Drain)
    assert draining.after_s == 6
    assert isinstance(leaving(ONE, published, 10, START + HOUR + timedelta(seconds=10)), LetGo)


def test_a_server_that_never_was_a_member_need_not_drain() -> None:
    assert isinstance(leaving(ONE, None, 10, START), LetGo)


def hours_on(hours: float) -> datetime:
    return START + hours * HOUR


def test_an_edit_by_hand_is_adopted_with_its_time_its_bake_and_somebody_else_than_us_as_its_author() -> None:
    edited = pointer(B, 1, by="fay", generation=2, request="r1", bake=None)
    adopted_now = adopted(edited, pointer(A), IMAGES[B], hours_on(5), hours_on(4))
    assert (adopted_now.image, adopted_now.by, adopted_now.since) == (B, "fay", hours_on(5))
    assert (adopted_now.bake, adopted_now.request, adopted_now.asked) == (bake_name(1), "", hours_on(4))
    assert adopted(edited, None, IMAGES[B], hours_on(5), hours_on(5)).by == "fay"


@pytest.mark.parametrize(("by", "last"), [(PROMOTER, pointer(A)), ("ada", pointer(A, by="ada")), ("", pointer(A))])
def test_who_edits_by_hand_without_a_name_of_his_own_is_called_operator(by: str, last: Pointer) -> None:
    """An editor who leaves ``by`` as it was has not signed: whoever stands there is the author of the last move."""
    assert adopted(pointer(B, by=by), last, IMAGES[B], START, START).by == "operator"


def test_an_edit_to_an_image_without_a_bakes_tag_keeps_the_bake_that_it_names() -> None:
    bare = replace(IMAGES[B], tags={MANAGED_TAG: "true"})
    assert adopted(pointer(B, bake=bake_name(7)), pointer(A), bare, START, START).bake == bake_name(7)


def test_why_a_promotion_moves_the_pointer_or_leaves_it_is_said() -> None:
    why = f"bake {bake_name(1)} passed its proof launch"
    new = Pointer(image=B, bake=bake_name(1), since=hours_on(2), by=PROMOTER, reason=why)
    assert promotion(pointer(A), baked(1), B, hours_on(2)) == Move(new, why)
    assert promotion(pointer(B, 1), baked(1), B, START) == Keep(f"the pointer is at {B} already")
    older = f"bake {bake_name(0)} is older than the pointer's, {bake_name(1)}"
    assert promotion(pointer(B, 1), baked(0), A, START) == Keep(older)
    by_hand = pointer(A, 1, by="ada")
    moved = f"ada moved the pointer to {A} at {hours_on(1)}, after this bake was asked for"
    assert promotion(by_hand, baked(1), B, START) == Keep(moved)
    held = pointer(A, pin=Pin(by="ada", reason="freeze", until=hours_on(2)))
    assert promotion(held, baked(1), B, START) == Keep(f"{A} is pinned: by ada until {hours_on(2)} (freeze)")
    unnamed = pointer(A, pin=Pin(by="ada", reason=""))
    assert promotion(unnamed, baked(1), B, START) == Keep(f"{A} is pinned: by ada until it is lifted (no reason given)")


def failed_launches(*hours: float, image: str = A, version: str = "7") -> Failures:
    return Failures(
        launches=tuple(
            FailedLaunch(server=f"i-0000000{number}", image=image, releases={"monolith": version}, at=hours_on(each))
            for number, each in enumerate(hours)
        )
    )


BAKE = baked(0).model_copy(update={"releases": {"monolith": "7"}})


def test_an_image_is_to_blame_when_launches_failed_since_it_is_the_pointers_with_nothing_newer_on_them() -> None:
    three = failed_launches(1, 2, 3)
    why = "3 launches in a row failed from it, the last of i-00000002, without any newer release"
    assert to_blame(pointer(A, 1), BAKE, three, 3) == why
    assert to_blame(pointer(A, 1), BAKE, three, 4) is None
    assert to_blame(pointer(A, 1.5), BAKE, three, 3) is None
    assert to_blame(pointer(A, 1), None, three, 3) is None
    assert to_blame(pointer(A, 1), BAKE, None, 3) is None
    assert to_blame(pointer(A, 1), BAKE, failed_launches(1, 2, 3, version="8"), 3) is None
    assert to_blame(pointer(A, 1), BAKE, failed_launches(1, 2, 3, image=B), 3) is None
    assert to_blame(pointer(A, 1, request=f"{REVERT}{C}"), BAKE, three, 3) is None


def test_a_revert_goes_to_the_last_image_before_that_is_still_fit() -> None:
    why = f"reverted from {C}: three failed"
    back_to_b = Pointer(image=B, bake=bake_name(1), since=hours_on(9), by=PROMOTER, reason=why, request=f"{REVERT}{C}")
    assert revert("web", HISTORY[0], HISTORY, IMAGES, "three failed", hours_on(9)) == Move(back_to_b, why)
    without = {A: IMAGES[A], C: IMAGES[C]}
    moved = revert("web", HISTORY[0], HISTORY, without, "three failed", hours_on(9))
    assert isinstance(moved, Move)
    assert moved.pointer.image == A
    nowhere = Keep(f"there is no earlier image to go back to from {C}")
    assert revert("web", HISTORY[0], HISTORY, {C: IMAGES[C]}, "three failed", hours_on(9)) == nowhere


def test_a_pinned_image_is_not_reverted_while_the_pin_lasts() -> None:
    held = pointer(C, 2, generation=3, pin=Pin(by="bob", reason="freeze", until=hours_on(5)))
    kept = Keep(f"{C} is pinned by bob until {hours_on(5)} (freeze)")
    assert revert("web", held, HISTORY, IMAGES, "x", hours_on(4)) == kept
    assert isinstance(revert("web", held, HISTORY, IMAGES, "x", hours_on(5)), Move)


def test_what_a_rollback_comes_to_is_said() -> None:
    assert back(to=A, reason="slow", id="r1").reason == f"ada asked to go back from {C}: slow"
    unsaid = back(id="r1")
    assert unsaid.reason == f"ada asked to go back from {C}: rolled back from {C}"
    assert unsaid.pointer.reason == f"rolled back from {C}"
    assert back(history=()) == Refuse("fleet web has no image of its own yet, so there is none to go back from")
    assert back(images={C: IMAGES[C]}) == Refuse("fleet web has no earlier image that is still available")
    assert back(to=C) == Keep(f"the pointer is at {C} already")
    assert back(to=B, images={}) == Refuse(f"cannot go back to {B}: there is no image {B} of ours")
    done = pointer(B, 9, by="ada", generation=4, request="r1", reason="slow")
    assert back((done, *HISTORY), id="r1") == Keep("request r1 was carried out before")
    again = f"ada was rolled back to {B} a moment ago; to go further back, name the image in `to`"
    assert back((done, *HISTORY), id="other", reason="slow") == Keep(again)
    later = pointer(A, 5, by="bob", generation=4)
    overtaken = f"bob asked for another pointer at {hours_on(5)}, after this was asked for"
    assert back((later, *HISTORY), to=B, time=hours_on(4)) == Keep(overtaken)
    held = pointer(C, 2, generation=3, pin=Pin(by="bob", reason="freeze"))
    refused = f"{C} is pinned by bob until it is lifted (freeze); lift the pin first"
    assert back((held, *HISTORY[1:])) == Refuse(refused)


def test_a_rollback_is_not_held_back_by_a_pin_that_is_over() -> None:
    held = pointer(C, 2, generation=3, pin=Pin(by="bob", reason="freeze", until=hours_on(9)))
    assert isinstance(back((held, *HISTORY[1:])), Move)


def test_a_rollback_from_before_the_whole_history_goes_back_from_the_present_image() -> None:
    assert back(time=hours_on(-1)).pointer.image == B


def test_a_rollback_asked_for_in_the_moment_of_a_promotion_goes_back_from_what_was_promoted() -> None:
    assert back(time=hours_on(1)).pointer.image == A


def test_a_rollback_never_goes_to_an_image_that_came_after_the_one_it_goes_back_from() -> None:
    history = (pointer(B, 3, generation=4), *HISTORY)
    assert back(history, time=hours_on(3)).pointer.image == C
    assert back(history, time=hours_on(1.5)).pointer.image == A


def test_what_a_pin_comes_to_is_said() -> None:
    assert ask_pin(None) == Keep("nothing is pinned")
    held = ask_pin(pointer(A), image=A, id="p1")
    assert (held.reason, held.pointer.request) == ("pinned by ada", "p1")
    lifted = ask_pin(held.pointer, id="p3")
    assert (lifted.reason, lifted.pointer.pin, lifted.pointer.request) == ("pin lifted by ada", None, "p3")
    moved = ask_pin(pointer(A), image=B, reason="freeze", id="p4")
    assert (moved.reason, moved.pointer.reason, moved.pointer.request) == (f"pinned to {B} by ada", "freeze", "p4")
    assert ask_pin(pointer(A), image=B).pointer.reason == "pinned"
    assert ask_pin(None, image=B).pointer.pin == Pin(by="ada", reason="", asked=hours_on(1))
    over = Refuse(f"cannot pin {A}: the pin would have ended at {START}")
    assert ask_pin(pointer(A), image=A, until=START) == over
    gone = "ami-0000000f"
    assert ask_pin(pointer(A), image=gone) == Refuse(f"cannot pin {gone}: there is no image {gone} of ours")
    assert ask_pin(pointer(A, request="p5"), id="p5") == Keep("request p5 was carried out before")


def test_a_server_that_is_updated_is_no_member_until_its_update_has_ended_whatever_a_sweep_sees() -> None:
    """The server stays in the group and in service all the while: only the rollout says that it is on its way."""
    old = Membership(leaving=(Leaver(server=ONE, announced=START, update=3),))
    under_way = replace(roll(serving(ONE)), updating={ONE: 3})
    assert membership(under_way, old) == old
    over = membership(roll(serving(ONE)), old)
    assert [each.server for each in over.members] == [ONE]
    assert over.leaving == ()
    for_another = membership(replace(roll(serving(ONE)), updating={ONE: 4}), old)
    assert [each.server for each in for_another.members] == [ONE]


def test_a_server_is_a_member_since_it_first_took_traffic_however_often_it_is_updated() -> None:
    listed = membership(roll(serving(ONE)), None)
    for hours in (2, 4):
        off = announced(listed, ONE, hours_on(hours), update=hours)
        listed = membership(replace(roll(serving(ONE)), now=hours_on(hours + 1)), off)
    assert [each.since for each in listed.members] == [hours_on(1)]


def test_a_server_that_leaves_the_group_in_the_middle_of_its_update_stays_off_the_list_until_it_is_gone() -> None:
    old = Membership(leaving=(Leaver(server=ONE, announced=START, update=3),))
    assert membership(roll(serving(ONE, "Terminating:Wait")), old) == old
    assert membership(roll(), old).leaving == ()


def test_a_member_without_an_address_yet_is_none_and_its_zone_is_the_groups_where_ec2_says_none() -> None:
    bare = Instance(ONE, "running", A, "", START)
    assert membership(replace(roll(serving(ONE)), instances={ONE: bare}), None).members == ()
    unplaced = {ONE: Instance(ONE, "running", A, "10.0.0.1", START)}
    member = GroupMember(ONE, "InService", healthy=True, zone="zone-of-the-group")
    [listed] = membership(replace(roll(member), instances=unplaced, launches={}), None).members
    assert (listed.zone, listed.releases) == ("zone-of-the-group", {})


def test_members_are_listed_by_id_and_only_the_one_that_leaves_is_taken_off() -> None:
    both = membership(roll(serving(TWO), serving(ONE)), None)
    assert [each.server for each in both.members] == [ONE, TWO]
    off = announced(both, ONE, hours_on(2), update=4)
    assert [each.server for each in off.members] == [TWO]
    assert off.leaving == (Leaver(server=ONE, announced=hours_on(2), update=4, since=hours_on(1)),)
    two_off = announced(off, TWO, hours_on(3))
    published = told(two_off, ONE, hours_on(5))
    assert published.leaving == (
        Leaver(server=ONE, announced=hours_on(5), update=4, since=hours_on(1), told=True),
        Leaver(server=TWO, announced=hours_on(3), since=hours_on(1)),
    )
    assert told(published, ONE, hours_on(6)) == published


def test_what_a_leaver_needs_is_said() -> None:
    listed = Membership(members=(Member(server=ONE, address="10.0.0.1", image=A, since=START),))
    assert leaving(ONE, listed, 10, START) == Announce(f"{ONE} is a member and about to leave")
    assert leaving(TWO, listed, 10, START) == LetGo(f"{TWO} was never a member")
    off = announced(announced(listed, TWO, START), ONE, START)
    assert leaving(ONE, off, 10, START) == Announce(f"{ONE} is off the list, and nobody may have been told")
    published = told(off, ONE, START)
    assert leaving(ONE, published, 10, START + timedelta(seconds=9.5)) == Drain(0.5, f"{ONE} drains for 0 s more")
    assert leaving(ONE, published, 10, START + timedelta(seconds=10)) == LetGo(f"{ONE} has drained")


def test_an_image_that_ec2_may_show_as_it_was_is_told_from_one_that_will_never_do() -> None:
    unproven = replace(image(A), tags={MANAGED_TAG: "true", FLEET_TAG: "web"})
    assert may_lag("web", unproven)
    assert may_lag("web", image(A, state="pending"))
    assert not may_lag("web", image(A))
    assert not may_lag("web", image(A, tags={PROVEN_TAG: "false"}))
    assert not may_lag("web", image(A, state="failed"))
    assert not may_lag("api", unproven)


def test_requests_are_decided_on_an_edit_only_once_it_was_obeyed() -> None:
    one, two = pointer(), pointer(B, generation=2)
    for found in (Found(one, "e", one), Found(two, "e", one), Found(None, None, one), Found(one, "e", None)):
        assert in_force(found) == found
    edited = Found(pointer(B), "e", one)
    assert in_force(edited) == Found(one, "e", one)


def test_another_image_of_the_very_bake_that_the_pointer_names_is_not_promoted() -> None:
    assert isinstance(promotion(pointer(A, 1), baked(1), B, hours_on(2)), Keep)


def test_the_last_moment_counts_for_whoever_came_first() -> None:
    later = pointer(A, 5, by="bob", generation=4)
    assert isinstance(back((later, *HISTORY), to=B, time=hours_on(5)), Move)
    done = pointer(B, 9, by="ada", generation=4, request="r1", reason="slow")
    a_while = hours_on(9) + SAME_REQUEST
    assert isinstance(back((done, *HISTORY), id="other", reason="slow", now=a_while), Move)
    just_before = a_while - timedelta(seconds=1)
    assert isinstance(back((done, *HISTORY), id="other", reason="slow", now=just_before), Keep)
    assert isinstance(ask_pin(pointer(A), image=A, until=hours_on(1)), Refuse)


def test_a_rollback_of_one_person_a_moment_ago_is_not_the_same_as_anothers() -> None:
    done = pointer(B, 9, by="bob", generation=4, request="r1", reason="slow")
    assert isinstance(back((done, *HISTORY), id="other", reason="slow"), Move)
    other_reason = pointer(B, 9, by="ada", generation=4, request="r1", reason="ugly")
    assert isinstance(back((other_reason, *HISTORY), id="other", reason="slow"), Move)


def test_a_rollback_under_a_pin_says_how_long_the_pin_lasts() -> None:
    held = pointer(C, 2, generation=3, pin=Pin(by="bob", reason="freeze", until=hours_on(10)))
    refused = f"{C} is pinned by bob until {hours_on(10)} (freeze); lift the pin first"
    assert back((held, *HISTORY[1:])) == Refuse(refused)
