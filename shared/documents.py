"""The documents in S3: read whole, written only on condition, and never over something that cannot be read."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from shared.cloud import Conflict, ObjectsPort, Unavailable
from shared.coalescing import Coalescer
from shared.records import Record

R = TypeVar("R", bound=Record)
M = TypeVar("M", bound=BaseModel)

TRIES = 8
"""Writes that one change attempts; past that many lost races somebody is fighting us, and the message waits."""


AT_ONCE = 20
"""As many as a client has connections."""


class CorruptDocument(Exception):
    """A document is not what its model says, or of a newer schema. It is left as it is."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason


@dataclass(frozen=True)
class Written(Generic[R]):
    """How a change ended: the document as this change left it, and whether the change made it so.

    Where several changes became one write, each is told what it would have been told had it been written alone.
    """

    document: R | None
    changed: bool


_Decide = Callable[[R | None], R | None]
_Outcome = Written[R] | Exception


def new_write_id() -> str:
    """Return an id that no other write has."""
    return uuid.uuid4().hex


class Documents:
    """Typed documents with optimistic concurrency.

    Every write carries the next generation and a write id of its own, so no two writes have the same bytes, and a
    reply that was lost is told from a race that was lost by reading back who wrote. Changes of one document inside
    this process wait for each other, so that only other processes are raced against; those that wait together become
    one write, which raises the generation by as many as they are.
    """

    def __init__(self, objects: ObjectsPort, new_id: Callable[[], str] = new_write_id) -> None:
        self._objects = objects
        self._new_id = new_id
        self._seen: dict[tuple[type[Any], str], dict[str, tuple[Any, str | None]]] = {}
        """What was read below a prefix, by key, with its entity tag: nothing else is there while that is listed."""
        self._changes: Coalescer[tuple[type[Any], str], _Decide[Any], Written[Any]] = Coalescer(self._write)

    async def get(self, model: type[R], key: str) -> R | None:
        """Return the document, or None when there is none.

        Raises:
            CorruptDocument: it cannot be read as ``model``.
            CloudError: S3 did not answer.
        """
        document, _ = await self._read(model, key)
        return document

    async def all(self, model: type[R], prefix: str, besides: Collection[str] = ()) -> list[R]:
        """Return the documents ``<prefix><name>.json``, in the keys' order, besides those of these names.

        Raises as ``get`` does.
        """
        etags = await self._objects.etags(prefix)
        kept = {f"{prefix}{name}.json" for name in besides}
        return [*(await self._current(model, prefix, etags, [key for key in etags if key not in kept])).values()]

    async def named(self, model: type[R], prefix: str, names: Iterable[str]) -> dict[str, R]:
        """Return those of the documents ``<prefix><name>.json`` that there are, by name. Raises as ``get`` does."""
        keys = {f"{prefix}{name}.json": name for name in sorted(names)}
        etags = await self._objects.etags(prefix)
        found = await self._current(model, prefix, etags, [key for key in keys if key in etags])
        return {keys[key]: document for key, document in found.items()}

    async def _current(
        self, model: type[R], prefix: str, etags: Mapping[str, str], keys: Sequence[str]
    ) -> dict[str, R]:
        """Return documents that were listed, by key; read are those that are others than when this was last asked.

        S3 lists what was written last, always (Amazon S3 User Guide, "Amazon S3 data consistency model").
        """
        seen = {key: each for key, each in self._seen.get((model, prefix), {}).items() if each[1] == etags.get(key, "")}
        changed = [key for key in keys if key not in seen]
        seen.update(zip(changed, await self._read_all(model, changed), strict=True))
        self._seen[model, prefix] = seen
        return {key: document for key in keys if (document := seen[key][0]) is not None}

    async def create(self, key: str, document: R) -> R | None:
        """Write a document where none is; return it as written, or None when there is one already.

        The first writer wins. A document that has a generation keeps it (a copy of another), else it gets 1.

        Raises:
            CorruptDocument: there is one that cannot be read.
            CloudError: S3 did not answer, and the document is not there.
        """
        generation = document.generation or 1
        new = document.model_copy(update={"generation": generation, "write_id": self._new_id()})
        try:
            await self._objects.put(key, _encode(new), absent=True)
        except (Conflict, Unavailable):
            there = await self.get(type(document), key)
            if there is None:
                raise
            return there if there.write_id == new.write_id else None
        return new

    async def change(self, model: type[R], key: str, decide: Callable[[R | None], R | None]) -> Written[R]:
        """Replace a document by what ``decide`` makes of it; None, or the same again, leaves it alone.

        ``decide`` is pure: it is asked anew with what is there each time that the write loses. It never has to set
        ``generation`` or ``write_id``. As with a message that comes twice, it may see a document that its own earlier
        answer went into (our write was applied, its reply lost, and somebody wrote on top).

        Raises:
            CorruptDocument: there is one that cannot be read; nothing is written.
            Conflict: others won every one of the bounded tries.
            CloudError: S3 did not answer.
        """
        written: Written[R] = await self._changes.ask((model, key), decide)
        return written

    async def amend(
        self, model: type[R], key: str, seen: R | None, decide: Callable[[R | None], R | None]
    ) -> Written[R]:
        """Change a document that was read a moment ago: it is read again only where something is to be written.

        Raises as ``change`` does.
        """
        new = decide(seen)
        if new is None or new == seen:
            return Written(seen, changed=False)
        return await self.change(model, key, decide)

    async def _write(self, document: tuple[type[R], str], decisions: Sequence[_Decide[R]]) -> list[_Outcome[R]]:
        """Read once, decide one after another, write once; anew each time that the write loses."""
        model, key = document
        tried: dict[str, list[_Outcome[R]]] = {}
        while True:
            old, etag = await self._read(model, key)
            if old is not None and old.write_id in tried:
                return tried[old.write_id]
            new, outcomes = self._decide_all(old, decisions)
            if new is None or new is old:
                return outcomes
            tried[new.write_id] = outcomes
            if await self._replace(key, new, etag, last=len(tried) == TRIES):
                return outcomes

    def _decide_all(self, old: R | None, decisions: Sequence[_Decide[R]]) -> tuple[R | None, list[_Outcome[R]]]:
        """Let each decision see what those before it came to, as if each had been written."""
        now = old
        outcomes: list[_Outcome[R]] = []
        for decide in decisions:
            try:
                new = decide(now)
            except Exception as error:  # noqa: BLE001  raised to the one who decides so; the others are not to suffer
                outcomes.append(error)
                continue
            changed = new is not None and new != now
            if new is not None and changed:
                now = self._stamp(new, now)
            outcomes.append(Written(now, changed))
        return now, outcomes

    async def delete(self, key: str) -> None:
        """Delete the document, whatever is in it; no error when there is none."""
        await self._objects.delete(key)

    async def delete_all(self, keys: Sequence[str]) -> None:
        """Delete the documents at these keys, a few at the same time."""
        for begin in range(0, len(keys), AT_ONCE):
            await asyncio.gather(*(self.delete(key) for key in keys[begin : begin + AT_ONCE]))

    async def keys(self, prefix: str) -> Sequence[str]:
        """Return the keys of all documents with this prefix, in order."""
        return [*await self._objects.etags(prefix)]

    async def _read_all(self, model: type[R], keys: Sequence[str]) -> list[tuple[R | None, str | None]]:
        """Read the documents at these keys, a few at the same time; return them in this order."""
        found: list[tuple[R | None, str | None]] = []
        for begin in range(0, len(keys), AT_ONCE):
            found += await asyncio.gather(*(self._read(model, key) for key in keys[begin : begin + AT_ONCE]))
        return found

    async def _read(self, model: type[R], key: str) -> tuple[R | None, str | None]:
        stored = await self._objects.get(key)
        if stored is None:
            return None, None
        return decode(model, key, stored.body), stored.etag

    def _stamp(self, new: R, old: R | None) -> R:
        generation = old.generation + 1 if old else 1
        return new.model_copy(update={"generation": generation, "write_id": self._new_id()})

    async def _replace(self, key: str, new: Record, etag: str | None, *, last: bool) -> bool:
        """Write over ``etag`` (None: over nothing); False when that failed or nobody knows, so look again."""
        try:
            await self._objects.put(key, _encode(new), match=etag, absent=etag is None)
        except (Conflict, Unavailable):
            if not last:
                return False
            there, _ = await self._read(type(new), key)
            if there is None or there.write_id != new.write_id:
                raise
        return True


def _encode(document: Record) -> bytes:
    """Indented, because operators read these with the AWS CLI."""
    return document.model_dump_json(by_alias=True, indent=2).encode() + b"\n"


def decode(model: type[M], key: str, body: bytes) -> M:
    """Return what a document says.

    Raises:
        CorruptDocument: it is not what the model says.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise CorruptDocument(key, _first_problem(error)) from error


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if where == "schema":
        return f"schema {first['input']!r} is not one that this program knows"
    return f"{where}: {first['msg']}" if where else first["msg"]
