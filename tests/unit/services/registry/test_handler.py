from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest

from services.registry.handler import Registry
from services.registry.images import Images
from services.registry.members import Members
from services.registry.pointers import Pointers
from services.registry.releases import ReleaseRequests
from shared.cloud import Incomplete, TemplateVersion, Unavailable
from shared.documents import Documents
from shared.events import Incoming, LifecycleAction, ObjectChanged
from shared.fleets import UnknownFleet
from shared.ids import BAKE_TAG, PROVEN_TAG, QUARANTINE_TAG
from shared.messages import (
    AlertCleared,
    AlertRaised,
    ImagePinRequested,
    ImagePromoted,
    ImageReady,
    ImageRollbackRequested,
    MembershipChanged,
    ServerReady,
    Tick,
)
from shared.names import TERMINATE_HOOK
from shared.outcome import Done, LookAgain, Outcome, Reject, Retry
from shared.records import (
    Bake,
    FailedLaunch,
    Failures,
    Membership,
    Pointer,
    bake_key,
    failures_key,
    history_key,
    membership_key,
    pointer_key,
)
from shared.sweeps import Sweeps
from tests.fakes import START
from tests.unit.fleetworld import FIRST, STOCK, FleetWorld, Killed, killed_at

A, B, C = "ami-0000000a", "ami-0000000b", "ami-0000000c"
EDITED = ObjectChanged("bucket", pointer_key("web"))
LEAVING = LifecycleAction("web", FIRST, TERMINATE_HOOK, "token", "terminating")


def make(world: FleetWorld) -> Registry:
    documents = Documents(world.objects)
    images = Images(
        servers=world.servers,
        documents=documents,
        pointers=Pointers(world.objects),
        publisher=world.publisher,
        alerts=world.alerts,
        clock=world.clock,
    )
    members = Members(
        groups=world.groups,
        servers=world.servers,
        documents=documents,
        publisher=world.publisher,
        clock=world.clock,
    )
    releases = ReleaseRequests(world.components)
    sweeps = Sweeps(world.alerts, world.fleets, "registry")
    return Registry(fleets=world.fleets, sweeps=sweeps, images=images, members=members, releases=releases)


@pytest.fixture
async def world() -> FleetWorld:
    world = FleetWorld()
    await world.release("1")
    return world


async def baked(world: FleetWorld, image: str, **more: Any) -> ImageReady:
    """Bake an image now, and let a minute pass."""
    bake = f"web-{world.now:%Y%m%dt%H%M%S}"
    world.image(image, bake, **more)
    record = Bake(bake=bake, fleet="web", requested=world.now, by="x", stage="ready", image=image)
    await world.documents.create(bake_key("web", bake), record)
    world.clock.step(minutes=1)
    return ImageReady(fleet="web", image=image, bake=bake)


async def promoted(world: FleetWorld, *images: str) -> None:
    for image in images:
        assert isinstance(await make(world).handle(await baked(world, image)), Done)
        world.clock.step(minutes=1)


async def play(world: FleetWorld, message: Incoming) -> Outcome:
    """Deliver the message until it is done, as the consumer does; a process that dies is started again."""
    for _ in range(40):
        try:
            outcome = await make(world).handle(message)
        except Killed:
            continue
        if not isinstance(outcome, LookAgain):
            return outcome
        world.clock.step(outcome.after_s)
    raise AssertionError("it never ends")


async def pointer(world: FleetWorld) -> Pointer:
    found = await world.documents.get(Pointer, pointer_key("web"))
    assert found is not None
    return found


def template(world: FleetWorld) -> str:
    return next(each.image for each in world.servers.versions["web"] if each.default)


def edit(world: FleetWorld, **change: object) -> None:
    """Edit the pointer by hand, as an operator does with the AWS CLI."""
    old = orjson.loads(world.objects.bodies[pointer_key("web")])
    world.objects.bodies[pointer_key("web")] = orjson.dumps(old | change)


