from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import TypeVar

import pytest

from services.janitor.handler import Janitor
from shared.cloud import Denied, Incomplete, TemplateVersion, Unavailable
from shared.events import AlarmChanged
from shared.fleets import UnknownFleet
from shared.ids import BAKE_TAG, QUARANTINE_TAG, ROLE_TAG
from shared.messages import AlertCleared, AlertRaised, BuilderReaped, ImageRetired, ImageRetirementRequested, Tick
from shared.outcome import Done, Reject
from shared.records import (
    Attempt,
    Audit,
    Bake,
    Launch,
    Pointer,
    bake_key,
    history_key,
    launch_key,
    pointer_key,
    report_key,
)
from tests.fakes import START
from tests.unit.fleetworld import Killed, killed_at
from tests.unit.services.making import WEB, Stage, fleet, image, image_id, instance, server

BAKE = "web-20260101t020000"


class Web(Stage):
    """The fleet web: three servers on image 1, which the pointer names; image 2 is old and nothing needs it."""

    def __init__(self) -> None:
        super().__init__()
        self.describe(fleet())
        self.servers(1, 2, 3)
        pointer = Pointer(image=image_id(1), since=START, by="registry", generation=1)
        self.put(pointer_key(WEB), pointer)
        self.put(history_key(WEB, 1), pointer)
        self.world.servers.versions[WEB] = [TemplateVersion(1, image_id(1), default=True)]
        for number in (1, 2):
            self.world.servers.set_image(image(number))

    def janitor(self) -> Janitor:
        world = self.world
        return Janitor(
            groups=world.groups,
            servers=world.servers,
            publisher=world.publisher,
            clock=world.clock,
            documents=self.documents,
            fleets=self.fleets,
            alerts=self.alerts,
        )

    async def set_aside(self) -> None:
        """Have image 2 tagged, and its time over."""
        await self.janitor().handle(Tick())
        self.world.clock.step(hours=24)

    def destroyed(self) -> list[str]:
        """Every destructive call so far."""
        return [call.method for call in self.world.servers.called("deregister", "terminate")]


async def test_an_image_is_set_aside_on_one_day_and_retired_on_the_next_with_an_audit() -> None:
    web = Web()
    await web.janitor().handle(Tick())
    assert web.world.servers.stored[image_id(2)].tags[QUARANTINE_TAG] == START.isoformat()
    assert web.destroyed() == []
    web.world.clock.step(hours=24)
    await web.janitor().handle(Tick())
    assert set(web.world.servers.stored) == {image_id(1)}
    assert [each.image for each in web.world.publisher.of(ImageRetired)] == [image_id(2)]
    (key,) = web.audited()
    audit = await web.documents.get(Audit, key)
    assert audit is not None
    assert (audit.service, audit.action, audit.target) == ("janitor", "retire-image", image_id(2))


W = TypeVar("W", bound=Web)


async def killed_everywhere(make: Callable[[], Awaitable[W]], *, applied: bool) -> AsyncIterator[tuple[int, W]]:
    """Kill the janitor once at each call that it makes for a tick, and let the tick come again."""
    number, calls = 0, 1
    while number <= calls:
        web = await make()
        with killed_at(web.world, number, applied=applied) as counted:
            with suppress(Killed):
                await web.janitor().handle(Tick())
            calls = max(calls, counted())
        await web.janitor().handle(Tick())
        yield number, web
        number += 1


async def ready_to_retire() -> Web:
    web = Web()
    await web.set_aside()
    return web


@pytest.mark.fault(18)
@pytest.mark.parametrize("applied", [False, True])
async def test_killed_at_any_call_a_retired_image_is_told_of(applied: bool) -> None:
    async for number, web in killed_everywhere(ready_to_retire, applied=applied):
        assert set(web.world.servers.stored) == {image_id(1)}, number
        assert {(each.id, each.image) for each in web.world.publisher.of(ImageRetired)} == {
            (f"retired-{image_id(2)}", image_id(2))
        }, number


