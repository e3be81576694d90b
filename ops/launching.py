"""``python -m ops launch``: the commands. What they tell is in ``ops.launches``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from ops.cli import FleetArgument, Output, with_cloud

if TYPE_CHECKING:
    from ops.launches import Line, StepPace, Told
    from shared.aws import Cloud

launch = typer.Typer(help="See where the time of launches went.", no_args_is_help=True)

ServerArgument = Annotated[str, typer.Argument(metavar="SERVER")]


@launch.command("list")
def list_launches(
    fleet: FleetArgument,
    everything: Annotated[bool, typer.Option("--all", help="Also of servers that are gone.")] = False,
    output: Output = "text",
) -> None:
    """List launches, the latest first: what each took, and its slowest step.

    Example: python -m ops launch list web --all -o json
    """
    from ops.launches import launches
    from shared.clock import SystemClock

    async def look(cloud: Cloud) -> None:
        found = await launches(cloud, SystemClock(), fleet, all_of_them=everything)
        as_json = orjson.dumps([each.as_dict() for each in found])
        typer.echo(as_json if output == "json" else "\n".join(_table(fleet, found)))

    with_cloud(look)


@launch.command("show")
def show_launch(fleet: FleetArgument, server: ServerArgument, output: Output = "text") -> None:
    """Show where one launch's time went: boot, each step with its work, and the ways between.

    Example: python -m ops launch show web i-0123456789abcdef0
    """
    from ops.launches import show
    from shared.clock import SystemClock

    async def look(cloud: Cloud) -> None:
        found = await show(cloud, SystemClock(), fleet, server)
        typer.echo(orjson.dumps(found.as_dict()) if output == "json" else "\n".join(_page(found)))

    with_cloud(look)


@launch.command("pace")
def show_pace(fleet: FleetArgument, output: Output = "text") -> None:
    """Show how long each step takes now and usually took. Exits 1 where one has become much slower.

    Example: python -m ops launch pace web
    """
    from ops.launches import pace

    async def look(cloud: Cloud) -> int:
        found = await pace(cloud, fleet)
        typer.echo(orjson.dumps(found) if output == "json" else "\n".join(_paces(fleet, found)))
        return 1 if any(each.slow for each in found) else 0

    raise typer.Exit(with_cloud(look))


def _table(fleet: str, found: list[Told]) -> list[str]:
    if not found:
        return [f"no launch of {fleet} is on record"]
    heads = f"{'server':21}{'ordered (UTC)':21}{'result':9}{'total s':>8}{'boot s':>8}{'steps s':>9}{'MB':>8}"
    lines = [f"{heads}  slowest step"]
    for each in found:
        steps = each.steps
        slowest = max(steps, key=lambda line: line.seconds, default=None)
        named = f"{slowest.what} {slowest.seconds:.1f} s" if slowest else "-"
        figures = f"{each.seconds:8.1f}{each.of('hook', 'boot'):8.1f}{_span(steps):9.1f}"
        moved = sum(line.bytes or 0 for line in steps) / 1e6
        when = f"{each.ordered:%Y-%m-%d %H:%M:%S}"
        lines.append(f"{each.server:21}{when:21}{each.result:9}{figures}{moved:8.1f}  {named}")
    return lines


def _span(steps: list[Line]) -> float:
    """Return how long the steps took from the first's begin to the last's end; they may run side by side."""
    if not steps:
        return 0.0
    return max((line.at_s or 0.0) + line.seconds for line in steps) - min(line.at_s or 0.0 for line in steps)


def _page(told: Told) -> list[str]:
    releases = ", ".join(f"{name} {version}" for name, version in told.releases.items()) or "no release"
    how = "catch-up from" if told.from_image else "full plan on"
    lines = [
        f"{told.server} of {told.fleet}: {told.result}, {told.seconds:.1f} s since EC2 was asked for it at "
        f"{told.ordered:%Y-%m-%d %H:%M:%S} UTC",
        f"{how} {told.image}, {releases}{f'; trace {told.trace}' if told.trace else ''}",
        *([told.reason] if told.reason else []),
        "",
        f"{'at s':>8}{'took s':>9}{'CPU s':>8}{'waits s':>9}{'MB':>9}{'requests':>10}",
    ]
    return [*lines, *(_line(line) for line in told.lines)]


def _line(line: Line) -> str:
    if line.at_s is None:
        return f"{'-':>8}{'-':>9}{'':36}  step {line.what}: {line.result}"
    times = f"{line.at_s:8.1f}{line.seconds:9.1f}"
    if line.kind == "phase":
        return f"{times}{'':36}  {line.what}"
    if line.cpu_seconds is None:
        return f"{times}{'':36}  step {line.what}: {line.result}"
    work = f"{line.cpu_seconds:8.1f}{line.waiting_seconds:9.1f}{(line.bytes or 0) / 1e6:9.1f}{line.requests:10}"
    return f"{times}{work}  step {line.what}: {line.result}"


def _paces(fleet: str, found: list[StepPace]) -> list[str]:
    if not found:
        return [f"no launch from an image and no bake of {fleet} has ended yet"]
    lines = [f"{'of a':9}{'step':24}{'runs':>6}{'latest s':>10}{'usual s':>10}"]
    for each in found:
        usual = "-" if each.usual_s is None else f"{each.usual_s:.1f}"
        mark = "  much slower" if each.slow else ""
        lines.append(f"{each.kind:9}{each.step:24}{each.runs:6}{each.latest_s:10.1f}{usual:>10}{mark}")
    return [*lines, *(each.slow for each in found if each.slow)]
