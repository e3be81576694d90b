"""Deltas: one object that makes a release from an earlier one, entries and contents.

A delta is one zlib stream: a line of JSON, then what is new of the contents, one after the other. The line is:

    form       1
    base       SHA-256 of the manifest that it starts from
    removed    paths of the earlier release that are no more
    entries    what is new or another, as in the manifest (``shared.manifests``)
    packs, blocks    those that these entries refer to, numbered for themselves
    recipes    by the SHA-256 of a content: [path of an earlier file, numbers (``shared.recipes``)]

A content without a recipe comes from the packs. Nothing needs a delta: without one, manifest and packs do.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from shared.cloud import ObjectsPort
from shared.contents import contents
from shared.manifests import Entry, Manifest, Numbering, PublishedRelease, described
from shared.packing import MATCHED_BYTES
from shared.recipes import Text, TooMuch, copies, fresh, recipe
from shared.sources import BLOCK_BYTES, Source, SourceError, read_source

MOST_ENTRIES = 20_000
"""When more has changed, reading the manifest is what is quick; the agent holds all of a delta in memory."""

MOST_NEW = 8 * 1024 * 1024
"""So much of all contents may be new, in bytes; the packs have the rest, in pieces that need not fit into memory."""

MOST_NEW_EACH = 1024 * 1024


async def make_delta(
    objects: ObjectsPort, base: PublishedRelease, new: PublishedRelease, sources: Mapping[str, Source]
) -> bytes | None:
    """Return the delta between two releases; None when too much has changed. ``sources`` has the new one's files.

    Raises:
        SourceError: a file is not what was published.
        OSError: a file cannot be read.
        CloudError: S3 did not answer.
    """
    changes = compared(base.manifest, new.manifest)
    if len(changes.entries) + len(changes.removed) > MOST_ENTRIES:
        return None
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # A thread may be at work there when we give up.
        earlier = [old for _, old in changes.contents if isinstance(old, Entry)]
        texts = await contents(objects, base.manifest, earlier, Path(folder))
        return await asyncio.to_thread(_delta, base.digest, new.manifest, changes, texts, sources)


@dataclass
class Changes:
    """What differs between two releases."""

    removed: list[str]
    entries: list[Entry]
    contents: list[tuple[Entry, Entry | str | None]] = field(default_factory=list)
    """Each content of the entries once, small ones first: an entry that has it, and the file to make it from; or the
    path of an earlier file that has it."""


def compared(base: Manifest, new: Manifest) -> Changes:
    """Return what differs. Pure."""
    before = {entry.path: entry for entry in base.entries}
    holders = {entry.sha256: entry.path for entry in base.files()}
    entries = [entry for entry in new.entries if described(entry) != described(before.get(entry.path, _NOTHING))]
    removed = sorted(before.keys() - {entry.path for entry in new.entries})
    found: dict[str, tuple[Entry, Entry | str | None]] = {}
    for entry in entries:
        if entry.kind == "file" and entry.size:
            old = before.get(entry.path)
            earlier = old if old is not None and old.kind == "file" else None
            found.setdefault(entry.sha256, (entry, holders.get(entry.sha256, earlier)))
    return Changes(removed, entries, sorted(found.values(), key=lambda pair: pair[0].size))


_NOTHING = Entry(path="")


def _delta(
    base: str, new: Manifest, changes: Changes, texts: Mapping[str, Text], sources: Mapping[str, Source]
) -> bytes:
    recipes, literals = _recipes(changes.contents, texts, sources)
    numbering = Numbering()
    entries = [_referring(new, entry, numbering, entry.sha256 in recipes) for entry in changes.entries]
    head: dict[str, Any] = {
        "form": 1,
        "base": base,
        "removed": changes.removed,
        "entries": [entry.model_dump(exclude_defaults=True) for entry in entries],
        "packs": [pack.model_dump() for pack in numbering.packs()],
        "blocks": numbering.blocks(),
        "recipes": recipes,
    }
    return zlib.compress(json.dumps(head, separators=(",", ":")).encode() + b"\n" + literals, 9)


def _referring(new: Manifest, entry: Entry, numbering: Numbering, has_recipe: bool) -> Entry:
    """Say where a content is. One with a recipe is not fetched, but large ones lend parts to later releases."""
    if entry.kind != "file":
        return entry
    place = () if has_recipe and entry.size <= BLOCK_BYTES else new.place(entry)
    return entry.model_copy(update=numbering.refer(place))


def _recipes(
    wanted: Iterable[tuple[Entry, Entry | str | None]], texts: Mapping[str, Text], sources: Mapping[str, Source]
) -> tuple[dict[str, tuple[str, list[int]]], bytes]:
    """Return recipes by digest, and all that is new in their order."""
    made: dict[str, tuple[str, list[int]]] = {}
    literals = bytearray()
    for entry, old in wanted:
        if isinstance(old, str):
            made[entry.sha256] = (old, [0, 0, entry.size])
        elif entry.size <= MATCHED_BYTES:
            text = _published(sources[entry.path], entry)
            earlier = texts.get(old.sha256, b"") if old is not None else b""
            try:
                same = copies(earlier, text, min(MOST_NEW_EACH, MOST_NEW - len(literals)))
            except TooMuch:
                continue
            made[entry.sha256] = (old.path if old is not None else "", recipe(same, len(text)))
            literals += fresh(same, text)
    return made, bytes(literals)


def _published(source: Source, entry: Entry) -> bytes:
    text = read_source(source)
    if hashlib.sha256(text).hexdigest() != entry.sha256:
        raise SourceError(f"{entry.path}: changed while it was published; publish again from what is meant")
    return text
