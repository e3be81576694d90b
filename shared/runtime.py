"""Wires a service and runs it until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

import structlog

from shared.alerts import Alerts
from shared.aws import Cloud, open_cloud
from shared.aws.queues import queue_name
from shared.clock import Clock, SystemClock
from shared.cloud import AlarmsPort, CommandsPort, GroupsPort, HealthPort, ObjectsPort, PublisherPort, ServersPort
from shared.consumer import Consumer
from shared.documents import CorruptDocument, Documents
from shared.events import Incoming
from shared.fleets import Fleets, UnknownFleet
from shared.messages import Envelope
from shared.names import ServiceName
from shared.outcome import Done, Outcome, Reject, Retry
from shared.settings import ServiceSettings, SettingsError
from shared.telemetry import configure_logs, exporting

log = structlog.get_logger()

EXIT_SETTINGS = 2
"""The exit code when the environment is wrong: starting again changes nothing."""


class Handler(Protocol):
    """A service: what it does about a message."""

    async def handle(self, incoming: Incoming) -> Outcome:
        """Look at the present state, decide, act; see ``shared.consumer`` for what raising means."""
        ...


@dataclass(frozen=True)
class Services:
    """All that a handler can be made of."""

    name: ServiceName
    clock: Clock
    random: random.Random
    groups: GroupsPort
    servers: ServersPort
    commands: CommandsPort
    objects: ObjectsPort
    publisher: PublisherPort
    alarms: AlarmsPort
    health: HealthPort
    documents: Documents
    fleets: Fleets
    alerts: Alerts


def run_service(name: ServiceName, make_handler: Callable[[Services], Handler]) -> NoReturn:
    """Run a service as the environment describes it, until SIGTERM or SIGINT; then exit.

    The exit code is 0 after a signal, 2 with one sentence on stderr when the environment is wrong, and 1 with a
    traceback for anything else.
    """
    try:
        settings = ServiceSettings.read()
        _touch(settings.heartbeat_file)
    except SettingsError as error:
        print(f"{name} cannot start: {error}", file=sys.stderr)
        sys.exit(EXIT_SETTINGS)
    clock = SystemClock()
    configure_logs(settings.log_format, name, clock)
    with exporting(name, os.environ, clock):
        asyncio.run(_serve(name, make_handler, settings, clock))
    sys.exit(0)


async def _serve(
    name: ServiceName, make_handler: Callable[[Services], Handler], settings: ServiceSettings, clock: Clock
) -> None:
    async with open_cloud(settings, name, clock) as cloud:
        services = bundle(name, cloud, clock, random.Random())  # noqa: S311  jitter, no secrets
        handle = guarded(make_handler(services), services.alerts)
        assert cloud.queue is not None, "the settings name a queue"
        consumer = Consumer(
            cloud.queue,
            handle,
            clock,
            services.random,
            queue_name=queue_name(settings.queue_url),
            heartbeat_file=settings.heartbeat_file,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, consumer.stop)
        gc.freeze()  # what is loaded by now stays: no collection needs to look through it again
        log.info("started")
        await consumer.run()
        log.info("stopped")


def bundle(name: ServiceName, cloud: Cloud, clock: Clock, randomness: random.Random) -> Services:
    """Build what stands on the ports, and put all of it together."""
    documents = Documents(cloud.objects)
    return Services(
        name=name,
        clock=clock,
        random=randomness,
        groups=cloud.groups,
        servers=cloud.servers,
        commands=cloud.commands,
        objects=cloud.objects,
        publisher=cloud.publisher,
        alarms=cloud.alarms,
        health=cloud.health,
        documents=documents,
        fleets=Fleets(cloud.objects),
        alerts=Alerts(documents, cloud.publisher, clock),
    )


def guarded(handler: Handler, alerts: Alerts) -> Callable[[Incoming], Awaitable[Outcome]]:
    """Wrap a handler for what may go wrong in every service.

    A request about a fleet that nobody described is refused, an event about a group that is none of ours is nothing
    to us, and a corrupt document calls a person once.
    """

    async def handle(incoming: Incoming) -> Outcome:
        try:
            return await handler.handle(incoming)
        except UnknownFleet as error:
            return Reject(str(error)) if isinstance(incoming, Envelope) else Done(str(error))
        except CorruptDocument as error:
            await alerts.corrupt(error)
            return Retry(str(error))

    return handle


def _touch(heartbeat_file: Path | None) -> None:
    if heartbeat_file is None:
        return
    try:
        heartbeat_file.touch()
    except OSError as error:
        raise SettingsError(f"the heartbeat file cannot be written: {error}") from error
