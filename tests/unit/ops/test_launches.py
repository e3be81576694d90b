from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ops.launches import Told, launches, pace, show, told
from ops.launching import _paces, _page, _table
from shared.cloud import NotFound
from shared.documents import Documents
from shared.pace import with_run
from shared.records import (
    Attempt,
    Launch,
    Member,
    Membership,
    Paces,
    Report,
    StepResult,
    launch_key,
    membership_key,
    paces_key,
    report_key,
)
from tests.unit.fleetworld import FIRST, STOCK, FleetWorld

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


STEPS = (
    StepResult(
        step="code",
        result="done",
        began=at(4),
        seconds=6,
        cpu_seconds=2,
        bytes=150_000_000,
        requests=6,
        fingerprint="f",
    ),
    StepResult(step="packages", result="skipped"),
    StepResult(step="compile", result="done", began=at(10), seconds=10, cpu_seconds=12),
)
ATTEMPT = Attempt(attempt=f"{FIRST}-1", began=at(3), plan_digest="d", ended=at(21), result="ok", steps=STEPS)
LAUNCH = Launch(
    fleet="web",
    server=FIRST,
    image=STOCK,
    ordered=NOON,
    claimed=at(1),
    trace="00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
    releases={"monolith": "3"},
    attempts=(ATTEMPT,),
    result="ready",
    ended=at(22),
    reason="ready after 21.0 s",
)
LISTED = Membership(members=(Member(server=FIRST, address="10.0.1.1", image=STOCK, since=at(24)),))


def lines(found: Told) -> list[tuple[str, float | None, float]]:
    return [(line.what, line.at_s, line.seconds) for line in found.lines]


def test_a_launch_is_told_without_a_gap_from_the_order_to_traffic() -> None:
    found = told(LAUNCH, LISTED, at(30))
    assert lines(found) == [
        ("hook", 0, 1),
        ("boot", 1, 2),
        ("delivery", 3, 1),
        ("code", 4, 6),
        ("packages", None, 0),
        ("compile", 10, 10),
        ("report", 20, 1),
        ("admission", 21, 1),
        ("traffic", 22, 2),
    ]
    assert (found.seconds, found.from_image) == (24, True)


def test_a_step_is_told_with_its_work_and_what_it_waited_for() -> None:
    code, compiled = told(LAUNCH, None, at(30)).steps
    assert (code.cpu_seconds, code.waiting_seconds, code.bytes, code.requests) == (2, 4, 150_000_000, 6)
    assert (compiled.cpu_seconds, compiled.waiting_seconds) == (12, 0)


def test_each_attempt_of_a_launch_has_its_phases_and_steps() -> None:
    failed = ATTEMPT.model_copy(
        update={"attempt": f"{FIRST}-0", "began": at(1.5), "ended": at(2.5), "result": "failed"}
    )
    early = StepResult(step="code", result="failed", began=at(2), seconds=0.25, reason="no disk")
    both = LAUNCH.model_copy(update={"attempts": (failed.model_copy(update={"steps": (early,)}), ATTEMPT)})
    found = [line.what for line in told(both, None, at(30)).lines]
    assert found[:6] == ["hook", "boot", "delivery", "code", "report", "delivery"]


def test_a_record_from_before_the_order_was_kept_begins_with_its_claim() -> None:
    found = told(LAUNCH.model_copy(update={"ordered": None}), None, at(30))
    assert found.ordered == at(1)
    assert lines(found)[0] == ("boot", 0, 2)


def test_a_server_clock_that_is_behind_gives_no_negative_time() -> None:
    early = tuple(
        step.model_copy(update={"began": step.began and step.began - timedelta(seconds=60)}) for step in STEPS
    )
    behind = LAUNCH.model_copy(update={"attempts": (ATTEMPT.model_copy(update={"steps": early}),)})
    assert min(line.seconds for line in told(behind, LISTED, at(30)).lines) >= 0


async def world_with(*records: Launch) -> FleetWorld:
    world = FleetWorld()
    world.server()
    for each in records:
        await world.documents.create(launch_key("web", each.server), each)
    await world.documents.create(membership_key("web"), LISTED)
    return world


async def test_the_list_has_the_servers_that_are_there_the_latest_first_or_all_on_record() -> None:
    gone = LAUNCH.model_copy(update={"server": "i-00000000000000009", "ordered": at(-100)})
    world = await world_with(gone, LAUNCH)
    assert [each.server for each in await launches(world.cloud, world.clock, "web", all_of_them=False)] == [FIRST]
    found = await launches(world.cloud, world.clock, "web", all_of_them=True)
    assert [each.server for each in found] == [FIRST, gone.server]
    [_, first, _] = _table("web", found)
    assert first.split()[-3:] == ["compile", "10.0", "s"]


async def test_one_launch_is_shown_on_a_page_with_trace_image_and_releases() -> None:
    world = await world_with(LAUNCH)
    page = "\n".join(_page(await show(world.cloud, world.clock, "web", FIRST)))
    assert f"catch-up from {STOCK}, monolith 3; trace 0123456789abcdef0123456789abcdef" in page
    assert "step packages: skipped" in page


async def test_a_launch_that_is_not_on_record_says_where_to_look() -> None:
    world = await world_with()
    with pytest.raises(NotFound, match="python -m ops launch list web"):
        await show(world.cloud, world.clock, "web", FIRST)


async def test_the_pace_names_the_step_that_became_slow() -> None:
    world = await world_with()
    paces: Paces | None = None
    for number, seconds in enumerate([10.0] * 8 + [60.0] * 3):
        paces = with_run(paces, f"run-{number}", NOON, [STEPS[2].model_copy(update={"seconds": seconds})])
    assert paces is not None
    await Documents(world.objects).create(paces_key("web", "bake"), paces)
    [found] = await pace(world.cloud, "web")
    assert (found.kind, found.step, found.latest_s, found.usual_s) == ("bake", "compile", 60, 10)
    assert "much slower" in "\n".join(_paces("web", [found]))


async def test_a_launch_under_way_shows_the_step_that_the_agent_is_at_and_for_how_long() -> None:
    attempt = ATTEMPT.model_copy(update={"result": "running", "ended": None, "steps": ()})
    world = await world_with(LAUNCH.model_copy(update={"attempts": (attempt,), "result": "running", "ended": None}))
    began = world.clock.now() - timedelta(seconds=7)
    at_work = StepResult(step="compile", result="running", began=began)
    report = Report(state="running", attempt=attempt.attempt, began=began, updated=began, steps=(at_work,))
    world.objects.bodies[report_key("web", attempt.attempt)] = report.model_dump_json().encode()
    found = await show(world.cloud, world.clock, "web", FIRST)
    [step] = found.steps
    assert (step.what, step.result, step.seconds) == ("compile", "running", 7)
    assert found.seconds == (world.clock.now() - NOON).total_seconds()
    assert any("step compile: running" in line for line in _page(found))
