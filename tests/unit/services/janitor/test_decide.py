from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.janitor import decide
from services.janitor.decide import Action, Quarantine, Reap, Release, Retire, Stop, View
from shared.cloud import Group, Image, Instance, TemplateVersion
from shared.ids import BAKE_TAG, FLEET_TAG, MANAGED_TAG, QUARANTINE_TAG, ROLE_TAG
from shared.messages import BuilderReaped, ImageRetired, ImageRetirementRequested
from shared.records import Bake, Pause, Pointer, Removals
from tests.fakes import START
from tests.unit.services.making import WEB, fleet, group, image, image_id, instance, member, server


def ago(days: float) -> datetime:
    return START - timedelta(days=days)


def pointer(number: int, generation: int = 1, days: float = 0) -> Pointer:
    return Pointer(image=image_id(number), since=ago(days), by="registry", generation=generation)


def bake(
    number: int, days: float, stage: Literal["ready", "failed", "proof"] = "ready", *, recorded: bool = True
) -> Bake:
    name = f"web-20260101t{number:06d}"
    made = image_id(number) if recorded else None
    return Bake(bake=name, fleet=WEB, stage=stage, requested=ago(days), ended=ago(days), by="schedule", image=made)


def view(
    images: Sequence[Image],
    *,
    points_at: Pointer | None = None,
    history: Sequence[Pointer] = (),
    bakes: Iterable[Bake] = (),
    templates: Sequence[TemplateVersion] = (),
    seen: Group | None = None,
    instances: Sequence[Instance] = (),
    pause: Pause | None = None,
    retention: Mapping[str, object] | None = None,
    now: datetime = START,
    removals: Removals | None = None,
) -> View:
    return View(
        fleet=fleet({"retention": retention or {"keep": 1}}),
        images=images,
        pointer=points_at,
        history=history,
        bakes={each.bake: each for each in bakes},
        templates=templates,
        group=seen or group(),
        instances=instances,
        pause=pause,
        now=now,
        removals=removals,
    )


def actions(seen: View) -> tuple[Action, ...]:
    found = decide.clean(seen)
    assert not isinstance(found, Stop), found.reason
    return found


def due(seen: View) -> set[str]:
    """Whose images are due, quarantined or not."""
    return {
        each.image if isinstance(each, Quarantine) else each.image.image
        for each in actions(seen)
        if isinstance(each, Quarantine | Retire)
    }


OTHERS = [image(number) for number in (101, 102, 103, 104)]
KEPT = [instance(number, image=number) for number in (101, 102, 103, 104)]
"""Images that are in use, so that the one in question is not more than half of all."""


def test_an_old_image_that_nothing_needs_is_set_aside_first() -> None:
    assert actions(view([*OTHERS, image(1)], instances=KEPT)) == (Quarantine(image_id(1)),)


def test_it_is_retired_once_it_was_set_aside_for_the_policys_hours() -> None:
    set_aside = image(1, tags={QUARANTINE_TAG: ago(1).isoformat()})
    (action,) = actions(view([*OTHERS, set_aside], instances=KEPT))
    assert isinstance(action, Retire)
    assert action.image == set_aside
    assert actions(view([*OTHERS, set_aside], instances=KEPT, now=START - timedelta(seconds=1))) == ()


def test_a_quarantine_tag_that_is_no_time_begins_anew() -> None:
    odd = image(1, tags={QUARANTINE_TAG: "long ago"})
    assert actions(view([*OTHERS, odd], instances=KEPT)) == (Quarantine(image_id(1)),)


@pytest.mark.fault(6)
def test_a_set_aside_image_that_is_referenced_again_is_released() -> None:
    set_aside = image(1, tags={QUARANTINE_TAG: ago(9).isoformat()})
    (action,) = actions(view([*OTHERS, set_aside], instances=[*KEPT, instance(1, image=1)]))
    assert isinstance(action, Release)
    assert action.image == image_id(1)


@pytest.mark.fault(7)
def test_an_image_stays_while_the_pointer_names_it() -> None:
    assert due(view([*OTHERS, image(1)], instances=KEPT, points_at=pointer(1, days=99))) == set()


