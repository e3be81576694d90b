"""The queues' commands against the local cloud: nothing that is looked at goes away, nothing that is moved is lost."""

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from aiobotocore.client import AioBaseClient
from typer.testing import CliRunner, Result

from deploy.messaging import apply_messaging
from ops.__main__ import app
from ops.queues import states
from shared.aws.session import open_clients
from shared.clock import SystemClock
from shared.names import SERVICES
from tests.fakes import FakeClock
from tests.wire.running import RunningCloud

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


class Queues:
    """One service's two queues, as any client of SQS sees them."""

    def __init__(self, cloud: RunningCloud, service: str) -> None:
        self.sqs = cloud.client("sqs")
        self.service = service
        self.url = self.sqs.get_queue_url(QueueName=f"autoprovisioner-{service}")["QueueUrl"]
        self.dead = self.sqs.get_queue_url(QueueName=f"autoprovisioner-{service}-dead")["QueueUrl"]

    def bury(self, body: str, **attributes: str) -> None:
        given = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
        self.sqs.send_message(QueueUrl=self.dead, MessageBody=body, MessageAttributes=given)

    def seen(self, url: str) -> list[dict[str, Any]]:
        """Take all out that can be seen, as a consumer would."""
        found: list[dict[str, Any]] = []
        request = {"QueueUrl": url, "MaxNumberOfMessages": 10, "MessageAttributeNames": ["All"], "WaitTimeSeconds": 0}
        while got := self.sqs.receive_message(**request).get("Messages"):
            found += got
            for each in got:
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=each["ReceiptHandle"])
        return found


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["queues", *arguments])


