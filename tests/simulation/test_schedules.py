"""The model's schedules are the template's, and fire when the local cloud's do."""

from __future__ import annotations

import random
from datetime import timedelta

from localcloud.schedules import due
from tests.simulation.loop import START, VirtualLoop
from tests.simulation.messaging import Messaging, wiring

DAYS = 2


def fired_by_the_model() -> list[tuple[float, str]]:
    loop, fired = VirtualLoop(), list[tuple[float, str]]()
    messaging = Messaging(
        loop, random.Random(1), lambda queue, body, attributes: fired.append((loop.time(), queue.name))
    )
    messaging.schedule()
    loop.call_at(DAYS * 86_400.0 + 1, loop.stop)
    loop.run_forever()
    loop.close()
    return sorted(fired)


def fired_by_the_local_cloud() -> list[tuple[float, str]]:
    """It looks every few seconds; the template's schedules are of whole minutes."""
    fired = []
    for rule in wiring().rules:
        last = START
        for minute in range(1, DAYS * 1440 + 1) if rule.schedule else ():
            now = START + timedelta(minutes=minute)
            if due(rule.schedule or "", last, now):
                last = now
                fired += [(minute * 60.0, queue) for queue, _ in rule.targets]
    return sorted(fired)


def test_in_two_days_the_model_and_the_local_cloud_fire_the_same_schedules_at_the_same_moments() -> None:
    fired = fired_by_the_model()
    assert fired == fired_by_the_local_cloud()
    assert len({queue for _, queue in fired}) == 6