def chain(world: FleetWorld) -> list[Pointer]:
    """The history; it has every generation from 1, and ends with the pointer."""
    keys = sorted(key for key in world.objects.bodies if "/image-history/" in key)
    assert keys == [history_key("web", number) for number in range(1, len(keys) + 1)]
    found = [Pointer.model_validate_json(world.objects.bodies[key]) for key in keys]
    assert [each.generation for each in found] == list(range(1, len(keys) + 1))
    assert found[-1] == Pointer.model_validate_json(world.objects.bodies[pointer_key("web")])
    return found


def causes(raised: Iterable[AlertRaised | AlertCleared]) -> list[str]:
    return [each.cause for each in raised]


async def test_a_proven_image_becomes_the_pointer_the_template_and_history(world: FleetWorld) -> None:
    await promoted(world, A, B)
    assert [each.image for each in chain(world)] == [A, B]
    assert template(world) == B
    assert [(each.image, each.previous) for each in world.publisher.of(ImagePromoted)] == [(A, None), (B, A)]


@pytest.mark.parametrize("wrong", ["bake", "image", "tag", "disproven", "unready", "foreign"])
@pytest.mark.fault(15, 41)
async def test_what_an_image_ready_message_says_is_verified(world: FleetWorld, wrong: str) -> None:
    message = await baked(world, A)
    if wrong == "disproven":
        await world.servers.tag(A, {PROVEN_TAG: "false"})
    if wrong == "bake":
        message = message.model_copy(update={"bake": "web-20200101t000000"})
    if wrong == "image":
        world.image(B, message.bake)
        message = message.model_copy(update={"image": B})
    if wrong == "tag":
        world.image(A, "web-20200101t000000")
    if wrong == "unready":
        await world.documents.change(
            Bake, bake_key("web", message.bake), lambda old: old and old.model_copy(update={"stage": "proof"})
        )
    if wrong == "foreign":
        world.servers.set_image(type(world.servers.stored[A])(A, "x", "available", START, (), {BAKE_TAG: message.bake}))
    assert isinstance(await make(world).handle(message), Reject)
    assert pointer_key("web") not in world.objects.bodies
    assert template(world) == STOCK


@pytest.mark.fault(16)
@pytest.mark.parametrize("shown", ["without its proof", "pending"])
async def test_an_image_that_ec2_shows_as_it_was_before_its_bake_ended_is_tried_again(
    world: FleetWorld, shown: str
) -> None:
    """Found by the simulation: with answers of EC2 half a minute late, a good bake's message was a dead letter."""
    message = await baked(world, A, proven=shown != "without its proof")
    if shown == "pending":
        world.servers.set_image(replace(world.servers.stored[A], state="pending"))
    assert isinstance(await make(world).handle(message), Retry)
    assert pointer_key("web") not in world.objects.bodies
    world.image(A, message.bake)
    assert isinstance(await make(world).handle(message), Done)
    assert (await pointer(world)).image == A


@pytest.mark.fault(16)
async def test_an_image_that_ec2_does_not_show_yet_is_tried_again(world: FleetWorld) -> None:
    message = await baked(world, A)
    world.servers.invisible.add(A)
    assert isinstance(await make(world).handle(message), Retry)
    world.servers.invisible.clear()
    assert isinstance(await make(world).handle(message), Done)
    assert (await pointer(world)).image == A


@pytest.mark.fault(10, 11)
async def test_image_ready_again_and_late_changes_nothing(world: FleetWorld) -> None:
    first, second = await baked(world, A), await baked(world, B)
    for message in (second, first, second, first):
        assert isinstance(await make(world).handle(message), Done)
    assert [each.image for each in chain(world)] == [B]
    assert len(world.publisher.of(ImagePromoted)) == 1


@pytest.mark.fault(13)
async def test_a_lost_image_ready_is_made_good_by_the_sweep(world: FleetWorld) -> None:
    await baked(world, A)
    await baked(world, B)
    await make(world).handle(Tick())
    assert [each.image for each in chain(world)] == [B]


