"""``python -m ops release ...``: the commands. What they do is in ``ops.releases``."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from ops.cli import Component, DryRun, FleetOption, Output, VersionName, progress, with_cloud

if TYPE_CHECKING:
    from ops.collecting import Needs
    from ops.releases import ComponentState, Difference, Uses
    from shared.aws import Cloud
    from shared.components import Components
    from shared.records import Release

release = typer.Typer(
    help="Publish releases of a component, say which one a fleet runs, and see what uses what.", no_args_is_help=True
)

SHOWN = 20
"""Paths that a person is shown of each kind; ``-o json`` has all."""

By = Annotated[str, typer.Option(help="Who sets it.", default_factory=getpass.getuser, show_default="you")]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the history.")]
Follow = Annotated[
    bool | None,
    typer.Option(
        "--rollout/--launches-only",
        help="Bring servers in service to it too, a few at a time, or let only launches and bakes use it."
        " Left out, the fleet's policies.rollout.automatic says (true unless described otherwise).",
    ),
]
ComponentArgument = Annotated[str, typer.Argument(metavar="COMPONENT")]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION")]


@release.command("publish")
def publish_release(component: Component, version: VersionName, directory: Path, output: Output = "text") -> None:
    """Publish a directory as a release. What earlier releases have is not uploaded again.

    Example: python -m ops release publish --component monolith --version 412 build/monolith
    """
    from ops import releases

    async def publish(cloud: Cloud) -> None:
        info = await releases.publish(cloud, component, version, directory, progress(output))
        if output == "json":
            typer.echo(info.model_dump_json())
        elif info.existed:
            typer.echo(f"release {version} of {component} was published before, with the same content")
        else:
            files, size, moved = info.files, info.size / 1e6, info.uploaded / 1e6
            typer.echo(f"release {version} of {component}: {files} files, {size:.0f} MB, {moved:.1f} MB uploaded")

    with_cloud(publish)


@release.command("set")
def set_release(
    fleet_name: FleetOption,
    component: Component,
    version: VersionName,
    by: By,
    reason: Reason = "",
    rollout: Follow = None,
    dry_run: DryRun = False,
    output: Output = "text",
) -> None:
    """Make a release the one that the fleet runs: next launches and bakes at once, servers in service by a rollout.

    Setting the release that is set already changes nothing, unless it counts as broken or its rollout has stopped: then
    it gets another chance.

    Example: python -m ops release set --fleet web --component monolith --version 414 --reason "search is faster"
    """

    async def change(cloud: Cloud) -> None:
        components = components_of(cloud)
        if dry_run:
            await components.check(fleet_name, component, version)
            now = (await components.standing(fleet_name, component)).current
            _would(fleet_name, component, now, version, output)
            return
        done = await components.set(fleet_name, component, version, by=by, reason=reason, rollout=rollout)
        _tell_set(fleet_name, *done, output)

    with_cloud(change)


@release.command("undo")
def undo_release(
    fleet_name: FleetOption,
    component: Component,
    by: By,
    reason: Reason = "",
    rollout: Follow = None,
    dry_run: DryRun = False,
    output: Output = "text",
) -> None:
    """Go back to the release that was set before the present one. Twice is back where it began.

    Example: python -m ops release undo --fleet web --component monolith --reason "checkout is slow"
    """

    async def change(cloud: Cloud) -> None:
        components = components_of(cloud)
        if dry_run:
            now = (await components.standing(fleet_name, component)).current
            _would(fleet_name, component, now, now.previous if now else None, output)
            return
        done = await components.undo(fleet_name, component, by=by, reason=reason, rollout=rollout)
        _tell_set(fleet_name, *done, output)

    with_cloud(change)


@release.command("list")
def list_releases(
    component: Annotated[str | None, typer.Option(help="List this component's versions, and what uses them.")] = None,
    fleet_name: Annotated[str | None, typer.Option("--fleet", help="List this fleet's components.")] = None,
    output: Output = "text",
) -> None:
    """List a fleet's components with the release that each runs, or a component's versions with what uses them.

    Examples: python -m ops release list --fleet web; python -m ops release list --component monolith -o json
    """
    from ops import releases
    from ops.releases import Refusal
    from shared.fleets import Fleets

    async def show(cloud: Cloud) -> None:
        components = components_of(cloud)
        if component is not None:
            _show_uses(await releases.uses(cloud, components, component), output)
        elif fleet_name is not None:
            fleet = await Fleets(cloud.objects).get(fleet_name)
            _show_states(await releases.component_states(components, cloud.objects, fleet), output)
        else:
            raise Refusal("say what to list: --fleet FLEET for its components, or --component COMPONENT for versions")

    with_cloud(show)


@release.command("show")
def show_release(component: ComponentArgument, version: VersionArgument, output: Output = "text") -> None:
    """Show a release: what it holds, and which fleets, bakes and images use it.

    Example: python -m ops release show monolith 414
    """
    from ops import releases

    async def show(cloud: Cloud) -> None:
        info = await releases.described(cloud, components_of(cloud), component, version)
        if output == "json":
            typer.echo(orjson.dumps(info))
            return
        typer.echo(f"release {version} of {component}: {info['files']} files, {info['bytes'] / 1e6:.1f} MB")
        for what in ("fleets", "bakes", "images"):
            typer.echo(f"{what:8} {', '.join(info[what]) or 'none'}")

    with_cloud(show)


@release.command("diff")
def diff_releases(
    component: ComponentArgument,
    before: Annotated[str, typer.Argument(metavar="A")],
    after: Annotated[str, typer.Argument(metavar="B")],
    output: Output = "text",
) -> None:
    """Show what changes from release A to release B: files, bytes, and the plan steps of each fleet that it touches.

    Example: python -m ops release diff monolith 412 414
    """
    from ops import releases
    from shared.clock import SystemClock

    async def show(cloud: Cloud) -> None:
        found = await releases.difference(cloud, SystemClock(), components_of(cloud), component, before, after)
        typer.echo(orjson.dumps(found.as_dict()) if output == "json" else "\n".join(_difference(found)))

    with_cloud(show)


@release.command("retire")
def retire_release(
    component: Component, version: VersionName, dry_run: DryRun = False, output: Output = "text"
) -> None:
    """Take a release off the list that no fleet, server or image needs; gc deletes later what only it needed.

    Example: python -m ops release retire --component monolith --version 398
    """
    from ops.collecting import retire

    async def run(cloud: Cloud) -> None:
        await retire(needs_of(cloud), component, version, getpass.getuser(), dry_run)
        if output == "json":
            typer.echo(orjson.dumps({"component": component, "retired": version, "dry_run": dry_run}))
        else:
            typer.echo(f"release {version} of {component} {'would be' if dry_run else 'is'} retired")

    with_cloud(run)


@release.command("gc")
def collect_garbage(
    component: Component,
    hours: Annotated[float, typer.Option(help="Delete what has been known as garbage for so long; at least 1.")] = 24,
    dry_run: DryRun = False,
    output: Output = "text",
) -> None:
    """Mark content that no listed release needs, and delete what an earlier run marked long enough ago.

    Nothing goes that a listed release, a fleet or an image needs; where that cannot be told in full, nothing goes.

    Example: python -m ops release gc --component monolith --dry-run
    """
    from datetime import timedelta

    from ops.collecting import collect

    async def run(cloud: Cloud) -> None:
        age, who = timedelta(hours=hours), getpass.getuser()
        found = await collect(needs_of(cloud), component, age, who, dry_run)
        if output == "json":
            typer.echo(orjson.dumps({**found.as_dict(), "dry_run": dry_run}))
            return
        what = "would be deleted" if dry_run else "deleted"
        typer.echo(f"{component}: {len(found.deleted)} objects {what}, {len(found.waiting)} wait until they are older")
        typer.echo(f"{len(found.marked)} {'would be' if dry_run else 'are'} marked for a later run")

    with_cloud(run)


def needs_of(cloud: Cloud) -> Needs:
    """Return where it is found out what needs releases."""
    from ops.collecting import Needs
    from shared.clock import SystemClock

    return Needs(cloud.objects, cloud.servers, components_of(cloud), SystemClock())


def components_of(cloud: Cloud) -> Components:
    """Return the fleets' components as this cloud has them."""
    from shared.clock import SystemClock
    from shared.components import Components

    return Components(cloud.objects, cloud.publisher, SystemClock())