def answer(*arguments: str) -> Any:
    result = run(*arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def deployed(local_cloud: RunningCloud) -> Iterator[RunningCloud]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in local_cloud.environment.items():
            patch.setenv(name, value)
        missing = run("list")
        assert missing.exit_code == 2
        assert "there is no queue autoprovisioner-" in missing.stderr
        asyncio.run(apply_messaging(say=lambda _: None))
        yield local_cloud


@pytest.fixture
def janitor(deployed: RunningCloud) -> Queues:
    queues = Queues(deployed, "janitor")
    queues.seen(queues.url)
    queues.seen(queues.dead)
    return queues


def test_every_queue_is_listed_with_what_is_in_it(janitor: Queues) -> None:
    for body in ("one", "two", "three"):
        janitor.sqs.send_message(QueueUrl=janitor.url, MessageBody=body)
    janitor.sqs.send_message(QueueUrl=janitor.url, MessageBody="later", DelaySeconds=60)
    janitor.sqs.receive_message(QueueUrl=janitor.url)
    janitor.bury("poison")

    found = {state["service"]: state for state in answer("list")}
    assert set(found) == set(SERVICES)
    counts = {name: found["janitor"][name] for name in ("waiting", "in_flight", "delayed", "dead")}
    assert counts == {"waiting": 2, "in_flight": 1, "delayed": 1, "dead": 1}
    text = run("list").stdout
    assert len(text.splitlines()) == 1 + len(SERVICES)
    janitor.sqs.purge_queue(QueueUrl=janitor.url)


async def test_an_age_that_cloudwatch_does_not_tell_is_unknown(janitor: Queues) -> None:
    """Long before the first deployment, that is."""
    async with open_clients() as clients:
        assert {state.oldest_s for state in await states(clients, FakeClock())} == {None}


def test_the_age_is_the_newest_that_cloudwatch_tells(deployed: RunningCloud, janitor: Queues) -> None:
    metric = {
        "MetricName": "ApproximateAgeOfOldestMessage",
        "Dimensions": [{"Name": "QueueName", "Value": "autoprovisioner-janitor"}],
        "Value": 42.0,
        "Timestamp": SystemClock().now() - timedelta(seconds=5),
    }
    deployed.client("cloudwatch").put_metric_data(Namespace="AWS/SQS", MetricData=[metric])

    [age] = [state["oldest_s"] for state in answer("list") if state["service"] == "janitor"]
    assert age == 42


def test_peeking_tells_why_and_leaves_everything_to_be_seen_by_others_at_once(janitor: Queues) -> None:
    janitor.bury('{"type": "image.ready"}', reason="there is no fleet 'x'", traceparent=TRACEPARENT)
    for number in range(14):
        janitor.bury(f"poison {number}")

    letters = answer("peek", "janitor", "--limit", "100")
    assert len({letter["id"] for letter in letters}) == 15
    [told] = [letter for letter in letters if letter["reason"]]
    assert (told["type"], told["trace"], told["receives"]) == ("image.ready", TRACE, 1)
    assert told["reason"] == "there is no fleet 'x'"
    assert len(janitor.seen(janitor.dead)) == 15


def test_peeking_shows_no_more_than_asked_for(janitor: Queues) -> None:
    for number in range(5):
        janitor.bury(f"poison {number}", reason="the body is not JSON")

    result = run("peek", "janitor", "--limit", "3")
    assert result.stdout.count("reason  the body is not JSON") == 3
    assert len(janitor.seen(janitor.dead)) == 5


def test_an_empty_dead_letter_queue_says_so(janitor: Queues) -> None:
    result = run("peek", "janitor")
    assert (result.exit_code, result.stdout) == (0, "janitor has no dead letters that can be seen now\n")


def test_a_redrive_moves_all_back_without_their_reasons(janitor: Queues) -> None:
    bodies = {f"letter {number}" for number in range(23)}
    for body in bodies:
        janitor.bury(body, reason="because", traceparent=TRACEPARENT)

    assert answer("redrive", "janitor") == {"moved": 23, "failed": 0, "left": 0}
    moved = janitor.seen(janitor.url)
    assert {message["Body"] for message in moved} == bodies
    assert len(moved) == 23
    assert {name for message in moved for name in message["MessageAttributes"]} == {"traceparent"}
    assert moved[0]["MessageAttributes"]["traceparent"]["StringValue"] == TRACEPARENT
    assert janitor.seen(janitor.dead) == []


def test_large_letters_are_moved_although_no_request_takes_them_together(janitor: Queues) -> None:
    for number in range(6):
        janitor.bury(str(number) * 190_000)

    assert answer("redrive", "janitor") == {"moved": 6, "failed": 0, "left": 0}
    assert {message["Body"][0] for message in janitor.seen(janitor.url)} == set("012345")


def test_a_redrive_moves_no_more_than_asked_for(janitor: Queues) -> None:
    for number in range(15):
        janitor.bury(f"letter {number}")

    assert answer("redrive", "janitor", "--limit", "12") == {"moved": 12, "failed": 0, "left": 3}
    assert len(janitor.seen(janitor.url)) == 12
    assert len(janitor.seen(janitor.dead)) == 3


def test_a_dry_run_moves_nothing(janitor: Queues) -> None:
    for number in range(3):
        janitor.bury(f"letter {number}")

    assert answer("redrive", "janitor", "--dry-run", "--limit", "2") == {"would_move": 2}
    assert run("redrive", "janitor", "--dry-run").stdout == "would move 3 dead letters of janitor back\n"
    assert janitor.seen(janitor.url) == []
    assert len(janitor.seen(janitor.dead)) == 3


def test_a_letter_that_sqs_refuses_stays_and_is_told(janitor: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    janitor.bury("fine")
    janitor.bury("refused")
    _refuse(monkeypatch, "refused")

    result = run("redrive", "janitor", "-o", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"moved": 1, "failed": 1, "left": 1}
    assert [message["Body"] for message in janitor.seen(janitor.url)] == ["fine"]
    assert [message["Body"] for message in janitor.seen(janitor.dead)] == ["refused"]


def _refuse(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Let SQS refuse one body in a batch: a queue's own limits do that, and the local cloud has none per queue."""
    client: Any = AioBaseClient
    call = client._make_api_call

    async def _call(self: Any, operation: str, request: Any) -> Any:
        if operation != "SendMessageBatch":
            return await call(self, operation, request)
        refused = [{"Id": entry["Id"]} for entry in request["Entries"] if entry["MessageBody"] == body]
        taken = [entry for entry in request["Entries"] if entry["MessageBody"] != body]
        answered = await call(self, operation, {**request, "Entries": taken}) if taken else {}
        return {**answered, "Failed": refused}

    monkeypatch.setattr(client, "_make_api_call", _call)


def test_a_service_that_there_is_none_of_is_refused() -> None:
    assert run("peek", "nobody").exit_code == 2


def test_nobody_at_the_address_is_a_sentence(deployed: RunningCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    result = run("list")
    assert result.exit_code == 2
    assert "127.0.0.1:1" in result.stderr
    assert "Traceback" not in result.output
