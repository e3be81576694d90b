"""Events and notifications for another endpoint: in compose LocalStack has the event bus, the queues and the topics.

What is sent waits here, in order, until the endpoint takes it. Only an emulator takes it at all: AWS accepts no events
whose source begins with ``aws.``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import get_session

from localcloud.account import REGION

log = logging.getLogger("localcloud")

AGAIN_S = 1.0
"""Between tries while the endpoint does not answer."""

LOOK_S = 0.5
"""How late the end of the local cloud may be noticed while nothing is sent."""

SERVER_ERROR = 500


class Elsewhere:
    """The event bus, queues and topics of another endpoint. Sending returns at once.

    Credentials are those of the environment.
    """

    def __init__(self, endpoint: str) -> None:
        session: Any = get_session()
        self._events, self._sqs, self._sns = (
            session.create_client(service, endpoint_url=endpoint, region_name=REGION)
            for service in ("events", "sqs", "sns")
        )
        self._waiting: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def start(self, over: Event) -> None:
        """Carry what is sent, in a thread of its own, until ``over`` is set."""
        Thread(target=self._carry, args=(over,), daemon=True).start()

    def publish(self, event: Mapping[str, Any]) -> None:
        """Put a whole event on the endpoint's bus, which gives it an id of its own."""
        entry = {
            "Time": datetime.fromisoformat(event["time"]),
            "Source": event["source"],
            "Resources": event["resources"],
            "DetailType": event["detail-type"],
            "Detail": json.dumps(event["detail"]),
        }
        self._waiting.put(lambda: self._events.put_events(Entries=[entry]))

    def deliver(self, arn: str, body: str, *, subject: str | None = None, group: str | None = None) -> None:
        """Send a body to an SQS queue or an SNS topic of the endpoint."""
        service, name = arn.split(":")[2], arn.split(":")[5]
        if service == "sqs":
            place = {"MessageGroupId": group} if group else {}
            self._waiting.put(lambda: self._sqs.send_message(QueueUrl=self._queue(name), MessageBody=body, **place))
        elif service == "sns":
            title = {"Subject": subject} if subject else {}
            self._waiting.put(lambda: self._sns.publish(TopicArn=arn, Message=body, **title))
        else:
            log.error("nothing delivers to %s: only queues and topics are targets here", arn)

    def _queue(self, name: str) -> str:
        return str(self._sqs.get_queue_url(QueueName=name)["QueueUrl"])

    def _carry(self, over: Event) -> None:
        while not over.is_set():
            try:
                send = self._waiting.get(timeout=LOOK_S)
            except Empty:
                continue
            while not _sent(send) and not over.wait(AGAIN_S):
                pass


def _sent(send: Callable[[], object]) -> bool:
    """Send, and return whether that is settled: taken, or refused, which is logged, for nobody waits for an answer."""
    try:
        send()
    except ClientError as refusal:
        log.warning("could not deliver: %s", refusal)
        return bool(refusal.response["ResponseMetadata"]["HTTPStatusCode"] < SERVER_ERROR)
    except BotoCoreError as failure:
        log.warning("could not deliver yet: %s", failure)
        return False
    return True