async def test_a_rollback_moves_the_pointer_and_the_template_back_and_the_sweep_leaves_it_there(
    world: FleetWorld,
) -> None:
    await promoted(world, A, B)
    request = ImageRollbackRequested(time=world.now, fleet="web", by="ada", reason="slow")
    assert isinstance(await make(world).handle(request), Done)
    world.clock.step(hours=1)
    await make(world).handle(Tick())
    assert [each.image for each in chain(world)] == [A, B, A]
    assert template(world) == A
    assert (await pointer(world)).by == "ada"
    later = await baked(world, C)
    await make(world).handle(later)
    assert (await pointer(world)).image == C


async def test_a_bake_that_was_under_way_during_a_rollback_does_not_undo_it(world: FleetWorld) -> None:
    await promoted(world, A, B)
    under_way = await baked(world, C)
    await make(world).handle(ImageRollbackRequested(time=world.now, fleet="web", to=A))
    assert isinstance(await make(world).handle(under_way), Done)
    assert (await pointer(world)).image == A


@pytest.mark.fault(10)
async def test_a_rollback_by_hand_that_arrives_twice_goes_back_once(world: FleetWorld) -> None:
    await promoted(world, A, B, C)
    for _ in range(2):
        assert isinstance(await make(world).handle(ImageRollbackRequested(time=world.now, fleet="web", by="ada")), Done)
    assert (await pointer(world)).image == B


@pytest.mark.fault(8)
async def test_a_rollback_that_cannot_be_is_refused_and_the_pointer_stays(world: FleetWorld) -> None:
    assert isinstance(await make(world).handle(ImageRollbackRequested(time=world.now, fleet="web")), Reject)
    await promoted(world, A)
    for request in (
        ImageRollbackRequested(time=world.now, fleet="web"),
        ImageRollbackRequested(time=world.now, fleet="web", to="ami-0000000f"),
    ):
        assert isinstance(await make(world).handle(request), Reject)
    assert [each.image for each in chain(world)] == [A]
    with pytest.raises(UnknownFleet, match="there is no fleet"):
        await make(world).handle(ImageRollbackRequested(time=world.now, fleet="nope"))


@pytest.mark.fault(7)
async def test_nothing_moves_to_an_image_that_the_janitor_may_be_retiring_by_now(world: FleetWorld) -> None:
    """Found by the simulation, seed 16 of thirty days: a late call retired an image after a rollback to it."""
    await promoted(world, A, B)
    set_aside = world.now
    await world.servers.tag(A, {QUARANTINE_TAG: set_aside.isoformat()})
    world.clock.step(hours=23)
    edit(world, image=A, by="ada")
    await make(world).handle(EDITED)
    [alert] = world.publisher.of(AlertRaised)
    assert f"{A} is about to be retired" in alert.reason
    for request in (
        ImageRollbackRequested(time=world.now, fleet="web"),
        ImageRollbackRequested(time=world.now, fleet="web", to=A),
        ImagePinRequested(time=world.now, fleet="web", image=A),
    ):
        assert isinstance(await make(world).handle(request), Reject)
    assert template(world) == B


@pytest.mark.fault(6)
async def test_a_rollback_to_an_image_that_was_only_set_aside_is_carried_out(world: FleetWorld) -> None:
    await promoted(world, A, B)
    await world.servers.tag(A, {QUARANTINE_TAG: world.now.isoformat()})
    world.clock.step(hours=22)
    assert isinstance(await make(world).handle(ImageRollbackRequested(time=world.now, fleet="web")), Done)
    assert (await pointer(world)).image == A


async def test_a_pin_holds_against_a_promotion_until_it_is_lifted(world: FleetWorld) -> None:
    await promoted(world, A)
    await make(world).handle(ImagePinRequested(time=world.now, fleet="web", image=A, by="ada"))
    await promoted(world, B)
    assert (await pointer(world)).image == A
    await make(world).handle(ImagePinRequested(time=world.now, fleet="web", by="ada"))
    await make(world).handle(Tick())
    assert (await pointer(world)).image == B
    assert len(chain(world)) == 4
    assert [each.image for each in world.publisher.of(ImagePromoted)] == [A, B]


