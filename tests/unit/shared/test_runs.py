from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from shared.cloud import CommandState, CommandStatus, Unavailable
from shared.plan import Plan
from shared.records import Attempt, Report, manifest_key, run_prefix
from shared.runs import LOST_S, UNSENT_S, NoPlan, Pause, Runs, judge, read_report
from tests.unit.fleetworld import FIRST, FleetWorld, Killed, done, failed, killed_at

NAME = f"{FIRST}-1"


@dataclass
class Kept:
    """A ledger with room for one attempt."""

    there: Attempt | None = None
    saves: list[Attempt] = field(default_factory=list)

    async def save(self, old: Attempt | None, new: Attempt) -> bool:
        if self.there != old:
            return False
        self.there = new
        self.saves.append(new)
        return True


@pytest.fixture
async def world() -> FleetWorld:
    world = FleetWorld()
    await world.release("1")
    world.server()
    return world


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "agent.py"
    path.write_text("print('hello')\n")
    return path


@pytest.fixture
def runs(world: FleetWorld, agent: Path) -> Runs:
    return Runs(world.commands, world.objects, world.clock, agent)


async def advance(world: FleetWorld, runs: Runs, kept: Kept, **more: Any) -> Pause | None:
    return await runs.advance(
        world.fleet,
        world.servers.known[FIRST],
        NAME,
        kept.there,
        ledger=kept,
        **{"releases": {"monolith": "1"}, **more},
    )


async def test_the_plan_the_agent_and_their_digests_reach_the_server(
    world: FleetWorld, runs: Runs, agent: Path
) -> None:
    kept = Kept()
    pause = await advance(world, runs, kept)
    assert pause is not None
    assert pause.kind == "running"
    [sent] = world.commands.sent
    plan_body = world.objects.bodies[run_prefix("web", NAME) + "plan.json"]
    plan = Plan.model_validate_json(plan_body)
    digest = hashlib.sha256(agent.read_bytes()).hexdigest()
    assert (plan.server, plan.attempt, [step.step for step in plan.steps]) == (
        FIRST,
        NAME,
        ["code", "compile", "health"],
    )
    assert sent.document == "AutoProvisioner-RunPlan"
    assert sent.comment == NAME
    assert sent.parameters["PlanSha256"] == hashlib.sha256(plan_body).hexdigest()
    assert sent.parameters["AgentSha256"] == digest
    assert world.objects.bodies[f"agents/{digest}"] == agent.read_bytes()
    assert f"agents/{digest}?" in sent.parameters["AgentUrl"]
    assert kept.there is not None
    assert kept.there.command == sent.command
    assert kept.there.plan_sha256 == sent.parameters["PlanSha256"]
    assert await runs.releases("web", NAME) == {"monolith": "1"}


async def test_the_plan_is_made_while_the_server_boots_and_nothing_is_sent_before_it_answers(
    world: FleetWorld, runs: Runs
) -> None:
    kept = Kept()
    world.commands.offline.add(FIRST)
    pause = await advance(world, runs, kept)
    assert pause is not None
    assert pause.kind == "offline"
    assert run_prefix("web", NAME) + "plan.json" in world.objects.bodies
    assert kept.there is None
    assert world.commands.sent == []


async def test_an_attempt_that_another_wrote_down_first_is_not_sent(world: FleetWorld, runs: Runs) -> None:
    theirs = Attempt(attempt=NAME, began=world.now, plan_digest="d", command="c")
    kept = Kept(theirs)
    server = world.servers.known[FIRST]
    assert await runs.advance(world.fleet, server, NAME, None, ledger=kept, releases={"monolith": "1"}) is None
    assert world.commands.sent == []


async def test_a_command_whose_reply_was_lost_is_adopted_and_not_sent_again(world: FleetWorld, runs: Runs) -> None:
    kept = Kept()
    world.commands.fail("send", Unavailable("no reply"), applied=True)
    with pytest.raises(Unavailable):
        await advance(world, runs, kept)
    assert await advance(world, runs, kept) is None
    assert len(world.commands.sent) == 1
    assert kept.there is not None
    assert kept.there.command == world.commands.sent[0].command


