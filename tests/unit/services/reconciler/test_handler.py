from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from services.reconciler.handler import Reconciler
from services.reconciler.rollouts import Rollouts
from shared.cloud import Denied, Incomplete, LifecycleState, Unavailable
from shared.components import Components
from shared.events import AlarmChanged, CommandChanged, InstanceStateChanged
from shared.fleets import UnknownFleet
from shared.ids import QUARANTINE_TAG, ROLE_TAG
from shared.messages import (
    AlertCleared,
    FleetConverged,
    FleetDegraded,
    LaunchUnclaimed,
    RequestRefused,
    ServerDisableRequested,
    ServerKillRequested,
    ServerReady,
    ServerReplaced,
    Tick,
)
from shared.outcome import Done, LookAgain, Retry
from shared.records import Audit, FleetStatus, Launch, Pause, launch_key, pause_key, status_key
from tests.fakes import START, World
from tests.unit.fleetworld import Killed, killed_at
from tests.unit.services.making import WEB, Stage, fleet, group, image_id, instance, member, page, server


def reconciler(stage: Stage) -> Reconciler:
    world = stage.world
    components = Components(world.objects, world.publisher, world.clock)
    rollouts = Rollouts(stage.documents, components, world.publisher, stage.alerts, world.clock)
    return Reconciler(
        groups=world.groups,
        servers=world.servers,
        publisher=world.publisher,
        alarms=world.alarms,
        health=world.health,
        clock=world.clock,
        documents=stage.documents,
        fleets=stage.fleets,
        alerts=stage.alerts,
        rollouts=rollouts,
    )


@dataclass
class Web(Stage):
    """The fleet web: three servers, in service and well."""

    policies: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.describe(fleet(self.policies))
        self.servers(1, 2, 3)

    async def status(self) -> FleetStatus:
        found = await self.documents.get(FleetStatus, status_key(WEB))
        assert found is not None
        return found

    def effects(self) -> list[tuple[str, object]]:
        """Every destructive call so far, and whom it was for."""
        calls = self.world.groups.called("terminate", "detach", "mark_unhealthy")
        ended = [(call.method, call.arguments[0]) for call in self.world.servers.called("terminate")]
        return [(call.method, call.arguments[1]) for call in calls] + ended


def kill(number: int, by: str = "ops") -> ServerKillRequested:
    return ServerKillRequested(fleet=WEB, server=server(number), by=by, time=START, reason="a drill")


def disable(number: int) -> ServerDisableRequested:
    return ServerDisableRequested(fleet=WEB, server=server(number), by="ann", reason="odd noises")


async def test_a_change_of_state_is_published_once_and_remembered() -> None:
    web = Web()
    service = reconciler(web)
    await service.handle(Tick())
    await service.handle(Tick())
    assert [(each.healthy, each.wanted) for each in web.world.publisher.of(FleetConverged)] == [(3, 3)]
    web.world.groups.leave(WEB, server(3))
    await service.handle(Tick())
    await service.handle(Tick(fleet=WEB))
    (degraded,) = web.world.publisher.of(FleetDegraded)
    assert (degraded.healthy, degraded.wanted) == (2, 3)
    assert (await web.status()).state == "degraded"
    assert web.effects() == []


async def test_another_sweep_of_a_fleet_at_rest_writes_and_publishes_nothing() -> None:
    web = Web()
    service = reconciler(web)
    await service.handle(Tick())
    before, said = dict(web.world.objects.bodies), list(web.world.publisher.published)
    await service.handle(Tick())
    assert web.world.objects.bodies == before
    assert web.world.publisher.published == said


async def test_a_state_that_could_not_be_remembered_is_said_again_rather_than_never() -> None:
    web = Web()
    web.world.objects.fail("put", Denied("no"))
    with pytest.raises(Denied):
        await reconciler(web).handle(Tick())
    await reconciler(web).handle(Tick())
    assert len(web.world.publisher.of(FleetConverged)) == 2


@pytest.mark.fault(32)
async def test_only_so_many_failures_in_a_row_make_a_server_sick() -> None:
    web = Web()
    web.world.health.set(page(1), False, False, True)
    web.world.health.set(page(2), False, None)
    web.world.health.set(page(3), None, False)
    await reconciler(web).handle(Tick())
    assert web.effects() == []
    web.world.health.set(page(3), True)
    web.world.health.set(page(1), False, False, False, True)
    await reconciler(web).handle(Tick())
    assert web.effects() == [("mark_unhealthy", server(1))]
    assert web.world.clock.slept == [1, 1, 1, 1]