async def test_a_reaped_builder_that_was_not_told_of_is_told_by_the_next_tick() -> None:
    web = Web()
    web.world.servers.set(instance(9, tags={ROLE_TAG: "builder", BAKE_TAG: BAKE}))
    web.world.clock.step(hours=24)
    web.world.publisher.fail("publish", Unavailable("gone"))
    with pytest.raises(Unavailable):
        await web.janitor().handle(Tick())
    assert web.destroyed() == ["terminate"]
    for _ in range(2):
        await web.janitor().handle(Tick())
    assert [each.server for each in web.world.publisher.of(BuilderReaped)] == [server(9)]


async def test_what_could_not_be_destroyed_is_not_told_of() -> None:
    web = Web()
    await web.set_aside()
    web.world.servers.fail("deregister", Denied("no"), times=2)
    for _ in range(2):
        with pytest.raises(Denied):
            await web.janitor().handle(Tick())
    assert web.world.publisher.of(ImageRetired) == []


async def test_another_tick_changes_nothing() -> None:
    """Faults 10 and 18: doing it again has no other effect."""
    web = Web()
    await web.set_aside()
    await web.janitor().handle(Tick())
    before = dict(web.world.objects.bodies)
    await web.janitor().handle(Tick())
    assert web.world.objects.bodies == before
    assert len(web.world.publisher.of(ImageRetired)) == 1


class Remembering(Web):
    """The same, with records of two launches of long ago: of server 1, which is there still, and of server 9."""

    def __init__(self) -> None:
        super().__init__()
        self.world.servers.stored.pop(image_id(2))
        then = START - timedelta(days=100)
        for number in (1, 9):
            attempt = Attempt(attempt=f"{server(number)}-1", began=then, plan_digest="")
            launch = Launch(
                fleet=WEB, server=server(number), image=image_id(1), claimed=then, ended=then, attempts=(attempt,)
            )
            self.put(launch_key(WEB, server(number)), launch)
            self.world.objects.bodies[report_key(WEB, attempt.attempt)] = b"{}"

    def of_launches(self) -> list[str]:
        """The launches that there is anything about, and what."""
        return sorted(key for key in self.world.objects.bodies if "/servers/" in key or "/runs/" in key)


async def remembering() -> Remembering:
    return Remembering()


REMEMBERED = [report_key(WEB, f"{server(1)}-1"), launch_key(WEB, server(1))]


async def test_old_records_of_a_server_that_is_gone_are_deleted_with_its_runs_and_an_audit() -> None:
    web = Remembering()
    done = await web.janitor().handle(Tick())
    assert web.of_launches() == REMEMBERED
    assert [key.split("-", 3)[3] for key in web.audited()] == [f"expire-records-{WEB}.json"]
    assert "records are deleted: servers 1, bakes 0, audits 0, from before" in str(done)


@pytest.mark.fault(18)
@pytest.mark.parametrize("applied", [False, True])
async def test_killed_at_any_call_old_records_go_with_the_next_tick(applied: bool) -> None:
    async for number, web in killed_everywhere(remembering, applied=applied):
        assert web.of_launches() == REMEMBERED, number


async def test_a_record_that_cannot_be_read_is_told_of_and_no_record_goes() -> None:
    web = Remembering()
    web.world.objects.bodies[launch_key(WEB, server(8))] = b"{"
    before = web.of_launches()
    await web.janitor().handle(Tick())
    assert web.of_launches() == before
    assert web.raised() == [f"corrupt-servers-{server(8)}"]


@pytest.mark.fault(6)
async def test_what_came_to_be_referenced_since_it_was_decided_is_not_deregistered() -> None:
    web = Web()
    await web.set_aside()
    pointed = Pointer(image=image_id(2), since=START, by="ann", generation=2)

    def rolled_back() -> None:
        web.put(pointer_key(WEB), pointed)

    # The first look has read the templates, the last thing that it asks EC2 for; then somebody rolls back.
    web.world.servers.meanwhile("templates", lambda: web.world.servers.meanwhile("images", rolled_back))
    await web.janitor().handle(Tick())
    assert web.destroyed() == []
    await web.janitor().handle(Tick())
    assert web.world.servers.stored[image_id(2)].tags[QUARANTINE_TAG] == ""


