"""Moves a fleet's pointer, and sees to it that a move takes effect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from services.registry.decide import (
    REVERT,
    Found,
    Keep,
    Move,
    Refuse,
    adopted,
    in_force,
    lasting,
    may_lag,
    newest,
    pin,
    promotion,
    refusal,
    revert,
    rollback,
    standing,
    to_blame,
)
from services.registry.pointers import Pointers
from shared.alerts import REASON_LIMIT, Alerts
from shared.clock import Clock
from shared.cloud import Conflict, Image, NotFound, PublisherPort, ServersPort
from shared.documents import CorruptDocument, Documents
from shared.fleet import Fleet
from shared.hints import BUCKET, show_command
from shared.ids import BAKE_TAG, PROVEN_TAG
from shared.messages import ImagePinRequested, ImagePromoted, ImageReady, ImageRollbackRequested
from shared.outcome import Done, Outcome, Reject, Retry
from shared.records import Bake, Failures, Pointer, bake_key, failures_key, history_key, pointer_key

log = structlog.get_logger()

TRIES = 8
"""Moves that one message attempts, and looks until the pointer has settled."""

ALERT = "pointer"
REVERTED = "image-reverted"

Decide = Callable[[Found], Awaitable[Move | Keep | Refuse]]


def over(pointer: Pointer | None) -> frozenset[str]:
    """Return the causes of alerts that are not to stand while the pointer is there. Pure."""
    if pointer is None:
        return frozenset()
    return frozenset({ALERT} if pointer.request.startswith(REVERT) else {ALERT, REVERTED})


class Unreadable(Exception):
    """The pointer cannot be read; a person was called."""


class Images:
    """The pointer's keeper. All calls raise CloudError, and may be repeated."""

    def __init__(
        self,
        *,
        servers: ServersPort,
        documents: Documents,
        pointers: Pointers,
        publisher: PublisherPort,
        alerts: Alerts,
        clock: Clock,
    ) -> None:
        self._servers = servers
        self._documents = documents
        self._pointers = pointers
        self._publisher = publisher
        self._alerts = alerts
        self._clock = clock

    async def ready(self, fleet: Fleet, message: ImageReady) -> Outcome:
        """Promote a bake's image, if everything that the message says is so in AWS and nothing newer stands."""
        bake = await self._documents.get(Bake, bake_key(message.fleet, message.bake))
        image = await self._image(fleet, message.image)
        if bake is None or bake.image != message.image or bake.stage != "ready":
            return Reject(f"no bake {message.bake} of {message.fleet} ended with {message.image}")
        if image is None:
            return Retry(f"EC2 does not show {message.image}")
        why_not = refusal(message.fleet, message.image, image)
        if why_not is None and image.tags.get(BAKE_TAG) != message.bake:
            why_not = f"{message.image} is not tagged as made by bake {message.bake}"
        if why_not is not None:
            return Retry(why_not) if may_lag(message.fleet, image) else Reject(why_not)
        return await self._moved(fleet, self._promotion_of(bake, message.image))

    async def roll_back(self, fleet: Fleet, request: ImageRollbackRequested) -> Outcome:
        """Go back to the image that is asked for, or to the one before."""

        async def choose(found: Found) -> Move | Keep | Refuse:
            history = await self._pointers.history(request.fleet)
            images = {image.image: image for image in await self._images(fleet)}
            return rollback(request, found.pointer, history, images, self._clock.now())

        return await self._moved(fleet, choose)

    async def pin(self, fleet: Fleet, request: ImagePinRequested) -> Outcome:
        """Hold the pointer at an image, or let it go."""

        async def choose(found: Found) -> Move | Keep | Refuse:
            history = await self._pointers.history(request.fleet)
            image = await self._image(fleet, request.image) if request.image else None
            return pin(request, found.pointer, history, image, self._clock.now())

        return await self._moved(fleet, choose)

    async def sweep(self, fleet: Fleet) -> Pointer | None:
        """Adopt an edit by hand, finish what was cut off, promote what was missed, repair the launch template.

        After so many launches in a row that failed for the image's sake, the pointer goes back by itself, once.
        Return the pointer, where it stands and has taken effect.
        """
        name = fleet.fleet
        try:
            found = await self._settled(fleet)
        except Unreadable:
            return None
        if await self._revert(fleet, found) or await self._promote(fleet, found):
            found = await self._pointers.look(name)
        if found.pointer is None or standing(found) != "settled":
            return None
        await self._align(name, found.pointer)
        return found.pointer

    async def tell(self, fleet: str, pointer: Pointer | None) -> None:
        """Call a person for as long as the pointer is where an automatic revert led."""
        if pointer is not None and pointer.request.startswith(REVERT):
            reason = f"{fleet} launches from {pointer.image}, {pointer.reason}"
            await self._alerts.raise_alert(fleet, REVERTED, reason, show_command(failures_key(fleet)))

    async def _images(self, fleet: Fleet) -> list[Image]:
        return [self._lasting(fleet, image) for image in await self._servers.images(fleet.fleet)]

    async def _image(self, fleet: Fleet, wanted: str) -> Image | None:
        image = await self._servers.image(wanted)
        return self._lasting(fleet, image) if image else None

    def _lasting(self, fleet: Fleet, image: Image) -> Image:
        return lasting(image, fleet.policies.retention.quarantine_hours, self._clock.now())

    async def _revert(self, fleet: Fleet, found: Found) -> bool:
        """Take a bad image's proof away and go back; in this order, so that nothing promotes it again.

        False where no image is to blame, or there is none to go back to. A look that has done it promotes nothing: EC2
        may still show the proof.
        """
        name, pointer = fleet.fleet, found.pointer
        failures = await self._documents.get(Failures, failures_key(name))
        if pointer is None or pointer.bake is None or failures is None:
            return False
        bake = await self._documents.get(Bake, bake_key(name, pointer.bake))
        reason = to_blame(pointer, bake, failures, fleet.policies.launch.tries)
        if reason is None or isinstance(await self._way_back(fleet, pointer, reason), Keep):
            return False
        await self._servers.tag(pointer.image, {PROVEN_TAG: "false"})

        async def choose(now: Found) -> Move | Keep:
            same = now.pointer is not None and now.pointer.image == pointer.image
            return await self._way_back(fleet, pointer, reason) if same else Keep("somebody moved the pointer")

        await self._moved(fleet, choose)
        return True

    async def _promote(self, fleet: Fleet, found: Found) -> bool:
        """Promote the newest image whose message was missed; False where there is none."""
        image = newest(await self._images(fleet), fleet.fleet)
        bake = await self._documents.get(Bake, bake_key(fleet.fleet, image.tags[BAKE_TAG])) if image else None
        if image is None or bake is None or (bake.stage, bake.image) != ("ready", image.image):
            return False
        promote = self._promotion_of(bake, image.image)
        if not isinstance(await promote(in_force(found)), Move):
            return False
        await self._moved(fleet, promote)
        return True

    async def _way_back(self, fleet: Fleet, pointer: Pointer, reason: str) -> Move | Keep:
        images = {image.image: image for image in await self._images(fleet)}
        history = await self._pointers.history(fleet.fleet)
        return revert(fleet.fleet, pointer, history, images, reason, self._clock.now())

    def _promotion_of(self, bake: Bake, image: str) -> Decide:
        async def choose(found: Found) -> Move | Keep:
            return promotion(found.pointer, bake, image, self._clock.now())

        return choose

    async def _moved(self, fleet: Fleet, choose: Decide) -> Outcome:
        """Decide on the pointer as it is and write; a lost race means deciding anew."""
        for _ in range(TRIES):
            try:
                found = await self._settled(fleet)
            except Unreadable as error:
                return Retry(str(error))
            choice = await choose(in_force(found))
            match choice:
                case Keep():
                    return Done(choice.reason)
                case Refuse():
                    return Reject(choice.reason)
                case Move():
                    if await self._pointers.move(fleet.fleet, found, choice.pointer):
                        log.info("pointer moved", fleet=fleet.fleet, image=choice.pointer.image, reason=choice.reason)
                        await self._settled(fleet)
                        return Done(f"the pointer of {fleet.fleet} is at {choice.pointer.image}: {choice.reason}")
        raise Conflict(f"others moved the pointer of {fleet.fleet} {TRIES} times")

    async def _settled(self, fleet: Fleet) -> Found:
        """Return the pointer once every move so far has taken effect, a person's edit included.

        A pointer that somebody deleted is put back as it was.
        """
        worked = False
        for _ in range(TRIES):
            found = await self._look(fleet.fleet)
            state = standing(found)
            if state in {"none", "settled"}:
                if worked and found.pointer is not None:
                    await self._align(fleet.fleet, found.pointer)
                return found
            if state == "deleted" and found.last is not None:
                await self._pointers.move(fleet.fleet, found, found.last)
            if state == "edited" and found.pointer is not None and not await self._adopted(fleet, found, found.pointer):
                return found
            if state == "unfinished" and found.pointer is not None:
                await self._finish(fleet.fleet, found.pointer, found.last)
            worked = True
        raise Conflict(f"others moved the pointer of {fleet.fleet} {TRIES} times")

    async def _look(self, fleet: str) -> Found:
        try:
            return await self._pointers.look(fleet)
        except CorruptDocument as error:
            await self._complain(fleet, f"{error.key} cannot be read and is left as it is: {error.reason}", None)
            raise Unreadable(str(error)) from error

    async def _adopted(self, fleet: Fleet, found: Found, edited: Pointer) -> bool:
        """Give a person's edit its place in the history; False when no server could start from it."""
        name = fleet.fleet
        image = await self._image(fleet, edited.image)
        why_not = refusal(name, edited.image, image)
        if image is None or why_not is not None:
            reason = f"{pointer_key(name)} was edited by hand and is not obeyed: {why_not}"
            await self._complain(name, reason, found.last)
            return False
        now = self._clock.now()
        pointer = adopted(edited, found.last, image, now, found.modified or now)
        if await self._pointers.move(name, found, pointer):
            log.info("edit by hand adopted", fleet=name, image=pointer.image)
        return True

    async def _finish(self, fleet: str, pointer: Pointer, last: Pointer | None) -> None:
        """Let the pointer take effect; the history comes last and says that it has."""
        await self._servers.set_template_image(fleet, pointer.image)
        previous = last.image if last else None
        if pointer.image != previous:
            await self._publisher.publish(
                ImagePromoted(
                    id=pointer.write_id[:64],
                    time=self._clock.now(),
                    source="registry",
                    fleet=fleet,
                    image=pointer.image,
                    previous=previous,
                    generation=pointer.generation,
                    by=pointer.by[:200],
                    reason=pointer.reason[:REASON_LIMIT],
                )
            )
        await self._alerts.clear(fleet, ALERT)
        await self._pointers.record(fleet, pointer)

    async def _align(self, fleet: str, pointer: Pointer) -> None:
        """Make the launch template say what the pointer says."""
        try:
            versions = await self._servers.templates(fleet)
        except NotFound:
            log.warning("no launch template", fleet=fleet)
            return
        if not any(each.default and each.image == pointer.image for each in versions):
            await self._servers.set_template_image(fleet, pointer.image)

    async def _complain(self, fleet: str, reason: str, last: Pointer | None) -> None:
        key, accepted = pointer_key(fleet), history_key(fleet, last.generation) if last else None
        command = f"aws s3 cp {BUCKET}/{accepted} {BUCKET}/{key}" if accepted else show_command(key)
        await self._alerts.raise_alert(fleet, ALERT, reason, command)
