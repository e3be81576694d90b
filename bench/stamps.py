"""Consumers that say how long each message was under way: ``python -m bench.stamps service``, or ``raw``."""

from __future__ import annotations

import asyncio
import os
import sys

import orjson
from aiobotocore.session import get_session

from shared.clock import SystemClock
from shared.events import Incoming
from shared.messages import ServerKillRequested
from shared.outcome import Done, Outcome
from shared.runtime import Services, run_service

MARK = "under way: "


class Stamps:
    """Tells the delay of each message, as soon as it is called."""

    def __init__(self, services: Services) -> None:
        pass

    async def handle(self, incoming: Incoming) -> Outcome:
        """Tell the delay."""
        if isinstance(incoming, ServerKillRequested):
            _tell(incoming.reason)
        return Done("told")


async def _raw() -> None:
    url = os.environ["AUTOPROVISIONER_QUEUE_URL"]
    async with get_session().create_client("sqs") as sqs:
        while True:
            answer = await sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=20)
            for message in answer.get("Messages", []):
                if sent := orjson.loads(message["Body"]).get("reason"):
                    _tell(sent)
                await sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


def _tell(sent: str) -> None:
    """Print the seconds since the moment in ``sent``: this machine's monotonic clock is the same in all processes."""
    print(f"{MARK}{SystemClock().monotonic() - float(sent):.6f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "raw":
        asyncio.run(_raw())
    run_service("reconciler", Stamps)