@pytest.mark.fault(11)
async def test_a_pin_that_arrives_again_after_it_was_lifted_does_not_pin_again(world: FleetWorld) -> None:
    await promoted(world, A)
    pinning = ImagePinRequested(time=world.now, fleet="web", image=A, by="ada")
    for message in (pinning, ImagePinRequested(time=world.now, fleet="web", by="ada"), pinning):
        assert isinstance(await make(world).handle(message), Done)
    assert (await pointer(world)).pin is None


@pytest.mark.parametrize("generation", [0, 1, 2, 3, 99])
async def test_an_edit_by_hand_is_adopted_whatever_generation_it_has(world: FleetWorld, generation: int) -> None:
    await promoted(world, A, B)
    edit(world, image=A, generation=generation)
    assert isinstance(await make(world).handle(EDITED), Done)
    assert [each.image for each in chain(world)] == [A, B, A]
    assert template(world) == A
    now = await pointer(world)
    assert (now.by, now.since) == ("operator", world.now)
    await make(world).handle(Tick())
    assert len(chain(world)) == 3


async def test_a_copy_of_an_older_generation_over_the_pointer_is_obeyed(world: FleetWorld) -> None:
    await promoted(world, A, B)
    world.objects.bodies[pointer_key("web")] = world.objects.bodies[history_key("web", 1)]
    await make(world).handle(Tick())
    assert [each.image for each in chain(world)] == [A, B, A]


async def test_an_edit_that_names_no_fit_image_is_alerted_once_and_the_template_stays(world: FleetWorld) -> None:
    await promoted(world, A, B)
    edit(world, image="ami-0000000f")
    for _ in range(2):
        await make(world).handle(Tick())
    [alert] = world.publisher.of(AlertRaised)
    assert alert.cause == "pointer"
    assert "there is no image ami-0000000f" in alert.reason
    assert template(world) == B
    edit(world, image=A)
    await make(world).handle(EDITED)
    assert causes(world.publisher.of(AlertCleared)) == ["pointer"]
    assert [each.image for each in chain(world)] == [A, B, A]


async def test_the_alert_of_a_pointer_that_cannot_be_read_is_over_once_it_is_as_it_was(world: FleetWorld) -> None:
    await promoted(world, A, B)
    good, world.objects.bodies[pointer_key("web")] = world.objects.bodies[pointer_key("web")], b"spoilt"
    await make(world).handle(Tick())
    assert causes(world.publisher.of(AlertRaised)) == ["pointer"]
    world.objects.bodies[pointer_key("web")] = good
    await make(world).handle(EDITED)
    assert causes(world.publisher.of(AlertCleared)) == ["pointer"]


@pytest.mark.fault(3)
async def test_an_edit_of_a_pointer_that_a_killed_registry_had_yet_to_record_is_no_write_of_its_own(
    world: FleetWorld,
) -> None:
    """Found by thirty days of seed 4: the edit named an image that does not exist, and was announced as promoted."""
    await promoted(world, A, B)
    del world.objects.bodies[history_key("web", 2)]
    edit(world, image="ami-0000dead")
    await make(world).handle(Tick())
    assert "ami-0000dead" not in {each.image for each in world.servers.versions["web"]}
    assert "ami-0000dead" not in {each.image for each in world.publisher.of(ImagePromoted)}
    assert causes(world.publisher.of(AlertRaised)) == ["pointer"]
    assert [each.image for each in chain(world)] == [A, B]


async def test_lifting_a_pin_never_accepts_an_edit_that_was_refused(world: FleetWorld) -> None:
    await promoted(world, A, B)
    await make(world).handle(ImagePinRequested(time=world.now, fleet="web", image=B, by="ada"))
    edit(world, image="ami-0000000f")
    await make(world).handle(ImagePinRequested(time=world.now, fleet="web", by="ada"))
    now = await pointer(world)
    assert (now.image, now.pin) == (B, None)
    assert [each.image for each in chain(world)] == [A, B, B, B]


