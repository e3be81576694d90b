"""The documents in S3: read whole, written only on condition, and never over something that cannot be read."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from pydantic import ValidationError

from shared.cloud import CloudError, Conflict, ObjectsPort, StoredObject, Unavailable
from shared.records import Record

R = TypeVar("R", bound=Record)

TRIES = 8
"""Writes that one change attempts; past that many lost races somebody is fighting us, and the message waits."""


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


@dataclass(eq=False)
class _Change(Generic[R]):
    """One caller's change, and what came of it."""

    decide: _Decide[R]
    outcome: _Outcome[R] | None = None
    given_up: bool = False

    def result(self) -> Written[R]:
        assert self.outcome is not None, "whoever holds the lock settles all that wait"
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@dataclass(eq=False)
class _Line(Generic[R]):
    """The changes of one document that wait for each other."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: list[_Change[R]] = field(default_factory=list)


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
        self._lines: WeakValueDictionary[tuple[type[Record], str], _Line[Any]] = WeakValueDictionary()

    async def get(self, model: type[R], key: str) -> R | None:
        """Return the document, or None when there is none.

        Raises:
            CorruptDocument: it cannot be read as ``model``.
            CloudError: S3 did not answer.
        """
        document, _ = await self._read(model, key)
        return document

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
        line: _Line[R] = self._lines.setdefault((model, key), _Line())
        ours = _Change(decide)
        line.waiting.append(ours)
        try:
            async with line.lock:
                if ours.outcome is None:
                    await self._change_all(model, key, line)
        finally:
            ours.given_up = True
        return ours.result()

    async def _change_all(self, model: type[R], key: str, line: _Line[R]) -> None:
        """Carry out all changes that wait; each gets what it came to, or the error that befell all of them."""
        batch = [change for change in line.waiting if not change.given_up]
        line.waiting = []
        try:
            outcomes = await self._write(model, key, [change.decide for change in batch])
        except (CloudError, CorruptDocument) as error:
            outcomes = [error] * len(batch)
        except BaseException:  # cancelled, mostly: whoever of them is still there goes on with it
            line.waiting = [*batch, *line.waiting]
            raise
        for change, outcome in zip(batch, outcomes, strict=True):
            change.outcome = outcome

    async def _write(self, model: type[R], key: str, decisions: Sequence[_Decide[R]]) -> list[_Outcome[R]]:
        """Read once, decide one after another, write once; anew each time that the write loses."""
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
        now, outcomes = old, list[_Outcome[R]]()
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

    async def keys(self, prefix: str) -> Sequence[str]:
        """Return the keys of all documents with this prefix, in order."""
        return await self._objects.keys(prefix)

    async def _read(self, model: type[R], key: str) -> tuple[R | None, str | None]:
        stored = await self._objects.get(key)
        if stored is None:
            return None, None
        return _decode(model, key, stored), stored.etag

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


def _decode(model: type[R], key: str, stored: StoredObject) -> R:
    try:
        return model.model_validate_json(stored.body)
    except ValidationError as error:
        raise CorruptDocument(key, _first_problem(error)) from error


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if where == "schema":
        return f"schema {first['input']!r} is not one that this program knows"
    return f"{where}: {first['msg']}" if where else first["msg"]
