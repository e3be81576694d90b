"""A queue server that answers SQS's JSON protocol out of memory: ``python -m bench.sqs_stub``.

An emulator would spend more on each request than any client does; this one leaves the consumer to be the slowest.
Messages stay in flight until they are deleted or shown again: no visibility timeout ends, so that no figure depends on
one. What the benchmarks ask of it beyond SQS is under ``/bench/``.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import orjson
from aiohttp import web

from shared.clock import Clock, SystemClock

ACCOUNT = "000000000000"
Fields = dict[str, Any]
JSON = "application/x-amz-json-1.0"


@dataclass
class Queue:
    """One queue: bodies that wait, those in flight by receipt, and what was asked of it."""

    waiting: deque[str] = field(default_factory=deque)
    flying: dict[str, str] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    first_receive: float | None = None
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)


class Stub:
    """All queues of one server."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._queues: dict[str, Queue] = {}
        self._numbers = count(1)
        self._origin = ""
        self._operations: dict[str, Callable[[Fields], Coroutine[Any, Any, Fields]]] = {
            "CreateQueue": self._named,
            "GetQueueUrl": self._named,
            "ListQueues": self._list,
            "GetQueueAttributes": self._attributes,
            "ReceiveMessage": self._receive,
            "SendMessage": self._send,
            "DeleteMessage": self._delete,
            "DeleteMessageBatch": self._delete_batch,
            "ChangeMessageVisibility": self._show,
            "ChangeMessageVisibilityBatch": self._show_batch,
        }

    def application(self) -> web.Application:
        """Return the routes."""
        application = web.Application()
        application.router.add_post("/bench/fill/{queue}", self._fill)
        application.router.add_get("/bench/look/{queue}", self._look)
        application.router.add_post("/{path:.*}", self._answer)
        return application

    async def _answer(self, request: web.Request) -> web.Response:
        self._origin = f"{request.scheme}://{request.host}"
        operation = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        if operation not in self._operations:
            body = orjson.dumps({"__type": "UnsupportedOperation", "message": f"no {operation}"})
            return web.Response(status=400, body=body, content_type=JSON)
        try:
            fields = orjson.loads(await request.read())
        except ConnectionResetError:
            raise web.HTTPBadRequest from None  # the client was killed: nobody reads this
        if url := fields.get("QueueUrl"):
            self._queue(url).requests[operation] += 1
        return web.Response(body=orjson.dumps(await self._operations[operation](fields)), content_type=JSON)

    def _queue(self, url: str) -> Queue:
        return self._queues.setdefault(url.rpartition("/")[2], Queue())

    async def _named(self, fields: Fields) -> Fields:
        return {"QueueUrl": f"{self._origin}/{ACCOUNT}/{fields['QueueName']}"}

    async def _list(self, fields: Fields) -> Fields:
        return {"QueueUrls": [f"{self._origin}/{ACCOUNT}/{name}" for name in self._queues]}

    async def _attributes(self, fields: Fields) -> Fields:
        queue = self._queue(fields["QueueUrl"])
        waiting, flying = str(len(queue.waiting)), str(len(queue.flying))
        return {
            "Attributes": {
                "VisibilityTimeout": "30",
                "ApproximateNumberOfMessages": waiting,
                "ApproximateNumberOfMessagesNotVisible": flying,
                "ApproximateNumberOfMessagesDelayed": "0",
            }
        }

    async def _receive(self, fields: Fields) -> Fields:
        queue = self._queue(fields["QueueUrl"])
        if queue.first_receive is None:
            queue.first_receive = self._clock.monotonic()
        if not queue.waiting and (wait_s := fields.get("WaitTimeSeconds", 0)):
            await _wait(queue, wait_s)
        taken = [queue.waiting.popleft() for _ in range(min(len(queue.waiting), fields.get("MaxNumberOfMessages", 1)))]
        return {"Messages": [self._hand_out(queue, body) for body in taken]} if taken else {}

    def _hand_out(self, queue: Queue, body: str) -> Fields:
        number = str(next(self._numbers))
        queue.flying[number] = body
        return {
            "MessageId": f"00000000-0000-4000-8000-{number:>012}",
            "ReceiptHandle": number,
            "Body": body,
            "MD5OfBody": _md5(body),
            "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1772625600000"},
        }

    async def _send(self, fields: Fields) -> Fields:
        await _add(self._queue(fields["QueueUrl"]), [fields["MessageBody"]])
        return {"MessageId": str(next(self._numbers)), "MD5OfMessageBody": _md5(fields["MessageBody"])}

    async def _delete(self, fields: Fields) -> Fields:
        self._queue(fields["QueueUrl"]).flying.pop(fields["ReceiptHandle"], None)
        return {}

    async def _delete_batch(self, fields: Fields) -> Fields:
        queue = self._queue(fields["QueueUrl"])
        for entry in fields["Entries"]:
            queue.flying.pop(entry["ReceiptHandle"], None)
        return {"Successful": [{"Id": entry["Id"]} for entry in fields["Entries"]], "Failed": []}

    async def _show(self, fields: Fields) -> Fields:
        queue = self._queue(fields["QueueUrl"])
        body = queue.flying.pop(fields["ReceiptHandle"], None) if fields["VisibilityTimeout"] == 0 else None
        if body is not None:
            await _add(queue, [body])
        return {}

    async def _show_batch(self, fields: Fields) -> Fields:
        for entry in fields["Entries"]:
            await self._show({**entry, "QueueUrl": fields["QueueUrl"]})
        return {"Successful": [{"Id": entry["Id"]} for entry in fields["Entries"]], "Failed": []}

    async def _fill(self, request: web.Request) -> web.Response:
        """Add bodies, each so often; none given: the one that waits."""
        queue = self._queue(request.match_info["queue"])
        asked = orjson.loads(await request.read())
        bodies = asked["bodies"] or [queue.waiting.popleft()]
        await _add(queue, bodies * asked["times"])
        return web.json_response(bodies[0])

    async def _look(self, request: web.Request) -> web.Response:
        queue = self._queue(request.match_info["queue"])
        return web.json_response(
            {
                "left": len(queue.waiting) + len(queue.flying),
                "requests": dict(queue.requests),
                "first_receive": queue.first_receive,
            }
        )


async def _add(queue: Queue, bodies: list[str]) -> None:
    async with queue.changed:
        queue.waiting.extend(bodies)
        queue.changed.notify_all()


async def _wait(queue: Queue, wait_s: float) -> None:
    try:
        async with asyncio.timeout(wait_s), queue.changed:
            await queue.changed.wait_for(lambda: queue.waiting)
    except TimeoutError:
        return


def _md5(body: str) -> str:
    return hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()


async def _serve() -> None:
    runner = web.AppRunner(Stub(SystemClock()).application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"queue server ready: {runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
