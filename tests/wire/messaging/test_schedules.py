"""Schedules: the ticks of the template's rules come to the services' queues."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.events import parse
from shared.messages import Tick
from shared.names import SERVICES
from tests.wire.messaging.helpers import queue_url, take, unique
from tests.wire.running import Endpoint, until

pytestmark = pytest.mark.timeout(300)

WITHIN_S = 150.0
EVERY_MINUTE = "rate(1 minute)"


@pytest.fixture
def ticking(message_plane: Endpoint) -> Iterator[Endpoint]:
    """Beside each rule that fires once a day, or every quarter of an hour, one with the same targets fires at once."""
    events, copies = message_plane.client("events"), dict[str, list[str]]()
    for service in SERVICES:
        rule = f"autoprovisioner-{service}-tick"
        if events.describe_rule(Name=rule)["ScheduleExpression"] != EVERY_MINUTE:
            targets, copy = events.list_targets_by_rule(Rule=rule)["Targets"], unique("tick")
            events.put_rule(Name=copy, ScheduleExpression=EVERY_MINUTE)
            events.put_targets(Rule=copy, Targets=targets)
            copies[copy] = [target["Id"] for target in targets]
    assert len(copies) == 3
    yield message_plane
    for copy, targets in copies.items():
        events.remove_targets(Rule=copy, Ids=targets)
        events.delete_rule(Name=copy)


def test_every_service_gets_its_ticks_and_they_are_for_all_fleets(ticking: Endpoint) -> None:
    queues = {service: queue_url(ticking, service) for service in SERVICES}
    ticks: dict[str, Tick] = {}

    def ticked() -> bool:
        for service, queue in queues.items():
            for message in take(ticking, queue):
                if isinstance(tick := parse(message["Body"]), Tick):
                    ticks[service] = tick
        return ticks.keys() == queues.keys()

    until(ticked, WITHIN_S)
    assert {tick.fleet for tick in ticks.values()} == {None}