@pytest.mark.fault(9)
async def test_a_pointer_that_cannot_be_read_is_left_alone_and_alerted_once(world: FleetWorld) -> None:
    await promoted(world, A)
    good = world.objects.bodies[pointer_key("web")]
    for body in (b"{not json", good.replace(b'"schema": 1', b'"schema": 2')):
        world.objects.bodies[pointer_key("web")] = body
        message = await baked(world, f"ami-{len(body):08x}")
        assert isinstance(await make(world).handle(message), Retry)
        assert isinstance(await make(world).handle(Tick()), Done)
        assert world.objects.bodies[pointer_key("web")] == body
    assert causes(world.publisher.of(AlertRaised)) == ["pointer"]
    assert template(world) == A


async def test_a_pointer_that_somebody_deleted_is_put_back(world: FleetWorld) -> None:
    await promoted(world, A, B)
    await make(world).handle(ImageRollbackRequested(time=world.now, fleet="web", to=A))
    del world.objects.bodies[pointer_key("web")]
    await make(world).handle(Tick())
    assert [each.image for each in chain(world)] == [A, B, A, A]


async def test_a_launch_template_that_differs_is_repaired_by_the_sweep(world: FleetWorld) -> None:
    await promoted(world, A)
    world.servers.versions["web"] = [TemplateVersion(1, STOCK, default=True), TemplateVersion(2, A, default=False)]
    await make(world).handle(Tick())
    assert template(world) == A


@pytest.mark.fault(1)
async def test_a_pointer_write_whose_reply_was_lost_is_finished_by_the_next_look(world: FleetWorld) -> None:
    message = await baked(world, A)
    world.objects.fail("put", Unavailable("no reply"), applied=True)
    with pytest.raises(Unavailable):
        await make(world).handle(message)
    await make(world).handle(message)
    assert [each.image for each in chain(world)] == [A]
    assert template(world) == A
    assert len(world.publisher.of(ImagePromoted)) == 1


@pytest.mark.fault(2, 4)
async def test_registries_that_race_leave_one_unbroken_chain(world: FleetWorld) -> None:
    await promoted(world, A)
    messages: list[Incoming] = [
        await baked(world, B),
        await baked(world, C),
        ImageRollbackRequested(time=world.now, fleet="web", to=A, by="ada"),
        ImagePinRequested(time=world.now, fleet="web", image=B, by="bob"),
        Tick(),
        EDITED,
    ]
    await asyncio.gather(*(make(world).handle(each) for each in messages * 2))
    await make(world).handle(Tick())
    history = chain(world)
    assert template(world) == history[-1].image


@pytest.mark.fault(5)
async def test_a_registry_that_was_paused_does_not_leave_an_old_image_in_the_template(
    world: FleetWorld,
) -> None:
    await promoted(world, A)
    second, third = await baked(world, B), await baked(world, C)
    reached, paused = asyncio.Event(), asyncio.Event()
    set_image = world.servers.set_template_image

    async def slow(fleet: str, image: str) -> int:
        if image == B:
            reached.set()
            await paused.wait()
        return await set_image(fleet, image)

    world.servers.set_template_image = slow  # type: ignore[method-assign]
    sleeper = asyncio.create_task(make(world).handle(second))
    await reached.wait()
    world.servers.set_template_image = set_image  # type: ignore[method-assign]
    await make(world).handle(third)
    assert template(world) == C
    paused.set()
    await sleeper
    assert template(world) == C
    assert [each.image for each in chain(world)] == [A, B, C]


# Membership.


async def members(world: FleetWorld) -> list[str]:
    found = await world.documents.get(Membership, membership_key("web"))
    return [each.server for each in found.members] if found else []


