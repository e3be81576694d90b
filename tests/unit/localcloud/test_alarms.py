"""Alarms as pure functions of samples and time."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from localcloud import alarms
from localcloud.alarms import Alarm, Sample

NOW = 1_800_000_000.0
UP = "arn:aws:autoscaling:us-east-1:000000000000:scalingPolicy:x:autoScalingGroupName/web:policyName/up"
TOPIC = "arn:aws:sns:us-east-1:000000000000:autoprovisioner-alarms"


def alarm(**more: Any) -> Alarm:
    fields: dict[str, Any] = {
        "name": "busy",
        "namespace": "Web",
        "metric": "Load",
        "period_s": 60,
        "evaluation_periods": 1,
        "threshold": 70.0,
        "comparison": "GreaterThanThreshold",
        "configured": NOW - 1000,
        "since": NOW - 1000,
        "alarm_actions": (TOPIC, UP),
        "ok_actions": (TOPIC,),
    }
    return Alarm(**{**fields, **more})


def series(*values: float | None) -> list[Sample]:
    """One sample in each of the last whole minutes, the oldest first; None for a minute without any."""
    begin = NOW - 60 * len(values)
    return [Sample.of(begin + 60 * index + 5, value) for index, value in enumerate(values) if value is not None]


def state_after(before: Alarm, *values: float | None) -> str:
    return alarms.evaluate(before, series(*values), NOW)[0].state


@pytest.mark.parametrize(
    ("statistic", "value"),
    [("Average", 50.0), ("Sum", 300.0), ("Minimum", 20.0), ("Maximum", 90.0), ("SampleCount", 6.0)],
)
def test_each_statistic_sums_up_the_samples_of_a_period(statistic: Any, value: float) -> None:
    samples = [Sample.of(NOW - 50, 20), Sample.of(NOW - 40, 90), Sample(NOW - 30, 190, 4, 30, 80)]
    (point,) = alarms.datapoints(alarm(statistic=statistic), samples, NOW)
    assert (point.at, point.value) == (NOW - 60, value)


def test_only_whole_periods_within_the_evaluation_periods_count() -> None:
    samples = [Sample.of(NOW - 61, 1), Sample.of(NOW - 60, 2), Sample.of(NOW - 1, 4), Sample.of(NOW, 8)]
    (point,) = alarms.datapoints(alarm(statistic="Sum"), samples, NOW + 59)
    assert point.value == 6


@pytest.mark.parametrize(
    ("comparison", "below", "at", "above"),
    [
        ("GreaterThanThreshold", "OK", "OK", "ALARM"),
        ("GreaterThanOrEqualToThreshold", "OK", "ALARM", "ALARM"),
        ("LessThanThreshold", "ALARM", "OK", "OK"),
        ("LessThanOrEqualToThreshold", "ALARM", "ALARM", "OK"),
    ],
)
def test_comparisons(comparison: Any, below: str, at: str, above: str) -> None:
    found = [state_after(alarm(comparison=comparison), value) for value in (69.9, 70, 70.1)]
    assert found == [below, at, above]


def test_all_periods_must_breach_unless_fewer_are_asked_for() -> None:
    three = alarm(evaluation_periods=3)
    assert state_after(three, 80, 60, 80) == "OK"
    assert state_after(three, 80, 80, 80) == "ALARM"
    assert state_after(replace(three, datapoints_to_alarm=2), 80, 60, 80) == "ALARM"


@pytest.mark.parametrize(
    ("treat", "values", "state"),
    [
        ("missing", (None, None), "INSUFFICIENT_DATA"),
        ("missing", (None, 80), "ALARM"),
        ("missing", (60, None), "OK"),
        ("breaching", (None, None), "ALARM"),
        ("breaching", (60, None), "OK"),
        ("notBreaching", (None, None), "OK"),
        ("notBreaching", (80, None), "OK"),
        ("ignore", (None, None), "kept"),
        ("ignore", (80, None), "kept"),
        ("ignore", (60, None), "OK"),
        ("ignore", (80, 80), "ALARM"),
    ],
)
@pytest.mark.parametrize("before", ["OK", "ALARM"])
def test_missing_data_is_treated_as_asked(
    treat: Any, values: tuple[float | None, ...], state: str, before: Any
) -> None:
    two = alarm(evaluation_periods=2, treat_missing=treat, state=before)
    assert state_after(two, *values) == (before if state == "kept" else state)


def test_a_change_says_why_and_fires_the_actions_of_its_state_once() -> None:
    after, change = alarms.evaluate(alarm(state="OK"), series(85.0), NOW)
    assert change is not None
    assert change.after == after
    assert after.actions == (TOPIC, UP)
    assert (after.state, after.since) == ("ALARM", NOW)
    assert after.reason == (
        "Threshold Crossed: 1 datapoint [85.0 (15/01/27 07:59:00)] was greater than the threshold (70.0)."
    )
    assert json.loads(after.reason_data)["recentDatapoints"] == [85.0]
    assert alarms.evaluate(after, series(85.0), NOW) == (after, None)


@pytest.mark.parametrize(
    ("more", "values", "reason"),
    [
        (
            {"state": "ALARM"},
            (5.0,),
            "1 datapoint [5.0 (15/01/27 07:59:00)] was not greater than the threshold (70.0).",
        ),
        ({"state": "ALARM"}, (None,), "Insufficient Data: 1 datapoint was unknown."),
        (
            {"treat_missing": "breaching", "evaluation_periods": 2},
            (None, None),
            "no datapoints were received for 2 periods and 2 missing datapoints were treated as [Breaching].",
        ),
        (
            {"evaluation_periods": 2},
            (80.0, 90.0),
            "2 datapoints [90.0 (15/01/27 07:59:00), 80.0 (15/01/27 07:58:00)] were greater than the threshold (70.0).",
        ),
    ],
)
def test_reasons_read_like_awss(more: dict[str, Any], values: tuple[float | None, ...], reason: str) -> None:
    after, _ = alarms.evaluate(alarm(**more), series(*values), NOW)
    assert after.reason.endswith(reason)


def test_setting_a_state_by_hand_fires_on_a_change_and_only_then() -> None:
    set_once, change = alarms.set_state(alarm(state="OK"), "ALARM", "by hand", NOW)
    assert change is not None
    assert (change.before.state, set_once.state, set_once.reason) == ("OK", "ALARM", "by hand")
    again, nothing = alarms.set_state(set_once, "ALARM", "again", NOW + 1)
    assert nothing is None
    assert (again.reason, again.since) == ("again", NOW)


def test_disabled_actions_do_not_fire() -> None:
    assert alarm(state="ALARM", actions_enabled=False).actions == ()


def test_scaling_policies_fire_again_each_minute_and_topics_do_not() -> None:
    after, _ = alarms.set_state(alarm(state="OK"), "ALARM", "by hand", NOW)
    assert alarms.repeat(after, NOW + 59) == (after, ())
    later, actions = alarms.repeat(after, NOW + 60)
    assert actions == (UP,)
    assert alarms.repeat(later, NOW + 119)[1] == ()
    assert alarms.repeat(replace(later, state="OK"), NOW + 500)[1] == ()


def test_the_message_to_a_topic_has_awss_shape() -> None:
    _, change = alarms.evaluate(alarm(state="OK", dimensions=(("Fleet", "web"),)), series(85.0), NOW)
    assert change is not None
    assert alarms.subject(change) == 'ALARM: "busy" in US East (N. Virginia)'
    body = alarms.message(change)
    assert body == {
        "AlarmName": "busy",
        "AlarmDescription": None,
        "AWSAccountId": "000000000000",
        "AlarmConfigurationUpdatedTimestamp": "2027-01-15T07:43:20.000+0000",
        "NewStateValue": "ALARM",
        "NewStateReason": change.after.reason,
        "StateChangeTime": "2027-01-15T08:00:00.000+0000",
        "Region": "US East (N. Virginia)",
        "AlarmArn": "arn:aws:cloudwatch:us-east-1:000000000000:alarm:busy",
        "OldStateValue": "OK",
        "OKActions": [TOPIC],
        "AlarmActions": [TOPIC, UP],
        "InsufficientDataActions": [],
        "Trigger": {
            "MetricName": "Load",
            "Namespace": "Web",
            "StatisticType": "Statistic",
            "Statistic": "AVERAGE",
            "Unit": None,
            "Dimensions": [{"value": "web", "name": "Fleet"}],
            "Period": 60,
            "EvaluationPeriods": 1,
            "DatapointsToAlarm": 1,
            "ComparisonOperator": "GreaterThanThreshold",
            "Threshold": 70.0,
            "TreatMissingData": "missing",
            "EvaluateLowSampleCountPercentile": "",
        },
    }


def test_the_event_has_awss_shape() -> None:
    _, change = alarms.set_state(
        alarm(state="OK", reason="calm", dimensions=(("Fleet", "web"),)), "ALARM", "by hand", NOW
    )
    assert change is not None
    event = alarms.event(change)
    assert (event["source"], event["detail-type"]) == ("aws.cloudwatch", "CloudWatch Alarm State Change")
    assert event["resources"] == [change.after.arn]
    assert event["time"] == "2027-01-15T08:00:00Z"
    detail: Any = event["detail"]
    assert detail["state"] == {"reason": "by hand", "timestamp": "2027-01-15T08:00:00.000+0000", "value": "ALARM"}
    assert (detail["previousState"]["value"], detail["previousState"]["reason"]) == ("OK", "calm")
    (metric,) = detail["configuration"]["metrics"]
    assert metric["metricStat"] == {
        "metric": {"dimensions": {"Fleet": "web"}, "name": "Load", "namespace": "Web"},
        "period": 60,
        "stat": "Average",
    }
