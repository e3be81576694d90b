"""SQS, SNS, EventBridge and schedules, wired as ``deploy/messaging.yaml`` says."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from deploy.template import TEMPLATE, Place, load_template
from shared.cloud import QueueMessage
from shared.names import SERVICES, ServiceName, TopicName
from tests.simulation.loop import START

BUCKET = "autoprovisioner"
PLACE = Place("aws", "us-east-1", "000000000000", BUCKET)
REDRIVE_AFTER = 20
"""Receives after which SQS itself makes a message a dead letter (``maxReceiveCount`` in the template)."""

LONGEST_POLL_S = 20
"""The longest time that SQS waits for a message."""

KEPT_S = 345_600.0
"""Four days: how long a queue keeps a message."""


@dataclass(eq=False)
class Letter:
    """A message in a queue."""

    id: str
    body: str
    attributes: Mapping[str, str]
    sent: float
    visible: float
    receives: int = 0
    receipt: str = ""


class SimulatedQueue:
    """One SQS queue. Letters that are visible come in any order."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, chance: random.Random) -> None:
        self.name = name
        self.letters: dict[str, Letter] = {}
        self.dead: SimulatedQueue | None = None
        self._loop = loop
        self._random = chance
        self._made = 0
        self._receipts: dict[str, Letter] = {}
        self._waiting: list[asyncio.Future[None]] = []

    def send(self, body: str, delay_s: float = 0, attributes: Mapping[str, str] | None = None) -> str:
        """Take a message in; return its id."""
        self._made += 1
        now = self._loop.time()
        name = f"{self.name.removeprefix('autoprovisioner-')}/{self._made}"
        self.letters[name] = Letter(name, body, attributes or {}, now, now + delay_s)
        self._wake()
        return name

    async def receive(self, limit: int, visibility_s: float, wait_s: float = LONGEST_POLL_S) -> list[QueueMessage]:
        """Return visible letters as soon as there are any. A poll of full length never ends without: nobody polls."""
        end = self._loop.time() + wait_s if wait_s < LONGEST_POLL_S else None
        while not (got := self.take(limit, visibility_s)) and (end is None or self._loop.time() < end):
            waiter = self._loop.create_future()
            self._waiting.append(waiter)
            times = [letter.visible for letter in self.letters.values()] + ([end] if end is not None else [])
            due = min(times, default=None)
            timer = self._loop.call_at(due, _finish, waiter) if due is not None else None
            try:
                await waiter
            finally:
                self._waiting.remove(waiter)
                if timer is not None:
                    timer.cancel()
        return got

    def take(self, limit: int, visibility_s: float) -> list[QueueMessage]:
        """Hand out what is visible now."""
        now = self._loop.time()
        visible = [letter for letter in self.letters.values() if letter.visible <= now]
        if len(visible) > 1:
            self._random.shuffle(visible)
        return [message for letter in visible[:limit] if (message := self._hand_out(letter, now, visibility_s))]

    def _hand_out(self, letter: Letter, now: float, visibility_s: float) -> QueueMessage | None:
        expired = now - letter.sent > KEPT_S
        if expired or letter.receives >= REDRIVE_AFTER:
            del self.letters[letter.id]
            if self.dead is not None and not expired:
                self.dead.send(letter.body, 0, {**letter.attributes, "reason": "received too often"})
            return None
        letter.receives += 1
        letter.visible = now + visibility_s
        letter.receipt = f"{letter.id}#{letter.receives}"
        self._receipts[letter.receipt] = letter
        sent = START.timestamp() + letter.sent
        return QueueMessage(letter.id, letter.body, letter.receipt, letter.receives, letter.attributes, sent)

    def delete(self, receipt: str) -> bool:
        """Delete the letter that was handed out with this receipt."""
        letter = self._receipts.pop(receipt, None)
        if letter is None:
            return False
        self.letters.pop(letter.id, None)
        return True

    def hide(self, receipt: str, seconds: float) -> bool:
        """Hide a letter anew; only its latest receipt counts, and only while it is hidden."""
        letter, now = self._receipts.get(receipt), self._loop.time()
        if letter is None or letter.id not in self.letters or letter.receipt != receipt or letter.visible <= now:
            return False
        letter.visible = now + seconds
        self._wake()
        return True

    def _wake(self) -> None:
        for waiter in self._waiting:
            _finish(waiter)


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


@dataclass(frozen=True)
class Rule:
    """An EventBridge rule: what it matches, or when it fires, and the queues it sends to with which input."""

    name: str
    pattern: Mapping[str, Any]
    schedule: str
    targets: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Wiring:
    """What the template says."""

    subscriptions: tuple[tuple[str, str, Mapping[str, Any]], ...]
    """Topic, queue, filter policy."""
    rules: tuple[Rule, ...]
    notified: tuple[tuple[str, str, str], ...]
    """Of the bucket: prefix, suffix, queue."""


@lru_cache
def wiring() -> Wiring:
    """Read the template."""
    resources = load_template(TEMPLATE.read_text())["Resources"]
    known = {name: each for name, each in resources.items() if each["Type"] in _KNOWN}
    found = {
        name: (each["Type"], _KNOWN[each["Type"]](PLACE.resolve(each["Properties"], resources)))
        for name, each in known.items()
    }
    return Wiring(
        tuple(each for kind, each in found.values() if kind == "AWS::SNS::Subscription"),
        tuple(each for kind, each in found.values() if kind == "AWS::Events::Rule"),
        tuple(one for kind, each in found.values() if kind == "AWS::S3::Bucket" for one in each),
    )


