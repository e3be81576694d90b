"""When schedules are due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from moto.scheduler.models import scheduler_backends
from moto.sqs.models import sqs_backends

from localcloud.account import ACCOUNT, REGION, arn
from localcloud.events import Events
from localcloud.schedules import Schedules, due
from tests.fakes import FakeClock

MONDAY = datetime(2026, 11, 23, 2, 30, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "seconds"),
    [("rate(1 minute)", 60), ("rate(5 minutes)", 300), ("rate(1 hour)", 3600), ("rate(2 days)", 172_800)],
)
def test_a_rate_is_due_when_its_period_is_over(expression: str, seconds: int) -> None:
    assert not due(expression, MONDAY, MONDAY + timedelta(seconds=seconds - 1))
    assert due(expression, MONDAY, MONDAY + timedelta(seconds=seconds))


def test_a_moment_is_due_once_and_never_when_it_was_over_before() -> None:
    expression, moment = "at(2026-11-23T03:00:00)", datetime(2026, 11, 23, 3, tzinfo=UTC)

    assert not due(expression, MONDAY, moment - timedelta(seconds=1))
    assert due(expression, MONDAY, moment)
    assert not due(expression, moment, moment + timedelta(days=1))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("cron(30 2 * * ? *)", True),
        ("cron(31 2 * * ? *)", False),
        ("cron(0/15 * * * ? *)", True),
        ("cron(0/20 * * * ? *)", False),
        ("cron(30 1-3 ? * MON-FRI *)", True),
        ("cron(30 2 ? * SUN,SAT *)", False),
        ("cron(30 2 ? NOV 2 2026)", True),
        ("cron(30 2 23 11 ? 2027)", False),
        ("cron(30 2 L * ? *)", False),
        ("nonsense", False),
    ],
)
def test_cron_is_matched_by_the_minute(expression: str, expected: bool) -> None:
    assert due(expression, MONDAY - timedelta(minutes=1), MONDAY) is expected


def test_cron_fires_once_a_minute() -> None:
    assert not due("cron(* * * * ? *)", MONDAY, MONDAY + timedelta(seconds=20))
    assert due("cron(* * * * ? *)", MONDAY, MONDAY + timedelta(seconds=55))


def test_a_moment_that_came_between_the_making_of_a_schedule_and_the_first_look_is_not_missed() -> None:
    queues, name = sqs_backends[ACCOUNT][REGION], "autoprovisioner-test-schedule"
    queue = queues.create_queue(name, {})
    scheduler_backends[ACCOUNT][REGION].create_schedule(
        description="",
        name=name,
        group_name="default",
        start_date="",
        end_date="",
        schedule_expression=f"at({datetime.now(UTC) + timedelta(seconds=60):%Y-%m-%dT%H:%M:%S})",
        schedule_expression_timezone="UTC",
        flexible_time_window={"Mode": "OFF"},
        kms_key_arn="",
        state="ENABLED",
        target={"Arn": arn("sqs", name), "Input": "due"},
        action_after_completion="NONE",
    )
    clock = FakeClock(datetime.now(UTC) + timedelta(seconds=120))
    schedules = Schedules(Events(clock, None), clock)
    schedules.tick()
    schedules.tick()
    assert [message.body for message in queue.messages] == ["due"]
