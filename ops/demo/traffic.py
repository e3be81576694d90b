"""The fleet's users: they ask whoever the membership document names, and count every answer that was not good."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

import aiohttp

from shared.clock import Clock
from shared.cloud import CloudError, ObjectsPort
from shared.records import Member, Membership, membership_key

MEMBERSHIP_POLL_S = 0.25
"""How stale a user's list of members may be; a server drains for longer than this before it ends."""

REQUEST_TIMEOUT_S = 10.0
"""Three servers provision on two cores beside this; slow is not broken."""


@dataclass(frozen=True)
class Failure:
    """One request that was not answered with 200."""

    at: float
    server: str
    reason: str


class Traffic:
    """Asks the members for pages, one after the other, at ``rate`` requests a second."""

    def __init__(self, objects: ObjectsPort, fleet: str, port: int, clock: Clock) -> None:
        self._objects = objects
        self._fleet = fleet
        self._port = port
        self._clock = clock
        self.members: tuple[Member, ...] = ()
        self.rate = 24.0
        self.served = 0
        self.failures: list[Failure] = []
        self._answered: deque[float] = deque()

    async def run(self) -> None:
        """Ask until cancelled."""
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_members())
            tasks.create_task(self._ask(session, tasks))

    def per_server(self) -> float:
        """Return the requests per second and member over the last two seconds."""
        now = self._clock.monotonic()
        while self._answered and self._answered[0] < now - 2:
            self._answered.popleft()
        return len(self._answered) / 2 / max(1, len(self.members))

    async def _follow_members(self) -> None:
        while True:
            try:
                stored = await self._objects.get(membership_key(self._fleet))
            except CloudError:
                stored = None  # users keep to the list they have
            if stored:
                self.members = Membership.model_validate_json(stored.body).members
            await asyncio.sleep(MEMBERSHIP_POLL_S)

    async def _ask(self, session: aiohttp.ClientSession, tasks: asyncio.TaskGroup) -> None:
        turn = 0
        while True:
            if self.members:
                turn += 1
                tasks.create_task(self._request(session, self.members[turn % len(self.members)]))
            await asyncio.sleep(1 / self.rate)

    async def _request(self, session: aiohttp.ClientSession, member: Member) -> None:
        try:
            async with session.get(f"http://{member.address}:{self._port}/") as answer:
                await answer.read()
                problem = "" if answer.status == 200 else f"answered {answer.status}"
        except (aiohttp.ClientError, TimeoutError) as error:
            problem = str(error) or type(error).__name__
        if problem:
            self.failures.append(Failure(self._clock.now().timestamp(), member.server, problem))
            return
        self.served += 1
        self._answered.append(self._clock.monotonic())