def ready(world: FleetWorld) -> ServerReady:
    return ServerReady(fleet="web", server=FIRST, image=STOCK, seconds=1, time=world.now)


async def test_a_server_that_is_ready_becomes_a_member_as_soon_as_its_group_says_in_service(
    world: FleetWorld,
) -> None:
    world.server(state="Pending:Proceed")
    message = ready(world)
    assert isinstance(await make(world).handle(message), LookAgain)
    world.groups.change("web", FIRST, state="InService")
    assert isinstance(await make(world).handle(message), Done)
    assert await members(world) == [FIRST]
    [changed] = world.publisher.of(MembershipChanged)
    assert (changed.joined, changed.left, changed.generation) == ((FIRST,), (), 1)


@pytest.mark.fault(15)
async def test_a_forged_server_ready_takes_nobody_in(world: FleetWorld) -> None:
    assert isinstance(await make(world).handle(ready(world)), Done)
    world.server(state="Pending:Wait")
    forged = ready(world)
    world.clock.step(minutes=10)
    assert isinstance(await make(world).handle(forged), Done)
    assert await members(world) == []


@pytest.mark.fault(13)
async def test_a_lost_server_ready_is_made_good_by_the_sweep(world: FleetWorld) -> None:
    world.server(state="InService")
    await make(world).handle(Tick())
    assert await members(world) == [FIRST]
    await make(world).handle(Tick())
    assert len(world.publisher.of(MembershipChanged)) == 1


async def serving(world: FleetWorld) -> None:
    world.server(state="InService")
    await make(world).handle(Tick())
    world.groups.change("web", FIRST, state="Terminating:Wait")


async def test_a_server_is_announced_as_gone_and_drains_before_it_is_let_go(world: FleetWorld) -> None:
    await serving(world)
    outcome = await make(world).handle(LEAVING)
    assert isinstance(outcome, LookAgain)
    assert outcome.after_s == 10
    assert await members(world) == []
    assert world.publisher.of(MembershipChanged)[-1].left == (FIRST,)
    assert world.groups.called("complete") == []
    world.clock.step(10)
    assert isinstance(await make(world).handle(LEAVING), Done)
    assert world.groups.groups["web"].members == ()
    await make(world).handle(Tick())
    found = await world.documents.get(Membership, membership_key("web"))
    assert found is not None
    assert found.leaving == ()


async def test_a_long_drain_keeps_its_hook_alive(world: FleetWorld) -> None:
    drain = world.fleet.policies.drain.model_copy(update={"seconds": 3000})
    policies = world.fleet.policies.model_copy(update={"drain": drain})
    world.describe(world.fleet.model_copy(update={"policies": policies}))
    await serving(world)
    outcome = await make(world).handle(LEAVING)
    assert isinstance(outcome, LookAgain)
    assert outcome.after_s == 100
    assert len(world.groups.called("heartbeat")) == 1


async def test_a_server_that_never_served_is_let_go_at_once(world: FleetWorld) -> None:
    world.server(state="Terminating:Wait")
    assert isinstance(await make(world).handle(LEAVING), Done)
    assert world.groups.groups["web"].members == ()


@pytest.mark.fault(13)
async def test_a_lost_terminate_event_is_made_good_by_the_sweep(world: FleetWorld) -> None:
    await serving(world)
    await make(world).handle(Tick())
    assert await members(world) == []
    world.clock.step(10)
    await make(world).handle(Tick())
    assert world.groups.groups["web"].members == ()


@pytest.mark.fault(12, 15)
async def test_a_terminate_event_of_a_server_that_serves_or_is_gone_lets_nobody_go(
    world: FleetWorld,
) -> None:
    world.server(state="InService")
    await make(world).handle(Tick())
    assert isinstance(await make(world).handle(LEAVING), Done)
    assert await members(world) == [FIRST]
    assert world.groups.called("complete") == []
    world.groups.leave("web", FIRST)
    assert isinstance(await make(world).handle(LEAVING), Done)


