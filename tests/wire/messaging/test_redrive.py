"""A dead letter that is looked at and handed back after its cause was mended."""

from __future__ import annotations

from ops.queues import letters, redrive
from shared.aws.session import open_clients
from shared.events import Incoming
from shared.messages import ServerKillRequested, parse_message
from shared.outcome import Done, Outcome, Reject
from tests.wire.messaging.helpers import Settings, consuming, kill, queue_url, send, stored, take, until
from tests.wire.running import Endpoint

SERVER = "i-0123456789abcdef0"


async def test_what_was_refused_is_handled_once_it_is_handed_back(message_plane: Endpoint) -> None:
    settings = Settings(queue_url(message_plane, "janitor"), queue_url(message_plane, "janitor-dead"))
    for queue in (settings.queue_url, settings.dead_letter_url):
        while take(message_plane, queue):
            pass
    handled: list[ServerKillRequested] = []

    async def refuse(incoming: Incoming) -> Outcome:
        return Reject("there is no such fleet yet")

    async def handle(incoming: Incoming) -> Outcome:
        if isinstance(incoming, ServerKillRequested):
            handled.append(incoming)
        return Done("handled")

    send(message_plane, settings.queue_url, kill(SERVER))
    async with consuming(settings, refuse):
        await until(lambda: stored(message_plane, settings.dead_letter_url) == 1)
    async with open_clients() as clients:
        [letter] = await letters(clients, "janitor", 10)
        kept = parse_message(letter.body)
        assert letter.reason == "there is no such fleet yet"
        assert isinstance(kept, ServerKillRequested)
        assert (kept.server, kept.time is None) == (SERVER, False)
        assert len(letter.trace) == 32
        done = await redrive(clients, "janitor", None, None)
    assert (done.moved, done.failed, done.left) == (1, 0, 0)
    async with consuming(settings, handle):
        await until(lambda: handled)
        await until(lambda: stored(message_plane, settings.queue_url) == 0)
    assert handled == [kept], "with the id and time of when it was asked for"
    assert stored(message_plane, settings.dead_letter_url) == 0
