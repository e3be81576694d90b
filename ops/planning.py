"""``python -m ops plan ...``: the commands. What they do is in ``ops.plans``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from ops.cli import Output, sentences, with_cloud

if TYPE_CHECKING:
    from ops.plans import PlanView
    from shared.aws import Cloud

plan = typer.Typer(help="Look at what a fleet's servers run, and why.", no_args_is_help=True)


@plan.command("show")
def show_plan(
    fleet: Annotated[str, typer.Argument(metavar="FLEET", help="The fleet, or the YAML file that describes it.")],
    offline: Annotated[bool, typer.Option("--offline", help="Ask nobody: releases and image stay unknown.")] = False,
    output: Output = "text",
) -> None:
    """Show a fleet's plan as a tree: what runs on a server from the current image, and why. On a bare one, all runs.

    With a YAML file, what would run if that description was applied now.

    Example: python -m ops plan show web; python -m ops plan show examples/web/fleet.yaml --offline
    """
    from ops.plans import offline_view, view
    from ops.releasing import components_of

    async def ask(cloud: Cloud) -> None:
        _show(await view(cloud.objects, components_of(cloud), fleet), output)

    if not offline:
        with_cloud(ask)
        return
    with sentences():
        _show(offline_view(fleet), output)


def _show(shown: PlanView, output: str) -> None:
    """Print it: in colour and folded on a terminal, elsewhere as plain text, one line each."""
    from rich.console import Console

    from ops.plans import tree

    if output == "json":
        typer.echo(orjson.dumps(shown.as_dict()))
    else:
        Console(highlight=False, width=None if os.isatty(1) else 10_000).print(tree(shown))