@pytest.mark.fault(29)
async def test_a_group_that_cannot_be_listed_leaves_the_list_alone(world: FleetWorld) -> None:
    await serving(world)
    world.groups.fail("describe", Incomplete("half"))
    with pytest.raises(Incomplete):
        await make(world).handle(Tick())
    assert await members(world) == [FIRST]


async def test_a_sweep_that_saw_the_group_before_does_not_bring_a_leaver_back(world: FleetWorld) -> None:
    world.server(state="InService")
    await make(world).handle(Tick())
    before = world.groups.groups["web"]
    world.groups.change("web", FIRST, state="Terminating:Wait")
    await make(world).handle(LEAVING)
    after = world.groups.groups["web"]
    world.groups.set(before)
    await make(world).handle(Tick())
    world.groups.set(after)
    assert await members(world) == []


async def promote_killed(number: int, *, applied: bool) -> tuple[FleetWorld, int]:
    world = FleetWorld()
    await promoted(world, A)
    message = await baked(world, B)
    with killed_at(world, number, applied=applied) as calls:
        await play(world, message)
        return world, calls()


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.fault(18)
async def test_killed_at_any_call_a_promotion_ends_as_if_nothing_had_happened(applied: bool) -> None:
    _, calls = await promote_killed(0, applied=applied)
    for number in range(1, calls + 1):
        world, _ = await promote_killed(number, applied=applied)
        assert [each.image for each in chain(world)] == [A, B], number
        assert template(world) == B, number
        assert len({each.id for each in world.publisher.of(ImagePromoted)}) == 2, number


async def leave_killed(number: int, *, applied: bool) -> tuple[FleetWorld, int]:
    world = FleetWorld()
    await serving(world)
    with killed_at(world, number, applied=applied) as calls:
        await play(world, LEAVING)
        return world, calls()


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.fault(18)
async def test_killed_at_any_call_a_leaver_is_announced_before_it_is_let_go(applied: bool) -> None:
    _, calls = await leave_killed(0, applied=applied)
    for number in range(1, calls + 1):
        world, _ = await leave_killed(number, applied=applied)
        assert await members(world) == [], number
        assert world.groups.groups["web"].members == (), number
        left = [each for each in world.publisher.of(MembershipChanged) if each.left]
        assert {each.id for each in left} == {f"left-{FIRST}"}, number
        assert world.now - START >= timedelta(seconds=10), number


async def join_killed(number: int, *, applied: bool) -> tuple[FleetWorld, int]:
    world = FleetWorld()
    world.server(state="InService")
    with killed_at(world, number, applied=applied) as calls:
        await play(world, ready(world))
        return world, calls()


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.fault(18)
async def test_killed_at_any_call_a_server_that_joins_is_announced(applied: bool) -> None:
    _, calls = await join_killed(0, applied=applied)
    for number in range(1, calls + 1):
        world, _ = await join_killed(number, applied=applied)
        assert await members(world) == [FIRST], number
        assert any(FIRST in each.joined for each in world.publisher.of(MembershipChanged)), number


async def lost_killed(number: int, *, applied: bool) -> tuple[FleetWorld, int]:
    """Kill the registry at a call that it makes for a tick that finds a server gone and another come."""
    world = FleetWorld()
    await serving(world)
    world.groups.leave("web", FIRST)
    world.server("i-00000000000000002", state="InService")
    with killed_at(world, number, applied=applied) as calls:
        await play(world, Tick())
        return world, calls()


@pytest.mark.fault(18)
@pytest.mark.parametrize("applied", [False, True])
async def test_killed_at_any_call_a_change_that_a_sweep_finds_is_announced(applied: bool) -> None:
    _, calls = await lost_killed(0, applied=applied)
    for number in range(1, calls + 1):
        world, _ = await lost_killed(number, applied=applied)
        assert await members(world) == ["i-00000000000000002"], number
        told = {(each.id, each.joined, each.left) for each in world.publisher.of(MembershipChanged) if each.left}
        assert len(told) == 1, number
        [(_, joined, left)] = told
        assert (joined, left) == (("i-00000000000000002",), (FIRST,)), number
        record = Membership.model_validate_json(world.objects.bodies[membership_key("web")])
        assert record.outbox == (), number


