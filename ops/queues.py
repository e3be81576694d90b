"""The services' queues from the command line: how much waits, what died and why, and putting it back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

from ops.releases import Refusal
from shared.aws.errors import translated
from shared.aws.lots import lots
from shared.clock import Clock
from shared.cloud import CloudError, NotFound
from shared.names import SERVICES, ServiceName, queue_name

if TYPE_CHECKING:
    from types_aiobotocore_cloudwatch.type_defs import MetricDataQueryTypeDef
    from types_aiobotocore_sqs import SQSClient
    from types_aiobotocore_sqs.type_defs import MessageTypeDef, SendMessageBatchRequestEntryTypeDef

    from shared.aws.session import Clients

BATCH = 10
"""The most entries that one SQS request takes."""

BATCH_BYTES = 200_000
"""Of bodies in one request: with their attributes still within the 256 KiB that every SQS takes."""

HIDDEN_S = 30
"""How long letters stay hidden should this program die while it holds them."""

LOOK_S = 1
"""A long poll, however short, asks all of SQS's servers; a short one only some."""

METRIC_WINDOW = timedelta(minutes=10)
METRIC_PERIOD_S = 60
"""SQS reports once a minute, a few minutes late."""

Progress = Callable[[int, int], None]

_PARTS = ("DataType", "StringValue", "BinaryValue")


@dataclass(frozen=True)
class QueueState:
    """One service's queue, in SQS's own approximate numbers."""

    service: ServiceName
    waiting: int
    in_flight: int
    delayed: int
    oldest_s: float | None
    """Age of the oldest message as CloudWatch last knew it; None where it says nothing."""
    dead: int

    def as_dict(self) -> dict[str, object]:
        """Return it for ``-o json``."""
        return asdict(self)


@dataclass(frozen=True)
class Letter:
    """One dead letter. ``receives`` counts how often it was looked at in the dead-letter queue, this time included."""

    id: str
    reason: str
    type: str
    trace: str
    sent: datetime
    receives: int
    body: str

    def as_dict(self) -> dict[str, object]:
        """Return it for ``-o json``, the body whole."""
        return asdict(self)


@dataclass(frozen=True)
class Redriven:
    """What became of a redrive: letters moved, letters that SQS refused to take, letters that are left."""

    moved: int
    failed: int
    left: int

    def as_dict(self) -> dict[str, object]:
        """Return it for ``-o json``."""
        return asdict(self)


async def states(clients: Clients, clock: Clock) -> list[QueueState]:
    """Return the state of every service's queue.

    Raises:
        Refusal: a queue is missing.
        CloudError: SQS did not answer.
    """
    ages = await _ages(clients, clock)
    return list(await asyncio.gather(*(_state(clients, service, ages.get(service)) for service in SERVICES)))


async def letters(clients: Clients, service: ServiceName, limit: int) -> list[Letter]:
    """Return up to ``limit`` dead letters, which stay where they are and can be seen by others again at once.

    Raises:
        Refusal: the service has no dead-letter queue.
        CloudError: SQS did not answer.
    """
    dead = await _Queue.named(clients, f"{queue_name(service)}-dead")
    held: list[MessageTypeDef] = []
    try:
        while len(held) < limit and (got := await dead.receive(limit - len(held))):
            held += got
    finally:
        await dead.show(held)
    return [_letter(message) for message in held]


async def redrive(clients: Clients, service: ServiceName, limit: int | None, progress: Progress | None) -> Redriven:
    """Move the dead letters that there are now, at most ``limit``, back to the queue, without their reasons.

    Each is sent before it is deleted, so that one that is cut off in between is there twice, and none is ever lost.

    Raises:
        Refusal: the service lacks one of its queues.
        CloudError: SQS did not answer; what was moved by then is moved.
    """
    queue = await _Queue.named(clients, queue_name(service))
    dead = await _Queue.named(clients, f"{queue_name(service)}-dead")
    wanted = await redrivable(clients, service, limit)
    moved = failed = 0
    while moved + failed < wanted and (held := await dead.receive(wanted - moved - failed)):
        for lot in _by_size(held):
            sent = await queue.take_over(lot)
            await dead.delete(sent)
            await dead.show([letter for letter in lot if letter not in sent])
            moved, failed = moved + len(sent), failed + len(lot) - len(sent)
            if progress:
                progress(moved + failed, wanted)
    return Redriven(moved, failed, (await dead.depth())[0])


async def redrivable(clients: Clients, service: ServiceName, limit: int | None) -> int:
    """Return how many dead letters a redrive would move now. Raises as ``redrive`` does."""
    dead = await _Queue.named(clients, f"{queue_name(service)}-dead")
    there = (await dead.depth())[0]
    return there if limit is None else min(limit, there)


async def _state(clients: Clients, service: ServiceName, oldest_s: float | None) -> QueueState:
    queue = await _Queue.named(clients, queue_name(service))
    dead = await _Queue.named(clients, f"{queue_name(service)}-dead")
    waiting, in_flight, delayed = await queue.depth()
    return QueueState(service, waiting, in_flight, delayed, oldest_s, sum(await dead.depth()))


async def _ages(clients: Clients, clock: Clock) -> Mapping[str, float]:
    """Return what CloudWatch knows; an answer that it does not give is unknown, and no reason to say nothing."""
    try:
        return await _metric(clients, clock)
    except CloudError:
        return {}