def _would(fleet: str, component: str, now: Release | None, version: str | None, output: str) -> None:
    present = now.version if now else None
    if output == "json":
        typer.echo(orjson.dumps({"component": component, "from": present, "to": version}))
    elif version is None:
        typer.echo(f"there is no earlier release of {component} to go back to")
    else:
        typer.echo(f"would change {component} of fleet {fleet} from {present or 'no release'} to {version}")


def _tell_set(fleet: str, pointer: Release, changed: bool, output: str) -> None:
    if output == "json":
        typer.echo(orjson.dumps({**pointer.model_dump(mode="json", by_alias=True), "changed": changed}))
        return
    what = f"release {pointer.version} of {pointer.component}"
    if not changed:
        typer.echo(f"fleet {fleet} runs {what} already")
        return
    typer.echo(f"fleet {fleet} runs {what} from the next launch on")
    if pointer.rollout:
        typer.echo(f"servers in service follow; watch with: python -m ops rollout show {fleet} --watch")
    if pointer.previous is not None:
        typer.echo(f"back again with: python -m ops release undo --fleet {fleet} --component {pointer.component}")


def _show_states(states: list[ComponentState], output: str) -> None:
    if output == "json":
        typer.echo(orjson.dumps([state.as_dict() for state in states]))
        return
    typer.echo(f"{'component':20} {'current':12} {'last good':12} {'set by':16} {'since':20} versions")
    for state in states:
        typer.echo(
            f"{state.component:20} {state.current or '-':12} {state.good or '-':12} {state.by or '-':16} "
            f"{state.since or '-':20} {', '.join(state.versions[-8:]) or 'none'}"
        )
        if state.broken:
            typer.echo(f"{'':20} {state.current} is broken for this fleet: {state.broken}")


def _show_uses(found: list[Uses], output: str) -> None:
    if output == "json":
        typer.echo(orjson.dumps([each.as_dict() for each in found]))
        return
    typer.echo(f"{'version':12} {'fleets':44} {'bakes':>6} images")
    for each in found:
        fleets, images = ", ".join(each.fleets) or "-", ", ".join(each.images) or "-"
        typer.echo(f"{each.version:12} {fleets:44} {len(each.bakes):6} {images}")


def _difference(found: Difference) -> list[str]:
    from ops.releases import listed

    lines = [f"{found.component} {found.before} -> {found.after}"]
    for what, sign, paths, size in (
        ("added", "+", found.added, found.added_bytes),
        ("changed", "~", found.changed, found.changed_bytes),
        ("removed", "-", found.removed, found.removed_bytes),
    ):
        lines.append(f"{len(paths)} {what}, {size / 1e6:.1f} MB")
        lines += [f"  {sign} {path}" for path in listed(paths, SHOWN)]
    lines += [f"fleet {fleet}: runs {', '.join(steps) or 'nothing'} again" for fleet, steps in found.steps.items()]
    return lines
