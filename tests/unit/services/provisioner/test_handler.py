from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from services.provisioner.handler import Provisioner
from services.provisioner.updates import Updates
from shared.cloud import CommandState, Incomplete, LifecycleState, Unavailable
from shared.documents import Documents
from shared.events import CommandChanged, Incoming, LifecycleAction
from shared.fleets import UnknownFleet
from shared.messages import (
    AlertCleared,
    AlertRaised,
    LaunchUnclaimed,
    ServerProvisionFailed,
    ServerReady,
    Tick,
)
from shared.names import LAUNCH_HOOK
from shared.outcome import Done, LookAgain, Outcome
from shared.records import Failures, Launch, Paces, StepResult, failures_key, launch_key, paces_key
from shared.runs import Runs
from tests.unit.fleetworld import FIRST, STOCK, FleetWorld, Killed, done, failed, killed_at

LAUNCHING = LifecycleAction("web", FIRST, LAUNCH_HOOK, "token", "launching")
ALL = done("code", "compile", "health")
Answer = Callable[[FleetWorld], None]


def make(world: FleetWorld, agent: Path) -> Provisioner:
    documents = Documents(world.objects)
    runs = Runs(world.commands, world.objects, world.clock, agent)
    updates = Updates(
        groups=world.groups,
        servers=world.servers,
        documents=documents,
        components=world.components,
        runs=runs,
        publisher=world.publisher,
        clock=world.clock,
    )
    return Provisioner(
        groups=world.groups,
        servers=world.servers,
        documents=documents,
        fleets=world.fleets,
        components=world.components,
        runs=runs,
        publisher=world.publisher,
        alerts=world.alerts,
        clock=world.clock,
        updates=updates,
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
    world.server()
    return world


def plan_runs(world: FleetWorld) -> None:
    for sent in world.running:
        world.report(sent, "ok", ALL)


def plan_catches_up(world: FleetWorld) -> None:
    skipped = StepResult(step="compile", result="skipped")
    for sent in world.running:
        world.report(sent, "ok", (*done("code"), skipped, *done("health")))


def plan_fails(world: FleetWorld) -> None:
    for sent in world.running:
        world.report(sent, "failed", failed("compile", "exit 1", "no such file"), "compile failed: exit 1")


async def play(world: FleetWorld, agent: Path, answer: Answer = plan_runs, message: Incoming = LAUNCHING) -> Outcome:
    """Deliver the message until it is done, as the consumer does; a process that dies is started again."""
    for _ in range(60):
        try:
            outcome = await make(world, agent).handle(message)
        except Killed:
            continue
        if not isinstance(outcome, LookAgain):
            return outcome
        world.clock.step(outcome.after_s)
        answer(world)
    raise AssertionError("it never ends")


async def launch(world: FleetWorld) -> Launch:
    found = await world.documents.get(Launch, launch_key("web", FIRST))
    assert found is not None
    return found


def completions(world: FleetWorld) -> list[object]:
    return [call.arguments[3] for call in world.groups.called("complete")]


def state(world: FleetWorld) -> str:
    member = world.groups.groups["web"].member(FIRST)
    assert member is not None
    return member.state


async def test_a_launched_server_runs_its_plan_enters_service_and_is_announced(world: FleetWorld, agent: Path) -> None:
    assert isinstance(await play(world, agent), Done)
    record = await launch(world)
    assert state(world) == LifecycleState.IN_SERVICE
    assert (record.result, record.releases, len(record.attempts)) == ("ready", {"monolith": "1"}, 1)
    assert [step.step for step in record.attempts[0].steps] == ["code", "compile", "health"]
    [ready] = world.publisher.of(ServerReady)
    assert (ready.server, ready.image) == (FIRST, STOCK)
    assert world.publisher.of(AlertRaised) == []


async def test_what_waits_for_the_server_is_looked_at_every_second_and_with_a_heartbeat_later(
    world: FleetWorld, agent: Path
) -> None:
    world.commands.offline.add(FIRST)
    assert await make(world, agent).handle(LAUNCHING) == LookAgain(
        1, f"{FIRST} is not connected to Systems Manager yet"
    )
    assert world.groups.called("heartbeat") == []
    world.clock.step(101)
    await make(world, agent).handle(LAUNCHING)
    assert len(world.groups.called("heartbeat")) == 1


@pytest.mark.fault(34)
async def test_a_server_whose_turn_has_not_come_is_kept_in_its_hook_and_taken_up_once_those_before_it_are_through(
    world: FleetWorld, agent: Path
) -> None:
    launch = world.fleet.policies.launch.model_copy(update={"at_once": 1})
    policies = world.fleet.policies.model_copy(update={"launch": launch})
    world.describe(world.fleet.model_copy(update={"policies": policies}))
    before = "i-00000000"
    world.server(before, state="Pending")
    turn = await make(world, agent).handle(LAUNCHING)
    assert turn == LookAgain(100, f"{FIRST} waits for its turn: 1 before it")
    assert len(world.groups.called("heartbeat")) == 1
    assert world.commands.sent == []
    world.groups.change("web", before, state="InService")
    await make(world, agent).handle(LAUNCHING)
    assert [each.server for each in world.commands.sent] == [FIRST]


async def test_while_the_plan_runs_the_hook_is_kept_alive(world: FleetWorld, agent: Path) -> None:
    first = await make(world, agent).handle(LAUNCHING)
    second = await make(world, agent).handle(LAUNCHING)
    assert isinstance(first, LookAgain)
    assert isinstance(second, LookAgain)
    assert (first.after_s, second.after_s) == (100, 100)
    assert len(world.groups.called("heartbeat")) == 2


@pytest.mark.parametrize("ended", [True, False])
async def test_past_its_deadline_a_launch_is_ready_if_its_plan_ended_unseen_and_given_up_if_it_still_runs(
    world: FleetWorld, agent: Path, *, ended: bool
) -> None:
    await make(world, agent).handle(LAUNCHING)
    if ended:
        plan_runs(world)
    world.clock.step(hours=2)
    await make(world, agent).handle(LAUNCHING)
    assert (await launch(world)).result == ("ready" if ended else "failed")
    assert completions(world) == ["CONTINUE" if ended else "ABANDON"]


async def test_a_failed_plan_is_tried_again_on_the_same_server(world: FleetWorld, agent: Path) -> None:
    answers = iter([plan_fails, plan_runs])
    await play(world, agent, lambda world: next(answers)(world) if world.running else None)
    record = await launch(world)
    assert [attempt.result for attempt in record.attempts] == ["failed", "ok"]
    assert record.result == "ready"
    assert [sent.comment for sent in world.commands.sent] == [f"{FIRST}-1", f"{FIRST}-2"]
    assert world.publisher.of(AlertRaised) == []


async def test_after_the_last_attempt_the_launch_is_abandoned_and_one_alert_says_what_to_type(
    world: FleetWorld, agent: Path
) -> None:
    await world.release("2")
    await play(world, agent, plan_fails)
    assert completions(world) == ["ABANDON"]
    assert (await launch(world)).result == "failed"
    [told] = world.publisher.of(ServerProvisionFailed)
    assert (told.step, told.log_tail) == ("compile", "no such file")
    [alert] = world.publisher.of(AlertRaised)
    assert (alert.cause, alert.step, alert.log_tail) == ("provision-compile", "compile", "no such file")
    assert "python -m ops release set --fleet web --component monolith --version 1" in alert.next


@pytest.mark.fault(43)
async def test_ten_launches_that_fail_alike_raise_one_alert_and_the_first_good_one_clears_it(
    world: FleetWorld, agent: Path
) -> None:
    for number in range(10, 13):
        server = f"i-{number:017x}"
        world.server(server)
        await play(world, agent, plan_fails, LifecycleAction("web", server, LAUNCH_HOOK, "t", "launching"))
    assert len(world.publisher.of(AlertRaised)) == 1
    await play(world, agent)
    assert [cleared.cause for cleared in world.publisher.of(AlertCleared)] == ["provision-compile"]


@pytest.mark.fault(22)
async def test_a_server_that_never_answers_is_abandoned_before_its_hook_ends(world: FleetWorld, agent: Path) -> None:
    world.commands.offline.add(FIRST)
    await make(world, agent).handle(LAUNCHING)
    world.clock.step(hours=1)
    assert isinstance(await make(world, agent).handle(LAUNCHING), Done)
    assert completions(world) == ["ABANDON"]
    assert [alert.cause for alert in world.publisher.of(AlertRaised)] == ["provision-boot"]


async def test_without_a_release_a_person_is_called_and_the_launch_goes_on_once_it_is_set(
    world: FleetWorld, agent: Path
) -> None:
    world.objects.bodies = {key: body for key, body in world.objects.bodies.items() if "current" not in key}
    outcome = await make(world, agent).handle(LAUNCHING)
    assert isinstance(outcome, LookAgain)
    assert [alert.cause for alert in world.publisher.of(AlertRaised)] == ["provision-plan"]
    await world.release("1")
    await play(world, agent)
    assert (await launch(world)).result == "ready"
    assert [cleared.cause for cleared in world.publisher.of(AlertCleared)] == ["provision-plan"]


async def test_a_command_that_ends_is_acted_on_at_once(world: FleetWorld, agent: Path) -> None:
    await make(world, agent).handle(LAUNCHING)
    plan_runs(world)
    changed = CommandChanged(world.commands.sent[0].command, FIRST, "Success")
    assert isinstance(await make(world, agent).handle(changed), Done)
    assert state(world) == LifecycleState.IN_SERVICE
    assert isinstance(await make(world, agent).handle(LAUNCHING), Done)
    assert len(world.publisher.of(ServerReady)) == 1


@pytest.mark.fault(10, 18)
async def test_every_message_again_after_the_end_changes_nothing(world: FleetWorld, agent: Path) -> None:
    await play(world, agent)
    before, published = dict(world.objects.bodies), len(world.publisher.published)
    for message in (
        LAUNCHING,
        LaunchUnclaimed(fleet="web", server=FIRST),
        CommandChanged(world.commands.sent[0].command, FIRST, "Success"),
        Tick(),
    ):
        assert isinstance(await make(world, agent).handle(message), Done)
    assert world.objects.bodies == before
    assert len(world.publisher.published) == published
    assert len(world.commands.sent) == 1


@pytest.mark.fault(11)
async def test_the_commands_result_before_the_launch_event_is_harmless(world: FleetWorld, agent: Path) -> None:
    await make(world, agent).handle(CommandChanged("c", FIRST, "Success"))
    await play(world, agent)
    assert len(world.commands.sent) == 1
    assert state(world) == LifecycleState.IN_SERVICE


@pytest.mark.fault(12)
async def test_a_message_for_a_server_that_is_gone_does_nothing(world: FleetWorld, agent: Path) -> None:
    world.groups.leave("web", FIRST)
    assert isinstance(await make(world, agent).handle(LAUNCHING), Done)
    assert launch_key("web", FIRST) not in world.objects.bodies
    assert world.commands.sent == []


@pytest.mark.fault(13)
async def test_a_lost_launch_event_is_made_good_by_the_sweep(world: FleetWorld, agent: Path) -> None:
    await make(world, agent).handle(Tick())
    plan_runs(world)
    await make(world, agent).handle(Tick(fleet="web"))
    assert state(world) == LifecycleState.IN_SERVICE


@pytest.mark.fault(15)
async def test_a_forged_launch_event_of_a_server_in_service_or_of_no_fleet_does_nothing(
    world: FleetWorld, agent: Path
) -> None:
    world.groups.change("web", FIRST, state="InService")
    assert isinstance(await make(world, agent).handle(LAUNCHING), Done)
    strange = LifecycleAction("theirs", FIRST, LAUNCH_HOOK, "t", "launching")
    assert isinstance(await make(world, agent).handle(strange), Done)
    with pytest.raises(UnknownFleet):
        await make(world, agent).handle(LaunchUnclaimed(fleet="theirs", server=FIRST))
    assert world.groups.called("complete") == []
    assert world.commands.sent == []


@pytest.mark.fault(16)
async def test_a_server_that_the_group_does_not_show_yet_is_waited_for_while_its_hook_waits(
    world: FleetWorld, agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = world.groups.groups["web"]
    world.groups.leave("web", FIRST)

    async def waits(*_: object) -> bool:
        world.groups.set(group)
        return True

    monkeypatch.setattr(world.groups, "heartbeat", waits)
    assert isinstance(await make(world, agent).handle(LAUNCHING), LookAgain)
    monkeypatch.undo()
    await play(world, agent)
    assert state(world) == LifecycleState.IN_SERVICE


@pytest.mark.fault(20)
async def test_a_plan_that_ended_after_its_hook_is_closed_without_a_word_of_ready(
    world: FleetWorld, agent: Path
) -> None:
    await make(world, agent).handle(LAUNCHING)
    plan_runs(world)
    world.groups.change("web", FIRST, state="Terminating:Wait")
    assert isinstance(await make(world, agent).handle(LAUNCHING), Done)
    assert (await launch(world)).result == "failed"
    assert world.publisher.of(ServerReady) == []


@pytest.mark.fault(23)
async def test_a_lost_reply_to_the_completion_is_harmless(world: FleetWorld, agent: Path) -> None:
    await make(world, agent).handle(LAUNCHING)
    plan_runs(world)
    world.groups.fail("complete", Unavailable("no reply"), applied=True)
    with pytest.raises(Unavailable):
        await make(world, agent).handle(LAUNCHING)
    assert isinstance(await make(world, agent).handle(LAUNCHING), Done)
    assert (await launch(world)).result == "ready"
    assert len(world.publisher.of(ServerReady)) == 1


@pytest.mark.fault(29)
async def test_a_group_that_cannot_be_listed_leads_to_nothing(world: FleetWorld, agent: Path) -> None:
    world.groups.fail("describe", Incomplete("half"))
    with pytest.raises(Incomplete):
        await make(world, agent).handle(LAUNCHING)
    assert world.groups.called("complete") == []


async def test_a_group_that_is_not_ours_is_left_alone(world: FleetWorld, agent: Path) -> None:
    group = world.groups.groups["web"]
    world.groups.set(type(group)(group.fleet, 0, 1, 3, group.members, managed=False))
    assert isinstance(await make(world, agent).handle(LAUNCHING), Done)
    assert world.commands.sent == []


async def test_one_fleets_trouble_does_not_keep_the_sweep_from_the_others(world: FleetWorld, agent: Path) -> None:
    world.describe(world.fleet.model_copy(update={"fleet": "aaa"}))
    world.groups.fail("describe", Unavailable("only the first"))
    with pytest.raises(Unavailable):
        await make(world, agent).handle(Tick())
    assert len(world.commands.sent) == 1


async def test_two_provisioners_at_once_send_one_command_and_complete_once(world: FleetWorld, agent: Path) -> None:
    both = [make(world, agent), make(world, agent)]
    await asyncio.gather(*(each.handle(LAUNCHING) for each in both))
    assert len(world.commands.sent) == 1
    plan_runs(world)
    await asyncio.gather(*(each.handle(LAUNCHING) for each in both))
    record = await launch(world)
    assert (record.result, len(record.attempts)) == ("ready", 1)
    assert {ready.id for ready in world.publisher.of(ServerReady)} == {f"ready-{FIRST}"}


async def test_a_timed_out_command_without_a_report_counts_as_failed(world: FleetWorld, agent: Path) -> None:
    await make(world, agent).handle(LAUNCHING)
    world.commands.answer(world.commands.sent[0].command, CommandState.TIMED_OUT, code=-1, output="half a line")
    await make(world, agent).handle(LAUNCHING)
    record = await launch(world)
    assert record.attempts[0].log_tail == "half a line"
    assert len(record.attempts) == 2


async def after_kill(agent: Path, answer: Answer, number: int, *, applied: bool) -> tuple[FleetWorld, int]:
    world = FleetWorld()
    await world.release("1")
    world.server()
    with killed_at(world, number, applied=applied) as calls:
        await play(world, agent, answer)
        return world, calls()


def outline(record: Launch) -> object:
    return (
        record.result,
        record.releases,
        [(each.attempt, each.result, each.step, each.command is None) for each in record.attempts],
    )


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("answer", [plan_runs, plan_fails])
@pytest.mark.fault(18)
async def test_killed_at_any_call_the_launch_ends_as_if_nothing_had_happened(
    agent: Path, answer: Answer, applied: bool
) -> None:
    clean, calls = await after_kill(agent, answer, 0, applied=applied)
    for number in range(1, calls + 1):
        world, _ = await after_kill(agent, answer, number, applied=applied)
        assert outline(await launch(world)) == outline(await launch(clean)), number
        assert len(world.commands.sent) == len(clean.commands.sent), number
        assert state(world) == state(clean), number
        told = {message.id for message in world.publisher.of(ServerReady)}
        assert told == {message.id for message in clean.publisher.of(ServerReady)}, number
        assert {each.id for each in world.publisher.of(ServerProvisionFailed)} == {
            each.id for each in clean.publisher.of(ServerProvisionFailed)
        }, number
        assert {each.cause for each in world.publisher.of(AlertRaised)} == {
            each.cause for each in clean.publisher.of(AlertRaised)
        }, number


async def failed_launches(world: FleetWorld, agent: Path, count: int) -> list[str]:
    """Let so many launches fail one after the other; return the servers."""
    servers = [f"i-0000010{number}" for number in range(count)]
    for server in servers:
        world.server(server)
        action = LifecycleAction("web", server, LAUNCH_HOOK, "token", "launching")
        assert isinstance(await play(world, agent, plan_fails, action), Done)
    return servers


async def kept_waiting(world: FleetWorld, agent: Path) -> None:
    """Let every attempt of the next server fail for half an hour, in which nothing is decided about it."""
    until = world.now + timedelta(minutes=30)
    while world.now < until:
        outcome = await make(world, agent).handle(LAUNCHING)
        assert isinstance(outcome, LookAgain), outcome
        world.clock.step(outcome.after_s)
        plan_fails(world)


@pytest.mark.fault(21)
async def test_after_three_failed_launches_the_next_server_waits_and_tries_again(
    world: FleetWorld, agent: Path
) -> None:
    await failed_launches(world, agent, 3)
    assert completions(world) == ["ABANDON"] * 3
    await kept_waiting(world, agent)
    assert completions(world) == ["ABANDON"] * 3
    causes = [each.cause for each in world.publisher.of(AlertRaised)]
    assert causes == ["provision-compile", "provision-frozen"]
    assert len((await launch(world)).attempts) > 2
    assert isinstance(await play(world, agent), Done)
    assert completions(world)[3:] == ["CONTINUE"]
    assert sorted(each.cause for each in world.publisher.of(AlertCleared)) == causes
    assert await world.documents.get(Failures, failures_key("web")) is None


@pytest.mark.fault(21)
async def test_a_server_that_waits_is_given_up_once_another_image_is_launched_from(
    world: FleetWorld, agent: Path
) -> None:
    await failed_launches(world, agent, 3)
    await kept_waiting(world, agent)
    await world.servers.set_template_image("web", "ami-0000000b")
    assert isinstance(await play(world, agent, plan_fails), Done)
    assert completions(world) == ["ABANDON"] * 4


@pytest.mark.fault(21)
async def test_a_launch_that_fails_with_another_release_is_given_up_as_ever(world: FleetWorld, agent: Path) -> None:
    await failed_launches(world, agent, 3)
    await world.release("2")
    assert isinstance(await play(world, agent, plan_fails), Done)
    assert completions(world) == ["ABANDON"] * 4


async def paced(world: FleetWorld) -> dict[str, int]:
    paces = await world.documents.get(Paces, paces_key("web", "launch"))
    return {step: len(each.latest) for step, each in paces.steps.items()} if paces else {}


async def test_what_the_steps_of_a_launch_from_an_image_took_joins_their_history(
    world: FleetWorld, agent: Path
) -> None:
    await play(world, agent, plan_catches_up)
    assert await paced(world) == {"code": 1, "health": 1}
    assert (await launch(world)).ordered == world.servers.known[FIRST].launched


async def test_a_full_plan_on_the_stock_image_is_not_compared_with_launches_from_images(
    world: FleetWorld, agent: Path
) -> None:
    await play(world, agent)
    assert await paced(world) == {}
