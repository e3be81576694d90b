"""Documents on real conditional writes: lost replies, and writers in processes of their own that race."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from shared.aws import open_cloud
from shared.clock import SystemClock
from shared.cloud import Unavailable
from shared.documents import CorruptDocument, Documents
from tests.wire.messaging.helpers import BUCKET, Settings, unique, worker
from tests.wire.messaging.lossy import Proxy, losing_before
from tests.wire.messaging.worker import Counter, one_more
from tests.wire.running import Endpoint

SETTINGS = Settings("http://none", "http://none")
WRITERS = 8
EACH = 10


@pytest.fixture
async def proxy(message_plane: Endpoint, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Proxy]:
    with losing_before(message_plane.url) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        yield between


@pytest.fixture
async def documents(proxy: Proxy) -> AsyncIterator[Documents]:
    async with open_cloud(SETTINGS, "test", SystemClock()) as cloud:
        yield Documents(cloud.objects)


@pytest.fixture
def key() -> str:
    return f"tests/{unique('counter')}.json"


def history(plane: Endpoint, key: str) -> list[Any]:
    """Return every version that the document ever had, oldest first."""
    s3 = plane.client("s3")
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=BUCKET, Prefix=key)
    found = [version["VersionId"] for page in pages for version in page.get("Versions", [])]
    return [
        json.loads(s3.get_object(Bucket=BUCKET, Key=key, VersionId=version)["Body"].read())
        for version in reversed(found)
    ]


@pytest.mark.fault(1)
@pytest.mark.parametrize("lost", [["PUT"], ["PUT", "PUT"], ["PUT", "PUT", "PUT"]])
async def test_a_write_whose_reply_is_lost_counts_once(
    message_plane: Endpoint, proxy: Proxy, documents: Documents, key: str, lost: list[str]
) -> None:
    await documents.change(Counter, key, one_more)
    proxy.lose += lost
    written = await documents.change(Counter, key, one_more)
    assert written.changed
    assert written.document
    assert (written.document.value, written.document.generation) == (2, 2)
    assert proxy.lost == ["PUT 200", "PUT 412", "PUT 412"][: len(lost)]
    assert [version["value"] for version in history(message_plane, key)] == [1, 2]


@pytest.mark.fault(1)
async def test_a_first_write_whose_reply_is_lost_is_known_for_ours(
    message_plane: Endpoint, proxy: Proxy, documents: Documents, key: str
) -> None:
    proxy.lose += ["PUT"]
    created = await documents.create(key, Counter(value=7))
    assert created
    assert proxy.lost == ["PUT 200"]
    assert await documents.create(key, Counter(value=8)) is None
    assert [version["write_id"] for version in history(message_plane, key)] == [created.write_id]


@pytest.mark.fault(2)
async def test_a_race_that_was_lost_is_decided_anew_on_what_won(
    message_plane: Endpoint, documents: Documents, key: str
) -> None:
    await documents.change(Counter, key, one_more)
    rival = {"schema": 1, "generation": 2, "write_id": "a rival's", "value": 10}
    seen: list[int] = []

    def one_more_while_a_rival_writes(counter: Counter | None) -> Counter:
        assert counter
        if not seen:
            message_plane.client("s3").put_object(Bucket=BUCKET, Key=key, Body=json.dumps(rival).encode())
        seen.append(counter.value)
        return one_more(counter)

    await documents.change(Counter, key, one_more_while_a_rival_writes)
    assert seen == [1, 10]
    assert [(version["generation"], version["value"]) for version in history(message_plane, key)] == [
        (1, 1),
        (2, 10),
        (3, 11),
    ]


async def test_a_read_whose_reply_is_lost_is_asked_again_and_a_server_that_never_answers_is_unavailable(
    proxy: Proxy, documents: Documents, key: str
) -> None:
    await documents.change(Counter, key, one_more)
    proxy.lose += ["GET"]
    assert await documents.get(Counter, key)
    proxy.lose += ["GET"] * 9
    with pytest.raises(Unavailable):
        await documents.get(Counter, key)
    proxy.lose.clear()


@pytest.mark.fault(9)
async def test_what_cannot_be_read_is_never_written_over(
    message_plane: Endpoint, documents: Documents, key: str
) -> None:
    for body in (b"not json", b'{"schema": 2, "generation": 9, "write_id": "x", "value": 1}'):
        message_plane.client("s3").put_object(Bucket=BUCKET, Key=key, Body=body)
        with pytest.raises(CorruptDocument):
            await documents.change(Counter, key, one_more)
        with pytest.raises(CorruptDocument):
            await documents.create(key, Counter())
        assert message_plane.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read() == body


@pytest.mark.fault(2, 4)
def test_writers_in_processes_of_their_own_lose_nothing_to_each_other(
    message_plane: Endpoint, tmp_path: Path, key: str
) -> None:
    with ExitStack() as running:
        out = tmp_path / "out"
        command = ("count", key, str(EACH))
        writers = [running.enter_context(worker(message_plane, SETTINGS, out, *command)) for _ in range(WRITERS)]
        assert [writer.wait(100) for writer in writers] == [0] * WRITERS, out.read_text()
    chain = history(message_plane, key)
    steps = list(range(1, WRITERS * EACH + 1))
    assert [(version["generation"], version["value"]) for version in chain] == [(step, step) for step in steps]
    assert len({version["write_id"] for version in chain}) == len(chain)
