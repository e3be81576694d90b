"""What the wire tests run as processes of their own, to kill or to race: ``python -m tests.wire.messaging.worker``."""

from __future__ import annotations

import asyncio
import sys

from shared import consumer
from shared.aws import open_cloud
from shared.clock import SystemClock
from shared.cloud import Conflict
from shared.documents import Documents
from shared.events import Incoming
from shared.messages import ServerKillRequested
from shared.outcome import Done, Outcome
from shared.records import Record
from shared.runtime import Services, run_service
from shared.settings import read_settings

COUNTER = "tests/counter.json"


class Counter(Record):
    """How often it was counted up."""

    value: int = 0


class Tally(Record):
    """The servers that messages about one fleet named."""

    servers: tuple[str, ...] = ()


def tally_key(fleet: str) -> str:
    """Return where a fleet's tally is."""
    return f"tests/tally/{fleet}.json"


class Taller:
    """Writes each message's server down, once."""

    def __init__(self, services: Services) -> None:
        self._documents = services.documents

    async def handle(self, incoming: Incoming) -> Outcome:
        """Add to the fleet's tally what is not on it."""
        assert isinstance(incoming, ServerKillRequested)
        server = incoming.server

        def with_server(tally: Tally | None) -> Tally | None:
            tally = tally or Tally()
            return None if server in tally.servers else tally.model_copy(update={"servers": (*tally.servers, server)})

        written = await self._documents.change(Tally, tally_key(incoming.fleet), with_server)
        return Done("written down" if written.changed else "was there")


class Sleeper:
    """Never ends with anything."""

    def __init__(self, services: Services) -> None:
        self._clock = services.clock

    async def handle(self, incoming: Incoming) -> Outcome:
        """Print what came, and hang."""
        print("took", getattr(incoming, "server", ""), flush=True)
        await self._clock.sleep(3600)
        return Done("never")


async def count(times: int) -> None:
    """Count the counter up."""
    async with open_cloud(read_settings(), "test", SystemClock()) as cloud:
        documents = Documents(cloud.objects)
        while times:
            try:
                await documents.change(Counter, COUNTER, lambda old: Counter(value=(old.value if old else 0) + 1))
            except Conflict:
                continue
            times -= 1


if __name__ == "__main__":
    consumer.VISIBILITY_S, consumer.EXTEND_EVERY_S = 3, 1  # so that what a killed one held comes again soon
    match sys.argv[1:]:
        case ["tally"]:
            run_service("janitor", Taller)
        case ["sleep"]:
            run_service("janitor", Sleeper)
        case ["count", times]:
            asyncio.run(count(int(times)))