async def test_a_repair_is_recorded_audited_done_and_told() -> None:
    web = Web()
    web.world.health.set(page(2), False)
    outcome = await reconciler(web).handle(Tick())
    assert isinstance(outcome, Done)
    assert [each.server for each in (await web.status()).disruptions] == [server(2)]
    (replaced,) = web.world.publisher.of(ServerReplaced)
    assert (replaced.server, replaced.how, replaced.by) == (server(2), "marked-unhealthy", "reconciler")
    audit = await web.documents.get(Audit, web.audited()[0])
    assert audit is not None
    assert (audit.action, audit.target) == ("marked-unhealthy", server(2))


async def test_invariant_11_without_an_audit_document_nothing_destructive_is_done() -> None:
    web = Web()
    await reconciler(web).handle(Tick())
    before = len(web.world.objects.called("put"))
    await reconciler(web).handle(kill(1))
    # The first write of a kill is the disruption's, the second the audit's: take the second away.
    kinds = [str(call.arguments[0]) for call in web.world.objects.called("put")[before:]]
    assert [kind.split("/")[2] for kind in kinds[:2]] == ["status.json", "audit"]
    other = Web()
    await reconciler(other).handle(Tick())
    other.world.objects.meanwhile("put", lambda: other.world.objects.fail("put", Denied("no")))
    other.world.objects.fail("put", Unavailable("lost"), applied=True)
    with pytest.raises(Denied):
        await reconciler(other).handle(kill(1))
    assert other.effects() == []


async def test_of_two_sick_servers_the_second_waits_until_the_first_is_replaced() -> None:
    web = Web()
    web.servers(1, 2, 3, 4, 5)
    for number in (1, 2):
        web.world.health.set(page(number), False)
    service = reconciler(web)
    await service.handle(Tick())
    await service.handle(Tick())
    assert web.effects() == [("mark_unhealthy", server(1))]
    web.world.groups.leave(WEB, server(1))
    web.world.groups.join(WEB, member(6))
    web.world.servers.set(instance(6))
    await service.handle(Tick())
    assert web.effects() == [("mark_unhealthy", server(1)), ("mark_unhealthy", server(2))]
    assert web.raised() == []


@pytest.mark.fault(31)
async def test_everything_looks_sick_is_one_alert_that_is_cleared_when_it_passed() -> None:
    web = Web()
    for number in (1, 2, 3):
        web.world.health.set(page(number), False)
    service = reconciler(web)
    await service.handle(Tick())
    await service.handle(Tick())
    assert web.effects() == []
    assert web.raised() == ["too-many-sick"]
    for number in (1, 2, 3):
        web.world.health.set(page(number), True)
    await service.handle(Tick())
    assert [each.cause for each in web.world.publisher.of(AlertCleared)] == ["too-many-sick"]


@pytest.mark.fault(33)
async def test_a_repair_that_the_hourly_cap_forbids_calls_a_person() -> None:
    web = Web(policies={"disruption": {"hourly": 1}})
    service = reconciler(web)
    await service.handle(kill(1))
    web.world.groups.leave(WEB, server(1))
    web.world.groups.join(WEB, member(4))
    web.world.servers.set(instance(4))
    web.world.health.set(page(2), False)
    await service.handle(Tick())
    assert web.effects() == [("terminate", server(1))]
    assert web.raised() == ["repair-held"]
    web.world.clock.step(hours=1)
    await service.handle(Tick())
    assert web.effects() == [("terminate", server(1)), ("mark_unhealthy", server(2))]


async def test_a_kill_goes_through_the_group_and_the_same_request_again_changes_nothing() -> None:
    """Faults 10 and 18: a message that comes twice has one effect."""
    web = Web()
    service = reconciler(web)
    await service.handle(kill(2))
    again = await service.handle(kill(2))
    assert isinstance(again, Done)
    assert web.effects() == [("terminate", server(2))]
    assert len((await web.status()).disruptions) == 1
    assert len(web.world.publisher.of(ServerReplaced)) == 1


