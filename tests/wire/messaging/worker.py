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
from shared.settings import ServiceSettings


class Counter(Record):
    """How often it was counted up."""

    value: int = 0


def one_more(counter: Counter | None) -> Counter:
    """Count up."""
    counter = counter or Counter()
    return counter.model_copy(update={"value": counter.value + 1})


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
        print("written down" if written.changed else "was there", server, flush=True)
        return Done("the server is on the tally")


class Sleeper:
    """Never ends with anything."""

    def __init__(self, services: Services) -> None:
        self._clock = services.clock

    async def handle(self, incoming: Incoming) -> Outcome:
        """Print what came, and hang."""
        print("took", getattr(incoming, "server", ""), flush=True)
        await self._clock.sleep(3600)
        return Done("never")


async def count(key: str, times: int) -> None:
    """Count a counter up, as often as its document is lost to others if need be."""
    async with open_cloud(ServiceSettings.read(), "test", SystemClock()) as cloud:
        documents = Documents(cloud.objects)
        while times:
            try:
                await documents.change(Counter, key, one_more)
            except Conflict:
                continue
            times -= 1


def consume(visibility_s: int, service: type[Taller | Sleeper]) -> None:
    """Run a service whose messages others see after ``visibility_s`` seconds, should it die.

    Its polls are short, since LocalStack goes on with a dead client's poll, and gives it what comes meanwhile.
    """
    consumer.VISIBILITY_S, consumer.EXTEND_EVERY_S, consumer.POLL_S, consumer.STOP_S = visibility_s, 1, 1, 2
    run_service("janitor", service)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["tally", visibility_s]:
            consume(int(visibility_s), Taller)
        case ["sleep", visibility_s]:
            consume(int(visibility_s), Sleeper)
        case ["count", key, times]:
            asyncio.run(count(key, int(times)))