@translated
async def _metric(clients: Clients, clock: Clock) -> Mapping[str, float]:
    cloudwatch = await clients.cloudwatch()
    now = clock.now()
    answer = await cloudwatch.get_metric_data(
        MetricDataQueries=[_query(service) for service in SERVICES],
        StartTime=now - METRIC_WINDOW,
        EndTime=now,
        ScanBy="TimestampDescending",
    )
    return {result["Id"]: result["Values"][0] for result in answer["MetricDataResults"] if result.get("Values")}


def _query(service: ServiceName) -> MetricDataQueryTypeDef:
    return {
        "Id": service,
        "MetricStat": {
            "Metric": {
                "Namespace": "AWS/SQS",
                "MetricName": "ApproximateAgeOfOldestMessage",
                "Dimensions": [{"Name": "QueueName", "Value": queue_name(service)}],
            },
            "Period": METRIC_PERIOD_S,
            "Stat": "Maximum",
        },
    }


class _Queue:
    """One queue by its name."""

    def __init__(self, sqs: SQSClient, url: str) -> None:
        self._sqs = sqs
        self._url = url

    @classmethod
    async def named(cls, clients: Clients, name: str) -> _Queue:
        try:
            return cls(await clients.sqs(), await _url(clients, name))
        except NotFound as error:
            raise Refusal(f"there is no queue {name}: apply the messages first, python -m deploy.messaging") from error

    @translated
    async def depth(self) -> tuple[int, int, int]:
        """Return how many wait, are in flight, and are delayed."""
        answer = await self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["All"])
        found = answer["Attributes"]
        return (
            int(found["ApproximateNumberOfMessages"]),
            int(found["ApproximateNumberOfMessagesNotVisible"]),
            int(found["ApproximateNumberOfMessagesDelayed"]),
        )

    @translated
    async def receive(self, limit: int) -> list[MessageTypeDef]:
        answer = await self._sqs.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=min(BATCH, limit),
            WaitTimeSeconds=LOOK_S,
            VisibilityTimeout=HIDDEN_S,
            MessageSystemAttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
            MessageAttributeNames=["All"],
        )
        return list(answer.get("Messages", []))

    @translated
    async def show(self, messages: Sequence[MessageTypeDef]) -> None:
        """Show messages at once; those for which that fails show themselves after ``HIDDEN_S``."""
        for lot in lots(messages, BATCH):
            await self._sqs.change_message_visibility_batch(
                QueueUrl=self._url,
                Entries=[
                    {"Id": str(place), "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": 0}
                    for place, message in enumerate(lot)
                ],
            )

    @translated
    async def take_over(self, messages: Sequence[MessageTypeDef]) -> list[MessageTypeDef]:
        """Send messages of another queue to this one; return those that SQS took."""
        entries = [_entry(str(place), message) for place, message in enumerate(messages)]
        answer = await self._sqs.send_message_batch(QueueUrl=self._url, Entries=entries)
        return [messages[int(taken["Id"])] for taken in answer.get("Successful", [])]

    @translated
    async def delete(self, messages: Sequence[MessageTypeDef]) -> None:
        """Delete messages; one for which that fails is there twice, and handlers are used to that."""
        if messages:
            await self._sqs.delete_message_batch(
                QueueUrl=self._url,
                Entries=[
                    {"Id": str(place), "ReceiptHandle": message["ReceiptHandle"]}
                    for place, message in enumerate(messages)
                ],
            )


@translated
async def _url(clients: Clients, name: str) -> str:
    return (await (await clients.sqs()).get_queue_url(QueueName=name))["QueueUrl"]


def _entry(place: str, message: MessageTypeDef) -> SendMessageBatchRequestEntryTypeDef:
    attributes: dict[str, Any] = {
        name: {part: content for part, content in value.items() if part in _PARTS}
        for name, value in message.get("MessageAttributes", {}).items()
        if name != "reason"
    }
    return {"Id": place, "MessageBody": message["Body"], "MessageAttributes": attributes}


def _by_size(messages: Sequence[MessageTypeDef]) -> Iterator[list[MessageTypeDef]]:
    """Yield the messages in lots that one request takes. Pure."""
    lot: list[MessageTypeDef] = []
    size = 0
    for message in messages:
        length = len(message["Body"].encode(errors="replace"))
        if lot and size + length > BATCH_BYTES:
            yield lot
            lot, size = [], 0
        lot, size = [*lot, message], size + length
    yield lot


def _letter(message: MessageTypeDef) -> Letter:
    attributes = {name: value.get("StringValue", "") for name, value in message.get("MessageAttributes", {}).items()}
    system = message.get("Attributes", {})
    return Letter(
        id=message["MessageId"],
        reason=attributes.get("reason", ""),
        type=type_of(message["Body"]),
        trace=trace_of(attributes.get("traceparent", "")),
        sent=datetime.fromtimestamp(int(system["SentTimestamp"]) / 1000, UTC),
        receives=int(system["ApproximateReceiveCount"]),
        body=message["Body"],
    )


def type_of(body: str) -> str:
    """Return what a body says that it is, or "" where it says nothing that can be read. Pure."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    if not isinstance(fields, dict):
        return ""
    named = (fields.get(name) for name in ("type", "detail-type", "LifecycleTransition", "Event", "Type"))
    return next((text for text in named if isinstance(text, str)), "")


def trace_of(traceparent: str) -> str:
    """Return the trace's id, or "" for what is no ``traceparent``. Pure."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) >= 4 else ""


def shortened(text: str, length: int) -> str:
    """Return the text on one line, cut where it is longer. Pure."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return line if len(line) <= length else line[: length - 1] + "…"
