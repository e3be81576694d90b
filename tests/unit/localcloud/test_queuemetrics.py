"""What the local cloud tells CloudWatch of its queues."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from moto.cloudwatch.models import cloudwatch_backends
from moto.sqs.models import Queue, sqs_backends

from localcloud.account import ACCOUNT, REGION
from localcloud.queuemetrics import QueueMetrics
from tests.fakes import FakeClock

BEGAN = datetime(2026, 11, 23, 2, 30, 10, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def queue() -> Iterator[Queue]:
    sqs, cloudwatch = sqs_backends[ACCOUNT][REGION], cloudwatch_backends[ACCOUNT][REGION]
    sqs.reset()
    cloudwatch.reset()
    yield sqs.create_queue("work")
    sqs.reset()
    cloudwatch.reset()


def send(queue: Queue, at: datetime, *, receives: int = 0) -> None:
    message = sqs_backends[ACCOUNT][REGION].send_message(queue.name, "a body")
    message.sent_timestamp = int(at.timestamp() * 1000)
    message.approximate_receive_count = receives


def told(name: str) -> list[tuple[datetime, float]]:
    data = cloudwatch_backends[ACCOUNT][REGION].metric_data
    return [
        (each.timestamp.replace(tzinfo=UTC), each.value)
        for each in data
        if (each.namespace, each.name, [(one.name, one.value) for one in each.dimensions])
        == ("AWS/SQS", name, [("QueueName", "work")])
    ]


def test_a_queue_is_told_of_once_a_minute_shortly_before_its_end(queue: Queue) -> None:
    clock = FakeClock(BEGAN)
    metrics = QueueMetrics(clock)
    for _ in range(120):
        metrics.tick()
        clock.step(1)
    moments = [at for at, _ in told("ApproximateNumberOfMessagesVisible")]
    assert moments == [BEGAN, BEGAN + timedelta(seconds=45), BEGAN + timedelta(seconds=45) + MINUTE]


def test_what_waits_is_counted_and_the_oldest_has_its_age(queue: Queue) -> None:
    send(queue, BEGAN - 11 * MINUTE)
    send(queue, BEGAN - MINUTE)
    QueueMetrics(FakeClock(BEGAN)).tick()
    assert told("ApproximateNumberOfMessagesVisible") == [(BEGAN, 2)]
    assert told("ApproximateAgeOfOldestMessage") == [(BEGAN, 660)]


def test_what_is_being_handled_has_an_age_but_does_not_wait(queue: Queue) -> None:
    send(queue, BEGAN - MINUTE)
    sqs_backends[ACCOUNT][REGION].receive_message("work", 1, 0, 30)
    QueueMetrics(FakeClock(BEGAN)).tick()
    assert told("ApproximateNumberOfMessagesVisible") == [(BEGAN, 0)]
    assert told("ApproximateAgeOfOldestMessage") == [(BEGAN, 60)]


def test_what_was_received_again_and_again_is_not_the_oldest(queue: Queue) -> None:
    send(queue, BEGAN - 11 * MINUTE, receives=4)
    send(queue, BEGAN - MINUTE, receives=3)
    QueueMetrics(FakeClock(BEGAN)).tick()
    assert told("ApproximateAgeOfOldestMessage") == [(BEGAN, 60)]


def test_an_empty_queue_is_told_of_too(queue: Queue) -> None:
    QueueMetrics(FakeClock(BEGAN)).tick()
    assert told("ApproximateNumberOfMessagesVisible") == told("ApproximateAgeOfOldestMessage") == [(BEGAN, 0)]
