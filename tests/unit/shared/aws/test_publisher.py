from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from shared.aws.publisher import Publisher, topic_of
from shared.messages import Alert, Command, Fact, ImageBakeRequested, ServerReady, Tick, parse_message

NOW = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)


class StoppedClock:
    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None: ...


class Topics:
    def __init__(self) -> None:
        self.published: list[dict[str, Any]] = []

    async def publish(self, **request: Any) -> None:
        self.published.append(request)

    async def client(self) -> Any:
        return self


@pytest.mark.parametrize(("kinds", "topic"), [(Command, "commands"), (Fact, "events"), (Alert, "alerts")])
def test_the_type_of_a_message_decides_its_topic(kinds: Any, topic: str) -> None:
    assert {topic_of(kind.model_construct()) for kind in get_args(kinds)} == {topic}


def test_a_tick_is_on_no_topic() -> None:
    with pytest.raises(ValueError, match="tick"):
        topic_of(Tick())


async def test_what_is_published_says_when_and_by_whom() -> None:
    topics = Topics()
    ready = ServerReady(fleet="web", server="i-0123456789abcdef0", image="ami-0123456789abcdef0", seconds=1.5)
    await Publisher(topics.client, "arn:aws:sns:eu-west-1:1:ours-", "provisioner", StoppedClock()).publish(ready)
    [sent] = topics.published
    assert sent["TopicArn"] == "arn:aws:sns:eu-west-1:1:ours-events"
    assert parse_message(sent["Message"]) == ready.model_copy(update={"source": "provisioner", "time": NOW})


async def test_a_message_keeps_the_time_that_it_has() -> None:
    topics = Topics()
    earlier = datetime(2026, 1, 30, tzinfo=UTC)
    request = ImageBakeRequested(fleet="web", time=earlier)
    await Publisher(topics.client, "arn:aws:sns:eu-west-1:1:ours-", "ops", StoppedClock()).publish(request)
    assert parse_message(topics.published[0]["Message"]).time == earlier
