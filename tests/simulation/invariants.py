"""What must always hold: checked after every effect, whatever goes wrong (the numbers are docs/simulation.md's)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import orjson

from shared.cloud import AlarmState, Image, StoredObject
from shared.ids import BAKE_TAG, FLEET_TAG, MANAGED_TAG, ROLE_TAG
from shared.records import Bake, Pointer, Rollout, bake_key, bakes_prefix, history_key, pointer_key, rollout_key
from tests.simulation import deletions
from tests.simulation.fleet import NAME

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

VIEW_S = 75.0
"""What was seen may be acted on for sixty seconds; the rest is the way to AWS, and how late its answers are."""

WINDOW_S = 2400.0
"""The budget's hour, less twice what clocks are off by: a disruption is dated by one clock and counted by another."""

CALLS_A_MINUTE = 4000
"""For one process and four servers, besides what the messages that it receives ask for; past this it spins."""

CALLS_A_MESSAGE = 10

BAKES_DAY = timedelta(hours=24) - timedelta(seconds=1200)
"""The day of the bakes' budget, less twice what clocks are off by."""


class Violated(Exception):
    """An invariant does not hold; the message says which, and what was seen."""


class Invariants:
    """Watches one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.by_hand = False
        """The pointer was last written by a person."""
        self._healthy: deque[tuple[float, frozenset[str]]] = deque([(0.0, frozenset())])
        self._taken: list[tuple[float, str]] = []
        self._granted: dict[str, int] = {}
        """Servers that a rollout has out of service, and its number."""
        self._audited: dict[str, Mapping[str, str]] = {}
        self._pause: deque[tuple[float, str]] = deque([(0.0, "")])
        self._alarm: deque[tuple[float, AlarmState]] = deque([(0.0, "OK")])
        self._ran: dict[tuple[str, str], str] = {}
        self._baked: dict[str, datetime] = {}
        """When each bake that had a builder was asked for."""
        self._calls: dict[str, int] = {}
        self._minute_ends = 60.0
        self._most_calls = CALLS_A_MINUTE * max(1.0, world.options.servers / 4)

    # What is told.

    def changed(self) -> None:
        """Servers, or what the group says of them, changed."""
        from tests.simulation.world import serving  # noqa: PLC0415  the world stands on this module

        well = frozenset(serving(self._world))
        if well != self._healthy[-1][1]:
            self._healthy.append((self._world.loop.time(), well))
            while len(self._healthy) > 2 and self._healthy[1][0] < self._world.loop.time() - 2 * VIEW_S:
                self._healthy.popleft()

    def paused(self, what: str) -> None:
        """A person wrote a pause, or lifted it."""
        self._pause.append((self._world.loop.time(), what))

    def alarmed(self, state: AlarmState) -> None:
        """The incident alarm changed."""
        self._alarm.append((self._world.loop.time(), state))

    def called(self, process: Process) -> None:
        """A process calls AWS (12: no hot loops)."""
        now = self._world.loop.time()
        if now >= self._minute_ends:
            self._minute_ends = now // 60 * 60 + 60
            self._calls.clear()
        made = self._calls[process.name] = self._calls.get(process.name, 0) + 1
        if made > self._most_calls:
            self._violated(12, f"{process.name} made {made} calls within a minute")

    def received(self, process: Process, messages: int) -> None:
        """A process received messages: they are worth some calls."""
        self._calls[process.name] = self._calls.get(process.name, 0) - messages * CALLS_A_MESSAGE

    def ran(self, server: str, step: str, fingerprint: str, well: bool) -> None:
        """A server ran a step (9: to good effect at most once)."""
        if not well or step == "healthy":
            return
        if self._ran.get((server, step)) == fingerprint:
            self._violated(9, f"{server} did the step {step} twice in a row with the same fingerprint")
        self._ran[server, step] = fingerprint

    # What is asked before something is destroyed.

    def takes_out(self, process: Process, fleet: str, server: str, how: str) -> None:
        """A server is about to be taken out of its group."""
        self._audit(process, server)
        self._fresh(process, fleet)
        self._owned(server)
        recently = self._world.loop.time() - WINDOW_S
        if not any(taken == server and at > recently for at, taken in self._taken):
            self._budget(server)
            self._floor(server)
        if self._audited.get(server, {}).get("by") == "chaos":
            self._chaos(server)
        self._taken.append((self._world.loop.time(), server))

    def _audit(self, process: Process, target: str) -> None:
        if target not in self._audited:
            self._violated(11, f"{process.name} acts on {target}, and no audit says so")

    def _fresh(self, process: Process, fleet: str) -> None:
        age = self._world.loop.time() - process.looked.get(fleet, float("-inf"))
        if age > VIEW_S:
            self._violated(6, f"{process.name} acts on what it saw of {fleet} {age:.0f} s ago")
        self._whole(process)

    def _whole(self, process: Process) -> None:
        if half := sorted(deletions.unread()):
            self._violated(6, f"{process.name} acts though {half[0]} broke off half way")

    def _owned(self, server: str) -> None:
        machine = self._world.ec2.machines.get(server)
        if machine is not None and machine.now.tags.get(MANAGED_TAG) != "true":
            self._violated(7, f"{server} does not carry our tag")

    def _budget(self, server: str) -> None:
        now, most = self._world.loop.time(), self._world.fleet.policies.disruption.hourly
        recent = {taken for at, taken in self._taken if at > now - WINDOW_S} | {server}
        if len(recent) > most:
            self._violated(5, f"{len(recent)} servers taken out within the hour, {most} allowed")

    def _floor(self, server: str) -> None:
        """Enough others were well at some moment of the last minute, not counting those taken out since."""
        now, floor = self._world.loop.time(), self._world.fleet.policies.disruption.floor
        if server not in self._healthy[-1][1]:
            return
        best = 0
        for (_, well), end in zip(self._healthy, [at for at, _ in list(self._healthy)[1:]] + [now], strict=True):
            if end >= now - VIEW_S:
                gone = {taken for at, taken in self._taken if at > end - VIEW_S}
                best = max(best, len(well - gone - {server}))
        if best < floor:
            self._violated(4, f"without {server} {best} healthy servers are left, the floor is {floor}")

    def _chaos(self, server: str) -> None:
        if not self._world.fleet.policies.chaos.enabled:
            self._violated(7, f"chaos takes {server} of a fleet that has not opted in")
        if self._stood(self._pause, ""):
            self._violated(8, f"chaos takes {server} while paused")
        if self._stood(self._alarm, "OK"):
            self._violated(8, f"chaos takes {server} while the alarm is {self._alarm[-1][1]}")

    def _stood(self, changes: deque[tuple[float, str]] | deque[tuple[float, AlarmState]], fine: str) -> bool:
        """Whether it has been otherwise than fine for longer than a view may be old."""
        at, state = changes[-1]
        return state != fine and at < self._world.loop.time() - VIEW_S

    def ends(self, process: Process, server: str) -> None:
        """An instance outside any group is about to be terminated."""
        self._audit(process, server)
        self._whole(process)
        machine = self._world.ec2.machines.get(server)
        if machine is None:
            return
        tags = machine.now.tags
        if tags.get(MANAGED_TAG) != "true":
            self._violated(7, f"{process.name} terminates {server}, which does not carry our tag")
        if self._world.group().member(server) is not None:
            self._violated(4, f"{process.name} terminates {server} past its group")

    def retires(self, process: Process, image: Image) -> None:
        """An image is about to be deregistered."""
        self._audit(process, image.image)
        self._whole(process)
        for reason in self._references(image.image):
            self._violated(3, f"{process.name} deregisters {image.image}: {reason}")
        picture = self._world.ec2.pictures.get(image.image)
        if picture is not None and picture.past.now.tags.get(FLEET_TAG) != NAME:
            self._violated(7, f"{process.name} deregisters {image.image}, which is none of ours")

    def _references(self, image: str) -> list[str]:
        world = self._world
        pointer = world.pointer()
        found = ["the pointer names it"] if pointer and pointer.image == image else []
        default = world.ec2.default_version(NAME)
        found += [f"template version {default.version}"] if default.image == image else []
        found += [
            f"{name} runs it" for name, each in world.ec2.machines.items() if each.living and each.now.image == image
        ]
        bakes = [world.bucket.get(key) for key in world.bucket.keys(bakes_prefix(NAME))]
        for stored in bakes:
            bake = orjson.loads(stored.body) if stored else {}
            if bake.get("image") == image and bake.get("stage") not in ("ready", "failed"):
                found.append(f"{bake['bake']} is being baked")
        return found + (["one of the last proven"] if image in self._last_proven() else [])

    def _last_proven(self) -> list[str]:
        pictures = [each.past.now for each in self._world.ec2.pictures.values()]
        ended: list[tuple[str, str]] = []
        for image in pictures:
            stored = self._world.bucket.get(bake_key(NAME, image.tags.get(BAKE_TAG, "")))
            bake = Bake.model_validate_json(stored.body) if stored else None
            if bake is not None and bake.stage == "ready" and image.state == "available":
                ended.append(((bake.ended or bake.requested).isoformat(), image.image))
        return [image for _, image in sorted(ended)[-self._world.fleet.policies.retention.keep :]]

    # What is looked at after a change.

    def wrote(self, process: Process, key: str, body: bytes, before: StoredObject | None) -> None:
        """A process wrote an object."""
        if key == pointer_key(NAME):
            self._pointer_written(process, body, before)
        elif key == rollout_key(NAME):
            self._rollout_written(process, Rollout.model_validate_json(body))
        elif "/audit/" in key:
            fields = orjson.loads(body)
            self._audited[fields["target"]] = fields

    def _rollout_written(self, process: Process, rollout: Rollout) -> None:
        """4, 5, 6, 11: a rollout takes servers out of service as anybody else does, and only so many at once."""
        granted = {each.server: each.rollout for each in rollout.taken if each.granted is not None}
        for server in sorted(granted.keys() - self._granted.keys()):
            self._audit(process, server)
            self._fresh(process, NAME)
            self._owned(server)
            self._budget(server)
            self._floor(server)
            self._taken.append((self._world.loop.time(), server))
        most = self._world.fleet.policies.rollout.at_once
        if len(granted) > max(most, len(self._granted)):
            self._violated(5, f"a rollout has {len(granted)} servers out of service at once, {most} allowed")
        self._granted = granted

    def _pointer_written(self, process: Process, body: bytes, before: StoredObject | None) -> None:
        """2: one more than the history's end, and nothing that was written by us is lost."""
        pointer = Pointer.model_validate_json(body)
        history = self._world.bucket.keys(history_key(NAME, 0).removesuffix("00000000.json"))
        last = int(history[-1].rsplit("/", 1)[1].removesuffix(".json")) if history else 0
        if pointer.generation != last + 1:
            self._violated(2, f"{process.name} writes generation {pointer.generation} after {last}")
        if before is not None and not self.by_hand:
            old = orjson.loads(before.body)
            if old["write_id"] != pointer.write_id and not self._in_history(old):
                self._violated(2, f"{process.name} writes over generation {old['generation']}, which no history has")
        self.by_hand = False

    def _in_history(self, pointer: Mapping[str, object]) -> bool:
        stored = self._world.bucket.get(history_key(NAME, int(str(pointer["generation"]))))
        return stored is not None and orjson.loads(stored.body)["write_id"] == pointer["write_id"]

    def after(self, process: Process, method: str) -> None:
        """Something took effect."""
        if method in ("put", "deregister"):
            self._pointer_holds(process)
        if method in ("launch", "create_image"):
            self._one_builder(process)

    def _pointer_holds(self, process: Process) -> None:
        """1: what the pointer names can be launched from."""
        pointer = self._world.pointer()
        if pointer is None or self.by_hand:
            return
        picture = self._world.ec2.pictures.get(pointer.image)
        if picture is None or picture.past.now.state != "available":
            self._violated(1, f"after {process.name} the pointer names {pointer.image}, which is not available")

    def _one_builder(self, process: Process) -> None:
        """9: one living builder and prover a bake."""
        living = [each.now.tags for each in self._world.ec2.machines.values() if each.living]
        builders = Counter((tags.get(BAKE_TAG, ""), tags[ROLE_TAG]) for tags in living if ROLE_TAG in tags)
        for (bake, role), number in builders.items():
            if number > 1:
                self._violated(9, f"after {process.name} {bake} has {number} living {role}s")
            self._bake_budget(bake)

    def _bake_budget(self, bake: str) -> None:
        """12: of those asked for within the last day so many have a builder."""
        if bake not in self._baked:
            self._baked[bake] = datetime.strptime(bake, f"{NAME}-%Y%m%dt%H%M%S").replace(tzinfo=UTC)
            day = [at for at in self._baked.values() if at > self._world.now() - BAKES_DAY]
            allowed = self._world.fleet.policies.bakes.daily
            if len(day) > allowed:
                self._violated(12, f"{bake} is bake {len(day)} within a day, {allowed} are allowed")

    def _violated(self, number: int, what: str) -> None:
        self._world.violated(number, what)
