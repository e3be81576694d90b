"""The template's alarms: a dead letter, and a message that waits too long, are told to those who stop for alarms."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.events import AlarmChanged, Incoming, parse
from shared.outcome import Done, Outcome
from tests.wire.messaging.helpers import Settings, consuming, heard_from, queue_url, send, take, until
from tests.wire.running import Endpoint

pytestmark = pytest.mark.timeout(300)

WITHIN_S = 150.0
"""The local cloud tells of its queues once a minute, and its alarms look at whole minutes."""

SETTINGS = ("AlarmName", "AlarmDescription", "Namespace", "MetricName", "Dimensions", "Statistic", "Period")
JUDGES = ("EvaluationPeriods", "Threshold", "ComparisonOperator", "TreatMissingData", "AlarmActions", "OKActions")


@pytest.fixture
def heard(message_plane: Endpoint) -> Iterator[str]:
    """A queue on the topic of alarms."""
    with heard_from(message_plane, "alarms") as queue:
        yield queue


def publishes_metrics(plane: Endpoint) -> bool:
    """Whether SQS tells CloudWatch of its queues: the tests have LocalStack leave that out, for its speed."""
    return not plane.is_localstack


def tell(plane: Endpoint, metric: str, queue: str, value: float) -> None:
    """Tell CloudWatch, in SQS's stead, what a queue is like in every minute that an alarm may look at."""
    now = datetime.now(UTC)
    plane.client("cloudwatch").put_metric_data(
        Namespace="AWS/SQS",
        MetricData=[
            {
                "MetricName": metric,
                "Dimensions": [{"Name": "QueueName", "Value": queue}],
                "Timestamp": now + timedelta(minutes=minutes),
                "Value": value,
            }
            for minutes in range(-3, 3)
        ],
    )


def have_looked_at(plane: Endpoint, alarm: str) -> None:
    """Have an alarm look at its metric now, where the plane would take long to.

    LocalStack 4.13.1 looks at an alarm when it is put, and then only every so many seconds as all of its periods
    together have (``localstack/services/cloudwatch/alarm_scheduler.py``), where AWS looks in every period: one with
    three periods of a minute takes up to three minutes. So it is put once more, as it is.
    """
    if not plane.is_localstack:
        return
    cloudwatch = plane.client("cloudwatch")
    [found] = cloudwatch.describe_alarms(AlarmNames=[alarm])["MetricAlarms"]
    cloudwatch.put_metric_alarm(**{name: found[name] for name in (*SETTINGS, *JUDGES)})


def changes(plane: Endpoint, queue: str, alarm: str) -> list[AlarmChanged]:
    """Take what came of one alarm."""
    told = [parse(message["Body"]) for message in take(plane, queue)]
    return [each for each in told if isinstance(each, AlarmChanged) and each.name == alarm]


async def test_a_dead_letter_raises_its_services_alarm(message_plane: Endpoint, heard: str) -> None:
    queue, name = queue_url(message_plane, "janitor"), "autoprovisioner-janitor-dead-letters"
    dead = queue_url(message_plane, "janitor-dead")

    async def nothing(incoming: Incoming) -> Outcome:
        return Done("nothing was to be done")

    send(message_plane, queue, "no message at all")
    async with consuming(Settings(queue, dead), nothing):
        await until(lambda: counted(message_plane, dead) == 1)
    if not publishes_metrics(message_plane):
        tell(message_plane, "ApproximateNumberOfMessagesVisible", "autoprovisioner-janitor-dead", 1)
    have_looked_at(message_plane, name)
    [change] = await until(lambda: changes(message_plane, heard, name), WITHIN_S)
    assert change.state == "ALARM"
    assert [message["Body"] for message in take(message_plane, dead)] == ["no message at all"]


async def test_a_message_that_waits_too_long_raises_its_services_alarm(message_plane: Endpoint, heard: str) -> None:
    name = "autoprovisioner-janitor-behind"
    tell(message_plane, "ApproximateAgeOfOldestMessage", "autoprovisioner-janitor", 601)
    have_looked_at(message_plane, name)
    [change] = await until(lambda: changes(message_plane, heard, name), WITHIN_S)
    assert change.state == "ALARM"


def counted(plane: Endpoint, queue: str) -> int:
    found: Any = plane.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])
    return int(found["Attributes"]["ApproximateNumberOfMessages"])