@pytest.mark.fault(18)
async def test_a_kill_that_was_recorded_and_not_done_is_done_and_not_counted_twice() -> None:
    web = Web()
    web.world.groups.fail("terminate", Unavailable("gone"))
    with pytest.raises(Unavailable):
        await reconciler(web).handle(kill(2))
    await reconciler(web).handle(kill(2))
    assert [name for name, _ in web.effects()] == ["terminate", "terminate"]
    assert len((await web.status()).disruptions) == 1
    found = web.world.groups.groups[WEB].member(server(2))
    assert found is not None
    assert found.state == LifecycleState.TERMINATING_WAIT


async def kill_killed(number: int, *, applied: bool) -> tuple[Web, int]:
    """Kill the reconciler at a call that it makes for a request; the request comes again."""
    web = Web()
    await reconciler(web).handle(Tick())
    with killed_at(web.world, number, applied=applied) as calls:
        with suppress(Killed):
            await reconciler(web).handle(kill(2))
        counted = calls()
    await reconciler(web).handle(kill(2))
    return web, counted


@pytest.mark.fault(18)
@pytest.mark.parametrize("applied", [False, True])
async def test_killed_at_any_call_a_replacement_is_told_of(applied: bool) -> None:
    _, calls = await kill_killed(0, applied=applied)
    for number in range(1, calls + 1):
        web, _ = await kill_killed(number, applied=applied)
        assert {each.server for each in web.world.publisher.of(ServerReplaced)} == {server(2)}, number
        assert len({each.id for each in web.world.publisher.of(ServerReplaced)}) == 1, number
        assert (await web.status()).outbox == (), number


async def test_a_replacement_that_was_done_and_not_told_of_is_told_by_the_next_sweep() -> None:
    web = Web()
    await reconciler(web).handle(Tick())
    web.world.publisher.fail("publish", Unavailable("gone"))
    with pytest.raises(Unavailable):
        await reconciler(web).handle(kill(2))
    await reconciler(web).handle(Tick())
    (replaced,) = web.world.publisher.of(ServerReplaced)
    assert (replaced.server, replaced.how, replaced.by) == (server(2), "terminated", "ops")
    await reconciler(web).handle(Tick())
    assert len(web.world.publisher.of(ServerReplaced)) == 1


async def test_a_replacement_that_was_denied_is_not_told_of_and_forgotten() -> None:
    web = Web()
    web.world.groups.fail("terminate", Denied("no"))
    with pytest.raises(Denied):
        await reconciler(web).handle(kill(2))
    await reconciler(web).handle(Tick())
    assert len((await web.status()).outbox) == 1
    web.world.clock.step(minutes=16)
    await reconciler(web).handle(Tick())
    assert (await web.status()).outbox == ()
    assert web.world.publisher.of(ServerReplaced) == []


@pytest.mark.fault(5)
async def test_a_kill_whose_record_is_refused_is_not_done() -> None:
    web = Web()
    await reconciler(web).handle(Tick())
    web.world.objects.fail("put", Denied("no"))
    with pytest.raises(Denied):
        await reconciler(web).handle(kill(2))
    assert web.effects() == []


@pytest.mark.fault(2)
async def test_two_reconcilers_together_spend_the_budget_once() -> None:
    web = Web()
    await reconciler(web).handle(Tick())
    outcomes = await asyncio.gather(reconciler(web).handle(kill(1)), reconciler(web).handle(kill(2)))
    assert all(isinstance(outcome, Done) for outcome in outcomes)
    assert len(web.effects()) == 1
    assert len((await web.status()).disruptions) == 1


@pytest.mark.fault(5)
@pytest.mark.parametrize("while_writing", ["/status.json", "/audit/"])
async def test_a_process_that_slept_over_its_view_does_not_act_on_it(while_writing: str) -> None:
    web = Web()
    await reconciler(web).handle(Tick())

    def sleep_once() -> None:
        key = str(web.world.objects.called("put")[-1].arguments[0])
        if while_writing in key:
            web.world.clock.step(minutes=30)
        else:
            web.world.objects.meanwhile("put", sleep_once)

    web.world.objects.meanwhile("put", sleep_once)
    outcome = await reconciler(web).handle(kill(2))
    assert isinstance(outcome, Done)
    assert "refused" in outcome.why
    assert web.effects() == []


@pytest.mark.fault(33)
async def test_a_flood_of_kill_requests_takes_no_more_than_the_budget_and_says_why() -> None:
    web = Web(policies={"disruption": {"floor": 2}})
    told = [await reconciler(web).handle(kill(number)) for number in (1, 2, 3, 1, 2, 3)]
    assert web.effects() == [("terminate", server(1))]
    assert all(isinstance(outcome, Done) for outcome in told)
    assert "refused" in told[1].why


