"""SNS behind PublisherPort."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, get_args

from shared import metrics
from shared.aws.errors import translated
from shared.clock import Clock
from shared.cloud import NotFound
from shared.messages import Alert, Command, Fact, Message
from shared.names import TopicName, topic_name
from shared.tracing import carried, sending

if TYPE_CHECKING:
    from types_aiobotocore_sns import SNSClient

_TOPICS: dict[type, TopicName] = {
    **dict.fromkeys(get_args(Command), "commands"),
    **dict.fromkeys(get_args(Fact), "events"),
    **dict.fromkeys(get_args(Alert), "alerts"),
}


def topic_of(message: Message) -> TopicName:
    """Return the topic that carries messages of this type. Pure.

    Raises:
        ValueError: none does; ticks come from schedules.
    """
    topic = _TOPICS.get(type(message))
    if topic is None:
        raise ValueError(f"{message.type} is not published on any topic")
    return topic


class Publisher:
    """Publishes as one source, and dates what it publishes.

    Without a topic prefix the topics are looked up by name: people at a command line do not know their ARNs.
    """

    def __init__(
        self, client: Callable[[], Awaitable[SNSClient]], topic_prefix: str, source: str, clock: Clock
    ) -> None:
        self._client = client
        self._topic_prefix = topic_prefix
        self._source = source
        self._clock = clock

    @translated
    async def publish(self, message: Message) -> None:
        """Publish a fact, a request or an alert, signed with our source. Delivery is at least once."""
        topic = await self._arn(topic_of(message))
        sending("aws.sns", topic.rsplit(":", 1)[-1])
        signed = message.model_copy(update={"source": self._source, "time": message.time or self._clock.now()})
        await (await self._client()).publish(
            TopicArn=topic,
            Message=signed.model_dump_json(exclude_none=True),
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value} for name, value in carried({}).items()
            },
        )
        metrics.published(message)

    async def _arn(self, topic: TopicName) -> str:
        if not self._topic_prefix:
            self._topic_prefix = (await self._look_up(topic_name(topic))).removesuffix(topic)
        return self._topic_prefix + topic

    async def _look_up(self, name: str) -> str:
        pages = (await self._client()).get_paginator("list_topics").paginate()
        async for page in pages:
            for topic in page["Topics"]:
                if topic["TopicArn"].endswith(f":{name}"):
                    return topic["TopicArn"]
        raise NotFound(f"there is no topic {name}; apply deploy/messaging.yaml first, with python -m deploy.messaging")
