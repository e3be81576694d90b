"""The trace's context goes through topics, queues and delays, as a message attribute that raw delivery keeps."""

from __future__ import annotations

import asyncio

from shared.aws import open_cloud
from shared.clock import SystemClock
from shared.cloud import QueueMessage, QueuePort
from shared.events import parse
from shared.messages import ServerKillRequested
from shared.tracing import TRACEPARENT, Handling
from tests.wire.messaging.helpers import Settings, kill, queue_url, unique
from tests.wire.running import Endpoint

BROUGHT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
SERVER = "i-00000000000000abc"


async def test_a_trace_goes_from_topic_to_queue_to_delayed_copy_to_dead_letter(message_plane: Endpoint) -> None:
    url = queue_url(message_plane, "reconciler")
    dead = message_plane.client("sqs").create_queue(QueueName=unique("dead"))["QueueUrl"]
    begun = QueueMessage("m", kill(SERVER), "r", 1, {TRACEPARENT: BROUGHT})
    clock = SystemClock()
    async with (
        open_cloud(Settings(url, dead), "test", clock) as cloud,
        open_cloud(Settings(dead, dead), "t", clock) as end,
    ):
        assert cloud.queue
        assert end.queue
        with Handling("begun", begun, parse(begun.body), clock):
            await cloud.publisher.publish(ServerKillRequested(fleet="web", server=SERVER, by="ada"))
        published = await ours(cloud.queue)
        await cloud.queue.send(published.body, 1, published.attributes)
        copy = await ours(cloud.queue)
        await cloud.queue.send_dead(copy.body, {**copy.attributes, "reason": "enough"})
        buried = await ours(end.queue)
    assert published.attributes[TRACEPARENT].startswith("00-" + "a" * 32)
    assert copy.attributes == published.attributes
    assert buried.attributes == {**published.attributes, "reason": "enough"}


async def ours(queue: QueuePort) -> QueueMessage:
    """Take the message about our server out of the queue."""
    async with asyncio.timeout(20):
        while True:
            for message in await queue.receive(10, 1, 1):
                if SERVER in message.body:
                    await queue.delete([message.receipt])
                    return message
