"""What may go wrong in every service is dealt with in one place."""

from __future__ import annotations

import pytest

from shared.alerts import Alerts
from shared.cloud import Unavailable
from shared.documents import CorruptDocument, Documents
from shared.events import Incoming
from shared.fleets import UnknownFleet
from shared.messages import AlertRaised, ServerKillRequested
from shared.outcome import Done, Outcome, Reject, Retry
from shared.runtime import guarded
from tests.fakes import FakeClock, FakeObjects, FakePublisher
from tests.unit.shared.payloads import LAUNCHING

KILL = ServerKillRequested(fleet="web", server="i-12345678")


class Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    async def handle(self, incoming: Incoming) -> Outcome:
        raise self.error


class Guarded:
    def __init__(self, error: Exception) -> None:
        self.objects = FakeObjects()
        self.publisher = FakePublisher()
        alerts = Alerts(Documents(self.objects), self.publisher, FakeClock())
        self.handle = guarded(Failing(error), alerts)


async def test_a_request_about_an_unknown_fleet_is_refused_with_a_sentence() -> None:
    outcome = await Guarded(UnknownFleet("wbe")).handle(KILL)
    assert isinstance(outcome, Reject)
    assert "there is no fleet 'wbe'" in outcome.why


async def test_an_event_of_a_foreign_group_is_nothing_to_us() -> None:
    assert isinstance(await Guarded(UnknownFleet("my-asg")).handle(LAUNCHING), Done)


@pytest.mark.fault(9)
async def test_a_corrupt_document_calls_a_person_once_and_the_message_waits() -> None:
    service = Guarded(CorruptDocument("fleets/web/image.json", "image: Field required"))
    for _ in range(3):
        assert isinstance(await service.handle(KILL), Retry)
    [alert] = service.publisher.of(AlertRaised)
    assert (alert.fleet, alert.cause) == ("web", "corrupt-image")
    assert alert.reason == "fleets/web/image.json: image: Field required"
    assert "aws s3 cp s3://${AUTOPROVISIONER_BUCKET:-autoprovisioner}/fleets/web/image.json -" in alert.next
    [standing] = service.objects.bodies
    assert f"aws s3 rm s3://${{AUTOPROVISIONER_BUCKET:-autoprovisioner}}/{standing}" in alert.next


async def test_other_errors_are_the_consumers() -> None:
    with pytest.raises(Unavailable):
        await Guarded(Unavailable("down")).handle(KILL)
