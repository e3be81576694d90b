from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from services.baker.handler import Baker
from shared.audit import Audits
from shared.cloud import Instance, QueueMessage, Refused, Unavailable
from shared.documents import Documents
from shared.events import CommandChanged, ImageStateChanged, Incoming
from shared.fleet import BakePolicy
from shared.fleets import UnknownFleet
from shared.ids import BAKE_TAG, PROVEN_TAG, ROLE_TAG
from shared.messages import (
    AlertCleared,
    AlertRaised,
    ImageBakeFailed,
    ImageBakeRequested,
    ImageReady,
    Nightly,
    Tick,
)
from shared.outcome import Done, LookAgain, Outcome
from shared.records import Bake, Baking, Paces, bake_key, baking_key, paces_key
from shared.runs import Runs
from shared.tracing import Handling
from tests.fakes import START
from tests.unit.fleetworld import STOCK, FleetWorld, Killed, done, failed, killed_at
from tests.unit.spans import ids, parent, recording

ID = "web-20260304t120000"
REQUEST = ImageBakeRequested(fleet="web", time=START, by="ada", reason="new kernel")
FULL = done("code", "compile", "health")
DAILY = 6
NOTHING = done("code", "compile", result="skipped") + done("health")
Answer = Callable[[FleetWorld], None]


def make(world: FleetWorld, agent: Path) -> Baker:
    documents = Documents(world.objects)
    return Baker(
        servers=world.servers,
        documents=documents,
        fleets=world.fleets,
        components=world.components,
        runs=Runs(world.commands, world.objects, world.clock, agent),
        publisher=world.publisher,
        alerts=world.alerts,
        audits=Audits(documents, world.clock, "baker"),
        clock=world.clock,
    )


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "agent.py"
    path.write_text("pass\n")
    return path


@pytest.fixture
async def world() -> FleetWorld:
    world = FleetWorld()
    await world.release("1")
    return world


def all_goes_well(world: FleetWorld) -> None:
    images_come(world)
    for sent in world.running:
        world.report(sent, "ok", NOTHING if sent.comment.endswith("prover") else FULL)


def images_come(world: FleetWorld) -> None:
    for image in list(world.servers.stored):
        world.servers.change_image(image, state="available")


def builder_fails(world: FleetWorld) -> None:
    for sent in world.running:
        world.report(sent, "failed", failed("compile", "exit 1", "no such file"), "compile failed: exit 1")


def first_of_each_dies(world: FleetWorld) -> None:
    """The first builder and the first prover are gone as soon as they run the plan."""
    images_come(world)
    first = [of_role(world, role)[0].server for role in ("builder", "prover") if of_role(world, role)]
    for sent in world.running:
        if sent.server in first:
            world.servers.set(replace(world.servers.known[sent.server], state="terminated"))
        else:
            world.report(sent, "ok", NOTHING if "prover" in sent.comment else FULL)


def proof_runs_again(world: FleetWorld) -> None:
    images_come(world)
    for sent in world.running:
        world.report(sent, "ok", FULL)


async def play(
    world: FleetWorld, agent: Path, answer: Answer = all_goes_well, message: Incoming = REQUEST, tries: int = 80
) -> Outcome:
    """Deliver the message until it is done, as the consumer does; a process that dies is started again."""
    for _ in range(tries):
        try:
            outcome = await make(world, agent).handle(message)
        except Killed:
            continue
        if not isinstance(outcome, LookAgain):
            return outcome
        world.clock.step(outcome.after_s)
        answer(world)
    raise AssertionError("it never ends")


def allow(world: FleetWorld, daily: int) -> None:
    policies = world.fleet.policies.model_copy(update={"bakes": BakePolicy(daily=daily)})
    world.describe(world.fleet.model_copy(update={"policies": policies}))


async def bake(world: FleetWorld, name: str = ID) -> Bake:
    found = await world.documents.get(Bake, bake_key("web", name))
    assert found is not None
    return found


def of_role(world: FleetWorld, role: str) -> list[Instance]:
    return [each for each in world.servers.known.values() if each.tags.get(ROLE_TAG) == role]


