from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from shared.alerts import Alerts
from shared.documents import Documents
from shared.messages import AlertCleared, AlertRaised
from shared.pace import ENOUGH, LATEST, USUAL, Pacing, slow, with_run
from shared.records import Pace, Paces, StepResult, Took, paces_key
from tests.fakes import World

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def step(seconds: float, **more: object) -> StepResult:
    about = {"step": "compile", "result": "done", "began": NOON, "seconds": seconds, **more}
    return StepResult.model_validate(about)


def history(*seconds: float) -> Paces:
    paces = None
    for number, each in enumerate(seconds):
        paces = with_run(paces, f"run-{number}", NOON + timedelta(hours=number), [step(each)]) or paces
    assert paces is not None
    return paces


def is_slow(*seconds: float) -> bool:
    return slow("compile", history(*seconds).steps["compile"]) is not None


def test_a_step_is_slow_when_most_of_its_latest_runs_are_twice_as_long_as_was_usual() -> None:
    usual = [10.0] * (ENOUGH + LATEST)
    assert not is_slow(*usual)
    assert not is_slow(*usual, 60)
    assert is_slow(*usual, 60, 60)
    assert not is_slow(*usual, 19, 19, 19)


def test_what_takes_a_moment_is_never_slow_and_too_few_runs_say_nothing() -> None:
    assert not is_slow(*[0.1] * 20, 4, 4, 4)
    assert not is_slow(*[10.0] * (ENOUGH - 1), 60, 60, 60)
    assert is_slow(*[10.0] * ENOUGH, 60, 60, 60)


def test_what_is_slow_does_not_become_usual_until_the_step_is_quick_again() -> None:
    slowed = [*[10.0] * 8, *[60.0] * 40]
    assert is_slow(*slowed)
    assert not is_slow(*slowed, 10, 10)


def test_a_step_that_grows_by_little_at_a_time_is_measured_by_its_latest_history() -> None:
    grown = history(*[10.0 * 1.02**number for number in range(100)]).steps["compile"]
    assert (len(grown.usual), len(grown.latest)) == (USUAL, LATEST)
    assert slow("compile", grown) is None


def test_a_run_counts_once_and_only_for_steps_that_it_did() -> None:
    first = history(10)
    assert with_run(first, "run-0", NOON, [step(99)]) is None
    assert with_run(first, "run-1", NOON, [step(99, result="skipped"), step(99, result="failed")]) is None


def test_the_sentence_tells_more_work_from_more_waiting() -> None:
    took = [Took(run=str(n), at=NOON, seconds=10, cpu_seconds=9, bytes=2_000_000) for n in range(ENOUGH)]
    now = [Took(run=f"n{n}", at=NOON, seconds=40, cpu_seconds=9.5, bytes=2_000_000) for n in range(LATEST)]
    become = slow("compile", Pace(usual=tuple(took), latest=tuple(now)))
    assert become is not None
    assert become.sentence("launch") == (
        "step compile of a launch takes 40.0 s, 10.0 s was usual (medians of the last 3 runs and of 5 before); "
        "CPU 9.5 s, usually 9.0; moved 2.0 MB, usually 2.0"
    )


async def note(world: World, runs: Iterable[tuple[str, float]], kind: str = "launch") -> None:
    documents = Documents(world.objects)
    pacing = Pacing(documents, Alerts(documents, world.publisher, world.clock), world.clock)
    for run, seconds in runs:
        await pacing.note("web", "launch" if kind == "launch" else "bake", run, [step(seconds)])


async def test_one_alert_stands_while_a_step_is_slow_and_goes_when_it_is_quick_again() -> None:
    world = World()
    await note(world, [(f"before-{n}", 10) for n in range(8)])
    await note(world, [(f"slow-{n}", 60) for n in range(4)])
    [raised] = world.publisher.of(AlertRaised)
    assert (raised.cause, raised.step, raised.next) == (
        "slow-launch-compile",
        "compile",
        "python -m ops launch pace web",
    )
    assert world.publisher.of(AlertCleared) == []
    await note(world, [(f"quick-{n}", 10) for n in range(2)])
    [cleared] = world.publisher.of(AlertCleared)
    assert cleared.cause == raised.cause


async def test_launches_and_bakes_have_histories_of_their_own() -> None:
    world = World()
    await note(world, [(f"launch-{n}", 1) for n in range(8)])
    await note(world, [(f"bake-{n}", 60) for n in range(8)], kind="bake")
    assert world.publisher.of(AlertRaised) == []
    stored = await Documents(world.objects).get(Paces, paces_key("web", "bake"))
    assert stored is not None
    assert len(stored.steps["compile"].usual) == 5


async def test_an_alert_whose_clearing_was_cut_off_is_cleared_by_the_next_run() -> None:
    world = World()
    await note(world, [(f"before-{n}", 10) for n in range(8)])
    await note(world, [(f"slow-{n}", 60) for n in range(3)])
    await Documents(world.objects).change(
        Paces, paces_key("web", "launch"), lambda _: history(*[10.0] * 8).model_copy(update={"generation": 1})
    )
    await note(world, [("another", 10)])
    assert len(world.publisher.of(AlertCleared)) == 1
