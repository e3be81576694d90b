"""The consumer on real queues: what fails comes again, what cannot be handled is kept aside, what waits comes back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shared.events import BODY_LIMIT, Incoming
from shared.messages import ServerKillRequested
from shared.outcome import Done, LookAgain, Outcome, Retry
from tests.wire.messaging.helpers import (
    consuming,
    kill,
    logged,
    make_queue,
    send,
    stored,
    take,
    unique,
    until,
    worker,
)
from tests.wire.running import Endpoint
from tests.wire.running import until as waiting_until

FINE = [f"i-{number:08x}" for number in range(25)]
FAILS, RAISES = "i-0000fa11", "i-0000dead"

MALFORMED = '{"type": "server.kill.requested", '
OVERSIZED = kill(FINE[0], reason="x" * BODY_LIMIT)
UNKNOWN = json.dumps({"type": "server.hug.requested", "fleet": "web"})
FORGED = kill("i-00000001; reboot")
SMUGGLED = json.dumps({**json.loads(kill(FINE[0])), "sudo": True})
ENVELOPED = json.dumps({"Type": "Notification", "TopicArn": "arn:aws:sns:x", "Message": "no message at all"})

REASONS = {
    MALFORMED: "the body is not JSON",
    OVERSIZED: f"the body has {len(OVERSIZED)} bytes",
    UNKNOWN: "Input tag 'server.hug.requested'",
    FORGED: "server.kill.requested.server: String should match",
    SMUGGLED: "server.kill.requested.sudo: Extra inputs",
    ENVELOPED: "the body is not JSON",
    kill(FAILS, id="fails", time="2026-01-31T02:00:00Z"): "failed 5 times; the last time: it never works",
    kill(RAISES, id="raises", time="2026-01-31T02:00:00Z"): "failed 5 times; the last time: RuntimeError: a bug",
}


class Handler:
    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    async def handle(self, incoming: Incoming) -> Outcome:
        assert isinstance(incoming, ServerKillRequested)
        self.seen[incoming.server] += 1
        if incoming.server == FAILS:
            return Retry("it never works")
        if incoming.server == RAISES:
            raise RuntimeError("a bug")
        return Done("handled")


@pytest.mark.fault(14)
async def test_what_cannot_be_handled_is_kept_with_its_reason_and_stops_nobody(
    message_plane: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.consumer.retry_delay", lambda *_: 0)  # else the tries take minutes
    settings, handler = make_queue(message_plane), Handler()
    for body in REASONS:
        send(message_plane, settings.queue_url, body)
    send(message_plane, settings.queue_url, *map(kill, FINE))
    dead: list[Any] = []

    def all_dead() -> bool:
        dead.extend(take(message_plane, settings.dead_letter_url))
        return len(dead) >= len(REASONS)

    async with consuming(settings, handler.handle):
        await until(all_dead)
        await until(lambda: stored(message_plane, settings.queue_url) == 0)
    assert {message["Body"] for message in dead} == set(REASONS)
    assert len(dead) == len(REASONS)
    for message in dead:
        reason = message["MessageAttributes"]["reason"]["StringValue"]
        assert REASONS[message["Body"]] in reason
    assert handler.seen == Counter({FAILS: 5, RAISES: 5, **dict.fromkeys(FINE, 1)})


async def test_a_message_that_waits_for_something_comes_back_as_it_was(message_plane: Endpoint) -> None:
    settings, looks = make_queue(message_plane), list[str]()

    async def handle(incoming: Incoming) -> Outcome:
        assert isinstance(incoming, ServerKillRequested)
        looks.append(incoming.id)
        return LookAgain(1, "not yet") if len(looks) < 6 else Done("there")

    body = kill(FINE[0], id=unique("message"))
    trace = {"DataType": "String", "StringValue": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    message_plane.client("sqs").send_message(
        QueueUrl=settings.queue_url, MessageBody=body, MessageAttributes={"traceparent": trace}
    )
    async with consuming(settings, handle):
        await until(lambda: len(looks) == 6)
        await until(lambda: stored(message_plane, settings.queue_url) == 0)
    assert set(looks) == {json.loads(body)["id"]}  # more looks than failures are allowed, and none counted as one
    assert stored(message_plane, settings.dead_letter_url) == 0


async def test_a_message_that_fails_once_is_handled_the_next_time(
    message_plane: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, seen = make_queue(message_plane), list[str]()

    async def handle(incoming: Incoming) -> Outcome:
        assert isinstance(incoming, ServerKillRequested)
        seen.append(incoming.server)
        return Done("handled") if seen.count(incoming.server) == 2 else Retry("not this time", 1)

    send(message_plane, settings.queue_url, *map(kill, FINE[:12]))
    async with consuming(settings, handle):
        await until(lambda: len(seen) == 24)
        await until(lambda: stored(message_plane, settings.queue_url) == 0)
    assert Counter(seen) == Counter(dict.fromkeys(FINE[:12], 2))


@pytest.mark.fault(17, 18)
def test_what_a_dead_process_held_goes_to_the_next(message_plane: Endpoint, tmp_path: Path) -> None:
    settings, out = make_queue(message_plane), tmp_path / "out"
    send(message_plane, settings.queue_url, *map(kill, FINE[:5]))
    with worker(message_plane, settings, out, "sleep", "3") as first:
        waiting_until(lambda: out.read_text().count("took") == 5)
        first.kill()
    with worker(message_plane, settings, out, "sleep", "3"):
        waiting_until(lambda: out.read_text().count("took") == 10)
    took = Counter(line for line in out.read_text().splitlines() if line.startswith("took"))
    assert took == Counter({f"took {server}": 2 for server in FINE[:5]})


def test_a_process_told_to_stop_hands_back_what_it_holds(message_plane: Endpoint, tmp_path: Path) -> None:
    settings, out = make_queue(message_plane), tmp_path / "out"
    send(message_plane, settings.queue_url, kill(FINE[0]))
    with worker(message_plane, settings, out, "sleep", "600") as process:
        waiting_until(lambda: "took" in out.read_text())
        process.terminate()
        assert process.wait(10) == 0
    assert len(logged(out, "handing back")) == 1
    assert [message["Body"] for message in take(message_plane, settings.queue_url)] == [kill(FINE[0])]


@pytest.mark.fault(14)
async def test_a_message_that_kills_each_process_is_put_aside_by_the_queue(message_plane: Endpoint) -> None:
    settings = make_queue(message_plane, receives=3)
    send(message_plane, settings.queue_url, kill(FINE[0]))
    sqs = message_plane.client("sqs")
    for _ in range(3):  # a process that receives, and is never heard of again
        assert sqs.receive_message(QueueUrl=settings.queue_url, VisibilityTimeout=0)["Messages"]
    dead = await until(
        lambda: (
            not sqs.receive_message(QueueUrl=settings.queue_url).get("Messages")
            and take(message_plane, settings.dead_letter_url)
        )
    )
    assert [message["Body"] for message in dead] == [kill(FINE[0])]