async def test_a_bake_builds_from_stock_snapshots_proves_and_cleans_up(world: FleetWorld, agent: Path) -> None:
    assert isinstance(await play(world, agent), Done)
    record = await bake(world)
    assert (record.stage, record.by, record.reason, record.stock) == ("ready", "ada", "new kernel", STOCK)
    assert record.releases == {"monolith": "1"}
    [builder], [prover] = of_role(world, "builder"), of_role(world, "prover")
    assert (builder.image, builder.state) == (STOCK, "terminated")
    assert (prover.image, prover.state) == (record.image, "terminated")
    [image] = world.servers.stored.values()
    assert (image.name, image.tags[PROVEN_TAG], image.tags[BAKE_TAG]) == (f"autoprovisioner-{ID}", "true", ID)
    [ready] = world.publisher.of(ImageReady)
    assert (ready.image, ready.bake) == (image.image, ID)
    assert record.ended is not None
    assert record.seconds > 0


async def test_a_bake_is_one_trace_with_a_span_for_every_step_of_both_runs(world: FleetWorld, agent: Path) -> None:
    with recording() as recorded:
        with Handling("bakes", QueueMessage("m1", "", "r1"), REQUEST, world.clock):
            await make(world, agent).handle(REQUEST)
        with Handling("bakes", QueueMessage("m2", "", "r2"), REQUEST, world.clock):
            await play(world, agent)
    first, whole = recorded.all("process bakes")[0], recorded.named("bake")
    attempts, steps = recorded.all("attempt"), recorded.all("step code", "step compile", "step health")
    assert ((await bake(world)).trace or "").split("-")[1:3] == list(ids(first))
    assert parent(whole) == ids(first)[1]
    assert [parent(span) for span in attempts] == [ids(whole)[1]] * 2
    assert [parent(span) for span in steps] == [ids(span)[1] for span in attempts for _ in FULL]
    assert [span.start_time for span in steps] == [span.start_time for span in attempts for _ in FULL]
    assert {ids(span)[0] for span in recorded.all("go on with bake")} == {ids(first)[0]}


async def test_the_proof_launch_runs_the_bakes_own_releases_whatever_was_set_since(
    world: FleetWorld, agent: Path
) -> None:
    outcome = await make(world, agent).handle(REQUEST)
    assert isinstance(outcome, LookAgain)
    await world.release("2")
    await play(world, agent)
    assert (await bake(world)).stage == "ready"
    runs = Runs(world.commands, world.objects, world.clock, agent)
    assert await runs.releases("web", f"{ID}-prover") == {"monolith": "1"}


async def test_every_termination_has_an_audit_entry_written_before_it(world: FleetWorld, agent: Path) -> None:
    await play(world, agent)
    audited = [key for key in world.objects.bodies if "/audit/" in key]
    ended = [call.arguments[0] for call in world.servers.called("terminate")]
    assert len(ended) == 2
    assert all(any(str(server) in key for key in audited) for server in ended)


