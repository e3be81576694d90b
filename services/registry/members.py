"""Keeps the list of a fleet's members, and lets servers go once they were announced as gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from services.registry.decide import (
    Announce,
    Drain,
    LetGo,
    Roll,
    announced,
    leaving,
    renewed,
    told,
)
from shared.clock import Clock
from shared.cloud import Group, GroupsPort, LifecycleState, NotFound, PublisherPort, ServersPort
from shared.coalescing import Coalescer
from shared.documents import Documents
from shared.fleet import Fleet
from shared.messages import MembershipChanged, ServerReady, ServerUpdated, ServerUpdateFailed, ServerUpdateGranted
from shared.names import TERMINATE_HOOK
from shared.outbox import Outbox
from shared.outcome import Done, LookAgain, Outcome
from shared.records import Launch, Membership, Rollout, Update, membership_key, rollout_key, servers_prefix, update_key
from shared.tracing import traceparent

LONGEST_LOOK_S = 600
"""An SQS message can be delayed by 900 s at most."""

SOON = timedelta(minutes=2)
"""So long a server that is said to be ready may take to be in service for its group; then the sweep takes it in."""

STEPS = 6
"""Looks at a leaving server that one message takes; announcing needs three."""


@dataclass(frozen=True)
class _Renewed:
    """What came of bringing the list up to date."""

    joined: tuple[str, ...]
    updating: Mapping[str, int]
    """The servers that take no traffic for an update, with its rollout."""


class Members:
    """The list's keeper. All calls raise CloudError and CorruptDocument, and may be repeated."""

    def __init__(
        self,
        *,
        groups: GroupsPort,
        servers: ServersPort,
        documents: Documents,
        publisher: PublisherPort,
        clock: Clock,
    ) -> None:
        self._groups = groups
        self._servers = servers
        self._documents = documents
        self._publisher = publisher
        self._clock = clock
        self._renewals: Coalescer[str, Group, _Renewed] = Coalescer(self._renew)
        self._outbox = Outbox(documents, publisher, clock)

    async def ready(self, message: ServerReady) -> Outcome:
        """Take a server in as soon as its group says that it is in service."""
        group = await self._group(message.fleet)
        member = group.member(message.server) if group else None
        if group is None or member is None or member.state.startswith("Terminating"):
            return Done(f"{message.server} is not about to serve in {message.fleet}")
        if not member.in_service:
            return self._soon(message, f"{message.server} is {member.state}")
        if message.server in (await self._refresh(group)).joined:
            return Done(f"{message.server} is a member from now on")
        return await self._taken_in(message)

    def _soon(self, message: ServerReady, why: str) -> Outcome:
        late = message.time is None or self._clock.now() - message.time > SOON
        return Done(f"{why}; the sweep takes it in") if late else LookAgain(1, why)

    async def terminating(self, fleet: Fleet, server: str) -> Outcome:
        """Announce a server as gone, let it drain, and complete its hook."""
        for _ in range(STEPS):
            group = await self._group(fleet.fleet)
            if group is None:
                return Done(f"no Auto Scaling group of ours is called {fleet.fleet}")
            if not await self._waits(group, server):
                await self._refresh(group)
                return Done(f"{server} does not wait in its terminating hook")
            outcome = await self._leave(fleet, server)
            if outcome is not None:
                return outcome
        return LookAgain(1, f"the membership of {fleet.fleet} changes too fast")

    async def updating(self, fleet: Fleet, message: ServerUpdateGranted) -> Outcome:
        """Take a server off the list for as long as its update lasts, and say so."""
        if not fleet.policies.rollout.drain:
            return Done(f"fleet {fleet.fleet} brings servers up to date without leading traffic away")
        number = (await self._updating(fleet.fleet)).get(message.server)
        if number is None or number != message.rollout:
            return Done(f"{message.server} is not being brought up to date")
        await self._take_off(fleet.fleet, message.server, number)
        return Done(f"{message.server} is off the list while it is brought up to date")

    async def updated(self, message: ServerUpdated | ServerUpdateFailed) -> Outcome:
        """Take a server in again whose update has ended."""
        group = await self._group(message.fleet)
        if group is None or message.server in (await self._refresh(group)).joined:
            return Done(f"{message.server} is a member again" if group else f"no group is called {message.fleet}")
        there = await self._documents.get(Membership, membership_key(message.fleet))
        if there is None or all(member.server != message.server for member in there.members):
            return Done(f"{message.server} is no member")
        again = f"back-{message.server}-{message.rollout}"
        await self._publish(message.fleet, again, there.generation, joined=(message.server,))
        return Done(f"{message.server} is a member")

    async def _updating(self, fleet: str) -> Mapping[str, int]:
        """Return the servers that take no traffic for an update, with its rollout; one that failed stays out."""
        rollout = await self._documents.get(Rollout, rollout_key(fleet))
        found = {}
        for taken in rollout.taken if rollout else ():
            update = await self._documents.get(Update, update_key(fleet, taken.server))
            over = update is not None and update.rollout == taken.rollout and update.result not in {"running", "failed"}
            if taken.granted is not None and not over:
                found[taken.server] = taken.rollout
        return found

    async def _take_off(self, fleet: str, server: str, number: int) -> None:
        there = await self._documents.get(Membership, membership_key(fleet))
        leaver = next((each for each in there.leaving if each.server == server), None) if there else None
        if leaver is None or not leaver.told:
            await self._announce(fleet, server, number)

    async def sweep(self, fleet: Fleet) -> None:
        """Bring the list up to date, and go on with every server that waits to leave."""
        group = await self._group(fleet.fleet)
        if group is None:
            return
        for member in group.members:
            if member.state == LifecycleState.TERMINATING_WAIT:
                await self.terminating(fleet, member.server)
        renewed = await self._refresh(group)
        if fleet.policies.rollout.drain:
            for server, number in renewed.updating.items():
                await self._take_off(fleet.fleet, server, number)

    async def _group(self, fleet: str) -> Group | None:
        try:
            group = await self._groups.describe(fleet)
        except NotFound:
            return None
        return group if group.managed else None

    async def _waits(self, group: Group, server: str) -> bool:
        """Whether the server waits in the hook; where the group's view may lag, the hook itself is asked."""
        member = group.member(server)
        if member is not None and member.state == LifecycleState.TERMINATING_WAIT:
            return True
        return await self._groups.heartbeat(group.fleet, server, TERMINATE_HOOK)

    async def _leave(self, fleet: Fleet, server: str) -> Outcome | None:
        """Take the next step of leaving; None: look again."""
        there = await self._documents.get(Membership, membership_key(fleet.fleet))
        now = self._clock.now()
        step = leaving(server, there, fleet.policies.drain.seconds, now)
        match step:
            case Announce():
                await self._announce(fleet.fleet, server)
                return None
            case Drain():
                await self._groups.heartbeat(fleet.fleet, server, TERMINATE_HOOK)
                beat = min(fleet.policies.drain.heartbeat // 3, LONGEST_LOOK_S)
                return LookAgain(min(ceil(step.after_s), beat), step.reason)
            case LetGo():
                went = await self._groups.complete(fleet.fleet, server, TERMINATE_HOOK, "CONTINUE")
                return Done(f"{step.reason}: {'let go' if went else 'its hook was over'}")

    async def _announce(self, fleet: str, server: str, update: int | None = None) -> None:
        """Write, publish, and only then write that it was published: the drain counts from there."""
        key, now = membership_key(fleet), self._clock.now()
        written = await self._documents.change(Membership, key, lambda old: announced(old, server, now, update))
        assert written.document is not None, "the change writes where nothing is"
        change = f"left-{server}" if update is None else f"out-{server}-{update}"
        await self._publish(fleet, change, written.document.generation, left=(server,))
        now = self._clock.now()
        await self._documents.change(Membership, key, lambda old: told(old, server, now) if old else None)

    async def _taken_in(self, message: ServerReady) -> Outcome:
        """Announce a server that the list has; a repeated message announces it again under the same id."""
        there = await self._documents.get(Membership, membership_key(message.fleet))
        if there is None or all(member.server != message.server for member in there.members):
            return self._soon(message, f"EC2 does not show {message.server} with an address, or it is about to leave")
        await self._publish(message.fleet, f"joined-{message.server}", there.generation, joined=(message.server,))
        return Done(f"{message.server} is a member")

    async def _refresh(self, group: Group) -> _Renewed:
        """Bring the list up to date; who joined, this call, or one with it, has announced.

        Finding every server's record takes its time: those who want it at the same time share it.
        Servers that leave are not announced here: either they were already, or they are gone without a word.
        """
        return await self._renewals.ask(group.fleet, group)

    async def _renew(self, fleet: str, groups: Sequence[Group]) -> Sequence[_Renewed]:
        roll = await self._roll(groups[-1], self._clock.now())
        key, trace = membership_key(fleet), traceparent()
        written = await self._documents.change(Membership, key, lambda old: renewed(roll, old, trace))
        waiting = written.document.outbox if written.document is not None else ()
        await self._outbox.publish(Membership, key, waiting, lambda _: True)
        said = [each.message for each in waiting if isinstance(each.message, MembershipChanged)]
        joined = tuple(server for each in said for server in each.joined)
        return [_Renewed(joined, roll.updating)] * len(groups)

    async def _roll(self, group: Group, now: datetime) -> Roll:
        serving = [member.server for member in group.members if member.in_service]
        known = await self._documents.named(Launch, servers_prefix(group.fleet), serving)
        instances = await self._servers.instances(serving)
        return Roll(group, instances, known, now, await self._updating(group.fleet))

    async def _publish(
        self, fleet: str, change: str, generation: int, *, joined: tuple[str, ...] = (), left: tuple[str, ...] = ()
    ) -> None:
        await self._publisher.publish(
            MembershipChanged(
                id=change,
                time=self._clock.now(),
                source="registry",
                fleet=fleet,
                generation=generation,
                joined=joined,
                left=left,
            )
        )