@pytest.mark.fault(7)
async def test_an_instance_or_template_that_names_it_keeps_the_image() -> None:
    for names_it in ("instance", "template"):
        web = Web()
        await web.set_aside()
        if names_it == "instance":
            web.world.servers.set(instance(9, image=2))
        else:
            web.world.servers.versions[WEB] = [TemplateVersion(5, image_id(2), default=True)]
        await web.janitor().handle(Tick())
        assert web.destroyed() == []


async def test_invariant_11_without_an_audit_document_nothing_is_destroyed() -> None:
    web = Web()
    await web.set_aside()
    web.world.objects.fail("put", Denied("no"))
    with pytest.raises(Denied):
        await web.janitor().handle(Tick())
    assert web.destroyed() == []


@pytest.mark.fault(5)
async def test_a_process_that_slept_over_its_view_destroys_nothing() -> None:
    web = Web()
    await web.set_aside()
    web.world.objects.meanwhile("put", lambda: web.world.clock.step(minutes=10))
    await web.janitor().handle(Tick())
    assert web.destroyed() == []


@pytest.mark.fault(29)
async def test_a_listing_that_failed_half_way_destroys_nothing() -> None:
    for method in ("images", "tagged", "instances", "templates"):
        web = Web()
        await web.set_aside()
        web.world.servers.fail(method, Incomplete("page 2 failed"))
        with pytest.raises(Incomplete):
            await web.janitor().handle(Tick())
        assert web.destroyed() == []


@pytest.mark.fault(9)
async def test_a_document_that_cannot_be_read_destroys_nothing() -> None:
    for key in (pointer_key(WEB), history_key(WEB, 1), bake_key(WEB, BAKE)):
        web = Web()
        await web.set_aside()
        web.world.objects.bodies[key] = b'{"schema": 2}'
        await web.janitor().handle(Tick())
        assert web.destroyed() == []
        assert [cause.split("-")[0] for cause in web.raised()] == ["corrupt"]


async def test_a_view_that_cannot_be_right_calls_a_person_once_until_it_is() -> None:
    web = Web()
    web.world.servers.invisible.add(image_id(1))
    await web.janitor().handle(Tick())
    await web.janitor().handle(Tick())
    assert web.raised() == ["janitor-stopped"]
    assert QUARANTINE_TAG not in web.world.servers.stored[image_id(2)].tags
    web.world.servers.invisible.clear()
    await web.janitor().handle(Tick())
    assert [each.cause for each in web.world.publisher.of(AlertCleared)] == ["janitor-stopped"]


class Crowded(Web):
    """The fleet web with three images more that nothing needs: four of five are due."""

    def __init__(self) -> None:
        super().__init__()
        for number in (3, 4, 5):
            self.world.servers.set_image(image(number))

    def approval(self) -> ImageRetirementRequested:
        """What a person sends who has looked."""
        return ImageRetirementRequested(fleet=WEB, by="ann", time=self.world.clock.now())

    def set_aside_now(self) -> list[str]:
        """The images that carry the tag."""
        return sorted(each.image for each in self.world.servers.stored.values() if each.tags.get(QUARANTINE_TAG))


async def test_more_than_half_of_the_images_go_once_a_person_has_looked_and_asked_for_it() -> None:
    web = Crowded()
    await web.janitor().handle(Tick())
    assert web.raised() == ["retirement-held"]
    [alert] = web.world.publisher.of(AlertRaised)
    assert '--message \'{"type":"image.retirement.requested","fleet":"web"}\'' in alert.next
    assert web.set_aside_now() == []
    await web.janitor().handle(web.approval())
    assert web.set_aside_now() == [image_id(number) for number in (2, 3, 4, 5)]
    assert [each.cause for each in web.world.publisher.of(AlertCleared)] == ["retirement-held"]
    web.world.clock.step(hours=24)
    await web.janitor().handle(Tick())
    assert set(web.world.servers.stored) == {image_id(1)}


