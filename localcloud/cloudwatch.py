"""CloudWatch alarms that really evaluate, over moto's records of alarms and metrics; ``alarms.py`` has the rules."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from threading import RLock
from typing import Any

from moto.cloudwatch.models import CloudWatchBackend, MetricAggregatedDatum, cloudwatch_backends

from localcloud import alarms
from localcloud.account import ACCOUNT, REGION
from localcloud.alarms import Alarm, Change, Sample
from localcloud.delivery import Deliver
from localcloud.events import Events
from localcloud.overlay import Method, wrap
from shared.clock import Clock

log = logging.getLogger("localcloud")

LONGEST_S = 60
"""An alarm is looked at once in each of its periods, and at least this often."""

STRAGGLERS_S = 2
"""After the end of a period, for samples on their way."""

KEPT_S = 3 * 3600
"""Samples older than this are forgotten, as CloudWatch forgets those of high resolution."""

_Metric = tuple[str, str, tuple[tuple[str, str], ...]]
ExecutePolicy = Callable[[str, str], None]


class MetricAlarms:
    """Evaluates alarms when told to look, and carries out their actions."""

    def __init__(self, events: Events, deliver: Deliver, execute: ExecutePolicy, clock: Clock):
        self._events = events
        self._deliver = deliver
        self._execute = execute
        self._clock = clock
        self._lock = RLock()
        self._looked: dict[str, float] = {}
        self._fired: dict[str, float] = {}

    def install(self) -> None:
        """Have moto's alarms begin as AWS's do, and act when somebody sets their state."""
        wrap(CloudWatchBackend, "put_metric_alarm", _keeping_state)
        wrap(CloudWatchBackend, "set_alarm_state", self._acting)

    def tick(self) -> None:
        """Evaluate the alarms of which a period has ended, and repeat scaling policies that are due."""
        now = self._now()
        backend = cloudwatch_backends[ACCOUNT][REGION]
        backend.metric_data[:] = [datum for datum in backend.metric_data if now - _seconds(datum.timestamp) < KEPT_S]
        simple = [each for each in backend.alarms.values() if each.rule is None and not each.metric_data_queries]
        due = {record.name for record in simple if self._is_due(record, now)}
        samples = _samples(backend.metric_data) if due else {}
        for record in simple:
            self._look(record, samples, now, due=record.name in due)

    def _look(self, record: Any, samples: Mapping[_Metric, Sequence[Sample]], now: float, *, due: bool) -> None:
        with self._lock:
            alarm = self._alarm(record)
            change: Change | None = None
            policies: tuple[str, ...] = ()
            if due:
                metric = (alarm.namespace, alarm.metric, tuple(sorted(alarm.dimensions)))
                alarm, change = alarms.evaluate(alarm, samples.get(metric, ()), now)
            if change is None:
                alarm, policies = alarms.repeat(alarm, now)
            self._keep(record, alarm)
        if change:
            self._tell(change)
        for policy in policies:
            self._execute(policy, alarm.name)

    def _is_due(self, record: Any, now: float) -> bool:
        period = (now - STRAGGLERS_S) // min(int(record.period), LONGEST_S)
        before = self._looked.get(record.name)
        self._looked[record.name] = period
        return before != period

    def _acting(self, original: Method) -> Method:
        def set_alarm_state(backend: Any, alarm_name: str, reason: str, reason_data: str, state_value: str) -> None:
            with self._lock:
                record = backend.alarms.get(alarm_name)
                before = self._alarm(record) if record else None
                original(backend, alarm_name, reason, reason_data, state_value)
                if before is None:
                    return
                state: Any = state_value
                after, change = alarms.set_state(before, state, reason, self._now(), reason_data or "")
                self._keep(record, after)
            if change:
                self._tell(change)

        return set_alarm_state

    def _tell(self, change: Change) -> None:
        self._events.publish(alarms.event(change))
        for action in change.after.actions:
            if action.startswith(alarms.SCALING_ACTION):
                self._execute(action, change.after.name)
            else:
                self._deliver(action, json.dumps(alarms.message(change)), subject=alarms.subject(change))

    def _alarm(self, record: Any) -> Alarm:
        return Alarm(
            name=record.name,
            namespace=record.namespace,
            metric=record.metric_name,
            period_s=int(record.period),
            evaluation_periods=int(record.evaluation_periods),
            threshold=float(record.threshold),
            comparison=record.comparison_operator,
            configured=_seconds(record.configuration_updated_timestamp),
            dimensions=tuple((dimension.name, dimension.value) for dimension in record.dimensions),
            statistic=record.statistic or "Average",
            datapoints_to_alarm=int(record.datapoints_to_alarm) if record.datapoints_to_alarm else None,
            treat_missing=record.treat_missing_data or "missing",
            unit=record.unit,
            description=record.description,
            actions_enabled=record.actions_enabled,
            ok_actions=tuple(record.ok_actions),
            alarm_actions=tuple(record.alarm_actions),
            insufficient_data_actions=tuple(record.insufficient_data_actions),
            state=record.state_value,
            reason=record.state_reason,
            reason_data=record.state_reason_data or "",
            since=_seconds(record.state_updated_timestamp),
            fired=self._fired.get(record.name, 0.0),
        )

    def _keep(self, record: Any, alarm: Alarm) -> None:
        record.state_value = alarm.state
        record.state_reason = alarm.reason
        record.state_reason_data = alarm.reason_data
        record.state_updated_timestamp = datetime.fromtimestamp(alarm.since, UTC).replace(tzinfo=None)
        self._fired[alarm.name] = alarm.fired

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _keeping_state(original: Method) -> Method:
    def put_metric_alarm(backend: Any, *arguments: Any, **options: Any) -> Any:
        """A new alarm has insufficient data; a changed one stays in its state."""
        before = dict(backend.alarms)
        alarm = original(backend, *arguments, **options)
        kept = before.get(alarm.name)
        if kept is None:
            alarm.state_value, alarm.state_reason_data = "INSUFFICIENT_DATA", ""
        else:
            for field in ("state_value", "state_reason", "state_reason_data", "state_updated_timestamp"):
                setattr(alarm, field, getattr(kept, field))
        return alarm

    return put_metric_alarm


def _samples(data: Sequence[Any]) -> Mapping[_Metric, Sequence[Sample]]:
    """Return the samples of each metric."""
    found = defaultdict(list)
    for datum in data:
        dimensions = sorted((dimension.name, dimension.value) for dimension in datum.dimensions)
        found[datum.namespace, datum.name, tuple(dimensions)].append(_sample(datum))
    return found


def _sample(datum: Any) -> Sample:
    at = _seconds(datum.timestamp)
    if isinstance(datum, MetricAggregatedDatum):
        return Sample(at, datum.sum, datum.sample_count, datum.min, datum.max)
    return Sample.of(at, datum.value)


def _seconds(moment: datetime) -> float:
    """Return epoch seconds; moto's times without a zone are in UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
