"""EventBridge: events go to the targets of moto's rules, whether a user or the local cloud itself sends them."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from moto.events.models import Rule, events_backends

from localcloud.account import ACCOUNT, REGION
from localcloud.delivery import deliver
from localcloud.elsewhere import Elsewhere
from localcloud.overlay import wrap
from shared.clock import Clock

log = logging.getLogger("localcloud")

Event = dict[str, Any]

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_INTERNAL = ("ingestion-time", "replay-name")
"""What moto keeps in an event and AWS does not."""


class Events:
    """The default bus, as the local cloud's own services use it; theirs may be elsewhere."""

    def __init__(self, clock: Clock, elsewhere: Elsewhere | None):
        self._clock = clock
        self._elsewhere = elsewhere

    def emit(self, source: str, detail_type: str, resources: Sequence[str], detail: Mapping[str, Any]) -> None:
        """Put an event of AWS's own on the bus."""
        self.publish(self._event(source, detail_type, resources, detail))

    def publish(self, event: Mapping[str, Any]) -> None:
        """Put a whole event on the bus."""
        if self._elsewhere:
            self._elsewhere.publish(event)
            return
        for rule in list(events_backends[ACCOUNT][REGION].event_buses["default"].rules.values()):
            try:
                rule.send_to_targets(dict(event))
            except Exception:  # what happened has happened, whether or not a rule is sound
                log.exception("rule %s could not deliver", rule.name)

    def fire(self, rule: Any) -> None:
        """Send a scheduled rule's event, or the Input of its targets."""
        send_to_targets(rule, self._event("aws.events", "Scheduled Event", [rule.arn], {}))

    def _event(self, source: str, detail_type: str, resources: Sequence[str], detail: Mapping[str, Any]) -> Event:
        return {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": detail_type,
            "source": source,
            "account": ACCOUNT,
            "time": self._clock.now().strftime(_TIME),
            "region": REGION,
            "resources": list(resources),
            "detail": dict(detail),
        }


def install() -> None:
    """Have moto's rules deliver as AWS does."""

    def matching(_: Any) -> Any:
        def send_when_matching(rule: Any, original_event: Event, transform_input: bool = True) -> None:
            """A rule with only a schedule has no pattern, which moto takes to match everything."""
            event = _as_delivered(original_event)
            if rule.state == "ENABLED" and rule.event_pattern.get_pattern() and rule.event_pattern.matches_event(event):
                send_to_targets(rule, event)

        return send_when_matching

    wrap(Rule, "send_to_targets", matching)


def send_to_targets(rule: Any, event: Event) -> None:
    """Send an event to a rule's targets, as each wants it."""
    for target in list(rule.targets):
        if "InputTransformer" in target:
            log.error(
                "rule %s: the local cloud has no InputTransformer; its target %s gets nothing", rule.name, target["Arn"]
            )
        else:
            deliver(target["Arn"], _body(target, event), group=target.get("SqsParameters", {}).get("MessageGroupId"))


def _body(target: Mapping[str, Any], event: Event) -> str:
    if "Input" in target:
        return str(target["Input"])
    found: Any = event
    for name in target.get("InputPath", "$").removeprefix("$").split(".")[1:]:
        found = found.get(name) if isinstance(found, dict) else None
    return json.dumps(found)


def _as_delivered(event: Event) -> Event:
    kept = {name: value for name, value in event.items() if name not in _INTERNAL}
    kept["account"] = ACCOUNT
    if isinstance(kept.get("time"), int | float):
        kept["time"] = datetime.fromtimestamp(kept["time"], UTC).strftime(_TIME)
    return kept
