"""Calls whose reply is lost, and calls that never arrive: messages are handled all the same, and counted once."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from shared.aws import open_cloud
from shared.clock import SystemClock
from shared.events import Incoming
from shared.messages import ServerKillRequested
from shared.outcome import Done, LookAgain, Outcome
from tests.wire.messaging.helpers import (
    Settings,
    consuming,
    kill,
    make_queue,
    queue_url,
    send,
    stored,
    take,
    unique,
    until,
)
from tests.wire.messaging.lossy import Proxy, losing_before
from tests.wire.running import Endpoint

SERVER = "i-0123456789abcdef0"


@pytest.fixture
def proxy(message_plane: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with losing_before(message_plane.url) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        yield between


@pytest.fixture
def settings(message_plane: Endpoint) -> Settings:
    return make_queue(message_plane)


async def handled(plane: Endpoint, settings: Settings) -> int:
    """Send a message, consume until none is left, and return how often it was handled."""
    times = 0

    async def handler(_: Incoming) -> Outcome:
        nonlocal times
        times += 1
        return Done("handled")

    send(plane, settings.queue_url, kill(SERVER))
    async with consuming(settings, handler):
        await until(lambda: times and not stored(plane, settings.queue_url))
    return times


@pytest.mark.fault(18)
@pytest.mark.parametrize("lost", [1, 3])
async def test_a_message_whose_deletion_is_not_confirmed_is_handled_once(
    message_plane: Endpoint, proxy: Proxy, settings: Settings, lost: int
) -> None:
    proxy.lose += ["DeleteMessageBatch"] * lost
    assert await handled(message_plane, settings) == 1
    assert proxy.lost[0] == "DeleteMessageBatch 200"


@pytest.mark.parametrize("call", ["ReceiveMessage", "DeleteMessageBatch"])
async def test_a_connection_that_is_reset_before_the_call_costs_nothing(
    message_plane: Endpoint, proxy: Proxy, settings: Settings, call: str
) -> None:
    proxy.reset += [call] * 2
    assert await handled(message_plane, settings) == 1
    assert proxy.reset == []


@pytest.mark.fault(10)
async def test_a_look_later_whose_reply_is_lost_comes_twice_at_most_and_never_not_at_all(
    message_plane: Endpoint, proxy: Proxy, settings: Settings
) -> None:
    looks = 0

    async def handler(_: Incoming) -> Outcome:
        nonlocal looks
        looks += 1
        return LookAgain(1, "not there yet") if looks == 1 else Done("there")

    proxy.lose += ["SendMessage"]
    send(message_plane, settings.queue_url, kill(SERVER))
    async with consuming(settings, handler):
        await until(lambda: looks > 1 and not stored(message_plane, settings.queue_url))
    assert proxy.lost == ["SendMessage 200"]
    assert looks in (2, 3)


@pytest.mark.parametrize(("fault", "copies"), [("lose", 2), ("reset", 1)])
async def test_what_is_published_again_carries_the_same_id(
    message_plane: Endpoint, proxy: Proxy, settings: Settings, fault: str, copies: int
) -> None:
    fleet, reconciler = unique("web"), queue_url(message_plane, "reconciler")
    getattr(proxy, fault).append("Publish")
    async with open_cloud(settings, "test", SystemClock()) as cloud:
        await cloud.publisher.publish(ServerKillRequested(fleet=fleet, server=SERVER))
    assert proxy.reset == []
    assert proxy.lost == ["Publish 200"] * (fault == "lose")
    ids: list[str] = []

    def arrived() -> bool:
        bodies = [json.loads(message["Body"]) for message in take(message_plane, reconciler, wait_s=1)]
        ids.extend(body["id"] for body in bodies if body.get("fleet") == fleet)
        return len(ids) == copies

    await until(arrived)
    assert len(set(ids)) == 1