async def test_a_person_who_is_to_approve_is_called_though_the_janitor_stood_still_for_another_reason_before() -> None:
    """Found by thirty days of the simulation: one alert stood for both, and told only of the first."""
    web = Crowded()
    web.world.servers.invisible.add(image_id(1))
    await web.janitor().handle(Tick())
    web.world.servers.invisible.clear()
    await web.janitor().handle(Tick())
    assert web.raised() == ["janitor-stopped", "retirement-held"]
    assert [each.cause for each in web.world.publisher.of(AlertCleared)] == ["janitor-stopped"]


async def test_what_is_due_only_later_is_not_meant_by_what_was_asked_for() -> None:
    web = Crowded()
    await web.janitor().handle(web.approval())
    for number in (6, 7, 8, 9, 10, 11, 12):
        web.world.servers.set_image(image(number))
    web.world.clock.step(hours=24)
    await web.janitor().handle(Tick())
    assert web.raised() == ["retirement-held"]
    assert web.destroyed() == []


async def test_a_request_of_hours_ago_is_refused() -> None:
    web = Crowded()
    late = web.approval()
    web.world.clock.step(hours=2)
    refused = await web.janitor().handle(late)
    assert isinstance(refused, Reject)
    assert "look again at what is due, and ask anew" in refused.why
    assert web.set_aside_now() == []


async def test_a_request_on_half_a_view_waits_until_the_view_is_whole() -> None:
    """EC2 may only be behind: what somebody asked for once is not to be asked for again on that account."""
    web = Crowded()
    asked = web.approval()
    web.world.servers.invisible.add(image_id(1))
    with pytest.raises(Incomplete):
        await web.janitor().handle(asked)
    assert web.set_aside_now() == []
    web.world.servers.invisible.clear()
    await web.janitor().handle(asked)
    assert web.set_aside_now() == [image_id(number) for number in (2, 3, 4, 5)]


@pytest.mark.fault(38)
async def test_a_leaked_builder_is_found_and_terminated_and_one_at_work_is_not() -> None:
    web = Web()
    bake = Bake(bake=BAKE, fleet=WEB, stage="provision", requested=START, by="schedule")
    web.put(bake_key(WEB, BAKE), bake)
    web.world.servers.set(instance(8, tags={ROLE_TAG: "builder", BAKE_TAG: BAKE}))
    web.world.servers.set(instance(9, tags={ROLE_TAG: "builder"}))
    await web.janitor().handle(Tick())
    assert web.destroyed() == []
    web.world.clock.step(hours=6)
    await web.janitor().handle(Tick(fleet=WEB))
    assert [each.server for each in web.world.publisher.of(BuilderReaped)] == [server(9)]
    assert web.world.servers.known[server(8)].state == "running"
    assert len(web.audited()) == 1


@pytest.mark.fault(26)
async def test_a_deregistration_whose_reply_was_lost_ends_well() -> None:
    web = Web()
    await web.set_aside()
    web.world.servers.fail("deregister", Unavailable("no reply"), applied=True)
    with pytest.raises(Unavailable):
        await web.janitor().handle(Tick())
    assert isinstance(await web.janitor().handle(Tick()), Done)
    assert web.destroyed() == ["deregister"]


async def test_an_unknown_fleet_is_raised_with_a_sentence() -> None:
    with pytest.raises(UnknownFleet, match="nobody"):
        await Web().janitor().handle(Tick(fleet="nobody"))


async def test_other_messages_are_done_with() -> None:
    assert isinstance(await Web().janitor().handle(AlarmChanged("slow", "ALARM", "")), Done)
