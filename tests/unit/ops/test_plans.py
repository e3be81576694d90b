"""What a fleet's servers would run, as people are told."""

from pathlib import Path

import pytest
from rich.console import Console

from ops import plans
from ops.releases import Refusal
from shared.fleet import Fleet, RunStep
from shared.plan import Content
from shared.planning import inputs_of, make_plan
from shared.records import Attempt, Bake, Pointer, StepResult, bake_key, current_release_key, pointer_key
from shared.releases import outline
from tests.unit.fleetworld import FIRST, STOCK, FleetWorld

IMAGE, BAKE = "ami-00000000000000001", "web-20260101t020000"
UNCHANGED = ["nothing that it depends on has changed"]


@pytest.fixture
async def world() -> FleetWorld:
    world = FleetWorld()
    await world.release("412")
    return world


async def baked(world: FleetWorld, *, parts: bool = True) -> None:
    """Let the current image be one that was baked from what the fleet is now."""
    outlines = {"monolith": await outline(world.objects, "monolith", "412", inputs_of(world.fleet, "monolith"))}
    urls = {"monolith": Content(manifest_url="u", manifest_sha256="s")}
    plan = make_plan(world.fleet, outlines, FIRST, "10.0.0.1", attempt="a", report_url="u", content_urls=urls)
    steps = tuple(
        StepResult(step=step.step, result="done", fingerprint=step.fingerprint, parts=step.parts if parts else {})
        for step in plan.steps
    )
    attempt = Attempt(attempt="a", began=world.now, plan_digest="d", result="ok", steps=steps)
    bake = Bake(bake=BAKE, fleet="web", stage="ready", requested=world.now, by="ada", provision=attempt, stock=STOCK)
    await world.documents.create(bake_key("web", BAKE), bake)
    pointer = Pointer(image=IMAGE, bake=BAKE, since=world.now, by="registry")
    await world.documents.create(pointer_key("web"), pointer)


def changed(fleet: Fleet, **update: object) -> Fleet:
    steps = [step.model_copy(update=update) if isinstance(step, RunStep) else step for step in fleet.plan]
    return fleet.model_copy(update={"plan": tuple(steps)})


async def reasons(world: FleetWorld) -> dict[str, tuple[bool, list[str]] | None]:
    shown = await plans.view(world.objects, world.components, "web")
    return {
        step.step: (image.runs, list(image.reasons)) if image else None
        for step, image in zip(shown.plan.steps, shown.on_image or [None] * 3, strict=True)
    }


async def test_without_an_image_of_ours_all_steps_run_from_the_stock_image(world: FleetWorld) -> None:
    shown = await plans.view(world.objects, world.components, "web")
    assert shown.start.image is None
    assert shown.on_image == shown.on_empty
    assert all(each.runs for each in shown.on_empty)


async def test_from_an_image_that_has_everything_only_checks_run(world: FleetWorld) -> None:
    await baked(world)
    assert await reasons(world) == {
        "code": (False, UNCHANGED),
        "compile": (False, UNCHANGED),
        "health": (True, ["checks always run"]),
    }


async def test_a_release_since_the_image_is_named_with_both_versions(world: FleetWorld) -> None:
    await baked(world)
    await world.release("414")
    found = await reasons(world)
    assert found["code"] == (True, ["release monolith 412 -> 414"])
    assert found["compile"] == (True, ["code, which it needs, changed"])


async def test_a_script_that_changed_since_the_image_is_named(world: FleetWorld) -> None:
    await baked(world)
    world.describe(changed(world.fleet, script="make all", user="app"))
    found = await reasons(world)
    assert found["code"] == (False, UNCHANGED)
    assert found["compile"] == (True, ["its script changed", "its user root -> app"])


async def test_an_image_whose_bake_recorded_nothing_is_unknown_and_not_bare(world: FleetWorld) -> None:
    pointer = Pointer(image=IMAGE, bake=None, since=world.now, by="ada")
    await world.documents.create(pointer_key("web"), pointer)
    shown = await plans.view(world.objects, world.components, "web")
    assert shown.start.image == IMAGE
    assert shown.on_image is None
    assert "whether it runs is not known" in text_of(shown)


async def test_an_image_baked_before_parts_were_recorded_still_says_what_runs(world: FleetWorld) -> None:
    await baked(world, parts=False)
    world.describe(changed(world.fleet, script="make all"))
    assert await reasons(world) == {
        "code": (False, UNCHANGED),
        "compile": (True, ["something that it depends on has changed; what, was not recorded"]),
        "health": (True, ["checks always run"]),
    }


async def test_a_component_without_a_release_is_a_sentence_with_the_next_command(world: FleetWorld) -> None:
    await world.documents.delete(current_release_key("web", "monolith"))
    with pytest.raises(Refusal, match="ops release set --fleet web --component monolith"):
        await plans.view(world.objects, world.components, "web")


async def test_the_tree_puts_each_step_below_what_it_needs(world: FleetWorld) -> None:
    await baked(world)
    await world.release("414")
    lines = [line.rstrip() for line in text_of(await plans.view(world.objects, world.components, "web")).splitlines()]
    assert lines[0].startswith(f"fleet web: one step at a time, in order; launches start from image {IMAGE}")
    assert lines[1:] == [
        "└── code (sync monolith 414 to srv/monolith)  runs: release monolith 412 -> 414",
        "    └── compile (run)  runs: code, which it needs, changed",
        "        └── health (check http://ADDRESS/health)  runs: checks always run",
    ]


async def test_as_json_each_step_has_its_parts_and_both_answers(world: FleetWorld) -> None:
    await baked(world)
    shown = (await plans.view(world.objects, world.components, "web")).as_dict()
    assert (shown["image"], shown["releases"], shown["parallel"]) == (IMAGE, {"monolith": "412"}, 1)
    steps = shown["steps"]
    assert isinstance(steps, list)
    assert steps[0]["on_empty"] == {"runs": True, "reasons": ("it was not done yet",)}
    assert steps[0]["on_image"] == {"runs": False, "reasons": tuple(UNCHANGED)}
    assert steps[0]["parts"]["release"].startswith("monolith 412 ")


def test_a_description_can_be_shown_without_asking_anybody() -> None:
    web = Path(__file__).parents[3] / "examples/web/fleet.yaml"
    shown = plans.offline_view(str(web))
    assert plans.is_file(str(web))
    assert not plans.is_file("web")
    assert shown.as_dict()["releases"] == {"libraries": "?", "monolith": "?"}
    assert "service (run, needs compile-libraries, compile, assets too)" in text_of(shown)


def text_of(shown: plans.PlanView) -> str:
    console = Console(width=1000, highlight=False)
    with console.capture() as captured:
        console.print(plans.tree(shown))
    return captured.get()
