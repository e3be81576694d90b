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
    Announce,
    Drain,
    Found,
    Keep,
    LetGo,
    Move,
    Refuse,
    Roll,
    announced,
    leaving,
    membership,
    newest,
    pin,
    promotion,
    refusal,
    rollback,
    standing,
    told,
)
from shared.cloud import Group, GroupMember, Image, Instance
from shared.ids import BAKE_TAG, FLEET_TAG, MANAGED_TAG, PROVEN_TAG
from shared.messages import ImagePinRequested, ImageRollbackRequested
from shared.records import Bake, Launch, Leaver, Member, Membership, Pin, Pointer
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
    made = {"bake": bake_name(hours), "write_id": f"w{generation}", **more}
    return Pointer(image=name, since=START + hours * HOUR, by=by, generation=generation, **made)


IMAGES = {A: image(A, 0), B: image(B, 1), C: image(C, 2)}


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
        pointer(B, generation=2, write_id="w1"),
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
    request = ImageRollbackRequested(fleet="web", by="ada", **more)
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
    request = ImagePinRequested(fleet="web", by="ada", **more)
    history = (there,) if there else ()
    return pin(request, there, history, IMAGES.get(request.image or ""), START + HOUR)


def test_a_pin_holds_the_present_image_or_moves_to_another_and_can_be_lifted() -> None:
    held = ask_pin(pointer(A), image=A, reason="freeze", until=START + 2 * HOUR)
    assert held.pointer.pin == Pin(by="ada", reason="freeze", until=START + 2 * HOUR)
    assert held.pointer.since == START
    moved = ask_pin(pointer(A), image=B)
    assert (moved.pointer.image, moved.pointer.since) == (B, START + HOUR)
    assert ask_pin(moved.pointer).pointer.pin is None
    assert isinstance(ask_pin(pointer(A)), Keep)


def test_a_pin_of_an_unfit_image_or_into_the_past_is_refused_and_the_same_pin_again_is_nothing() -> None:
    assert isinstance(ask_pin(pointer(A), image="ami-0000000f"), Refuse)
    assert isinstance(ask_pin(pointer(A), image=A, until=START), Refuse)
    held = ask_pin(pointer(A), image=A)
    assert isinstance(ask_pin(held.pointer, image=A), Keep)


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
