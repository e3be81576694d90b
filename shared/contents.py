"""Reading files of a release back from its packs."""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import zlib
from collections.abc import Awaitable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import accumulate
from pathlib import Path

from shared.cloud import ObjectsPort
from shared.manifests import Entry, Manifest
from shared.packing import Block
from shared.recipes import Text
from shared.records import pack_key

MOST_READ = 2 * 1024 * 1024 * 1024
"""So many bytes of packs are read, those first that have the most of what is wanted."""

Goals = Mapping[Block, list[tuple[str, int, int, int]]]
"""By block of a pack: where stretches of its text go, each (content, position in it, start, length)."""


async def contents(objects: ObjectsPort, release: Manifest, entries: Iterable[Entry], folder: Path) -> dict[str, Text]:
    """Return contents by their SHA-256, laid out in a folder: two packs at a time are in memory.

    What cannot be had, takes reading too much, or is not what the manifest says, is left out: whoever asks only saves
    by what there is.

    Raises:
        CloudError: S3 did not answer.
    """
    wanted = {entry.sha256: entry for entry in entries if entry.size}
    await _unpack_all(objects, release, _goals(release, wanted.values()), folder)
    texts = await asyncio.gather(*(asyncio.to_thread(_content, folder / each, wanted[each]) for each in wanted))
    return {digest: text for digest, text in zip(wanted, texts, strict=True) if text is not None}


async def _unpack_all(
    objects: ObjectsPort, release: Manifest, goals_by_pack: Mapping[str, Goals], folder: Path
) -> None:
    """Unpack what is wanted of each pack while the next is read."""
    unpacked: Awaitable[None] = asyncio.sleep(0)
    for pack in _worth_reading(release, goals_by_pack):
        _, stored = await asyncio.gather(unpacked, objects.get(pack_key(release.component, pack)))
        unpacked = asyncio.to_thread(_unpack, stored.body, goals_by_pack[pack], folder) if stored else asyncio.sleep(0)
    await unpacked


def _worth_reading(release: Manifest, goals: Mapping[str, Goals]) -> list[str]:
    """Return packs of which as much as possible is wanted, and which are not too many. Pure."""
    lengths = {pack.sha256: pack.length for pack in release.packs}
    ordered = sorted(goals, key=lambda pack: -sum(block.length for block in goals[pack]))
    ends = accumulate(lengths[pack] for pack in ordered)
    return [pack for pack, end in zip(ordered, ends, strict=True) if end <= MOST_READ]


def _goals(release: Manifest, entries: Iterable[Entry]) -> dict[str, dict[Block, list[tuple[str, int, int, int]]]]:
    found: dict[str, dict[Block, list[tuple[str, int, int, int]]]] = {}
    for entry in entries:
        position = 0
        for part in release.place(entry):
            block = part.stored()
            goal = (entry.sha256, position, part.start, part.length)
            found.setdefault(block.pack, {}).setdefault(block, []).append(goal)
            position += part.length
    return found


def _unpack(body: bytes, goals: Goals, folder: Path) -> None:
    """Write what is wanted of a pack. Threads do nearly all of that without holding each other up."""
    for content in {content for stretches in goals.values() for content, *_ in stretches}:
        (folder / content).touch()
    with ThreadPoolExecutor() as pool:
        list(pool.map(partial(_lay_out, body, folder), goals, goals.values()))


def _lay_out(body: bytes, folder: Path, block: Block, stretches: Iterable[tuple[str, int, int, int]]) -> None:
    try:
        text = zlib.decompress(body[block.offset : block.offset + block.length])
    except zlib.error:
        return
    for content, position, start, length in stretches:
        with (folder / content).open("r+b") as stream:
            stream.seek(position)
            stream.write(text[start : start + length])


def _content(path: Path, entry: Entry) -> Text | None:
    """Return a content that was laid out; None when it is not what it should be."""
    if not path.exists() or path.stat().st_size != entry.size:
        return None
    with path.open("rb") as stream:
        text = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return text if hashlib.sha256(text).hexdigest() == entry.sha256 else None