async def test_a_persons_request_that_is_refused_is_told_once() -> None:
    web = Web(policies={"disruption": {"floor": 3}})
    request = disable(2)
    for _ in range(2):
        await reconciler(web).handle(request)
    (refused,) = web.world.publisher.of(RequestRefused)
    assert (refused.server, refused.request, refused.by) == (server(2), "server.disable.requested", "ann")
    assert "the floor is 3" in refused.reason
    assert [each.server for each in (await web.status()).refusals] == [server(2)]
    await reconciler(web).handle(disable(2))
    assert len(web.world.publisher.of(RequestRefused)) == 2


async def test_a_refusal_that_could_not_be_told_is_told_by_the_next_sweep() -> None:
    web = Web(policies={"disruption": {"floor": 3}})
    await reconciler(web).handle(Tick())
    web.world.publisher.fail("publish", Unavailable("gone"))
    with pytest.raises(Unavailable):
        await reconciler(web).handle(disable(2))
    await reconciler(web).handle(Tick())
    assert len(web.world.publisher.of(RequestRefused)) == 1
    assert (await web.status()).outbox == ()


async def test_a_refusal_is_forgotten_after_a_day() -> None:
    web = Web(policies={"disruption": {"floor": 3}})
    await reconciler(web).handle(disable(2))
    web.world.clock.step(hours=25)
    await reconciler(web).handle(disable(3))
    assert [each.server for each in (await web.status()).refusals] == [server(3)]


async def test_what_chaos_is_refused_calls_nobody() -> None:
    web = Web()
    await reconciler(web).handle(kill(1, by="chaos"))
    assert web.effects() == []
    assert web.world.publisher.of(RequestRefused) == []


@pytest.mark.fault(35)
async def test_a_pause_survives_a_restart_and_stops_the_kill() -> None:
    web = Web()
    web.put(pause_key(WEB), Pause(what="automation", by="ann", reason="freeze"))
    outcome = await reconciler(web).handle(kill(1))
    assert web.effects() == []
    assert "freeze" in outcome.why


@pytest.mark.fault(36)
async def test_a_chaos_kill_is_checked_against_the_alarms_once_more() -> None:
    web = Web(policies={"chaos": {"enabled": True, "alarms": ["too-slow"]}})
    await reconciler(web).handle(kill(1, by="chaos"))
    web.world.alarms.known["too-slow"] = "ALARM"
    await reconciler(web).handle(kill(1, by="chaos"))
    assert web.effects() == []
    web.world.alarms.known["too-slow"] = "OK"
    await reconciler(web).handle(kill(1, by="chaos"))
    assert web.effects() == [("terminate", server(1))]


@pytest.mark.fault(36)
async def test_alarms_that_cannot_be_read_stop_the_chaos_kill() -> None:
    web = Web(policies={"chaos": {"enabled": True, "alarms": ["too-slow"]}})
    web.world.alarms.known["too-slow"] = "OK"
    web.world.alarms.fail("states", Unavailable("no answer"))
    with pytest.raises(Unavailable):
        await reconciler(web).handle(kill(1, by="chaos"))
    assert web.effects() == []


@pytest.mark.fault(32)
async def test_while_health_is_blind_a_persons_request_is_tried_again_and_that_of_chaos_is_not() -> None:
    web = Web(policies={"chaos": {"enabled": True}})
    for number in (1, 2, 3):
        web.world.health.set(page(number), None)
    with pytest.raises(Incomplete):
        await reconciler(web).handle(disable(2))
    assert isinstance(await reconciler(web).handle(kill(2, by="chaos")), Done)
    assert isinstance(await reconciler(web).handle(kill(77)), Done)
    assert web.effects() == []
    for number in (1, 2, 3):
        web.world.health.set(page(number), True)
    await reconciler(web).handle(disable(2))
    assert web.effects() == [("detach", server(2))]


async def test_a_disabled_server_is_tagged_then_detached_and_kept_until_its_time_is_over() -> None:
    web = Web()
    service = reconciler(web)
    await service.handle(disable(2))
    assert web.effects() == [("detach", server(2))]
    assert web.world.servers.known[server(2)].tags[QUARANTINE_TAG] == START.isoformat()
    (replaced,) = web.world.publisher.of(ServerReplaced)
    assert (replaced.how, replaced.by, replaced.reason) == ("detached", "ann", "odd noises")
    web.world.clock.step(hours=71)
    await service.handle(Tick())
    assert web.world.servers.known[server(2)].state == "running"
    web.world.clock.step(hours=1)
    await service.handle(Tick())
    assert web.world.servers.known[server(2)].state == "terminated"
    assert len(web.audited()) == 2


