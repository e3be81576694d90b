"""SQS behind QueuePort."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from shared.aws.errors import translated
from shared.aws.lots import lots
from shared.cloud import QueueMessage
from shared.tracing import carried, sending

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient
    from types_aiobotocore_sqs.type_defs import (
        BatchResultErrorEntryTypeDef,
        MessageAttributeValueTypeDef,
        MessageTypeDef,
    )

ENTRIES_PER_CALL = 10  # every batch call of SQS


class Queue:
    """One service's queue, and the dead-letter queue beside it."""

    def __init__(self, client: Callable[[], Awaitable[SQSClient]], url: str, dead_letter_url: str) -> None:
        self._client = client
        self._url = url
        self._dead_letter_url = dead_letter_url

    @translated
    async def receive(self, limit: int, wait_s: int, visibility_s: int) -> Sequence[QueueMessage]:
        """Return up to ``limit`` messages, waiting up to ``wait_s`` seconds for the first."""
        client = await self._client()
        answer = await client.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=limit,
            WaitTimeSeconds=wait_s,
            VisibilityTimeout=visibility_s,
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
            MessageAttributeNames=["All"],
        )
        return [_received(message) for message in answer.get("Messages", [])]

    @translated
    async def delete(self, receipts: Sequence[str]) -> Sequence[str]:
        """Delete the messages; return the receipts that could not be deleted."""
        client = await self._client()
        failed: list[str] = []
        for lot in lots(receipts, ENTRIES_PER_CALL):
            answer = await client.delete_message_batch(
                QueueUrl=self._url,
                Entries=[{"Id": str(place), "ReceiptHandle": receipt} for place, receipt in enumerate(lot)],
            )
            failed += _failed(lot, answer.get("Failed", []))
        return failed

    @translated
    async def extend(self, receipts: Mapping[str, int]) -> Sequence[str]:
        """Hide each receipt's message for so many seconds from now; return the receipts for which that failed."""
        client = await self._client()
        failed: list[str] = []
        for lot in lots(list(receipts), ENTRIES_PER_CALL):
            answer = await client.change_message_visibility_batch(
                QueueUrl=self._url,
                Entries=[
                    {"Id": str(place), "ReceiptHandle": receipt, "VisibilityTimeout": receipts[receipt]}
                    for place, receipt in enumerate(lot)
                ],
            )
            failed += _failed(lot, answer.get("Failed", []))
        return failed

    @translated
    async def send(self, body: str, delay_s: int, attributes: Mapping[str, str]) -> None:
        """Send to the queue itself; it can be received after ``delay_s`` (0 to 900) seconds."""
        client = await self._client()
        sending("aws_sqs", queue_name(self._url))
        await client.send_message(
            QueueUrl=self._url, MessageBody=body, DelaySeconds=delay_s, MessageAttributes=_strings(carried(attributes))
        )

    @translated
    async def send_dead(self, body: str, attributes: Mapping[str, str]) -> None:
        """Send to the dead-letter queue."""
        client = await self._client()
        sending("aws_sqs", queue_name(self._dead_letter_url))
        await client.send_message(
            QueueUrl=self._dead_letter_url, MessageBody=body, MessageAttributes=_strings(carried(attributes))
        )


def queue_name(url: str) -> str:
    """Return the name that a queue's URL ends in. Pure."""
    return url.rstrip("/").rsplit("/", 1)[-1]


def _received(message: MessageTypeDef) -> QueueMessage:
    attributes = message.get("MessageAttributes", {})
    system = message["Attributes"]
    return QueueMessage(
        id=message["MessageId"],
        body=message["Body"],
        receipt=message["ReceiptHandle"],
        receive_count=int(system["ApproximateReceiveCount"]),
        attributes={name: value["StringValue"] for name, value in attributes.items() if "StringValue" in value},
        sent=int(system["SentTimestamp"]) / 1000,
    )


def _failed(lot: Sequence[str], failures: Sequence[BatchResultErrorEntryTypeDef]) -> list[str]:
    """Name the receipts of a lot whose entries failed: SQS answers 200 all the same."""
    return [lot[int(failure["Id"])] for failure in failures]


def _strings(attributes: Mapping[str, str]) -> dict[str, MessageAttributeValueTypeDef]:
    return {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
