"""``python -m ops rollout show`` and ``python -m ops explain``: the commands. What they tell is in ``ops.rollouts``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from ops.cli import FleetArgument, Output, with_cloud

if TYPE_CHECKING:
    from ops.rollouts import View
    from shared.aws import Cloud

rollout = typer.Typer(help="See who is on what while a release comes to servers in service.", no_args_is_help=True)

LOOK_S = 2.0
ServerArgument = Annotated[str | None, typer.Argument(metavar="[SERVER]", help="One of its servers.")]


@rollout.command("show")
def show_rollout(
    fleet: FleetArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Tell every change until it is done or stopped.")] = False,
    output: Output = "text",
) -> None:
    """Show each server with its image, its releases, and how it stands in the rollout. Exits 1 where that stopped.

    Example: python -m ops rollout show web --watch
    """
    from ops.rollouts import show
    from shared.clock import SystemClock

    async def look(cloud: Cloud) -> int:
        clock, said = SystemClock(), None
        while True:
            view = await show(cloud, fleet)
            if view != said:
                typer.echo(orjson.dumps(view.as_dict()) if output == "json" else "\n".join(_table(view)))
            said = view
            if not watch or view.state != "running":
                return 1 if view.state == "stopped" else 0
            await clock.sleep(LOOK_S)

    raise typer.Exit(with_cloud(look))


def explain_command(fleet: FleetArgument, server: ServerArgument = None, output: Output = "text") -> None:
    """Explain why a fleet, or one of its servers, is as it is: strength, image, releases, rollout, alerts, budget.

    Examples: python -m ops explain web; python -m ops explain web i-0123456789abcdef0 -o json
    """
    from ops.releasing import components_of
    from ops.rollouts import explain, explain_server
    from shared.clock import SystemClock

    async def look(cloud: Cloud) -> None:
        if server is not None:
            found = await explain_server(cloud, fleet, server)
        else:
            found = await explain(cloud, components_of(cloud), SystemClock(), fleet)
        typer.echo(orjson.dumps(found) if output == "json" else "\n".join(_told(found)))

    with_cloud(look)


def _table(view: View) -> list[str]:
    releases = ", ".join(f"{name} {version}" for name, version in view.releases.items()) or "nothing"
    because = f": {view.why}" if view.why else ""
    lines = [f"rollout {view.number} of {releases} to {view.fleet} is {view.state}{because}"]
    lines.append(f"{'server':21}{'state':14}{'rollout':13}{'image':24}releases")
    for each in view.servers:
        runs = ", ".join(f"{name} {version}" for name, version in each.releases.items()) or "unknown"
        lines.append(f"{each.server:21}{each.state:14}{each.rollout:13}{each.image or '-':24}{runs}")
        lines += [f"{'':21}{each.reason}"] if each.reason else []
    return lines


def _told(found: dict[str, Any], indent: str = "") -> list[str]:
    """Return what was found, a line for each thing that is known; nested things are indented."""
    lines = []
    for name, value in found.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", *_told(value, indent + "  ")]
        elif isinstance(value, list):
            lines.append(f"{indent}{name}{'' if value else ': none'}")
            for each in value:
                inner = _told(each, indent + "    ") if isinstance(each, dict) else [f"{indent}    {each}"]
                lines += [f"{indent}  - {inner[0].strip()}", *inner[1:]] if inner else []
        elif value not in (None, ""):
            lines.append(f"{indent}{name}: {value}")
    return lines
