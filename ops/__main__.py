"""The command line: ``python -m ops COMMAND``. Everything that takes time to import is imported where it is used."""

from __future__ import annotations

import asyncio
import getpass
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import orjson
import typer

from shared.names import ServiceName

if TYPE_CHECKING:
    from shared.aws import Cloud
    from shared.aws.session import Clients

T = TypeVar("T")

FOLDER = Path(".localcloud")
EXAMPLE = Path("examples/web/fleet.yaml")
PORT = 4566

app = typer.Typer(help="Keep fleets of servers at strength.", no_args_is_help=True, add_completion=False)
release = typer.Typer(help="Publish releases of a component, and say which one a fleet runs.", no_args_is_help=True)
fleet = typer.Typer(help="Describe fleets.", no_args_is_help=True)
app.add_typer(release, name="release")
queues = typer.Typer(help="Look at the services' queues, and at what died in them.", no_args_is_help=True)
app.add_typer(fleet, name="fleet")
app.add_typer(queues, name="queues")

Port = Annotated[int, typer.Option(help="Where the local cloud listens, on 127.0.0.1.")]
Folder = Annotated[Path, typer.Option(help="Where the local cloud keeps its disks, logs and process records.")]
Output = Annotated[Literal["text", "json"], typer.Option("-o", "--output", help="For people, or for programs.")]
Component = Annotated[str, typer.Option(help="The component, as the fleet's plan names it.")]
VersionName = Annotated[str, typer.Option("--version", help="The release's version.")]
FleetOption = Annotated[str, typer.Option("--fleet", help="The fleet.")]
Service = Annotated[ServiceName, typer.Argument(help="The service whose queue it is.")]


@app.command()
def demo(
    port: Port = PORT,
    folder: Folder = FOLDER,
    report: Annotated[Path, typer.Option(help="Where report.json and report.html go.")] = Path("demo-report"),
) -> None:
    """Watch a fleet heal itself: nine stages on this machine, each asserted. Exits 1 where one fails.

    Example: python -m ops demo --report /tmp/report
    """
    from ops.demo.run import run_demo

    with _sentences():
        raise typer.Exit(asyncio.run(run_demo(folder, port, EXAMPLE, report)))


@app.command()
def up(port: Port = PORT, folder: Folder = FOLDER, description: Path = EXAMPLE) -> None:
    """Start the local cloud, the six services and the example's fleet, and leave them running.

    Example: python -m ops up; then try what it prints; end it with: python -m ops down
    """
    from ops.local import bring_up

    with _sentences():
        asyncio.run(bring_up(folder, port, description, typer.echo))


@app.command()
def down(folder: Folder = FOLDER) -> None:
    """End what 'up' started, and whatever an interrupted run left behind.

    Example: python -m ops down
    """
    from ops.local import take_down

    with _sentences():
        ended = take_down(folder)
    typer.echo(f"ended {', '.join(ended)}" if ended else "nothing was running")


@fleet.command("check")
def check_fleet(description: Path) -> None:
    """Check a fleet's description without touching anything.

    Example: python -m ops fleet check examples/web/fleet.yaml
    """
    from deploy.fleet import read_fleet

    with _sentences():
        described = read_fleet(description)
    typer.echo(f"{description}: fleet {described.fleet}, {len(described.plan)} steps: fine")


@fleet.command("apply")
def apply_fleet(description: Path) -> None:
    """Create or update a fleet's launch template, Auto Scaling group and description.

    Example: python -m ops fleet apply examples/web/fleet.yaml
    """
    from deploy.fleet import read_fleet
    from deploy.group import apply_group

    with _sentences():
        described = read_fleet(description)
        asyncio.run(apply_group(described))
    typer.echo(f"fleet {described.fleet} is applied")


