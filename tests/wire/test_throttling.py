"""An AWS that answers nothing but that it will not: over HTTP, since the waits and the bound are botocore's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from shared.aws import open_cloud
from shared.aws.session import ATTEMPTS
from shared.cloud import CloudError, Denied, Throttled
from shared.consumer import Consumer
from shared.events import Incoming
from shared.outcome import Done, Outcome
from tests.fakes import FakeClock
from tests.wire.messaging.helpers import Settings
from tests.wire.running import ACCOUNT


@dataclass
class Refusing:
    """Answers every request with one error of SQS, and counts them."""

    error: str
    status: int
    asked: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def refusing(error: str, status: int) -> Iterator[Refusing]:
    refusal = Refusing(error, status)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            refusal.asked.append(self.headers["X-Amz-Target"])
            body = f'{{"__type":"com.amazonaws.sqs#{refusal.error}","message":"no"}}'.encode()
            self.send_response(refusal.status)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # whoever asked may have been cancelled
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    refusal.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield refusal
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(params=[("ThrottlingException", 400), ("RequestThrottled", 403), ("ExpiredToken", 403)])
def aws(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusing]:
    with refusing(*request.param) as refusal:
        for name, value in (ACCOUNT | {"AWS_ENDPOINT_URL": refusal.url}).items():
            monkeypatch.setenv(name, value)
        yield refusal


def settings(aws: Refusing) -> Settings:
    return Settings(f"{aws.url}/0/q", f"{aws.url}/0/q-dead")


@pytest.mark.fault(27, 42)
async def test_a_refused_call_is_repeated_a_few_times_where_that_may_help_and_then_named(aws: Refusing) -> None:
    kind: type[CloudError] = Denied if aws.error == "ExpiredToken" else Throttled
    async with open_cloud(settings(aws), "registry", FakeClock()) as cloud:
        assert cloud.queue is not None
        with pytest.raises(kind):
            await cloud.queue.receive(10, 20, 30)
    assert 1 <= len(aws.asked) <= (1 if kind is Denied else ATTEMPTS)


@pytest.mark.fault(27, 42)
async def test_a_consumer_that_is_always_refused_asks_a_few_times_a_minute_and_not_more(aws: Refusing) -> None:
    clock = FakeClock()

    async def handle(incoming: Incoming) -> Outcome:
        return Done("never reached")

    async with open_cloud(settings(aws), "registry", clock) as cloud:
        assert cloud.queue is not None
        consumer = Consumer(cloud.queue, handle, clock, random.Random(1), queue_name="q")
        running = asyncio.create_task(consumer.run())
        while clock.monotonic() < 120:  # noqa: ASYNC110  the clock passes only while the consumer waits
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert len(aws.asked) <= 12 * ATTEMPTS
    assert set(aws.asked) == {"AmazonSQS.ReceiveMessage"}