@pytest.mark.fault(7)
def test_an_image_stays_while_it_was_the_pointers_within_the_retention() -> None:
    history = [pointer(1, 1, days=60), pointer(2, 2, days=13), pointer(3, 3, days=1)]
    images = [*OTHERS, image(1), image(2), image(3)]
    seen = view(images, instances=KEPT, points_at=pointer(3, 3, days=1), history=history)
    assert due(seen) == set()  # the first one reigned until 13 days ago
    later = view(
        images, instances=KEPT, points_at=pointer(3, 3, days=1), history=history, now=START + timedelta(days=2)
    )
    assert due(later) == {image_id(1)}


@pytest.mark.fault(7)
def test_an_image_stays_while_an_instance_runs_it_or_a_launch_is_in_flight() -> None:
    launching = group(member(7, "Pending:Wait"))
    seen = view([*OTHERS, image(1)], instances=[*KEPT, instance(7, "pending", image=1)], seen=launching)
    assert due(seen) == set()


@pytest.mark.fault(7)
def test_an_image_stays_while_the_launch_template_may_launch_it() -> None:
    images = [*OTHERS, *(image(number) for number in (1, 2, 3, 4))]
    templates = [
        TemplateVersion(1, image_id(1), default=False),
        TemplateVersion(2, image_id(2), default=False),
        TemplateVersion(3, image_id(3), default=True),
        TemplateVersion(4, image_id(4), default=False),
    ]
    used = group(member(101, version="2"))
    assert due(view(images, instances=KEPT, templates=templates, seen=used)) == {image_id(1)}


def test_the_last_proven_images_stay_however_old_and_failed_ones_do_not_count() -> None:
    """When bakes fail for weeks, the only image that works must not go."""
    images = [*OTHERS, *(image(number) for number in (1, 2, 3, 4))]
    bakes = [bake(1, 90), bake(2, 80), bake(3, 70), bake(4, 1, "failed")]
    seen = view(images, instances=KEPT, bakes=bakes, retention={"keep": 2})
    assert due(seen) == {image_id(1), image_id(4)}


def test_a_proven_image_that_is_not_available_any_more_is_none_of_the_last() -> None:
    images = [*OTHERS, image(1), image(2, state="failed")]
    assert due(view(images, instances=KEPT, bakes=[bake(1, 90), bake(2, 80)])) == {image_id(2)}


def test_proven_images_younger_than_the_retention_stay_though_never_promoted() -> None:
    images = [*OTHERS, *(image(number) for number in (1, 2, 3))]
    assert due(view(images, instances=KEPT, bakes=[bake(1, 15), bake(2, 13), bake(3, 12)])) == {image_id(1)}


def test_an_image_of_a_running_bake_stays_even_before_the_bake_says_so() -> None:
    running = bake(1, 0, "proof", recorded=False)
    tagged = image(1, tags={BAKE_TAG: running.bake})
    assert due(view([*OTHERS, tagged], instances=KEPT, bakes=[running])) == set()
    assert due(view([*OTHERS, tagged], instances=KEPT, bakes=[bake(1, 0, "failed")])) == {image_id(1)}


@pytest.mark.fault(41)
def test_invariant_7_an_image_without_our_tags_is_never_touched() -> None:
    for tags in ({MANAGED_TAG: "false"}, {FLEET_TAG: "other"}):
        assert due(view([*OTHERS, image(1, tags=tags)], instances=KEPT)) == set()


def test_when_more_than_half_of_all_images_are_due_nothing_is_touched() -> None:
    images = [*OTHERS, *(image(number) for number in range(1, 6))]
    assert isinstance(decide.clean(view(images, instances=KEPT)), Stop)
    assert len(due(view(images[:-1], instances=KEPT))) == 4


def test_the_one_image_of_a_first_bake_that_failed_can_go() -> None:
    assert due(view([image(1)], bakes=[bake(1, 1, "failed")])) == {image_id(1)}


