"""The command line: ``python -m ops COMMAND``. Everything that takes time to import is imported where it is used."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from ops.cli import Output, counting, sentences, until_terminated, with_clients
from ops.launching import launch
from ops.planning import plan
from ops.releasing import release
from ops.showing import explain_command, rollout
from shared.names import ServiceName

if TYPE_CHECKING:
    from shared.aws.session import Clients

FOLDER = Path(".localcloud")
EXAMPLE = Path("examples/web/fleet.yaml")
PORT = 4566

app = typer.Typer(help="Keep fleets of servers at strength.", no_args_is_help=True, add_completion=False)
fleet = typer.Typer(help="Describe fleets.", no_args_is_help=True)
app.add_typer(release, name="release")
app.add_typer(launch, name="launch")
app.add_typer(rollout, name="rollout")
app.add_typer(plan, name="plan")
app.command("explain")(explain_command)
queues = typer.Typer(help="Look at the services' queues, and at what died in them.", no_args_is_help=True)
app.add_typer(fleet, name="fleet")
app.add_typer(queues, name="queues")

Port = Annotated[int, typer.Option(help="Where the local cloud listens, on 127.0.0.1.")]
Folder = Annotated[Path, typer.Option(help="Where the local cloud keeps its disks, logs and process records.")]
Service = Annotated[ServiceName, typer.Argument(help="The service whose queue it is.")]


@app.command()
def demo(
    port: Port = PORT,
    folder: Folder = FOLDER,
    report: Annotated[Path, typer.Option(help="Where report.json and report.html go.")] = Path("demo-report"),
    scale: Annotated[float, typer.Option(help="How much code there is: 1 is about 300 MB in 20,000 files.")] = 1.0,
) -> None:
    """Watch a fleet heal itself: ten stages on this machine, each asserted. Exits 1 where one fails.

    Example: python -m ops demo --report /tmp/report
    """
    from ops.demo.run import run_demo

    with sentences():
        raise typer.Exit(until_terminated(run_demo(folder, port, EXAMPLE, report, scale)))


@app.command()
def up(port: Port = PORT, folder: Folder = FOLDER, description: Path = EXAMPLE) -> None:
    """Start the local cloud, the six services and the example's fleet, and leave them running.

    Example: python -m ops up; then try what it prints; end it with: python -m ops down
    """
    from ops.local import bring_up

    with sentences():
        until_terminated(bring_up(folder, port, description, typer.echo))


@app.command()
def down(folder: Folder = FOLDER) -> None:
    """End what 'up' started, and whatever an interrupted run left behind.

    Example: python -m ops down
    """
    from ops.local import take_down

    with sentences():
        ended = take_down(folder)
    typer.echo(f"ended {', '.join(ended)}" if ended else "nothing was running")


@fleet.command("check")
def check_fleet(description: Path) -> None:
    """Check a fleet's description without touching anything.

    Example: python -m ops fleet check examples/web/fleet.yaml
    """
    from deploy.fleet import read_fleet

    with sentences():
        described = read_fleet(description)
    typer.echo(f"{description}: fleet {described.fleet}, {len(described.plan)} steps: fine")


@fleet.command("apply")
def apply_fleet(description: Path) -> None:
    """Create or update a fleet's launch template, Auto Scaling group and description.

    Example: python -m ops fleet apply examples/web/fleet.yaml
    """
    from deploy.fleet import read_fleet
    from deploy.group import apply_group

    with sentences():
        described = read_fleet(description)
        asyncio.run(apply_group(described))
    typer.echo(f"fleet {described.fleet} is applied")


@queues.command("list")
def list_queues(output: Output = "text") -> None:
    """Show each service's queue: what waits, is being handled and is delayed; the oldest's age; the dead letters.

    Example: python -m ops queues list -o json
    """
    from ops.queues import states
    from shared.clock import SystemClock

    async def show(clients: Clients) -> None:
        found = await states(clients, SystemClock())
        if output == "json":
            typer.echo(orjson.dumps([state.as_dict() for state in found]))
            return
        typer.echo(f"{'service':12}{'waiting':>9}{'in flight':>11}{'delayed':>9}{'oldest':>10}{'dead':>6}")
        for state in found:
            age = "unknown" if state.oldest_s is None else f"{state.oldest_s:.0f} s"
            counts = f"{state.waiting:9}{state.in_flight:11}{state.delayed:9}"
            typer.echo(f"{state.service:12}{counts}{age:>10}{state.dead:6}")

    with_clients(show)


@queues.command("peek")
def peek_queue(
    service: Service,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many letters to show.")] = 10,
    output: Output = "text",
) -> None:
    """Show a service's dead letters and why they died. They stay where they are; being looked at is counted.

    Example: python -m ops queues peek registry --limit 3
    """
    from ops.queues import letters, shortened

    async def show(clients: Clients) -> None:
        found = await letters(clients, service, limit)
        if output == "json":
            typer.echo(orjson.dumps([letter.as_dict() for letter in found]))
            return
        for letter in found:
            typer.echo(f"{letter.sent:%Y-%m-%d %H:%M:%S}Z  {letter.type or 'of no known type'}  message {letter.id}")
            typer.echo(f"  reason  {shortened(letter.reason, 300) or 'none given: SQS itself moved it'}")
            typer.echo(f"  trace   {letter.trace or 'none'}; looked at {letter.receives} times")
            typer.echo(f"  body    {shortened(letter.body, 160)}")
        if not found:
            typer.echo(f"{service} has no dead letters that can be seen now")

    with_clients(show)


@queues.command("redrive")
def redrive_queue(
    service: Service,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would move, and move nothing.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Move no more than so many.")] = None,
    output: Output = "text",
) -> None:
    """Put a service's dead letters back into its queue. Exits 1 where some could not be moved.

    Example: python -m ops queues redrive registry --dry-run
    """
    from ops.queues import redrivable, redrive

    async def move(clients: Clients) -> int:
        if dry_run:
            count = await redrivable(clients, service, limit)
            told: object = {"would_move": count}
            typer.echo(orjson.dumps(told) if output == "json" else f"would move {count} dead letters of {service} back")
            return 0
        done = await redrive(clients, service, limit, counting("moved", output))
        text = (
            f"{service}: {done.moved} dead letters moved back, {done.failed} could not be moved, {done.left} are left"
        )
        typer.echo(orjson.dumps(done.as_dict()) if output == "json" else text)
        return 1 if done.failed else 0

    raise typer.Exit(with_clients(move))


if __name__ == "__main__":
    app()