async def test_an_attempt_that_was_written_down_and_never_sent_is_sent_once_its_writer_has_had_the_time(
    world: FleetWorld, runs: Runs
) -> None:
    kept = Kept()
    world.commands.fail("send", Unavailable("no connection"))
    with pytest.raises(Unavailable):
        await advance(world, runs, kept)
    pause = await advance(world, runs, kept)
    assert pause is not None
    assert pause.kind == "sending"
    assert world.commands.sent == []
    world.clock.step(UNSENT_S)
    before = world.objects.bodies[run_prefix("web", NAME) + "plan.json"]
    await advance(world, runs, kept)
    assert len(world.commands.sent) == 1
    assert world.objects.bodies[run_prefix("web", NAME) + "plan.json"] == before


async def written_down_and_not_sent(world: FleetWorld, runs: Runs) -> Kept:
    kept = Kept()
    world.commands.fail("send", Unavailable("no connection"))
    with pytest.raises(Unavailable):
        await advance(world, runs, kept)
    world.clock.step(UNSENT_S)
    return kept


@pytest.mark.parametrize("became", ["changed", "deleted"])
async def test_a_plan_that_is_another_than_was_written_down_is_not_sent_and_the_attempt_says_so(
    world: FleetWorld, runs: Runs, became: str
) -> None:
    kept = await written_down_and_not_sent(world, runs)
    key = run_prefix("web", NAME) + "plan.json"
    body = world.objects.bodies.pop(key)
    if became == "changed":
        world.objects.bodies[key] = body.replace(b'"script":"true"', b'"script":"evil"')
        assert world.objects.bodies[key] != body
    assert await advance(world, runs, kept) is None
    assert world.commands.sent == []
    assert kept.there is not None
    assert (kept.there.result, kept.there.ended) == ("failed", world.now)
    assert kept.there.reason == f"the plan was {became} in {key} after the attempt was written down, so it was not sent"


async def test_an_attempt_of_before_the_sha256_was_kept_is_sent_as_its_plan_lies_there(
    world: FleetWorld, runs: Runs
) -> None:
    kept = await written_down_and_not_sent(world, runs)
    assert kept.there is not None
    kept.there = Attempt.model_validate(kept.there.model_dump(exclude={"plan_sha256"}))
    await advance(world, runs, kept)
    body = world.objects.bodies[run_prefix("web", NAME) + "plan.json"]
    assert [sent.parameters["PlanSha256"] for sent in world.commands.sent] == [hashlib.sha256(body).hexdigest()]


@pytest.mark.parametrize("applied", [False, True])
async def test_however_the_sender_dies_one_command_is_sent(agent: Path, applied: bool) -> None:
    for number in range(1, 40):
        world = FleetWorld()
        await world.release("1")
        world.server()
        runs = Runs(world.commands, world.objects, world.clock, agent)
        kept = Kept()
        with killed_at(world, number, applied=applied):
            try:
                await advance(world, runs, kept)
            except Killed:
                world.clock.step(UNSENT_S)
            while kept.there is None or kept.there.command is None:
                await advance(world, runs, kept)
        assert len(world.commands.sent) == 1, number


async def test_without_a_release_there_is_no_plan_and_the_sentence_says_which(runs: Runs, world: FleetWorld) -> None:
    with pytest.raises(NoPlan, match="no release of monolith is set for web"):
        await advance(world, runs, Kept(), releases={})


async def test_a_release_that_was_never_published_means_no_plan(runs: Runs, world: FleetWorld) -> None:
    with pytest.raises(NoPlan, match="no release 9 of monolith"):
        await advance(world, runs, Kept(), releases={"monolith": "9"})