async def test_a_detach_that_failed_after_the_tag_is_finished_when_the_request_comes_again() -> None:
    web = Web()
    web.world.groups.fail("detach", Unavailable("no answer"))
    with pytest.raises(Unavailable):
        await reconciler(web).handle(disable(2))
    await reconciler(web).handle(disable(2))
    assert web.world.groups.groups[WEB].member(server(2)) is None
    assert len((await web.status()).disruptions) == 1


@pytest.mark.fault(23)
async def test_a_detach_whose_reply_was_lost_is_not_done_twice() -> None:
    web = Web()
    web.world.groups.fail("detach", Unavailable("no answer"), applied=True)
    with pytest.raises(Unavailable):
        await reconciler(web).handle(disable(2))
    outcome = await reconciler(web).handle(disable(2))
    assert isinstance(outcome, Done)
    assert web.effects() == [("detach", server(2))]


async def test_a_request_for_a_server_that_is_in_no_group_any_more_is_a_no_op() -> None:
    web = Web()
    outcome = await reconciler(web).handle(kill(77))
    assert isinstance(outcome, Done)
    assert server(77) in outcome.why
    assert web.effects() == []


async def test_a_request_for_an_unknown_fleet_is_raised_with_a_sentence_for_the_dead_letter_queue() -> None:
    request = ServerKillRequested(fleet="nobody", server=server(1))
    with pytest.raises(UnknownFleet, match="there is no fleet 'nobody'"):
        await reconciler(Web()).handle(request)


async def test_invariant_7_a_group_without_our_tag_is_left_alone_and_told() -> None:
    web = Web()
    web.world.groups.set(group(member(1), member(2), member(3), managed=False))
    web.world.health.set(page(1), False)
    service = reconciler(web)
    await service.handle(Tick())
    await service.handle(kill(2))
    await service.handle(disable(3))
    assert web.effects() == []
    assert web.raised() == ["group-unmanaged"]


@pytest.mark.fault(29)
async def test_a_listing_that_failed_half_way_leads_to_nothing() -> None:
    web = Web()
    web.world.health.set(page(1), False)
    for listing in ("instances", "tagged"):
        web.world.servers.fail(listing, Incomplete("page 2 failed"))
        with pytest.raises(Incomplete):
            await reconciler(web).handle(Tick())
    web.world.groups.fail("describe", Incomplete("page 2 failed"))
    with pytest.raises(Incomplete):
        await reconciler(web).handle(kill(1))
    assert web.effects() == []


@pytest.mark.fault(9)
async def test_a_document_that_cannot_be_read_leads_to_nothing_and_other_fleets_are_looked_at() -> None:
    for key in (pause_key(WEB), status_key(WEB)):
        web = Web()
        web.describe(fleet(name="zoo"))
        web.world.groups.set(replace(group(), fleet="zoo"))
        web.world.objects.bodies[key] = b'{"schema": 99}'
        web.world.health.set(page(1), False)
        await reconciler(web).handle(Tick())
        assert web.effects() == []
        assert web.raised() == [f"corrupt-{key.rsplit('/', 1)[1].removesuffix('.json')}"]
        assert [each.fleet for each in web.world.publisher.of(FleetConverged)] == ["zoo"]


@pytest.mark.fault(42)
async def test_a_denied_call_kills_nobody_and_is_alerted_until_it_is_allowed_again() -> None:
    web = Web()
    web.world.health.set(page(1), False)
    web.world.groups.fail("describe", Denied("expired"), times=2)
    for _ in range(2):
        with pytest.raises(Denied):
            await reconciler(web).handle(Tick())
    assert web.effects() == []
    assert web.raised() == ["reconciler-denied"]
    await reconciler(web).handle(Tick())
    assert [each.cause for each in web.world.publisher.of(AlertCleared)] == ["reconciler-denied"]


async def test_a_group_that_is_gone_calls_a_person_and_one_that_never_was_does_not() -> None:
    web = Web()
    described = web.world.groups.groups.pop(WEB)
    assert isinstance(await reconciler(web).handle(Tick()), Done)
    assert web.raised() == []
    web.world.groups.set(described)
    await reconciler(web).handle(Tick())
    del web.world.groups.groups[WEB]
    assert isinstance(await reconciler(web).handle(Tick()), Done)
    assert web.raised() == ["group-missing"]


