"""Metric alarms of CloudWatch, as pure functions: samples and a time in, a change of state and its actions out.

An alarm looks at its last whole periods, aligned to the clock, exactly as many as its evaluation periods. (AWS looks a
little further back when datapoints are missing.) Actions fire on a change of state only; scaling policies among them
fire again once a minute while the state lasts, as in AWS.

Shapes: CloudWatch User Guide, "Using Amazon CloudWatch alarms" and "Alarm events and EventBridge".
"""

from __future__ import annotations

import json
import operator
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

AlarmState = Literal["OK", "ALARM", "INSUFFICIENT_DATA"]
Statistic = Literal["Average", "Sum", "Minimum", "Maximum", "SampleCount"]
Missing = Literal["missing", "ignore", "breaching", "notBreaching"]
Comparison = Literal[
    "GreaterThanThreshold", "GreaterThanOrEqualToThreshold", "LessThanThreshold", "LessThanOrEqualToThreshold"
]

COMPARISONS: dict[Comparison, tuple[Callable[[float, float], bool], str]] = {
    "GreaterThanThreshold": (operator.gt, "greater than the threshold"),
    "GreaterThanOrEqualToThreshold": (operator.ge, "greater than or equal to the threshold"),
    "LessThanThreshold": (operator.lt, "less than the threshold"),
    "LessThanOrEqualToThreshold": (operator.le, "less than or equal to the threshold"),
}
SCALING_ACTION = "arn:aws:autoscaling:"
REPEAT_S = 60
REGION_NAMES = {"us-east-1": "US East (N. Virginia)"}
"""AWS writes the region's display name in its messages; a region that is not here goes by its id."""


@dataclass(frozen=True)
class Sample:
    """What PutMetricData brings for one moment: a value, or a set of them summed up."""

    at: float
    total: float
    count: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, at: float, value: float) -> Sample:
        """Return the sample of one value."""
        return cls(at, value, 1, value, value)


@dataclass(frozen=True)
class Datapoint:
    """A metric's statistic over the period that begins at ``at``."""

    at: float
    value: float


@dataclass(frozen=True)
class Alarm:
    """A metric alarm, its settings and its state. Times are epoch seconds."""

    name: str
    namespace: str
    metric: str
    period_s: int
    evaluation_periods: int
    threshold: float
    comparison: Comparison
    configured: float
    dimensions: tuple[tuple[str, str], ...] = ()
    statistic: Statistic = "Average"
    datapoints_to_alarm: int | None = None
    treat_missing: Missing = "missing"
    unit: str | None = None
    description: str | None = None
    actions_enabled: bool = True
    ok_actions: tuple[str, ...] = ()
    alarm_actions: tuple[str, ...] = ()
    insufficient_data_actions: tuple[str, ...] = ()
    region: str = "us-east-1"
    account: str = "000000000000"
    state: AlarmState = "INSUFFICIENT_DATA"
    reason: str = "Unchecked: Initial alarm creation"
    reason_data: str = ""
    since: float = 0
    fired: float = 0
    """When its actions fired last."""

    @property
    def arn(self) -> str:
        """The alarm's ARN."""
        return f"arn:aws:cloudwatch:{self.region}:{self.account}:alarm:{self.name}"

    @property
    def needed(self) -> int:
        """How many of the evaluation periods must breach."""
        return self.datapoints_to_alarm or self.evaluation_periods

    @property
    def reach_s(self) -> int:
        """How far back samples may count."""
        return self.period_s * (self.evaluation_periods + 1)

    @property
    def actions(self) -> tuple[str, ...]:
        """The actions of the present state."""
        if not self.actions_enabled:
            return ()
        return {
            "OK": self.ok_actions,
            "ALARM": self.alarm_actions,
            "INSUFFICIENT_DATA": self.insufficient_data_actions,
        }[self.state]


@dataclass(frozen=True)
class Change:
    """An alarm went from one state to another; the actions to take are ``after.actions``."""

    before: Alarm
    after: Alarm