@pytest.mark.parametrize("body", [b"", b"{}", b'{"form":2,"component":"monolith","version":"1","entries":[]}'])
async def test_a_manifest_that_cannot_be_read_is_said_to_be_so(world: FleetWorld, runs: Runs, body: bytes) -> None:
    world.objects.bodies[manifest_key("monolith", "1")] = body
    with pytest.raises(NoPlan, match="the manifest of monolith 1 cannot be read"):
        await advance(world, runs, Kept())


async def test_an_end_is_written_down_with_the_agents_steps(world: FleetWorld, runs: Runs) -> None:
    kept = Kept()
    await advance(world, runs, kept)
    world.report(world.commands.sent[0], "failed", failed("compile", "exit 1", "no such file"), "compile failed")
    assert await advance(world, runs, kept) is None
    assert kept.there is not None
    assert (kept.there.result, kept.there.step) == ("failed", "compile")
    assert (kept.there.reason, kept.there.log_tail) == ("compile failed", "no such file")


def report(state: str, **more: object) -> Report:
    times = {"began": "2026-01-01T00:00:00Z", "updated": "2026-01-01T00:00:00Z"}
    return Report.model_validate({"state": state, "attempt": "a", **times, **more})


@pytest.mark.parametrize("state", list(CommandState))
def test_the_agents_last_word_counts_whatever_the_command_says(state: CommandState) -> None:
    assert judge(CommandStatus(state), report("ok", steps=done("code")), 9999).state == "ok"
    assert judge(CommandStatus(state), report("failed", step="code"), 0).state == "failed"


def test_without_a_report_the_commands_own_end_counts() -> None:
    assert judge(CommandStatus(CommandState.SUCCEEDED), None, 1).state == "ok"
    assert judge(CommandStatus(CommandState.RUNNING), None, 9999).state == "running"
    ended = judge(CommandStatus(CommandState.FAILED, 2, "x" * 9000, "bad digest"), None, 1)
    assert (ended.state, ended.step) == ("failed", None)
    assert "code 2" in ended.reason
    assert ended.log_tail.endswith("bad digest")
    assert len(ended.log_tail) <= 4000


def test_a_command_that_was_cut_off_blames_the_step_that_ran() -> None:
    ended = judge(CommandStatus(CommandState.TIMED_OUT), report("running", step="compile"), 1)
    assert (ended.state, ended.step) == ("failed", "compile")
    assert "timed-out" in ended.reason
    assert "compile" in ended.reason


def test_of_several_failures_the_one_that_the_agent_blames_counts() -> None:
    steps = (*failed("code", "later", "log of code"), *failed("compile", "first", "log of compile"))
    ended = judge(CommandStatus(CommandState.FAILED), report("failed", step="compile", steps=steps), 1)
    assert (ended.step, ended.reason, ended.log_tail) == ("compile", "first", "log of compile")


def test_a_command_that_was_cut_off_names_every_step_that_was_at_work() -> None:
    steps = done("code", "compile", result="running")
    ended = judge(CommandStatus(CommandState.CANCELLED), report("running", step="code", steps=steps), 1)
    assert "in step code and compile" in ended.reason


def test_a_command_that_aws_does_not_know_is_lost_only_after_a_while() -> None:
    assert judge(CommandStatus(CommandState.UNKNOWN), None, LOST_S - 1).state == "running"
    assert judge(CommandStatus(CommandState.UNKNOWN), None, LOST_S).state == "lost"


def test_a_report_that_cannot_be_read_or_is_anothers_counts_as_none() -> None:
    assert read_report(b"{", "a") is None
    assert read_report(orjson.dumps({"state": "ok"}), "a") is None
    assert read_report(report("ok").model_dump_json().encode(), "b") is None
    assert read_report(report("ok").model_dump_json().encode(), "a") is not None


def test_a_booting_server_is_looked_at_every_second_at_first_and_three_times_a_minute_at_last() -> None:
    moments = (0, 29.9, 30, 89.9, 90, 299.9, 300, 9000)
    assert [Pause("offline", "").look_s(each) for each in moments] == [1, 1, 2, 2, 5, 5, 20, 20]
