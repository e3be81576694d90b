"""The least that aiobotocore can be asked to do: receive ten, delete ten. ``python -m bench.raw_loop URL``."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from aiobotocore.session import get_session

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient

AT_ONCE = 8


async def _loop(url: str) -> None:
    async with get_session().create_client("sqs") as sqs:
        await asyncio.gather(*(_receive_and_delete(sqs, url) for _ in range(AT_ONCE)))


async def _receive_and_delete(sqs: SQSClient, url: str) -> None:
    while True:
        answer = await sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=20)
        if messages := answer.get("Messages"):
            receipts = [message["ReceiptHandle"] for message in messages]
            await sqs.delete_message_batch(
                QueueUrl=url, Entries=[{"Id": str(n), "ReceiptHandle": receipt} for n, receipt in enumerate(receipts)]
            )


if __name__ == "__main__":
    asyncio.run(_loop(sys.argv[1]))