def evaluate(alarm: Alarm, samples: Iterable[Sample], now: float) -> tuple[Alarm, Change | None]:
    """Return the alarm as the samples of its metric make it, and the change when its state is another."""
    points = datapoints(alarm, samples, now)
    state = _judge(alarm, points)
    if state is None or state == alarm.state:
        return alarm, None
    return set_state(alarm, state, _reason(alarm, state, points), now, _reason_data(alarm, points, now))


def set_state(
    alarm: Alarm, state: AlarmState, reason: str, now: float, reason_data: str = ""
) -> tuple[Alarm, Change | None]:
    """Put an alarm into a state, as SetAlarmState does; the next evaluation may put it back."""
    after = replace(alarm, state=state, reason=reason, reason_data=reason_data)
    if state == alarm.state:
        return after, None
    after = replace(after, since=now, fired=now)
    return after, Change(alarm, after)


def repeat(alarm: Alarm, now: float) -> tuple[Alarm, tuple[str, ...]]:
    """Return the scaling policies that are due once more because the state has lasted another minute."""
    policies = tuple(action for action in alarm.actions if action.startswith(SCALING_ACTION))
    if not policies or now < alarm.fired + REPEAT_S:
        return alarm, ()
    return replace(alarm, fired=now), policies


def datapoints(alarm: Alarm, samples: Iterable[Sample], now: float) -> tuple[Datapoint, ...]:
    """Return the datapoints in the alarm's evaluation periods, the oldest first; empty periods have none."""
    end = now // alarm.period_s * alarm.period_s
    known = list(samples)
    points = []
    for index in range(alarm.evaluation_periods, 0, -1):
        begin = end - index * alarm.period_s
        inside = [sample for sample in known if begin <= sample.at < begin + alarm.period_s]
        if inside:
            points.append(Datapoint(begin, _statistic(alarm.statistic, inside)))
    return tuple(points)


def _statistic(statistic: Statistic, samples: Sequence[Sample]) -> float:
    total, count = sum(sample.total for sample in samples), sum(sample.count for sample in samples)
    match statistic:
        case "Average":
            return total / count
        case "Sum":
            return total
        case "SampleCount":
            return count
        case "Minimum":
            return min(sample.lowest for sample in samples)
        case "Maximum":
            return max(sample.highest for sample in samples)


def _judge(alarm: Alarm, points: Sequence[Datapoint]) -> AlarmState | None:
    """Return the state that the datapoints call for; None when missing ones are to leave it as it is."""
    breaching = sum(_breaches(alarm, point) for point in points)
    missing = alarm.evaluation_periods - len(points)
    if alarm.treat_missing == "missing":
        if not points:
            return "INSUFFICIENT_DATA"
        return "ALARM" if breaching >= min(alarm.needed, len(points)) else "OK"
    if alarm.treat_missing == "breaching":
        breaching, missing = breaching + missing, 0
    elif alarm.treat_missing == "notBreaching":
        missing = 0
    if breaching >= alarm.needed:
        return "ALARM"
    return "OK" if breaching + missing < alarm.needed else None


def _breaches(alarm: Alarm, point: Datapoint) -> bool:
    compare, _ = COMPARISONS[alarm.comparison]
    return compare(point.value, alarm.threshold)


def _reason(alarm: Alarm, state: AlarmState, points: Sequence[Datapoint]) -> str:
    missing = alarm.evaluation_periods - len(points)
    if state == "INSUFFICIENT_DATA":
        return f"Insufficient Data: {_many(missing, 'datapoint')} {_were(missing)} unknown."
    if not points:
        treated = "Breaching" if state == "ALARM" else "NonBreaching"
        return (
            f"Threshold Crossed: no datapoints were received for {_many(missing, 'period')} and "
            f"{_many(missing, 'missing datapoint')} {_were(missing)} treated as [{treated}]."
        )
    telling = [point for point in points if _breaches(alarm, point) == (state == "ALARM")] or points
    listed = ", ".join(f"{point.value} ({_at(point.at, '%d/%m/%y %H:%M:%S')})" for point in reversed(telling))
    verb = _were(len(telling)) + ("" if state == "ALARM" else " not")
    _, words = COMPARISONS[alarm.comparison]
    return f"Threshold Crossed: {_many(len(telling), 'datapoint')} [{listed}] {verb} {words} ({alarm.threshold})."