@pytest.mark.fault(29)
def test_an_incomplete_view_stops_everything() -> None:
    leaked = instance(50, launched=ago(9), tags={ROLE_TAG: "builder"})
    gone = view([*OTHERS, image(1)], instances=[*KEPT, leaked], history=[pointer(1)])
    unseen = view([*OTHERS, image(1)], instances=[*KEPT, leaked], points_at=pointer(2))
    hidden = view([*OTHERS, image(1)], instances=[*KEPT, leaked], seen=group(member(8)))
    foreign = view([*OTHERS, image(1)], instances=[*KEPT, leaked], seen=group(managed=False))
    for seen in (gone, unseen, hidden, foreign):
        assert isinstance(decide.clean(seen), Stop)


@pytest.mark.fault(35)
def test_a_pause_of_automation_leaves_images_and_builders_alone() -> None:
    leaked = instance(50, launched=ago(9), tags={ROLE_TAG: "builder"})
    pause = Pause(what="automation", by="ann")
    assert actions(view([*OTHERS, image(1)], instances=[*KEPT, leaked], pause=pause)) == ()


@pytest.mark.fault(38)
def test_a_builder_past_its_hours_without_a_running_bake_is_reaped() -> None:
    running, failed = bake(1, 1, "proof"), bake(2, 1, "failed")
    builders = [
        instance(51, launched=ago(1), tags={ROLE_TAG: "builder", BAKE_TAG: failed.bake}),
        instance(52, launched=ago(1), tags={ROLE_TAG: "prover"}),
        instance(53, launched=ago(1), tags={ROLE_TAG: "builder", BAKE_TAG: running.bake}),
        instance(54, launched=START - timedelta(hours=6), tags={ROLE_TAG: "builder", BAKE_TAG: failed.bake}),
        instance(55, "terminated", launched=ago(1), tags={ROLE_TAG: "builder", BAKE_TAG: failed.bake}),
        instance(56, launched=ago(1)),
        instance(57, launched=ago(1), tags={ROLE_TAG: "builder", MANAGED_TAG: "no"}),
        instance(58, launched=ago(1), tags={ROLE_TAG: "builder", FLEET_TAG: "other"}),
        instance(59, launched=ago(1), tags={ROLE_TAG: "builder"}),
    ]
    seen = view([], instances=builders, bakes=[running, failed], seen=group(member(59)))
    assert [each.server for each in actions(seen) if isinstance(each, Reap)] == [server(51), server(52)]


numbers = st.sets(st.integers(1, 8))


@pytest.mark.fault(7)
@given(
    there=st.sets(st.integers(1, 8), min_size=1),
    pointed=st.integers(1, 8),
    past=st.lists(st.tuples(st.integers(1, 8), st.floats(0, 40)), max_size=5),
    proven=st.dictionaries(st.integers(1, 8), st.floats(0, 90)),
    running=numbers,
    default=st.integers(1, 8),
    aside=numbers,
    keep=st.integers(1, 4),
)
def test_invariant_3_nothing_that_is_referenced_or_among_the_last_proven_is_ever_due(
    there: set[int],
    pointed: int,
    past: list[tuple[int, float]],
    proven: dict[int, float],
    running: set[int],
    default: int,
    aside: set[int],
    keep: int,
) -> None:
    tag = {QUARANTINE_TAG: ago(20).isoformat()}
    ordered = sorted(past, key=lambda each: -each[1])
    seen = view(
        [image(number, tags=tag if number in aside else {}) for number in sorted(there | {pointed})],
        points_at=pointer(pointed),
        history=[pointer(number, generation, days) for generation, (number, days) in enumerate(ordered)],
        bakes=[bake(number, days) for number, days in proven.items()],
        templates=[TemplateVersion(1, image_id(default), default=True)],
        instances=[instance(number, image=number) for number in running],
        retention={"keep": keep},
    )
    found = decide.clean(seen)
    if isinstance(found, Stop):
        return
    gone = due(seen)
    ages = {number: days for number, days in proven.items() if number in there | {pointed}}
    kept = sorted(days for number, days in ages.items() if image_id(number) not in gone)
    assert image_id(pointed) not in gone
    assert image_id(default) not in gone
    assert not gone & {image_id(number) for number in running}
    assert not gone & {image_id(number) for number, days in past if days < 14}
    assert kept[:keep] == sorted(ages.values())[:keep], "of two that are equally old either may stay"


