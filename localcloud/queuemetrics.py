"""What SQS tells CloudWatch of each queue every minute, and moto does not: dead letters and old messages raise alarms.

AWS: SQS Developer Guide, "Available CloudWatch metrics for Amazon SQS". Of its nine metrics these are the two that
our alarms look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moto.cloudwatch.models import cloudwatch_backends
from moto.sqs.models import sqs_backends

from localcloud.account import ACCOUNT, REGION
from shared.clock import Clock

NAMESPACE = "AWS/SQS"

PERIOD_S = 60

EARLY_S = 5
"""Told so long before the minute ends: an alarm, which looks at whole minutes, then knows the latest."""

TRIED = 3
"""A message received more often is passed over for the oldest: AWS takes it for one that nobody can handle."""


class QueueMetrics:
    """Tells once a minute, when told to look."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self._told: int | None = None

    def tick(self) -> None:
        """Tell of every queue, unless it was done in this minute."""
        now = self._clock.now()
        minute = int(now.timestamp() + EARLY_S) // PERIOD_S
        if minute == self._told:
            return
        self._told = minute
        at = now.replace(tzinfo=None)  # moto's own times are in UTC without saying so
        told = [
            {**metric, "Timestamp": at, "Dimensions": [{"Name": "QueueName", "Value": queue.name}]}
            for queue in list(sqs_backends[ACCOUNT][REGION].queues.values())
            for metric in _metrics(queue, now.timestamp())
        ]
        cloudwatch_backends[ACCOUNT][REGION].put_metric_data(NAMESPACE, told)


def _metrics(queue: Any, now: float) -> Iterator[dict[str, Any]]:
    with queue._messages_lock:
        visible = queue.approximate_number_of_messages
        sent = [each.sent_timestamp for each in queue._messages if each.approximate_receive_count <= TRIED]
    age_s = now - min(sent) / 1000 if sent else 0.0
    yield {"MetricName": "ApproximateNumberOfMessagesVisible", "Unit": "Count", "Value": visible}
    yield {"MetricName": "ApproximateAgeOfOldestMessage", "Unit": "Seconds", "Value": max(0.0, age_s)}