async def test_without_an_audit_entry_nothing_is_terminated(
    world: FleetWorld, agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise Unavailable("no audit")

    monkeypatch.setattr(Audits, "write", refuse)
    with pytest.raises(Unavailable):
        await play(world, agent)
    assert world.servers.called("terminate") == []


@pytest.mark.parametrize(
    ("answer", "step", "reason"), [(builder_fails, "compile", "exit 1"), (proof_runs_again, "code", "ran again")]
)
async def test_a_failed_bake_cleans_up_is_told_and_calls_a_person(
    world: FleetWorld, agent: Path, answer: Answer, step: str, reason: str
) -> None:
    await play(world, agent, answer)
    record = await bake(world)
    assert (record.stage, record.step) == ("failed", step)
    assert reason in record.failure
    assert {each.state for each in world.servers.known.values()} == {"terminated"}
    assert all(PROVEN_TAG not in image.tags for image in world.servers.stored.values())
    [told], [alert] = world.publisher.of(ImageBakeFailed), world.publisher.of(AlertRaised)
    assert (told.step, alert.step, alert.cause) == (step, step, "bake")
    assert alert.next
    assert world.publisher.of(ImageReady) == []


async def test_a_later_bake_that_succeeds_clears_the_alert(world: FleetWorld, agent: Path) -> None:
    await play(world, agent, builder_fails)
    later = REQUEST.model_copy(update={"time": world.now + timedelta(hours=1)})
    world.clock.step(hours=1)
    await play(world, agent, message=later)
    assert [cleared.cause for cleared in world.publisher.of(AlertCleared)] == ["bake"]


@pytest.mark.fault(39)
async def test_a_second_request_while_a_bake_runs_is_told_so_and_starts_nothing(world: FleetWorld, agent: Path) -> None:
    await make(world, agent).handle(REQUEST)
    world.clock.step(60)
    outcome = await make(world, agent).handle(REQUEST.model_copy(update={"time": world.now}))
    assert isinstance(outcome, Done)
    assert "one at a time" in outcome.why
    assert len(of_role(world, "builder")) == 1


@pytest.mark.fault(39)
async def test_a_fleet_has_no_more_bakes_a_day_than_its_budget_and_the_last_is_the_nights(
    world: FleetWorld, agent: Path
) -> None:
    """Found by the simulation, seed 173: a script that asked again and again had the night go without its bake."""
    allow(world, DAILY)
    for _ in range(DAILY + 2):
        world.clock.step(minutes=10)
        await play(world, agent, message=REQUEST.model_copy(update={"time": world.now}))
    assert len(of_role(world, "builder")) == DAILY - 1
    assert [alert.cause for alert in world.publisher.of(AlertRaised)] == ["bake-budget"]
    for _ in range(2):
        world.clock.step(minutes=10)
        nightly = REQUEST.model_copy(update={"time": world.now, "source": "baker", "by": "schedule"})
        await play(world, agent, message=nightly)
    assert len(of_role(world, "builder")) == DAILY, "one place is the night's, and no more than one"
    world.clock.step(days=1)
    await play(world, agent, message=REQUEST.model_copy(update={"time": world.now}))
    assert len(of_role(world, "builder")) == DAILY + 1


async def test_a_person_who_needs_one_bake_more_today_raises_the_fleets_budget(world: FleetWorld, agent: Path) -> None:
    allow(world, 1)
    await play(world, agent)
    assert not of_role(world, "builder"), "the one bake of the day is the night's"
    [alert] = world.publisher.of(AlertRaised)
    assert "policies.bakes.daily" in alert.reason
    allow(world, 2)
    world.clock.step(minutes=1)
    await play(world, agent, message=REQUEST.model_copy(update={"time": world.now}))
    assert len(of_role(world, "builder")) == 1
    assert [cleared.cause for cleared in world.publisher.of(AlertCleared)] == ["bake-budget"]


@pytest.mark.fault(10)
async def test_the_request_again_after_the_end_bakes_nothing(world: FleetWorld, agent: Path) -> None:
    await play(world, agent)
    before, published = dict(world.objects.bodies), len(world.publisher.published)
    assert isinstance(await make(world, agent).handle(REQUEST), Done)
    assert world.objects.bodies == before
    assert len(world.publisher.published) == published


@pytest.mark.fault(12)
async def test_a_request_that_is_days_late_bakes_nothing(world: FleetWorld, agent: Path) -> None:
    late = REQUEST.model_copy(update={"time": START - timedelta(days=2)})
    assert isinstance(await make(world, agent).handle(late), Done)
    assert world.servers.known == {}


async def test_a_request_for_an_unknown_fleet_is_refused(world: FleetWorld, agent: Path) -> None:
    with pytest.raises(UnknownFleet, match="there is no fleet 'nope'"):
        await make(world, agent).handle(ImageBakeRequested(fleet="nope", time=START))


async def test_the_night_asks_for_a_bake_of_every_fleet_and_the_same_night_for_the_same(
    world: FleetWorld, agent: Path
) -> None:
    world.describe(world.fleet.model_copy(update={"fleet": "api"}))
    for _ in range(2):
        assert isinstance(await make(world, agent).handle(Nightly(time=START)), Done)
    asked = world.publisher.of(ImageBakeRequested)
    assert [(each.fleet, each.time, each.by) for each in asked] == [
        ("api", START, "schedule"),
        ("web", START, "schedule"),
    ] * 2


@pytest.mark.fault(13)
async def test_a_bake_whose_message_came_to_nothing_is_taken_further_by_sweeps_alone(
    world: FleetWorld, agent: Path
) -> None:
    await make(world, agent).handle(REQUEST)
    for _ in range(20):
        world.clock.step(minutes=5)
        assert isinstance(await make(world, agent).handle(Tick(time=world.now)), Done)
        all_goes_well(world)
    assert (await bake(world)).ended is not None
    assert world.publisher.of(ImageReady)
    assert not world.publisher.of(ImageBakeRequested), "a sweep asks for no bake"


async def not_yet(_: str) -> bool:
    """Say that a server is not connected."""
    return False


async def test_events_take_the_bake_further_at_once_and_keep_looking_at_what_nobody_tells_the_end_of(
    world: FleetWorld, agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request's own message waits for a run, or an image; a boot has no end that AWS tells of."""
    await make(world, agent).handle(REQUEST)
    changed = CommandChanged(world.commands.sent[0].command, world.commands.sent[0].server, "Success")
    assert isinstance(await make(world, agent).handle(changed), Done)
    world.report(world.commands.sent[0], "ok", FULL)
    assert isinstance(await make(world, agent).handle(changed), Done)
    [image] = world.servers.stored
    images_come(world)
    available = ImageStateChanged(image, "available", "")
    with monkeypatch.context() as booting:
        booting.setattr(world.commands, "online", not_yet)
        assert isinstance(await make(world, agent).handle(available), LookAgain)
    assert isinstance(await make(world, agent).handle(available), Done)
    assert len(of_role(world, "prover")) == 1


@pytest.mark.fault(15)
async def test_an_event_about_a_server_or_image_of_no_bake_does_nothing(world: FleetWorld, agent: Path) -> None:
    world.server()
    assert isinstance(await make(world, agent).handle(CommandChanged("c", "i-00000000000000001", "Success")), Done)
    assert isinstance(await make(world, agent).handle(ImageStateChanged("ami-0000000f", "available", "")), Done)
    assert world.servers.called("launch") == []


@pytest.mark.parametrize("method", ["launch", "create_image"])
@pytest.mark.fault(25, 26)
async def test_a_lost_reply_means_neither_a_second_builder_nor_a_second_image(
    world: FleetWorld, agent: Path, method: str
) -> None:
    world.servers.fail(method, Unavailable("no reply"), applied=True)
    with pytest.raises(Unavailable):
        await play(world, agent)
    await play(world, agent)
    assert (len(of_role(world, "builder")), len(of_role(world, "prover")), len(world.servers.stored)) == (1, 1, 1)
    assert (await bake(world)).stage == "ready"


@pytest.mark.fault(28)
async def test_what_aws_refuses_fails_the_bake_once_and_is_not_tried_again(world: FleetWorld, agent: Path) -> None:
    world.servers.fail("launch", Refused("quota"))
    await play(world, agent)
    record = await bake(world)
    assert record.stage == "failed"
    assert "quota" in record.failure
    assert len(world.servers.called("launch")) == 1
    assert len(world.publisher.of(AlertRaised)) == 1


@pytest.mark.fault(38)
async def test_a_builder_that_was_never_written_down_is_terminated_when_the_bake_fails(
    world: FleetWorld, agent: Path
) -> None:
    world.servers.fail("launch", Unavailable("no reply"), applied=True)
    with pytest.raises(Unavailable):
        await make(world, agent).handle(REQUEST)
    world.clock.step(hours=6)
    await play(world, agent)
    assert (await bake(world)).stage == "failed"
    assert [each.state for each in of_role(world, "builder")] == ["terminated"]


async def test_two_bakers_at_once_have_one_builder_one_image_and_one_result(world: FleetWorld, agent: Path) -> None:
    for _ in range(40):
        both = [make(world, agent).handle(REQUEST) for _ in range(2)]
        outcomes = await asyncio.gather(*both)
        if all(isinstance(each, Done) for each in outcomes):
            break
        world.clock.step(20)
        all_goes_well(world)
    assert (await bake(world)).stage == "ready"
    assert (len(of_role(world, "builder")), len(of_role(world, "prover")), len(world.servers.stored)) == (1, 1, 1)
    assert len(world.commands.sent) == 2
    assert {each.id for each in world.publisher.of(ImageReady)} == {f"ready-{ID}"}


async def test_two_requests_at_once_mean_one_bake(world: FleetWorld, agent: Path) -> None:
    second = REQUEST.model_copy(update={"time": START + timedelta(seconds=1)})
    await asyncio.gather(make(world, agent).handle(REQUEST), make(world, agent).handle(second))
    for message in (REQUEST, second):
        await make(world, agent).handle(message)
    assert len(of_role(world, "builder")) == 1


async def test_a_builder_and_a_prover_that_die_are_replaced_and_the_bake_is_made_all_the_same(
    world: FleetWorld, agent: Path
) -> None:
    await play(world, agent, first_of_each_dies)
    record = await bake(world)
    builders, provers = of_role(world, "builder"), of_role(world, "prover")
    assert (record.stage, len(builders), len(provers)) == ("ready", 2, 2)
    assert record.lost == (builders[0].server, provers[0].server)
    assert (record.builder, record.prover) == (builders[1].server, provers[1].server)
    assert [sent.server for sent in world.commands.sent] == [each.server for each in (*builders, *provers)]
    assert len({sent.comment for sent in world.commands.sent}) == 4
    assert {each.state for each in world.servers.known.values()} == {"terminated"}


@pytest.mark.fault(22)
async def test_a_bake_whose_servers_never_connect_fails_within_an_hour_or_so_and_says_so(
    world: FleetWorld, agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.commands, "online", not_yet)
    await play(world, agent, tries=500)
    record = await bake(world)
    assert (record.stage, len(of_role(world, "builder"))) == ("failed", 3)
    assert "did not connect to Systems Manager within 0:20:00" in record.failure
    assert record.seconds < 2 * 3600
    assert {each.state for each in world.servers.known.values()} == {"terminated"}


async def after_kill(agent: Path, answer: Answer, number: int, *, applied: bool) -> tuple[FleetWorld, int]:
    world = FleetWorld()
    await world.release("1")
    with killed_at(world, number, applied=applied) as calls:
        await play(world, agent, answer)
        return world, calls()


def outline(record: Bake) -> object:
    runs = [run and (run.attempt, run.result, run.step) for run in (record.provision, record.proof)]
    return (record.stage, record.stock, record.releases, record.step, record.failure, runs, record.ended is None)


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("answer", [all_goes_well, builder_fails, first_of_each_dies])
@pytest.mark.fault(18)
async def test_killed_at_any_call_the_bake_ends_as_if_nothing_had_happened(
    agent: Path, answer: Answer, applied: bool
) -> None:
    clean, calls = await after_kill(agent, answer, 0, applied=applied)
    for number in range(1, calls + 1):
        world, _ = await after_kill(agent, answer, number, applied=applied)
        assert outline(await bake(world)) == outline(await bake(clean)), number
        for role in ("builder", "prover"):
            assert len(of_role(world, role)) == len(of_role(clean, role)), number
        assert {each.state for each in world.servers.known.values()} == {"terminated"}, number
        assert len(world.servers.stored) == len(clean.servers.stored), number
        assert len(world.commands.sent) == len(clean.commands.sent), number
        for kind in (ImageReady, ImageBakeFailed):
            assert {each.id for each in world.publisher.of(kind)} == {each.id for each in clean.publisher.of(kind)}
        assert len({each.id for each in world.publisher.of(AlertRaised)}) == len(clean.publisher.of(AlertRaised))


async def test_what_the_steps_of_a_bake_took_joins_their_history(world: FleetWorld, agent: Path) -> None:
    await play(world, agent)
    paces = await world.documents.get(Paces, paces_key("web", "bake"))
    assert paces is not None
    assert {step: [each.run for each in pace.latest] for step, pace in paces.steps.items()} == {
        step.step: [ID] for step in FULL
    }


async def test_a_bake_that_failed_says_nothing_of_how_long_steps_take(world: FleetWorld, agent: Path) -> None:
    await play(world, agent, builder_fails)
    assert await world.documents.get(Paces, paces_key("web", "bake")) is None


def late(world: FleetWorld) -> Bake:
    """Let a record appear of a bake that was asked for a quarter of an hour ago, and that nobody goes on with."""
    asked = START - timedelta(minutes=15)
    record = Bake(bake="web-20260304t114500", fleet="web", requested=asked, by="schedule")
    world.objects.bodies[bake_key("web", record.bake)] = record.model_dump_json(by_alias=True).encode()
    return record


async def test_a_bake_whose_record_came_after_another_took_its_place_is_ended_by_that(
    world: FleetWorld, agent: Path
) -> None:
    """Found by thirty days of seed 49: S3 wrote it down half a minute after it had said that it could not."""
    lost = late(world)
    await play(world, agent)
    assert (await bake(world)).stage == "ready"
    overtaken = await bake(world, lost.bake)
    assert (overtaken.stage, overtaken.failure) == ("failed", f"bake {ID} took its place before it had a builder")
    assert overtaken.ended is not None
    assert not [call for call in world.servers.called("launch") if str(call.arguments[0]).startswith(lost.bake)]


async def test_a_baker_that_slept_over_its_claim_launches_no_builder(world: FleetWorld, agent: Path) -> None:
    claim = Baking(bake=ID, claimed=START)
    world.objects.bodies[baking_key("web")] = claim.model_dump_json(by_alias=True).encode()
    slept = late(world)
    await play(world, agent, message=REQUEST.model_copy(update={"time": START - timedelta(minutes=15)}))
    assert (await bake(world, slept.bake)).stage == "failed"
    assert world.servers.called("launch") == []
