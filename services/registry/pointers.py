"""The pointer and its history, as they are stored.

The pointer is not written through ``shared.documents``: its generation follows its history's, since a person may have
written any number into it by hand.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from services.registry.decide import Found, next_generation, seal
from shared.cloud import Conflict, ObjectsPort, StoredObject
from shared.documents import CorruptDocument
from shared.records import Pointer, history_key, pointer_key


class Pointers:
    """Reads and writes pointers, on condition. All calls raise CloudError; reading raises CorruptDocument too."""

    def __init__(self, objects: ObjectsPort) -> None:
        self._objects = objects

    async def look(self, fleet: str) -> Found:
        """Return the pointer as it is, and the end of its history."""
        # In this order: were the history read first, a pointer that moved twice meanwhile would look edited by hand,
        # and be written over. This way round, the write is refused for its entity tag.
        pointer, stored = await self._read(pointer_key(fleet))
        keys = await self._history_keys(fleet)
        last, _ = await self._read(keys[-1]) if keys else (None, None)
        return Found(pointer, stored.etag if stored else None, last, stored.modified if stored else None)

    async def history(self, fleet: str) -> Sequence[Pointer]:
        """Return all pointers that were ever accepted, newest first."""
        read = [await self._read(key) for key in reversed(await self._history_keys(fleet))]
        return [pointer for pointer, _ in read if pointer is not None]

    async def move(self, fleet: str, found: Found, pointer: Pointer) -> bool:
        """Write the pointer over the one that was found, as the next generation; False when another was quicker."""
        new = pointer.model_copy(update={"generation": next_generation(found.last)})
        new = new.model_copy(update={"write_id": seal(new)})
        try:
            await self._objects.put(pointer_key(fleet), _encode(new), match=found.etag, absent=found.etag is None)
        except Conflict:
            return False
        return True

    async def record(self, fleet: str, pointer: Pointer) -> None:
        """Put the pointer into the history, unless it is there."""
        try:
            await self._objects.put(history_key(fleet, pointer.generation), _encode(pointer), absent=True)
        except Conflict:
            return

    async def _history_keys(self, fleet: str) -> Sequence[str]:
        return [*await self._objects.etags(history_key(fleet, 0).removesuffix("00000000.json"))]

    async def _read(self, key: str) -> tuple[Pointer | None, StoredObject | None]:
        stored = await self._objects.get(key)
        if stored is None:
            return None, None
        try:
            return Pointer.model_validate_json(stored.body), stored
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            raise CorruptDocument(key, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _encode(pointer: Pointer) -> bytes:
    """Indented, because operators read and edit it with the AWS CLI."""
    return pointer.model_dump_json(by_alias=True, indent=2).encode() + b"\n"