@pytest.mark.fault(13)
async def test_a_launch_without_a_record_is_announced_and_one_with_a_record_is_not() -> None:
    web = Web()
    for number in (4, 5):
        web.world.groups.join(WEB, member(number, "Pending:Wait"))
        web.world.servers.set(instance(number, launched=START - timedelta(seconds=31)))
    launch = Launch(fleet=WEB, server=server(5), image=image_id(1), claimed=START)
    web.put(launch_key(WEB, server(5)), launch)
    await reconciler(web).handle(Tick())
    assert [each.server for each in web.world.publisher.of(LaunchUnclaimed)] == [server(4)]


async def test_news_of_many_servers_at_once_shares_looks_and_each_look_comes_after_its_news() -> None:
    web = Web()
    service = reconciler(web)
    ready = [ServerReady(fleet=WEB, server=server(each), image=image_id(1), seconds=9, time=START) for each in (1, 2)]
    outcomes = await asyncio.gather(*(service.handle(each) for each in ready * 10))
    assert all(isinstance(each, Done) for each in outcomes)
    assert len(web.world.servers.called("tagged")) == 2, "one that ran when the others came, and one for all of them"


async def test_the_death_of_a_server_is_reported_and_left_to_the_group() -> None:
    web = Web()
    service = reconciler(web)
    await service.handle(Tick())
    web.world.servers.set(instance(2, "shutting-down"))
    await service.handle(InstanceStateChanged(server(2), "shutting-down"))
    assert len(web.world.publisher.of(FleetDegraded)) == 1
    assert web.effects() == []


@pytest.mark.fault(15)
async def test_a_forged_death_is_looked_up_and_nothing_is_done() -> None:
    web = Web()
    await reconciler(web).handle(Tick())
    said = list(web.world.publisher.published)
    await reconciler(web).handle(InstanceStateChanged(server(2), "terminated"))
    assert web.effects() == []
    assert web.world.publisher.published == said


@pytest.mark.fault(16)
async def test_an_instance_that_is_not_visible_yet_is_tried_again() -> None:
    web = Web()
    web.world.servers.invisible.add(server(2))
    assert isinstance(await reconciler(web).handle(InstanceStateChanged(server(2), "shutting-down")), Retry)


async def test_a_strangers_instance_is_nothing_to_us() -> None:
    web = Web()
    web.world.servers.set(replace(instance(50, "terminated"), tags={ROLE_TAG: "theirs"}))
    outcome = await reconciler(web).handle(InstanceStateChanged(server(50), "terminated"))
    assert isinstance(outcome, Done)
    assert web.world.groups.calls == []


async def test_convergence_is_announced_as_soon_as_the_ready_server_is_in_service() -> None:
    web = Web()
    service = reconciler(web)
    web.world.groups.change(WEB, server(3), state="Pending:Proceed")
    await service.handle(Tick())
    ready = ServerReady(fleet=WEB, server=server(3), image=image_id(1), seconds=9, time=START)
    assert isinstance(await service.handle(ready), LookAgain)
    web.world.groups.change(WEB, server(3), state="InService")
    assert isinstance(await service.handle(ready), Done)
    assert len(web.world.publisher.of(FleetConverged)) == 1


async def test_an_old_ready_message_is_not_looked_at_for_ever() -> None:
    web = Web()
    web.world.groups.change(WEB, server(3), state="Pending:Wait")
    ready = ServerReady(fleet=WEB, server=server(3), image=image_id(1), seconds=9, time=START - timedelta(hours=1))
    assert isinstance(await reconciler(web).handle(ready), Done)


async def test_an_alarm_that_fires_has_every_fleet_looked_at_and_one_that_ends_does_not() -> None:
    web = Web()
    await reconciler(web).handle(AlarmChanged("too-slow", "OK", ""))
    assert web.world.publisher.published == []
    await reconciler(web).handle(AlarmChanged("too-slow", "ALARM", ""))
    assert len(web.world.publisher.of(FleetConverged)) == 1


async def test_what_concerns_others_is_done_with() -> None:
    assert isinstance(await reconciler(Web()).handle(CommandChanged("c", server(1), "Success")), Done)


async def test_a_look_without_fleets_is_done_with() -> None:
    assert isinstance(await reconciler(Stage(World())).handle(Tick()), Done)