def test_why_each_image_stays_is_said() -> None:
    running = bake(5, 0, "proof")
    seen = view(
        [image(number) for number in range(1, 9)],
        points_at=pointer(1),
        history=[pointer(2, 2, days=60), pointer(1, 3, days=1)],
        bakes=[bake(3, 90), bake(6, 13), running],
        templates=[TemplateVersion(1, image_id(7), default=True)],
        instances=[instance(4, image=4)],
    )
    assert decide.kept(seen) == {
        image_id(1): "it is the pointer's",
        image_id(2): "it was the pointer's, generation 2",
        image_id(6): "it is one of the last 1 proven",
        image_id(4): f"{server(4)} runs it",
        image_id(7): "version 1 of the launch template names it",
        image_id(5): f"the bake {running.bake} is running",
    }
    young = view([image(3), image(6)], bakes=[bake(3, 2), bake(6, 1)])
    assert decide.kept(young)[image_id(3)] == "it is proven and younger than 14 days"
    nothing = view([image(1)], history=[])
    assert decide.kept(nothing) == {}


def test_an_images_reign_ends_when_the_next_begins_whatever_the_order_in_which_they_are_read() -> None:
    history = [pointer(3, 3, days=1), pointer(1, 1, days=60), pointer(2, 2, days=14)]
    seen = view([image(number) for number in (1, 2, 3)], history=history, points_at=pointer(3, 3))
    assert set(decide.kept(seen)) == {image_id(2), image_id(3)}
    assert image_id(1) in decide.kept(replace(seen, now=START - timedelta(seconds=1)))


def test_a_release_and_a_retirement_say_why() -> None:
    set_aside = image(1, tags={QUARANTINE_TAG: ago(9).isoformat()})
    held = view([*OTHERS, set_aside], instances=[*KEPT, instance(1, image=1)])
    assert actions(held) == (Release(image_id(1), f"{server(1)} runs it"),)
    free = view([*OTHERS, set_aside], instances=KEPT)
    since = f"{ago(9):%Y-%m-%d %H:%M} UTC"
    assert actions(free) == (Retire(set_aside, f"nothing needs it, and it was set aside on {since}"),)


def test_an_image_that_was_released_has_an_empty_tag_and_is_not_released_again() -> None:
    released = image(1, tags={QUARANTINE_TAG: ""})
    assert actions(view([*OTHERS, released], instances=[*KEPT, instance(1, image=1)])) == ()


def test_a_pause_of_automation_still_releases_and_ends_with_its_time() -> None:
    set_aside = image(1, tags={QUARANTINE_TAG: ago(9).isoformat()})
    pause = Pause(what="automation", by="ann")
    held = view([*OTHERS, set_aside], instances=[*KEPT, instance(1, image=1)], pause=pause)
    assert [type(each) for each in actions(held)] == [Release]
    for passed in (Pause(what="chaos", by="ann"), Pause(what="automation", by="ann", until=START)):
        assert due(view([*OTHERS, image(1)], instances=KEPT, pause=passed)) == {image_id(1)}


def test_why_nothing_is_touched_is_said() -> None:
    def why(seen: View) -> str:
        stop = decide.clean(seen)
        assert isinstance(stop, Stop)
        return stop.reason

    assert why(view([image(1)], seen=group(managed=False))) == "the group web lacks our ownership tag"
    assert why(view([image(1)], history=[pointer(1)])) == "the pointer is gone, though it has a history"
    missing = f"the pointer's image {image_id(2)} is not among the fleet's images"
    assert why(view([image(1)], points_at=pointer(2))) == missing
    unseen = f"EC2 does not show {server(8)}, a member of the group"
    assert why(view([image(1)], seen=group(member(9), member(8)))) == unseen
    most = "3 of 4 images are due at once, which is more than half"
    assert why(view([image(number) for number in (1, 2, 3, 4)], instances=[instance(1, image=1)])) == most