def _reason_data(alarm: Alarm, points: Sequence[Datapoint], now: float) -> str:
    data = {
        "version": "1.0",
        "queryDate": _stamp(now),
        "statistic": alarm.statistic,
        "period": alarm.period_s,
        "recentDatapoints": [point.value for point in points],
        "threshold": alarm.threshold,
    }
    if points:
        data["startDate"] = _stamp(points[0].at)
    return json.dumps(data)


# What others are told.


def subject(change: Change) -> str:
    """Return the subject of the message that an SNS topic is sent."""
    return f'{change.after.state}: "{change.after.name}" in {_place(change.after)}'


def message(change: Change) -> dict[str, object]:
    """Return the body of the message that an SNS topic is sent."""
    alarm = change.after
    return {
        "AlarmName": alarm.name,
        "AlarmDescription": alarm.description,
        "AWSAccountId": alarm.account,
        "AlarmConfigurationUpdatedTimestamp": _stamp(alarm.configured),
        "NewStateValue": alarm.state,
        "NewStateReason": alarm.reason,
        "StateChangeTime": _stamp(alarm.since),
        "Region": _place(alarm),
        "AlarmArn": alarm.arn,
        "OldStateValue": change.before.state,
        "OKActions": list(alarm.ok_actions),
        "AlarmActions": list(alarm.alarm_actions),
        "InsufficientDataActions": list(alarm.insufficient_data_actions),
        "Trigger": _trigger(alarm),
    }


def _trigger(alarm: Alarm) -> dict[str, object]:
    return {
        "MetricName": alarm.metric,
        "Namespace": alarm.namespace,
        "StatisticType": "Statistic",
        "Statistic": alarm.statistic.upper(),
        "Unit": alarm.unit,
        "Dimensions": [{"value": value, "name": name} for name, value in alarm.dimensions],
        "Period": alarm.period_s,
        "EvaluationPeriods": alarm.evaluation_periods,
        "DatapointsToAlarm": alarm.needed,
        "ComparisonOperator": alarm.comparison,
        "Threshold": alarm.threshold,
        "TreatMissingData": alarm.treat_missing,
        "EvaluateLowSampleCountPercentile": "",
    }


def event(change: Change) -> dict[str, object]:
    """Return the whole EventBridge event of the change."""
    alarm = change.after
    return {
        "version": "0",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{alarm.arn} {alarm.since} {alarm.state}")),
        "detail-type": "CloudWatch Alarm State Change",
        "source": "aws.cloudwatch",
        "account": alarm.account,
        "time": _at(alarm.since, "%Y-%m-%dT%H:%M:%SZ"),
        "region": alarm.region,
        "resources": [alarm.arn],
        "detail": {
            "alarmName": alarm.name,
            "configuration": _configuration(alarm),
            "previousState": _state(change.before),
            "state": _state(alarm),
        },
    }


def _configuration(alarm: Alarm) -> dict[str, object]:
    metric = {"dimensions": dict(alarm.dimensions), "name": alarm.metric, "namespace": alarm.namespace}
    statistic = {"metric": metric, "period": alarm.period_s, "stat": alarm.statistic}
    identity = str(uuid.uuid5(uuid.NAMESPACE_URL, alarm.arn))
    configuration: dict[str, object] = {"metrics": [{"id": identity, "metricStat": statistic, "returnData": True}]}
    return configuration if alarm.description is None else {"description": alarm.description, **configuration}


def _state(alarm: Alarm) -> dict[str, object]:
    state: dict[str, object] = {"reason": alarm.reason, "timestamp": _stamp(alarm.since), "value": alarm.state}
    return {**state, "reasonData": alarm.reason_data} if alarm.reason_data else state


def _place(alarm: Alarm) -> str:
    return REGION_NAMES.get(alarm.region, alarm.region)


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _stamp(at: float) -> str:
    """Return a time as alarms write it, with milliseconds and an offset without a colon."""
    moment = datetime.fromtimestamp(at, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}+0000"


def _at(at: float, form: str) -> str:
    return datetime.fromtimestamp(at, UTC).strftime(form)
