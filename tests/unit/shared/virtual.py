"""A queue on virtual time: visibility, delays, receive counts and long polls as SQS has them."""

from __future__ import annotations

import asyncio
import heapq
import json
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count

from shared.cloud import CloudError, QueueMessage

LOOK_EVERY_S = 0.25
"""How often a waiting receive looks for messages."""


class SteppedClock:
    """Time that passes only in ``pass_time``; whoever sleeps wakes in the right order."""

    def __init__(self) -> None:
        self._time = 0.0
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return datetime(2026, 3, 4, 12, tzinfo=UTC) + timedelta(seconds=self._time)

    def monotonic(self) -> float:
        return self._time

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._time + seconds, next(self._order), woken))
        await woken

    async def pass_time(self, seconds: float) -> None:
        until = self._time + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            due, _, woken = heapq.heappop(self._sleepers)
            self._time = max(self._time, due)
            if not woken.done():
                woken.set_result(None)
                await settle()
        self._time = until


async def settle() -> None:
    """Let everybody do what can be done without time passing."""
    ready: Sized = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    while ready:  # noqa: ASYNC110  nobody would set an event: that all are waiting is what is waited for
        await asyncio.sleep(0)


@dataclass
class Stored:
    id: str
    body: str
    attributes: Mapping[str, str]
    visible_from: float
    sent: float
    receives: int = 0
    receipt: str = ""


@dataclass(frozen=True)
class Call:
    name: str
    at: float
    what: object


@dataclass(frozen=True)
class Dead:
    body: str
    attributes: Mapping[str, str]


@dataclass
class VirtualQueue:
    clock: SteppedClock
    stored: dict[str, Stored] = field(default_factory=dict)
    dead: list[Dead] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    faults: dict[str, list[Exception]] = field(default_factory=dict)
    receiving_s: float = 0
    """How long a request to receive is on its way."""
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def put(self, *bodies: str, attributes: Mapping[str, str] | None = None, delay_s: float = 0) -> list[str]:
        """Add messages; return their ids."""
        ids = [f"m{next(self._numbers)}" for _ in bodies]
        for each, body in zip(ids, bodies, strict=True):
            visible_from, sent = self.clock.monotonic() + delay_s, self.clock.now().timestamp()
            self.stored[each] = Stored(each, body, attributes or {}, visible_from, sent)
        return ids

    def fail(self, name: str, error: CloudError | TypeError, times: int = 1) -> None:
        self.faults.setdefault(name, []).extend([error] * times)

    def called(self, name: str) -> list[Call]:
        return [call for call in self.calls if call.name == name]

    @property
    def visible(self) -> list[str]:
        return [each.id for each in self.stored.values() if each.visible_from <= self.clock.monotonic()]

    async def receive(self, limit: int, wait_s: int, visibility_s: int) -> Sequence[QueueMessage]:
        assert 1 <= limit <= 10
        assert 0 <= wait_s <= 20
        await self._begin("receive", limit)
        if self.receiving_s:
            await self.clock.sleep(self.receiving_s)
        deadline = self.clock.monotonic() + wait_s
        while not self.visible and self.clock.monotonic() < deadline:
            await self.clock.sleep(LOOK_EVERY_S)
        return [self._hand_out(self.stored[each], visibility_s) for each in self.visible[:limit]]

    def _hand_out(self, stored: Stored, visibility_s: int) -> QueueMessage:
        stored.receives += 1
        stored.receipt = f"{stored.id}/{stored.receives}"
        stored.visible_from = self.clock.monotonic() + visibility_s
        return QueueMessage(stored.id, stored.body, stored.receipt, stored.receives, stored.attributes, stored.sent)

    async def delete(self, receipts: Sequence[str]) -> Sequence[str]:
        await self._begin("delete", tuple(receipts))
        for stored in [each for each in self.stored.values() if each.receipt in receipts]:
            del self.stored[stored.id]
        return []

    async def extend(self, receipts: Mapping[str, int]) -> Sequence[str]:
        await self._begin("extend", dict(receipts))
        now = self.clock.monotonic()
        hidden = {each.receipt: each for each in self.stored.values() if each.visible_from > now}
        for receipt in receipts.keys() & hidden.keys():
            hidden[receipt].visible_from = now + receipts[receipt]
        return sorted(receipts.keys() - hidden.keys())

    async def send(self, body: str, delay_s: int, attributes: Mapping[str, str]) -> None:
        await self._begin("send", delay_s)
        assert 0 <= delay_s <= 900
        self.put(body, attributes=attributes, delay_s=delay_s)

    async def send_dead(self, body: str, attributes: Mapping[str, str]) -> None:
        await self._begin("send_dead", body)
        assert len(attributes) <= 10
        self.dead.append(Dead(body, attributes))

    async def _begin(self, name: str, what: object) -> None:
        self.calls.append(Call(name, self.clock.monotonic(), what))
        await asyncio.sleep(0)
        if self.faults.get(name):
            raise self.faults[name].pop(0)


def kill(number: int = 1, **fields: str) -> str:
    """Return the body of a message about one server."""
    return json.dumps({"type": "server.kill.requested", "fleet": "web", "server": f"i-{number:08x}", **fields})