def test_two_of_two_are_too_many_and_half_of_them_are_not() -> None:
    assert isinstance(decide.clean(view([image(1), image(2)])), Stop)
    half = view([image(1), image(2), image(3), image(4)], instances=[instance(1, image=1), instance(2, image=2)])
    assert due(half) == {image_id(3), image_id(4)}
    foreign = [image(number, tags={FLEET_TAG: "other"}) for number in (5, 6, 7, 8, 9)]
    assert isinstance(decide.clean(view([image(1), image(2), *foreign])), Stop)


def test_more_than_half_of_the_images_wait_for_a_person_and_those_that_were_approved_are_not_counted() -> None:
    crowd = [image(number) for number in (1, 2, 3, 4)]
    stop = decide.clean(view(crowd, instances=[instance(1, image=1)]))
    assert isinstance(stop, Stop)
    assert stop.cause == "retirement-held"
    one = Removals(fleet=WEB, approved=(image_id(2),))
    assert due(view(crowd, instances=[instance(1, image=1)], removals=one)) == {image_id(2), image_id(3), image_id(4)}
    incomplete = decide.clean(view(crowd, seen=group(managed=False)))
    assert isinstance(incomplete, Stop)
    assert incomplete.cause == "janitor-stopped"


def test_an_approval_is_good_for_an_hour() -> None:
    approval = ImageRetirementRequested(fleet=WEB, by="ann", time=START)
    assert decide.too_late(approval, START + timedelta(hours=1)) is None
    told = decide.too_late(approval, START + timedelta(hours=1, seconds=1))
    assert told == f"it was asked for at {START:%Y-%m-%d %H:%M} UTC; look again at what is due, and ask anew"


def test_a_retirement_and_a_reaping_have_happened_once_their_target_is_gone() -> None:
    retired = ImageRetired(fleet=WEB, image=image_id(1))
    assert decide.happened(view([image(2)]), retired)
    assert not decide.happened(view([image(1)]), retired)
    reaped = BuilderReaped(fleet=WEB, server=server(1))
    assert decide.happened(view([]), reaped)
    assert decide.happened(view([], instances=[instance(1, "terminated")]), reaped)
    assert not decide.happened(view([], instances=[instance(1)]), reaped)


def test_a_reaped_builder_is_told_with_its_role_and_its_age() -> None:
    prover = instance(52, launched=ago(1), tags={ROLE_TAG: "prover"})
    why = f"a prover since {ago(1):%Y-%m-%d %H:%M} UTC, and its bake is not running"
    assert actions(view([], instances=[prover])) == (Reap(server(52), why),)
    leaving = instance(53, "shutting-down", launched=ago(1), tags={ROLE_TAG: "prover"})
    other = instance(54, launched=ago(1), tags={ROLE_TAG: "cook"})
    assert actions(view([], instances=[leaving, other])) == ()
    just_not = instance(55, launched=START - timedelta(hours=6), tags={ROLE_TAG: "builder"})
    just = instance(56, launched=START - timedelta(hours=6, seconds=1), tags={ROLE_TAG: "builder"})
    assert [each.server for each in actions(view([], instances=[just_not, just])) if isinstance(each, Reap)] == [
        server(56)
    ]


def test_a_proven_image_is_young_until_its_last_day_is_over() -> None:
    images = [*OTHERS, *(image(number) for number in (1, 2, 3))]
    bakes = [bake(1, 14), bake(2, 13.99), bake(3, 1)]
    assert due(view(images, instances=KEPT, bakes=bakes)) == {image_id(1)}


def test_of_the_last_proven_the_latest_count_by_when_their_bakes_ended() -> None:
    early = bake(1, 90).model_copy(update={"ended": ago(30)})
    requested_only = bake(2, 40).model_copy(update={"ended": None})
    seen = view([*OTHERS, image(1), image(2)], instances=KEPT, bakes=[early, requested_only])
    assert due(seen) == {image_id(2)}