def _subscription(fields: Mapping[str, Any]) -> tuple[str, str, Mapping[str, Any]]:
    return _last(fields["TopicArn"]), _last(fields["Endpoint"]), fields.get("FilterPolicy", {})


def _rule(fields: Mapping[str, Any]) -> Rule:
    targets = tuple((_last(each["Arn"]), each.get("Input", "")) for each in fields["Targets"])
    return Rule(fields["Name"], fields.get("EventPattern", {}), fields.get("ScheduleExpression", ""), targets)


def _notifications(fields: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    found = []
    for each in fields["NotificationConfiguration"]["QueueConfigurations"]:
        filters = {rule["Name"]: rule["Value"] for rule in each["Filter"]["S3Key"]["Rules"]}
        found.append((filters["prefix"], filters["suffix"], _last(each["Queue"])))
    return list(dict.fromkeys(found))


_KNOWN: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "AWS::SNS::Subscription": _subscription,
    "AWS::Events::Rule": _rule,
    "AWS::S3::Bucket": _notifications,
}


def _last(arn: str) -> str:
    return arn.rsplit(":", 1)[1]


def matches(pattern: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    """Say whether a filter policy or event pattern matches, as far as the template uses them. Pure."""
    return all(_matches_one(wanted, value.get(name)) for name, wanted in pattern.items())


def _matches_one(wanted: Any, value: Any) -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(value, Mapping) and matches(wanted, value)
    return any(_condition(each, value) for each in wanted)


def _condition(condition: Any, value: Any) -> bool:
    match condition:
        case {"exists": bool(there)}:
            return (value is not None) is there
        case {"anything-but": list(unwanted)}:
            return value is not None and value not in unwanted
        case {"prefix": str(begin)}:
            return isinstance(value, str) and value.startswith(begin)
        case str() | int() | bool():
            return bool(condition == value)
    raise NotImplementedError(f"the simulation knows no filter {condition!r}")


Deliver = Callable[[SimulatedQueue, str, Mapping[str, str]], None]
"""Puts a body into a queue; faults of delivery happen here."""


@dataclass(eq=False)
class Messaging:
    """All queues, topics, rules and schedules."""

    loop: asyncio.AbstractEventLoop
    chance: random.Random
    deliver: Deliver
    queues: dict[str, SimulatedQueue] = field(default_factory=dict)
    alerts: list[tuple[float, Mapping[str, Any]]] = field(default_factory=list)
    """What people were told, and when."""

    def __post_init__(self) -> None:
        for service in SERVICES:
            name = f"autoprovisioner-{service}"
            queue, dead = (SimulatedQueue(each, self.loop, self.chance) for each in (name, f"{name}-dead"))
            queue.dead = dead
            self.queues[name], self.queues[dead.name] = queue, dead

    def queue(self, service: ServiceName) -> SimulatedQueue:
        """Return a service's queue."""
        return self.queues[f"autoprovisioner-{service}"]

    def dead_letters(self) -> list[Letter]:
        """Return all dead letters."""
        return [
            letter
            for name in sorted(self.queues)
            if name.endswith("-dead")
            for letter in self.queues[name].letters.values()
        ]

    def publish(self, topic: TopicName, body: str, attributes: Mapping[str, str] | None = None) -> None:
        """Publish on a topic: raw delivery to every queue whose filter matches the body."""
        fields = _fields(body)
        if topic == "alerts" and fields is not None:
            self.alerts.append((self.loop.time(), fields))
        for name, queue, policy in wiring().subscriptions:
            if name == f"autoprovisioner-{topic}" and (not policy or (fields is not None and matches(policy, fields))):
                self.deliver(self.queues[queue], body, attributes or {})

    def emit(self, event: Mapping[str, Any]) -> None:
        """Put an event on the bus."""
        for rule in wiring().rules:
            if rule.pattern and matches(rule.pattern, event):
                for queue, given in rule.targets:
                    self.deliver(self.queues[queue], given or orjson.dumps(event).decode(), {})

    def notify_of(self, key: str, name: str) -> None:
        """Tell of an object that was written or removed."""
        record = {"eventName": name, "s3": {"bucket": {"name": BUCKET}, "object": {"key": key}}}
        for prefix, suffix, queue in wiring().notified:
            if key.startswith(prefix) and key.endswith(suffix):
                self.deliver(self.queues[queue], orjson.dumps({"Records": [record]}).decode(), {})

    def schedule(self) -> None:
        """Start all schedules."""
        for rule in wiring().rules:
            if rule.schedule:
                first, every = _times(rule.schedule)
                self.loop.call_at(first, self._fire, rule, first, every)

    def _fire(self, rule: Rule, at: float, every: float) -> None:
        for queue, given in rule.targets:
            self.deliver(self.queues[queue], given, {})
        self.loop.call_at(at + every, self._fire, rule, at + every, every)


def _fields(body: str) -> Mapping[str, Any] | None:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return fields if isinstance(fields, dict) else None


def _times(schedule: str) -> tuple[float, float]:
    """Return when a schedule first fires after midnight, and how often then, in seconds. Pure."""
    if found := re.fullmatch(r"rate\((\d+) (minute|hour|day)s?\)", schedule):
        every = float(found[1]) * {"minute": 60, "hour": 3600, "day": 86_400}[found[2]]
        return every, every
    if found := re.fullmatch(r"cron\((\d+) (\d+) \* \* \? \*\)", schedule):
        return float(found[1]) * 60 + float(found[2]) * 3600, 86_400.0
    raise NotImplementedError(f"the simulation knows no schedule {schedule!r}")


def bodies(letters: Sequence[Letter]) -> list[str]:
    """Return what is in letters."""
    return [letter.body for letter in letters]
