"""A fleet's plan as people ask for it: what would run, on a bare server and on one from the current image, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.text import Text
from rich.tree import Tree

from deploy.fleet import read_fleet
from ops.releases import Refusal
from shared import releases
from shared.cloud import ObjectsPort
from shared.components import Components
from shared.documents import Documents
from shared.fleet import Fleet
from shared.fleets import Fleets
from shared.outlines import Inputs, Outline
from shared.plan import Content, Plan, PlannedStep
from shared.planning import Explained, Ledger, explain, inputs_of, ledger_of, make_plan
from shared.records import Bake, Pointer, bake_key, pointer_key

UNKNOWN = "?"
"""The version of a component's release where nobody was asked."""


@dataclass(frozen=True)
class Start:
    """What a launch starts from. ``ledger`` is None where nobody recorded what the image brings along."""

    image: str | None
    ledger: Ledger | None
    what: str


STOCK = Start(None, {}, "the stock image")


@dataclass(frozen=True)
class PlanView:
    """A plan, and what would run on a server with an empty ledger, and on one that starts from the current image."""

    fleet: str
    plan: Plan
    start: Start
    on_empty: tuple[Explained, ...]
    on_image: tuple[Explained, ...] | None

    def as_dict(self) -> dict[str, object]:
        """Return it for ``-o json``."""
        steps = [_step_dict(step, *self.told(number)) for number, step in enumerate(self.plan.steps)]
        return {
            "fleet": self.fleet,
            "parallel": self.plan.parallel,
            "releases": {step.component: step.version for step in self.plan.steps if step.kind == "sync"},
            "image": self.start.image,
            "steps": steps,
        }

    def told(self, number: int) -> tuple[Explained, Explained | None]:
        """Return what becomes of a step on an empty ledger, and on the image (None: unknown)."""
        return self.on_empty[number], self.on_image[number] if self.on_image is not None else None


async def view(objects: ObjectsPort, components: Components, wanted: str) -> PlanView:
    """Return the plan of a fleet, or of a description (a YAML file) with the releases and image of the fleet it names.

    Raises:
        UnknownFleet, FleetError: there is no such fleet, or the description is wrong.
        Refusal: a component has no release.
        UnknownRelease, CorruptDocument, CloudError: something cannot be read.
    """
    fleet = read_fleet(Path(wanted)) if is_file(wanted) else await Fleets(objects).get(wanted)
    outlines = {each: await _outline(objects, components, fleet, each) for each in fleet.components}
    return _view(fleet, outlines, await _start(Documents(objects), fleet.fleet))


def offline_view(file: str) -> PlanView:
    """Return the plan of a description by itself: releases unknown, from the stock image. Raises FleetError."""
    fleet = read_fleet(Path(file))
    unknown = {each: _unknown(fleet, each) for each in fleet.components}
    return _view(fleet, unknown, STOCK)


def is_file(wanted: str) -> bool:
    """Whether a description is meant, not the name of a fleet: those have no dots and no slashes."""
    return "/" in wanted or wanted.endswith((".yaml", ".yml"))


def tree(shown: PlanView) -> Tree:
    """Return the plan as a tree: each step below the last one that it needs."""
    parallel = shown.plan.parallel
    order = "one step at a time, in order" if parallel == 1 else f"up to {parallel} steps at once"
    root = Tree(Text(f"fleet {shown.fleet}: {order}; launches start from {shown.start.what}"))
    nodes: dict[str, Tree] = {}
    above: dict[str, list[str]] = {}
    for number, step in enumerate(shown.plan.steps):
        below = max(step.needs, key=list(nodes).index, default=None)
        above[step.step] = [below, *above[below]] if below else []
        others = [need for need in step.needs if need not in above[step.step]]
        label = _label(step, others, shown.told(number)[1])
        nodes[step.step] = (nodes[below] if below else root).add(label)
    return root


def _view(fleet: Fleet, outlines: Mapping[str, Outline], start: Start) -> PlanView:
    # No server is meant: what a plan says of one is left empty, and no part of any fingerprint.
    nowhere = {each: Content(manifest_url="", manifest_sha256=outline.digest) for each, outline in outlines.items()}
    plan = make_plan(fleet, outlines, "", "ADDRESS", attempt="", report_url="", content_urls=nowhere)
    on_image = explain(plan, start.ledger) if start.ledger is not None else None
    return PlanView(fleet.fleet, plan, start, explain(plan, {}), on_image)


async def _outline(objects: ObjectsPort, components: Components, fleet: Fleet, component: str) -> Outline:
    version = (await components.standing(fleet.fleet, component)).chosen
    if version is None:
        command = f"python -m ops release set --fleet {fleet.fleet} --component {component} --version VERSION"
        raise Refusal(f"no release of {component} is set for {fleet.fleet}, so it has no plan yet; set one: {command}")
    return await releases.outline(objects, component, version, inputs_of(fleet, component))


def _unknown(fleet: Fleet, component: str) -> Outline:
    inputs = {globs: Inputs("", 0) for globs in inputs_of(fleet, component)}
    return Outline(component, UNKNOWN, "", (), inputs)


async def _start(documents: Documents, fleet: str) -> Start:
    """Return what the fleet's launches start from: the ledger of an image is what its builder reported."""
    pointer = await documents.get(Pointer, pointer_key(fleet))
    if pointer is None:
        return STOCK
    what = f"image {pointer.image}, since {pointer.since:%Y-%m-%d %H:%M}Z"
    bake = await documents.get(Bake, bake_key(fleet, pointer.bake)) if pointer.bake else None
    steps = bake.provision.steps if bake is not None and bake.provision is not None else ()
    if not steps:
        return Start(pointer.image, None, f"{what}, of which no bake's record says what it has done")
    return Start(pointer.image, ledger_of(steps), f"{what}, of bake {pointer.bake}")


def _label(step: PlannedStep, others: list[str], image: Explained | None) -> Text:
    label = Text(f"{step.step} ", style="bold")
    label.append(_about(step, others), style="dim")
    if image is None:
        return label.append(f"  {UNKNOWN}  whether it runs is not known", style="yellow")
    style = "green" if not image.runs else "cyan"
    return label.append(f"  {'runs' if image.runs else 'done'}: {'; '.join(image.reasons)}", style=style)


def _about(step: PlannedStep, others: list[str]) -> str:
    """Return what a step is, in brackets."""
    what = {"run": "run", "sync": f"sync {step.component} {step.version} to {step.to}", "check": f"check {step.url}"}
    more = [f"as {step.user}"] if step.user else []
    more += [f"{step.retry.tries} tries"] if step.retry.tries > 1 else []
    more += [f"needs {', '.join(others)} too"] if others else []
    return f"({', '.join([what[step.kind], *more])})"


def _step_dict(step: PlannedStep, empty: Explained, image: Explained | None) -> dict[str, object]:
    about = step.model_dump(
        include={"step", "kind", "needs", "timeout_s", "retry", "user", "component", "version", "fingerprint", "parts"}
    )
    return {**about, "on_empty": _told(empty), "on_image": _told(image) if image else None}


def _told(explained: Explained) -> dict[str, object]:
    return {name: value for name, value in asdict(explained).items() if name != "step"}