@release.command("publish")
def publish_release(component: Component, version: VersionName, directory: Path, output: Output = "text") -> None:
    """Publish a directory as a release. What earlier releases have is not uploaded again.

    Example: python -m ops release publish --component monolith --version 412 build/monolith
    """
    from ops import releases

    async def publish(cloud: Cloud) -> None:
        info = await releases.publish(cloud, component, version, directory, _progress(output))
        if output == "json":
            typer.echo(info.model_dump_json())
        elif info.existed:
            typer.echo(f"release {version} of {component} was published before, with the same content")
        else:
            files, size, moved = info.files, info.size / 1e6, info.uploaded / 1e6
            typer.echo(f"release {version} of {component}: {files} files, {size:.0f} MB, {moved:.1f} MB uploaded")

    _with_cloud(publish)


@release.command("set")
def set_release(
    fleet_name: FleetOption,
    component: Component,
    version: VersionName,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")] = False,
) -> None:
    """Make a release the one that the fleet's next launches and bakes use.

    Example: python -m ops release set --fleet web --component monolith --version 412
    """
    from ops import releases
    from shared.clock import SystemClock

    async def change(cloud: Cloud) -> None:
        if dry_run:
            states = await releases.component_states(cloud, fleet_name)
            now = {state.component: state.current for state in states}.get(component)
            typer.echo(f"would change {component} of fleet {fleet_name} from {now or 'no release'} to {version}")
            return
        await releases.set_release(cloud, SystemClock(), fleet_name, component, version, getpass.getuser())
        typer.echo(f"fleet {fleet_name} runs release {version} of {component} from the next launch on")

    _with_cloud(change)


@release.command("list")
def list_releases(fleet_name: FleetOption, output: Output = "text") -> None:
    """List a fleet's components: the release that it runs, and those that there are.

    Example: python -m ops release list --fleet web -o json
    """
    from ops import releases

    async def show(cloud: Cloud) -> None:
        states = await releases.component_states(cloud, fleet_name)
        if output == "json":
            typer.echo(orjson.dumps([state.as_dict() for state in states]))
            return
        for state in states:
            typer.echo(f"{state.component:20} {state.current or '-':12} of {', '.join(state.versions) or 'none'}")

    _with_cloud(show)


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

    _with_clients(show)


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

    _with_clients(show)


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
        done = await redrive(clients, service, limit, _counting("moved", output))
        text = (
            f"{service}: {done.moved} dead letters moved back, {done.failed} could not be moved, {done.left} are left"
        )
        typer.echo(orjson.dumps(done.as_dict()) if output == "json" else text)
        return 1 if done.failed else 0

    raise typer.Exit(_with_clients(move))


def _with_clients(work: Callable[[Clients], Awaitable[T]]) -> T:
    from shared.aws.session import open_clients

    async def run() -> T:
        async with open_clients() as clients:
            return await work(clients)

    with _sentences():
        return asyncio.run(run())


def _counting(done_what: str, output: str) -> Callable[[int, int], None] | None:
    """Return a line that counts up once something takes two seconds, for a person at a terminal only."""
    from shared.clock import SystemClock

    if output == "json" or not os.isatty(2):
        return None
    clock = SystemClock()
    began = clock.monotonic()

    def show(done: int, of: int) -> None:
        if clock.monotonic() - began > 2:
            typer.echo(f"\r{done} of {of} {done_what}", nl=done == of, err=True)

    return show


def _with_cloud(work: Callable[[Cloud], Awaitable[T]]) -> T:
    from ops.settings import OperatorSettings
    from shared.aws import open_cloud
    from shared.clock import SystemClock

    async def run() -> T:
        async with open_cloud(OperatorSettings.read(), "ops", SystemClock()) as cloud:
            return await work(cloud)

    with _sentences():
        return asyncio.run(run())


def _progress(output: str) -> Callable[[int, int], None] | None:
    """Return a line that counts up, for a person at a terminal only."""
    if output == "json" or not os.isatty(2):
        return None

    def show(done: int, of: int) -> None:
        typer.echo(f"\r{done / 1e6:.0f} of {of / 1e6:.0f} MB read", nl=done == of, err=True)

    return show


@contextmanager
def _sentences() -> Iterator[None]:
    """Turn what a person can mend into one sentence and exit code 2; everything else keeps its traceback."""
    from ops.sentences import EXPECTED, sentence

    try:
        yield
    except EXPECTED as error:
        typer.secho(sentence(error), fg="red", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
