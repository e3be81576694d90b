"""The queue server of the benchmarks answers what the clients that are measured ask."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiobotocore.session import get_session

from bench.queueserver import QueueServer, queue_server
from shared.clock import SystemClock


@pytest.fixture(scope="module")
def server() -> Iterator[QueueServer]:
    with queue_server() as started:
        yield started


@pytest.fixture
async def sqs(server: QueueServer) -> AsyncIterator[Any]:
    session: Any = get_session()
    account = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    async with session.create_client("sqs", endpoint_url=server.url, **account) as client:
        yield client


async def test_what_is_deleted_is_gone_and_the_rest_is_left(server: QueueServer, sqs: Any) -> None:
    url = server.queue_url("some")
    server.fill("some", ["a", "b"], 6)
    taken = (await sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10))["Messages"]
    assert [message["Body"] for message in taken] == ["a", "b"] * 5
    entries = [{"Id": str(place), "ReceiptHandle": each["ReceiptHandle"]} for place, each in enumerate(taken[:9])]
    assert len((await sqs.delete_message_batch(QueueUrl=url, Entries=entries))["Successful"]) == 9
    await sqs.delete_message(QueueUrl=url, ReceiptHandle=taken[9]["ReceiptHandle"])

    seen = server.look("some")
    assert seen["left"] == 2
    assert seen["requests"] == {"ReceiveMessage": 1, "DeleteMessageBatch": 1, "DeleteMessage": 1}


async def test_a_message_that_is_sent_once_can_be_repeated(server: QueueServer, sqs: Any) -> None:
    found = await sqs.get_queue_url(QueueName="framework")
    assert found["QueueUrl"] == server.queue_url("framework")
    await sqs.send_message(QueueUrl=found["QueueUrl"], MessageBody="envelope")
    assert server.fill("framework", [], 5) == "envelope"
    assert server.look("framework")["left"] == 5


async def test_an_empty_queue_answers_after_the_wait(server: QueueServer, sqs: Any) -> None:
    url, clock = server.queue_url("empty"), SystemClock()
    began = clock.monotonic()
    assert "Messages" not in await sqs.receive_message(QueueUrl=url, WaitTimeSeconds=1)
    assert clock.monotonic() - began >= 0.9


async def test_a_message_that_is_handed_back_comes_again(server: QueueServer, sqs: Any) -> None:
    url = server.queue_url("again")
    server.fill("again", ["a"], 1)
    [taken] = (await sqs.receive_message(QueueUrl=url))["Messages"]
    await sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=taken["ReceiptHandle"], VisibilityTimeout=0)
    [again] = (await sqs.receive_message(QueueUrl=url))["Messages"]
    assert again["Body"] == "a"
