"""Schedules: the ticks of the template's rules come to the services' queues."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.events import parse
from shared.messages import Tick
from shared.names import SERVICES
from tests.wire.messaging.helpers import queue_url, take
from tests.wire.running import Endpoint, until

pytestmark = pytest.mark.timeout(240)

WITHIN_S = 150.0


@pytest.fixture
def every_minute(message_plane: Endpoint) -> Iterator[Endpoint]:
    """The rules of those who are ticked once a day, or every quarter of an hour, fire every minute."""
    events = message_plane.client("events")
    rules = [events.describe_rule(Name=f"autoprovisioner-{service}-tick") for service in SERVICES]
    seldom = {each["Name"]: each["ScheduleExpression"] for each in rules if "minute)" not in each["ScheduleExpression"]}
    for name in seldom:
        events.put_rule(Name=name, ScheduleExpression="rate(1 minute)")
    assert len(seldom) == 3
    yield message_plane
    for name, schedule in seldom.items():
        events.put_rule(Name=name, ScheduleExpression=schedule)


def test_every_service_gets_its_ticks_and_they_are_for_all_fleets(every_minute: Endpoint) -> None:
    queues = {service: queue_url(every_minute, service) for service in SERVICES}
    ticks: dict[str, Tick] = {}

    def ticked() -> bool:
        for service, queue in queues.items():
            for message in take(every_minute, queue):
                if isinstance(tick := parse(message["Body"]), Tick):
                    ticks[service] = tick
        return ticks.keys() == queues.keys()

    until(ticked, WITHIN_S)
    assert {tick.fleet for tick in ticks.values()} == {None}
