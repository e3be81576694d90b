"""What the ports to documents, queues, topics and alarms promise, asked of the adapters over HTTP and of the model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from shared.aws import Cloud, open_cloud
from shared.clock import SystemClock
from shared.cloud import Conflict, NotFound, QueueMessage, QueuePort
from shared.messages import ImageReady, ServerKillRequested
from tests.wire.conftest import modelled_too
from tests.wire.messaging.helpers import Settings, make_queue, queue_url, take, unique, until
from tests.wire.modelled import Model
from tests.wire.running import Endpoint

SERVER = "i-0123456789abcdef0"


@pytest.fixture
def settings(message_plane: Endpoint) -> Settings:
    return make_queue(message_plane)


@pytest.fixture
async def cloud(deployed_plane: Endpoint | Model, request: pytest.FixtureRequest) -> AsyncIterator[Cloud]:
    if isinstance(deployed_plane, Model):
        yield deployed_plane.open()
    else:
        async with open_cloud(request.getfixturevalue("settings"), "test", SystemClock()) as opened:
            yield opened


@pytest.fixture
def queue(cloud: Cloud, deployed_plane: Endpoint | Model) -> QueuePort:
    assert cloud.queue
    if isinstance(deployed_plane, Model):
        deployed_plane.empty()
    return cloud.queue


@pytest.fixture
def prefix() -> str:
    return f"tests/{unique('objects')}/"


async def receive(queue: QueuePort, count: int, visibility_s: int = 15) -> list[QueueMessage]:
    seen: list[QueueMessage] = []
    async with asyncio.timeout(20):
        while len(seen) < count:
            seen += await queue.receive(10, 1, visibility_s)
    return seen


# Objects


@modelled_too
async def test_an_object_is_read_as_it_was_written(cloud: Cloud, prefix: str) -> None:
    etag = await cloud.objects.put(prefix + "read/back", b"as it is")
    stored = await cloud.objects.get(prefix + "read/back")
    assert stored
    assert (stored.body, stored.etag) == (b"as it is", etag)
    await cloud.objects.delete(prefix + "read/back")
    await cloud.objects.delete(prefix + "read/back")
    assert await cloud.objects.get(prefix + "read/back") is None


@modelled_too
async def test_a_conditional_write_over_something_else_is_a_conflict(cloud: Cloud, prefix: str) -> None:
    first = await cloud.objects.put(prefix + "conditional", b"1", absent=True)
    with pytest.raises(Conflict):
        await cloud.objects.put(prefix + "conditional", b"2", absent=True)
    await cloud.objects.put(prefix + "conditional", b"2", match=first)
    with pytest.raises(Conflict):
        await cloud.objects.put(prefix + "conditional", b"3", match=first)


@modelled_too
async def test_writing_over_an_object_that_is_gone_is_a_conflict(cloud: Cloud, prefix: str) -> None:
    with pytest.raises(Conflict):
        await cloud.objects.put(prefix + "never/was", b"2", match='"0123"')


@modelled_too
async def test_keys_are_listed_in_order_with_the_entity_tags_that_reading_gives(cloud: Cloud, prefix: str) -> None:
    written = {name: await cloud.objects.put(prefix + name, name.encode()) for name in ("b", "a/c", "a")}
    listed = await cloud.objects.etags(prefix)
    assert list(listed.items()) == [(prefix + name, written[name]) for name in ("a", "a/c", "b")]
    for key, etag in listed.items():
        stored = await cloud.objects.get(key)
        assert stored is not None
        assert stored.etag == etag
    assert await cloud.objects.etags(prefix + "none/") == {}


@modelled_too
async def test_folders_are_listed_once_each_without_what_is_in_them(cloud: Cloud, prefix: str) -> None:
    for key in ("b/1", "a/1", "a/2", "a/deep/3", "file"):
        await cloud.objects.put(prefix + key, b"")
    assert await cloud.objects.folders(prefix) == ["a", "b"]
    assert await cloud.objects.folders(prefix + "none/") == []


async def test_presigned_urls_need_no_credentials(cloud: Cloud, prefix: str) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.put(await cloud.objects.presign_put(prefix + "signed", 60), data=b"by hand") as answer:
            assert answer.status == 200
        async with http.get(await cloud.objects.presign_get(prefix + "signed", 60)) as answer:
            assert await answer.read() == b"by hand"


async def test_a_bucket_that_is_missing_is_an_error_and_not_an_empty_one(message_plane: Endpoint) -> None:
    async with open_cloud(Settings("", "", bucket="nobodys"), "ops", SystemClock()) as cloud:
        assert cloud.queue is None
        with pytest.raises(NotFound):
            await cloud.objects.get("anything")


@modelled_too
async def test_an_entity_tag_comes_back_with_the_bytes_and_a_write_over_it_counts_once(
    cloud: Cloud, prefix: str
) -> None:
    """The ABA problem: nothing but the bytes tells two versions apart."""
    first = await cloud.objects.put(prefix + "aba", b"a")
    await cloud.objects.put(prefix + "aba", b"b", match=first)
    assert await cloud.objects.put(prefix + "aba", b"a") == first
    await cloud.objects.put(prefix + "aba", b"c", match=first)


@modelled_too
async def test_keys_with_every_character_that_we_use_are_listed_and_read(cloud: Cloud, prefix: str) -> None:
    keys = [f"{prefix}{name}" for name in ("a+b/c", "a.b", "a=b", "a_b-c", "a:b@c,d", "web 1")]
    for key in keys:
        await cloud.objects.put(key, key.encode())
    assert list(await cloud.objects.etags(prefix)) == sorted(keys)
    assert [stored.body for key in keys if (stored := await cloud.objects.get(key))] == [key.encode() for key in keys]


# Queues and topics


@modelled_too
async def test_a_message_keeps_its_attributes_and_counts_its_receives(queue: QueuePort) -> None:
    await queue.send("hello", 0, {"traceparent": "00-1-2-01"})
    [first] = await receive(queue, 1)
    assert (first.body, first.attributes, first.receive_count) == ("hello", {"traceparent": "00-1-2-01"}, 1)
    assert await queue.extend({first.receipt: 0}) == []
    [again] = await receive(queue, 1)
    assert (again.id, again.receive_count) == (first.id, 2)


@modelled_too
async def test_more_than_ten_are_deleted_and_what_failed_is_told(queue: QueuePort) -> None:
    for number in range(12):
        await queue.send(str(number), 0, {})
    receipts = [message.receipt for message in await receive(queue, 12)]
    assert await queue.extend({"bogus": 30, **dict.fromkeys(receipts, 30)}) == ["bogus"]
    assert await queue.delete([*receipts[:11], "bogus", *receipts[11:]]) == ["bogus"]
    assert await queue.receive(10, 0, 15) == []
    assert await queue.delete([]) == []


@modelled_too
async def test_a_delayed_message_is_not_there_at_once(queue: QueuePort) -> None:
    await queue.send("later", 1, {})
    assert await queue.receive(10, 0, 15) == []
    assert [message.body for message in await receive(queue, 1)] == ["later"]


@modelled_too
async def test_a_message_that_is_hidden_comes_again_when_its_time_is_over_and_its_old_receipt_hides_it_no_more(
    queue: QueuePort,
) -> None:
    await queue.send("again", 0, {})
    [first] = await receive(queue, 1, visibility_s=1)
    assert await queue.receive(10, 0, 15) == []
    [again] = await receive(queue, 1)
    assert (again.id, again.receive_count) == (first.id, 2)
    assert again.receipt != first.receipt
    assert await queue.receive(10, 0, 15) == []


@modelled_too
async def test_hiding_lasts_from_now_on_and_not_from_the_receive(queue: QueuePort) -> None:
    await queue.send("kept", 0, {})
    [message] = await receive(queue, 1, visibility_s=2)
    assert await queue.extend({message.receipt: 30}) == []
    assert await queue.receive(10, 3, 15) == []
    assert await queue.extend({message.receipt: 0}) == []
    assert [each.id for each in await receive(queue, 1)] == [message.id]


@modelled_too
async def test_a_message_that_was_received_twenty_times_is_put_aside_by_the_queue(queue: QueuePort) -> None:
    await queue.send("poison", 0, {})
    for number in range(1, 21):
        [message] = await receive(queue, 1)
        assert message.receive_count == number
        assert await queue.extend({message.receipt: 0}) == []
    assert await queue.receive(10, 0, 15) == []


@modelled_too
async def test_no_more_than_asked_for_are_received_at_once(queue: QueuePort) -> None:
    for number in range(4):
        await queue.send(str(number), 0, {})
    first = await queue.receive(1, 1, 15)
    assert len(first) == 1
    rest = await receive(queue, 3)
    assert sorted(each.body for each in [*first, *rest]) == ["0", "1", "2", "3"]


async def test_dead_letters_go_to_the_other_queue(settings: Settings, cloud: Cloud, queue: QueuePort) -> None:
    await queue.send_dead("bad", {"reason": "because"})
    dead = Settings(settings.dead_letter_url, settings.dead_letter_url)
    async with open_cloud(dead, "registry", SystemClock()) as other:
        assert other.queue
        [message] = await receive(other.queue, 1)
    assert (message.body, message.attributes) == ("bad", {"reason": "because"})


async def test_a_queue_that_is_missing_is_not_found(settings: Settings) -> None:
    url = f"{settings.queue_url}-nobodys"
    async with open_cloud(Settings(url, url), "registry", SystemClock()) as cloud:
        assert cloud.queue
        with pytest.raises(NotFound):
            await cloud.queue.receive(1, 0, 15)


async def test_what_is_published_is_signed_and_dated_and_a_request_goes_elsewhere_than_a_fact(
    message_plane: Endpoint, cloud: Cloud
) -> None:
    fleet = unique("web")
    await cloud.publisher.publish(ServerKillRequested(fleet=fleet, server=SERVER))
    await cloud.publisher.publish(ImageReady(fleet=fleet, image="ami-01234567", bake="web-20260131t020000"))
    for service, kind in (("reconciler", "server.kill.requested"), ("registry", "image.ready")):
        url = queue_url(message_plane, service)
        body = await until(lambda url=url: ours(message_plane, url, fleet))  # type: ignore[misc]
        assert (body["type"], body["source"]) == (kind, "test")
        assert body["time"]


def ours(plane: Endpoint, queue: str, fleet: str) -> dict[str, str]:
    """Return the first message about a fleet, or nothing."""
    bodies = [json.loads(message["Body"]) for message in take(plane, queue)]
    return next((body for body in bodies if body.get("fleet") == fleet), {})


async def test_an_alarm_that_nobody_made_is_unknown(cloud: Cloud) -> None:
    known = "autoprovisioner-registry-dead-letters"
    seen = await cloud.alarms.states([known, "nobodys"])
    assert set(seen) == {known, "nobodys"}
    assert seen["nobodys"] == "INSUFFICIENT_DATA"
    assert await cloud.alarms.states([]) == {}
