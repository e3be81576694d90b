"""What the commands share: options, errors as sentences, AWS as the environment describes it, lines that count up.

Everything that takes time to import is imported where it is used: the AWS client alone takes most of a second.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

if TYPE_CHECKING:
    from shared.aws import Cloud
    from shared.aws.session import Clients

T = TypeVar("T")

TERMINATED = 128 + signal.SIGTERM
"""The exit code that shells give to what ended by SIGTERM."""

Output = Annotated[Literal["text", "json"], typer.Option("-o", "--output", help="For people, or for programs.")]
FleetArgument = Annotated[str, typer.Argument(metavar="FLEET")]
FleetOption = Annotated[str, typer.Option("--fleet", help="The fleet.")]
Component = Annotated[str, typer.Option(help="The component, as the fleet's plan names it.")]
VersionName = Annotated[str, typer.Option("--version", help="The release's version.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")]


def with_clients(work: Callable[[Clients], Awaitable[T]]) -> T:
    """Run a command's work with AWS clients, and return what it returns."""
    from shared.aws.session import open_clients

    async def run() -> T:
        async with open_clients() as clients:
            return await work(clients)

    with sentences():
        return asyncio.run(run())


def counting(done_what: str, output: str) -> Callable[[int, int], None] | None:
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


def with_cloud(work: Callable[[Cloud], Awaitable[T]]) -> T:
    """Run a command's work with the ports to AWS, and return what it returns."""
    from ops.settings import OperatorSettings
    from shared.aws import open_cloud
    from shared.clock import SystemClock

    async def run() -> T:
        async with open_cloud(OperatorSettings.read(), "ops", SystemClock()) as cloud:
            return await work(cloud)

    with sentences():
        return asyncio.run(run())


def until_terminated(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work. SIGTERM cancels it, so that it ends what it has started; the exit code is 143 then."""
    terminated = False

    async def run() -> T:
        task = asyncio.current_task()
        assert task is not None

        def end() -> None:
            nonlocal terminated
            if not terminated:
                terminated = task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
        return await work

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        if not terminated:
            raise
        raise typer.Exit(TERMINATED) from None


def progress(output: str) -> Callable[[int, int], None] | None:
    """Return a line that counts up, for a person at a terminal only."""
    if output == "json" or not os.isatty(2):
        return None

    def show(done: int, of: int) -> None:
        typer.echo(f"\r{done / 1e6:.0f} of {of / 1e6:.0f} MB done", nl=done == of, err=True)

    return show


@contextmanager
def sentences() -> Iterator[None]:
    """Turn what a person can mend into one sentence and exit code 2; everything else keeps its traceback."""
    from ops.sentences import EXPECTED, sentence

    try:
        yield
    except EXPECTED as error:
        typer.secho(sentence(error), fg="red", err=True)
        raise typer.Exit(2) from error