async def failed_from(world: FleetWorld, image: str, releases: dict[str, str], count: int = 3) -> None:
    """Let launches from the image be given up."""
    launches = [
        FailedLaunch(server=f"i-0000020{number}", image=image, releases=releases, at=world.now)
        for number in range(count)
    ]
    await world.documents.change(Failures, failures_key("web"), lambda _: Failures(launches=tuple(launches)))


@pytest.mark.fault(21)
async def test_an_image_from_which_launches_fail_loses_its_proof_and_the_pointer_goes_back_once(
    world: FleetWorld,
) -> None:
    await promoted(world, A, B, C)
    await failed_from(world, C, {})
    await make(world).handle(Tick())
    assert template(world) == B
    await make(world).handle(Tick())
    assert [each.image for each in chain(world)] == [A, B, C, B]
    assert template(world) == B
    [alert] = world.publisher.of(AlertRaised)
    assert alert.cause == "image-reverted"
    assert f"web launches from {B}, reverted from {C}: 3 launches in a row failed from it" in alert.reason
    await failed_from(world, B, {})
    await make(world).handle(Tick())
    assert (await pointer(world)).image == B


async def revert_killed(number: int, *, applied: bool) -> tuple[FleetWorld, int]:
    """Kill the registry at a call that it makes for a tick that finds an image from which launches fail."""
    world = FleetWorld()
    await promoted(world, A, B, C)
    await failed_from(world, C, {})
    with killed_at(world, number, applied=applied) as calls:
        await play(world, Tick())
        return world, calls()


@pytest.mark.fault(18, 21)
@pytest.mark.parametrize("applied", [False, True])
async def test_killed_at_any_call_going_back_from_an_image_is_done_once_and_told(applied: bool) -> None:
    _, calls = await revert_killed(0, applied=applied)
    for number in range(1, calls + 1):
        world, _ = await revert_killed(number, applied=applied)
        assert [each.image for each in chain(world)] == [A, B, C, B], number
        assert template(world) == B, number
        assert {each.cause for each in world.publisher.of(AlertRaised)} == {"image-reverted"}, number
        assert len({each.id for each in world.publisher.of(AlertRaised)}) == 1, number


async def test_the_alert_of_an_image_that_was_gone_back_from_stands_until_somebody_moves_the_pointer(
    world: FleetWorld,
) -> None:
    await promoted(world, A, B, C)
    await failed_from(world, C, {})
    for _ in range(2):
        await make(world).handle(Tick())
    assert not world.publisher.of(AlertCleared)
    await make(world).handle(ImageRollbackRequested(time=world.now, fleet="web", to=A, by="ada"))
    await make(world).handle(Tick())
    assert causes(world.publisher.of(AlertCleared)) == ["image-reverted"]


@pytest.mark.parametrize(
    ("image", "releases", "count"), [(C, {}, 2), (B, {}, 3), (C, {"monolith": "2"}, 3)], ids=["few", "other", "newer"]
)
@pytest.mark.fault(21)
async def test_the_image_is_not_to_blame_for_too_few_or_other_failures_or_a_newer_release(
    world: FleetWorld, image: str, releases: dict[str, str], count: int
) -> None:
    await promoted(world, A, B, C)
    await failed_from(world, image, releases, count)
    await make(world).handle(Tick())
    assert (await pointer(world)).image == C


@pytest.mark.fault(21)
async def test_a_pinned_image_stays_whatever_fails(world: FleetWorld) -> None:
    await promoted(world, A, B)
    await make(world).handle(ImagePinRequested(time=world.now, fleet="web", image=B, by="ada"))
    await failed_from(world, B, {})
    await make(world).handle(Tick())
    assert (await pointer(world)).image == B
    assert world.servers.stored[B].tags[PROVEN_TAG] == "true"
