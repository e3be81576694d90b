"""The bodies in which Auto Scaling tells others what happens: EventBridge events and direct hook notifications.

Shapes: EC2 Auto Scaling User Guide, "EventBridge event reference" and "Prepare to add a lifecycle hook".
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from localcloud.groupvalues import LAUNCHING, GroupEvent, NotifyHook, TryTarget

Body = dict[str, object]


def lifecycle_event(notice: NotifyHook) -> Body:
    """Return the EventBridge event of an instance that waits in a hook."""
    launching = notice.hook.transition == LAUNCHING
    detail: Body = {
        "LifecycleActionToken": notice.token,
        "AutoScalingGroupName": notice.group,
        "LifecycleHookName": notice.hook.name,
        "EC2InstanceId": notice.instance,
        "LifecycleTransition": notice.hook.transition,
        "Origin": notice.origin,
        "Destination": notice.destination,
        **_metadata(notice),
    }
    return {
        **_envelope(notice, f"event {notice.token}"),
        "detail-type": f"EC2 Instance-{'launch' if launching else 'terminate'} Lifecycle Action",
        "resources": [notice.arn],
        "detail": detail,
    }


def lifecycle_notification(notice: NotifyHook) -> Body:
    """Return what the hook's own target is sent."""
    return {
        "Origin": notice.origin,
        "Destination": notice.destination,
        "LifecycleHookName": notice.hook.name,
        "AccountId": notice.account,
        "RequestId": _unique(f"request {notice.token}"),
        "LifecycleTransition": notice.hook.transition,
        "AutoScalingGroupName": notice.group,
        "Service": "AWS Auto Scaling",
        "Time": moment(notice.at),
        "EC2InstanceId": notice.instance,
        "LifecycleActionToken": notice.token,
        **_metadata(notice),
    }


def target_test(notice: TryTarget) -> Body:
    """Return what a hook's target is sent when the hook is put."""
    return {
        "AccountId": notice.account,
        "RequestId": _unique(f"test {notice.arn} {notice.target} {notice.at}"),
        "AutoScalingGroupARN": notice.arn,
        "AutoScalingGroupName": notice.group,
        "Service": "AWS Auto Scaling",
        "Event": "autoscaling:TEST_NOTIFICATION",
        "Time": moment(notice.at),
    }


def outcome_event(notice: GroupEvent) -> Body:
    """Return the EventBridge event of a launch or a termination that ended.

    AWS says InProgress also of one that succeeded.
    """
    activity = notice.activity
    failed = notice.kind == "Launch Unsuccessful"
    detail: Body = {
        "StatusCode": "Failed" if failed else "InProgress",
        "StatusMessage": activity.message,
        "AutoScalingGroupName": notice.group,
        "ActivityId": activity.id,
        "Details": {"Availability Zone": activity.zone},
        "RequestId": activity.id,
        "StartTime": moment(activity.start),
        "EndTime": moment(notice.at),
        "EC2InstanceId": activity.instance,
        "Cause": activity.cause,
        "Origin": notice.origin,
        "Destination": notice.destination,
    }
    if not failed:
        detail["Description"] = activity.description
    instance = f"arn:aws:ec2:{notice.region}:{notice.account}:instance/{activity.instance}"
    return {
        **_envelope(notice, f"event {activity.id} {notice.kind}"),
        "detail-type": f"EC2 Instance {notice.kind}",
        "resources": [notice.arn, instance],
        "detail": detail,
    }


def moment(at: float) -> str:
    """Return a time as events carry it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _envelope(notice: NotifyHook | GroupEvent, identity: str) -> Body:
    return {
        "version": "0",
        "id": _unique(identity),
        "source": "aws.autoscaling",
        "account": notice.account,
        "time": moment(notice.at),
        "region": notice.region,
    }


def _metadata(notice: NotifyHook) -> Body:
    return {"NotificationMetadata": notice.hook.metadata} if notice.hook.metadata else {}


def _unique(what: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, what))
