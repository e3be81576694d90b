"""Carries out what operators do: mostly messages, typed by hand."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import orjson

from services.janitor.decide import HELD
from shared.cloud import Image
from shared.ids import PROVEN_TAG
from shared.messages import AlertRaised
from shared.records import (
    Pause,
    Pointer,
    Release,
    alert_key,
    config_key,
    current_release_key,
    pause_key,
    pointer_key,
    status_key,
)
from tests.simulation.fleet import BAD_VERSION, COMPONENT, NAME, VERSIONS
from tests.simulation.operators import Deed

if TYPE_CHECKING:
    from tests.simulation.world import World


class People:
    """The operators of the fleet."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = random.Random(f"{world.seed} people")
        self._asked = 0

    def do(self, deed: Deed) -> None:
        """Do one thing."""
        self._world.say("operator", "somebody", deed.kind)
        self._world.occurred[deed.kind] += 1
        action = getattr(self, "_" + deed.kind.replace("-", "_"))
        action(deed.amount)

    def ask(self, kind: str, **fields: Any) -> None:
        """Publish a request, as `aws sns publish` would. Half of the people give it an id."""
        self._asked += 1
        own = {"id": f"person-{self._asked}"} if self._chance.random() < 0.5 else {}
        body = {"type": kind, "fleet": NAME, **own, **fields}
        said = ", ".join(f"{name} {value}" for name, value in fields.items() if name != "by")
        self._world.say("operator", fields.get("by", "somebody"), f"asks: {kind} {said}".rstrip())
        self._world.messaging.publish("commands", orjson.dumps(body).decode())

    def called(self, alert: AlertRaised) -> None:
        """Somebody is told: whoever is on call comes to it within hours."""
        if alert.cause == HELD:
            self._world.after(self._chance.uniform(600, 6 * 3600), self._come_to_it)

    def _come_to_it(self) -> None:
        """Answer, and look again later whether it came to anything, while there are days."""
        if self.let_retire() and not self._world.trouble.at_rest:
            self._world.after(3 * 3600, self._come_to_it)

    def let_retire(self) -> bool:
        """Say that images may go, where the janitor asks whether so many may; False: it does not ask."""
        asks = self._world.bucket.get(alert_key(NAME, HELD)) is not None
        if asks:
            self.ask("image.retirement.requested", by="hal", reason="nobody needs them")
        return asks

    def _rollback(self, amount: float) -> None:
        proven = self._proven()
        named = {"to": proven[int(amount * len(proven))].image} if proven and amount < 0.4 else {}
        self.ask("image.rollback.requested", by="ada", reason="it feels slow", **named)

    def _pin(self, amount: float) -> None:
        proven = self._proven()
        if proven:
            self.ask("image.pin.requested", image=proven[int(amount * len(proven))].image, by="ben", reason="freeze")
            self._world.after(600 + amount * 7200, lambda: self.ask("image.pin.requested", by="ben"))

    def _disable(self, amount: float) -> None:
        if server := self._someone(amount):
            self.ask("server.disable.requested", server=server, by="cleo", reason="odd noises")

    def _kill(self, amount: float) -> None:
        if server := self._someone(amount):
            self.ask("server.kill.requested", server=server, by="dan", reason="practice")

    def _pause(self, amount: float) -> None:
        what = "chaos" if amount < 0.5 else "automation"
        pause = Pause(what="chaos" if what == "chaos" else "automation", by="eve", reason="maintenance")
        self._write(pause_key(NAME), pause.model_dump_json(by_alias=True))
        self._world.paused(what)

        def lift() -> None:
            self._delete(pause_key(NAME))
            self._world.paused("")

        self._world.after(300 + amount * 3600, lift)

    def _edit(self, amount: float) -> None:
        proven, pointer = self._proven(), self._pointer()
        if proven and pointer:
            image = proven[int(amount * len(proven))].image
            edited = pointer.model_copy(update={"image": image, "by": "fay", "reason": "by hand"})
            self._write(pointer_key(NAME), edited.model_dump_json(by_alias=True))

    def _edit_wrong(self, amount: float) -> None:
        pointer = self._pointer()
        if pointer:
            wrong = pointer.model_copy(update={"image": f"ami-{int(amount * 1e6):08x}"})
            self._write(pointer_key(NAME), wrong.model_dump_json(by_alias=True))
            self._world.after(1800, lambda: self._mend(pointer))

    def _edit_garbage(self, amount: float) -> None:
        pointer = self._pointer()
        if pointer:
            self._write(pointer_key(NAME), "{not json")
            self._world.after(1800, lambda: self._mend(pointer))

    def _mend(self, pointer: Pointer) -> None:
        """Put back what was there, as the alert says, unless it was mended by then or its image is gone."""
        present = self._pointer()
        if present is None or present.image not in self._world.ec2.pictures:
            proven = self._proven()
            back = pointer if pointer.image in self._world.ec2.pictures or not proven else None
            pointer = back or pointer.model_copy(update={"image": proven[-1].image})
            self._write(pointer_key(NAME), pointer.model_dump_json(by_alias=True))
        self._forget_corruption()

    def _delete_pointer(self, amount: float) -> None:
        self._world.pointer_by_hand()
        self._delete(pointer_key(NAME))

    def _bake(self, amount: float) -> None:
        self.ask("image.bake.requested", by="gil", reason="a fresh one")

    def _bakes(self, amount: float) -> None:
        """Somebody's script asks again and again."""
        for number in range(10):
            self._world.after(number * (20 + amount * 600), lambda: self._bake(amount))

    def allow_bakes(self, daily: int) -> None:
        """Describe the fleet anew, with so many bakes within a day."""
        policies = self._world.fleet.policies
        bakes = policies.bakes.model_copy(update={"daily": daily})
        self._world.fleet = self._world.fleet.model_copy(
            update={"policies": policies.model_copy(update={"bakes": bakes})}
        )
        self._write(config_key(NAME), self._world.fleet.model_dump_json(by_alias=True))

    def _release(self, amount: float) -> None:
        self.ask_release(VERSIONS[int(amount * len(VERSIONS))], rollout=self._chance.random() < 0.7)

    def _bad_release(self, amount: float) -> None:
        self.ask_release(BAD_VERSION, rollout=amount < 0.5)
        self._world.after(900 + amount * 3600, lambda: self.ask_release(VERSIONS[-1], rollout=amount < 0.7))

    def _undo_release(self, amount: float) -> None:
        self.ask("release.undo.requested", component=COMPONENT, by="ida", rollout=amount < 0.7)

    def ask_release(self, version: str, *, rollout: bool) -> None:
        """Ask for a release of the component; with a rollout servers in service follow."""
        self.ask("release.set.requested", component=COMPONENT, version=version, by="hal", rollout=rollout)

    def set_release(self, version: str) -> None:
        """Set the component's release for launches and bakes, as ``ops release set --no-rollout`` does."""
        key = current_release_key(NAME, COMPONENT)
        stored = self._world.bucket.get(key)
        old = Release.model_validate_json(stored.body) if stored else None
        if old is None or old.version != version:
            release = Release(
                generation=old.generation + 1 if old else 1,
                write_id=f"ops-{old.generation if old else 0}",
                component=COMPONENT,
                version=version,
                since=self._world.now(),
                by="operator",
                previous=old.version if old else None,
            )
            self._write(key, release.model_dump_json(by_alias=True))

    def _malformed(self, amount: float) -> None:
        self._world.messaging.publish("commands", '{"type":"server.kill.requested","fleet":"web"')
        self.ask("server.kill.requested", server="$(reboot)")

    def _forged(self, amount: float) -> None:
        image, bake = f"ami-{int(amount * 1e6):08x}", "web-20260304t010203"
        body = {"type": "image.ready", "fleet": NAME, "image": image, "bake": bake, "source": "baker"}
        self._world.messaging.publish("events", orjson.dumps(body).decode())

    def _unknown_fleet(self, amount: float) -> None:
        self.ask("image.bake.requested", **{"fleet": "wbe"})

    def _unknown_server(self, amount: float) -> None:
        self.ask("server.kill.requested", server=f"i-{int(amount * 1e6):08x}")

    def _clean(self, amount: float) -> None:
        self._world.messaging.queue("janitor").send('{"type":"tick"}')

    def _corrupt(self, amount: float) -> None:
        """A document is spoilt, and put back later; not twice at once, or what is put back would be what was spoilt."""
        key, spoilt = status_key(NAME), '{"schema": 99}'
        stored = self._world.bucket.get(key)
        if stored is not None and stored.body != spoilt.encode():
            self._write(key, spoilt)
            self._world.after(300 + amount * 900, lambda: self._restore(key, stored.body.decode()))

    def _restore(self, key: str, body: str) -> None:
        self._write(key, body)
        self._forget_corruption()

    def _forget_corruption(self) -> None:
        """Delete the alert's own document once what it is about was mended, as the alert says."""
        for alert in self._world.bucket.keys(f"fleets/{NAME}/alerts/corrupt-"):
            self._delete(alert)

    def _write(self, key: str, body: str) -> None:
        if key == pointer_key(NAME):
            self._world.pointer_by_hand()
        self._world.say("operator", "somebody", f"writes {key}")
        self._world.bucket.put(key, body.encode())

    def _delete(self, key: str) -> None:
        self._world.say("operator", "somebody", f"deletes {key}")
        self._world.bucket.delete(key)

    def _pointer(self) -> Pointer | None:
        return self._world.pointer()

    def _proven(self) -> list[Image]:
        seen = [picture.past.now for picture in self._world.ec2.pictures.values()]
        return [each for each in seen if each.tags.get(PROVEN_TAG) == "true" and each.state == "available"]

    def _someone(self, amount: float) -> str | None:
        serving = [each.server for each in self._world.group().members if each.in_service]
        return serving[int(amount * len(serving))] if serving else None
