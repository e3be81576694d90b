"""Queues of a test's own, what is in queues, and consumers as processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from shared.aws import Cloud, open_cloud
from shared.clock import SystemClock
from shared.consumer import Consumer
from shared.events import Incoming
from shared.outcome import Outcome
from tests.wire.running import REPOSITORY, Endpoint

TOPICS = "arn:aws:sns:us-east-1:000000000000:autoprovisioner-"
BUCKET = "autoprovisioner"
COUNTS = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"]

Body = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What the adapters, and a service's process, are told."""

    queue_url: str
    dead_letter_url: str
    bucket: str = BUCKET
    topic_prefix: str = TOPICS

    @property
    def environment(self) -> dict[str, str]:
        """The same for a service's process."""
        return {f"AUTOPROVISIONER_{name.upper()}": value for name, value in vars(self).items()}


def unique(prefix: str) -> str:
    """Return a name that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def kill(server: str, **fields: str) -> str:
    """Return a message about one server."""
    return json.dumps({"type": "server.kill.requested", "fleet": "web", "server": server, **fields})


@contextmanager
def heard_from(plane: Endpoint, topic: str) -> Iterator[str]:
    """Make a queue that hears one of our topics; return its URL, and delete it when the block ends."""
    sqs, sns, name = plane.client("sqs"), plane.client("sns"), unique(topic)
    queue: str = sqs.create_queue(QueueName=name)["QueueUrl"]
    subscription = sns.subscribe(
        TopicArn=f"{TOPICS}{topic}",
        Protocol="sqs",
        Endpoint=f"arn:aws:sqs:us-east-1:000000000000:{name}",
        Attributes={"RawMessageDelivery": "true"},
        ReturnSubscriptionArn=True,
    )["SubscriptionArn"]
    try:
        yield queue
    finally:
        sns.unsubscribe(SubscriptionArn=subscription)
        sqs.delete_queue(QueueUrl=queue)


def make_queue(plane: Endpoint, receives: int = 20) -> Settings:
    """Make a queue, and its dead-letter queue behind ``receives`` receives."""
    sqs, name = plane.client("sqs"), unique("queue")
    dead = sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": receives})
    queue = sqs.create_queue(QueueName=name, Attributes={"RedrivePolicy": redrive})["QueueUrl"]
    return Settings(queue, dead)


def queue_url(plane: Endpoint, service: str) -> str:
    """Return the URL of the queue that the template made for a service."""
    url: str = plane.client("sqs").get_queue_url(QueueName=f"autoprovisioner-{service}")["QueueUrl"]
    return url


def stored(plane: Endpoint, queue: str) -> int:
    """Return how many messages a queue holds, hidden and delayed ones too."""
    found = plane.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=COUNTS)["Attributes"]
    return sum(map(int, found.values()))


def take(plane: Endpoint, queue: str, wait_s: int = 0) -> list[Any]:
    """Take up to ten messages out of a queue."""
    sqs = plane.client("sqs")
    found = sqs.receive_message(
        QueueUrl=queue, WaitTimeSeconds=wait_s, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
    ).get("Messages", [])
    for message in found:
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    return list(found)


def send(plane: Endpoint, queue: str, *bodies: str) -> None:
    """Send messages, ten at a time."""
    for start in range(0, len(bodies), 10):
        entries = [{"Id": str(place), "MessageBody": body} for place, body in enumerate(bodies[start : start + 10])]
        assert not plane.client("sqs").send_message_batch(QueueUrl=queue, Entries=entries).get("Failed")


@asynccontextmanager
async def consuming(settings: Settings, handler: Callable[[Incoming], Awaitable[Outcome]]) -> AsyncIterator[Cloud]:
    """Run a consumer on a queue until the block ends."""
    async with open_cloud(settings, "test", SystemClock()) as cloud:
        assert cloud.queue
        consumer = Consumer(cloud.queue, handler, SystemClock(), Random(1))
        running = asyncio.create_task(consumer.run())
        try:
            yield cloud
        finally:
            consumer.stop()
            await running


async def until(look: Callable[[], Any], within_s: float = 30.0) -> Any:
    """Look again and again, beside what runs in this event loop, until something true is seen."""
    deadline = time.monotonic() + within_s
    while not (seen := await asyncio.to_thread(look)):
        assert time.monotonic() < deadline, f"not seen within {within_s} s; last: {seen!r}"
        await asyncio.sleep(0.05)
    return seen


@contextmanager
def worker(plane: Endpoint, settings: Settings, out: Path, *what: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``tests.wire.messaging.worker`` as a process until the block ends, its output going to ``out``."""
    command = (sys.executable, "-m", "tests.wire.messaging.worker", *what)
    environment = {**plane.environment, **settings.environment}
    with out.open("ab") as stream:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=stream, stderr=stream)
        try:
            yield process
        finally:
            process.kill()
            process.wait(10)


def logged(out: Path, event: str) -> list[Any]:
    """Return the lines that workers logged about one kind of event."""
    lines = [line for line in out.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    return [found for line in lines if line.startswith(b"{") and (found := json.loads(line))["event"] == event]
