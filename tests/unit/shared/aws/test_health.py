import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from shared.aws.health import Health

ANSWERS = {
    "/well": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "/sick": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
    "/moved": b"HTTP/1.1 302 Found\r\nLocation: /well\r\nContent-Length: 0\r\n\r\n",
    "/hangs-up": b"",
}


@pytest.fixture
async def page() -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        if path in ANSWERS:
            writer.write(ANSWERS[path])
        else:
            await reader.read()  # silent until the other side gives up
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
async def health() -> AsyncIterator[Health]:
    async with aiohttp.ClientSession() as http:
        yield Health(http)


@pytest.mark.parametrize(("path", "well"), [("/well", True), ("/sick", False), ("/moved", False), ("/hangs-up", False)])
async def test_an_answer_tells_well_from_sick(health: Health, page: str, path: str, well: bool) -> None:
    assert await health.probe(page + path, 5) is well


@pytest.mark.fault(32)
async def test_silence_tells_nothing(health: Health, page: str) -> None:
    assert await health.probe(page + "/silent", 0.2) is None


async def test_an_address_that_refuses_is_sick(health: Health) -> None:
    assert await health.probe("http://127.0.0.1:1/", 5) is False


async def test_a_name_that_nobody_knows_tells_nothing(health: Health) -> None:
    assert await health.probe("http://nobody.invalid/", 5) is None
