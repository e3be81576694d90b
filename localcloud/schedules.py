"""Schedules that fire: EventBridge rules with a schedule, and EventBridge Scheduler."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from moto.events.models import events_backends
from moto.scheduler.models import scheduler_backends

from localcloud.account import ACCOUNT, REGION, arn
from localcloud.delivery import deliver
from localcloud.events import Events
from shared.clock import Clock

_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]

SEND_MESSAGE = "arn:aws:scheduler:::aws-sdk:sqs:sendMessage"
"""Scheduler's universal target for a queue."""


def due(expression: str, since: datetime, now: datetime) -> bool:
    """Whether a schedule that was last looked at ``since`` then has to fire ``now``. Pure.

    Knows rate(), at() and cron(), the last at minute resolution and without L, W and #; anything else never fires.
    """
    kind, _, rest = expression.partition("(")
    argument = rest.rstrip(")").strip()
    if kind == "rate":
        value, unit = argument.split()
        return now - since >= timedelta(**{unit.rstrip("s") + "s": int(value)})
    if kind == "at":
        return since < datetime.fromisoformat(argument).replace(tzinfo=UTC) <= now
    if kind == "cron":
        return now.replace(second=0, microsecond=0) > since and _cron_matches(argument, now)
    return False


def _cron_matches(argument: str, now: datetime) -> bool:
    minute, hour, day, month, weekday, year = argument.split()
    return (
        _field_matches(minute, now.minute, 0)
        and _field_matches(hour, now.hour, 0)
        and _field_matches(day, now.day, 1)
        and _field_matches(_numbered(month, _MONTHS), now.month, 1)
        and _field_matches(_numbered(weekday, _DAYS), now.isoweekday() % 7 + 1, 1)
        and _field_matches(year, now.year, 1970)
    )


def _numbered(text: str, names: list[str]) -> str:
    return re.sub("[A-Z]{3}", lambda found: str(names.index(found[0]) + 1) if found[0] in names else found[0], text)


def _field_matches(text: str, value: int, lowest: int) -> bool:
    """Whether a value is in a cron field: ``*``, ``?``, ``5``, ``1-5``, ``0/15``, ``1,3``."""
    return any(_part_matches(part, value, lowest) for part in text.split(","))


def _part_matches(part: str, value: int, lowest: int) -> bool:
    span, _, step = part.partition("/")
    if span in ("*", "?"):
        first, last = lowest, value
    else:
        low, _, high = span.partition("-")
        if not (low.isdigit() and (high or "0").isdigit()):
            return False
        first, last = int(low), int(high) if high else (value if step else int(low))
    return first <= value <= last and (value - first) % int(step or 1) == 0


@dataclass(frozen=True)
class _Schedule:
    key: tuple[str, str]
    expression: str
    what: Any
    created: datetime | None = None


class Schedules:
    """Fires what is due, when told to look."""

    def __init__(self, events: Events, clock: Clock):
        self._events = events
        self._clock = clock
        self._since: dict[tuple[str, str], datetime] = {}

    def tick(self) -> None:
        """Fire what is due. A schedule's first period begins when it was made, a rule's when it is first seen."""
        now = self._clock.now()
        seen = {}
        for schedule in [*_rules(), *_schedules()]:
            since = self._since.get(schedule.key, schedule.created or now)
            is_due = due(schedule.expression, since, now)
            seen[schedule.key] = now if is_due else since
            if is_due:
                self._fire(schedule.what)
        self._since = seen

    def _fire(self, what: Any) -> None:
        if hasattr(what, "event_pattern"):
            self._events.fire(what)
        elif what.target["Arn"] == SEND_MESSAGE:
            request = json.loads(what.target["Input"])
            deliver(arn("sqs", request["QueueUrl"].rsplit("/", 1)[1]), request["MessageBody"])
        else:
            deliver(what.target["Arn"], what.target.get("Input", "{}"))


def _rules() -> Iterator[_Schedule]:
    for rule in list(events_backends[ACCOUNT][REGION].event_buses["default"].rules.values()):
        if rule.scheduled_expression and rule.state == "ENABLED":
            yield _Schedule((rule.arn, rule.scheduled_expression), rule.scheduled_expression, rule)


def _schedules() -> Iterator[_Schedule]:
    for group in list(scheduler_backends[ACCOUNT][REGION].schedule_groups.values()):
        for schedule in list(group.schedules.values()):
            if schedule.state == "ENABLED":
                expression, made = schedule.schedule_expression, datetime.fromtimestamp(schedule.creation_date, UTC)
                yield _Schedule((schedule.arn, expression), expression, schedule, made)
